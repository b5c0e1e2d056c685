"""What the controls share that are solved for instead of trained: majority, logreg and ridge.

The solutions are stored as tensors of the module, so checkpoints, `load_run`, index and endpoint treat these as any
other system, and nothing is ever unpickled. Only `fit_closed_form` sees more than one recording.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmray import config
from mmray.features.table import Segments
from mmray.models.system import Encoder, Fused, System

CHUNK = 256
ABSENT_SHARE = 1e-12  # of a class that no training subject has; its logarithm must stay finite


class ClosedForm(System, ABC):
    """Encoders without a gradient's help, joined end to end beside a flag for each modality that is there.

    Unless a subclass has one of its own, everyone's retrieval embedding is the same unit vector. All galleries are
    then tied, ties count against the query, and every match ranks last: no figure of such a control is luck.

    Args:
        encoders: modality -> its encoder; their order is the order of M.
        features: total width of what the encoders yield.
        classes: C.
        model: sizes; `embedding` is the width of the constant vector.
    """

    def __init__(self, encoders: Mapping[str, Encoder], features: int, classes: int, model: config.Model) -> None:
        super().__init__(encoders, classes, model)
        self.classifier = nn.Linear(features + len(encoders), classes)
        self.embedding = model.embedding

    def make_fusion(self, model: config.Model) -> None:
        """Nothing: vectors are laid end to end."""

    def fuse(self, encoded: dict[str, Tensor], present_BM: Tensor) -> Fused:
        """[z_1; ...; z_M; present], zeros for an absent modality."""
        present_BM = present_BM.to(next(iter(encoded.values())).dtype)
        slots = [encoded[m] * present_BM[:, i, None] for i, m in enumerate(self.modalities)]
        return torch.cat([*slots, present_BM], 1), None, None

    @abstractmethod
    def fit_closed_form(self, training: dict[str, Segments], score: Callable[[], float]) -> None:
        """Solve for every parameter. The scalers are fitted already.

        Args:
            training: modality -> segments of the training subjects, and of nobody else.
            score: validation MRR of the model as it stands when called.
        """

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """As System.lone."""
        z_BE = torch.zeros(len(encoded_BE), self.embedding, device=encoded_BE.device)
        z_BE[:, 0] = 1
        return z_BE

    @torch.no_grad()
    def _fit_logistic(self, training: dict[str, Segments]) -> None:
        """L2-regularised logistic regression (C = 1) on fused vectors, segments averaged so each subject counts once.

        Where the training subjects are of one class or of none, class shares stand in.
        """
        from sklearn.linear_model import LogisticRegression

        subjects, label_U = subject_labels(training)
        known_U = label_U >= 0
        if len(np.unique(label_U[known_U])) < 2:
            self._set_shares(label_U)
            return
        slots, present = {}, []
        for modality, part in training.items():
            mean_UE, there_U = group_means(self._encode_all(modality, part), part.subject_id_S, subjects)
            slots[modality] = torch.from_numpy(mean_UE)
            present.append(torch.from_numpy(there_U))
        fused_UF = self.fuse(slots, torch.stack(present, 1))[0].numpy()
        solved = LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000).fit(fused_UF[known_U], label_U[known_U])
        weight_CF, bias_C = solved.coef_, solved.intercept_
        if len(solved.classes_) == 2:  # one row, of the second class against the first
            weight_CF, bias_C = np.vstack([0 * weight_CF, weight_CF]), np.append(0.0, bias_C)
        self.classifier.weight.zero_()
        self.classifier.bias.fill_(np.log(ABSENT_SHARE) + bias_C.min())
        self.classifier.weight[solved.classes_] = torch.as_tensor(weight_CF).to(self.classifier.weight)
        self.classifier.bias[solved.classes_] = torch.as_tensor(bias_C).to(self.classifier.bias)

    @torch.no_grad()
    def _set_shares(self, label_U: NDArray[np.int64]) -> None:
        """Scores whose softmax is each class's share of the labelled subjects; equal where no label is known."""
        count_C = np.bincount(label_U[label_U >= 0], minlength=self.classifier.out_features)
        share_C = count_C / count_C.sum() if count_C.sum() else np.full(len(count_C), 1 / len(count_C))
        self.classifier.weight.zero_()
        self.classifier.bias.copy_(torch.from_numpy(np.log(np.maximum(share_C, ABSENT_SHARE))))

    def _encode_all(self, modality: str, part: Segments) -> NDArray[np.float32]:
        """Vectors of all segments, S x E. Edges reach none of these encoders."""
        device = self.classifier.weight.device
        chunks = torch.split(torch.from_numpy(part.x_SND), CHUNK)
        encoded = [self.encode(modality, x_BND.to(device), torch.empty(0, device=device)).cpu() for x_BND in chunks]
        array: NDArray[np.float32] = torch.cat(encoded).numpy()
        return array


def subject_labels(segments: dict[str, Segments]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """All subjects, sorted, and the class of each; -1 where it is not known."""
    subject_S = np.concatenate([part.subject_id_S for part in segments.values()])
    subjects, group_S = np.unique(subject_S, return_inverse=True)
    label_U = np.full(len(subjects), -1, dtype=np.int64)
    np.maximum.at(label_U, group_S, np.concatenate([part.label_S for part in segments.values()]))
    return subjects, label_U


def group_means(
    x_SF: NDArray[Any], key_S: NDArray[np.str_], keys_U: NDArray[np.str_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean row of each key, U x F, and whether it has any row; zeros where it has none.

    Args:
        x_SF: rows.
        key_S: whose row it is.
        keys_U: sorted; rows of other keys are left out.
    """
    chosen_S = np.isin(key_S, keys_U)
    group_S = np.searchsorted(keys_U, key_S[chosen_S])
    total_UF = np.zeros((len(keys_U), x_SF.shape[1]))
    np.add.at(total_UF, group_S, x_SF[chosen_S])
    count_U = np.bincount(group_S, minlength=len(keys_U))
    return total_UF / np.maximum(count_U, 1)[:, None], count_U > 0
