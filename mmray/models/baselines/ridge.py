"""ridge: the linear dual encoder, a regularised canonical correlation analysis (Vinod 1976, doi
10.1016/0304-4076(76)90010-5) after a principal component analysis of each modality.

With S the covariances of the principal components of each modality's standardised flattened node features, averaged per
pair, (S_ee + r_e I)^-1/2 S_ea (S_aa + r_a I)^-1/2 = U diag(c) V^T. A recording's vector is its components times
(S_ee + r_e I)^-1/2 U diag(c)^1/2, for audio with V: axes count by how far the modalities agree on them. r_m is one of
`STRENGTHS` times the mean variance of a component, the one of the best MRR on validation subjects. What it reaches, no
network was needed for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from mmray import config
from mmray.features.table import Segments
from mmray.models.closed_form import ClosedForm, group_means
from mmray.models.system import Encoder

Array = NDArray[np.float64]

COMPONENTS = 16  # at most, of each modality
STRENGTHS = (0.01, 0.1, 1.0, 10.0)


class Linear(Encoder):
    """Flattened standardised features into the shared space.

    Shapes: x_BND, weight_BNN (ignored) -> BE.
    """

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__(nodes, width)
        self.linear = nn.Linear(nodes * width, model.embedding)

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        encoded_BE: Tensor = self.linear(self.standardised(x_BND).flatten(1))
        return encoded_BE

    @torch.no_grad()
    def set_projection(self, mean_F: Array, weight_FK: Array) -> None:
        """x -> (x - mean) weight: its first E axes, or zeros after its last."""
        weight_FK = weight_FK[:, : self.linear.out_features]
        kept = weight_FK.shape[1]
        self.linear.weight.zero_()
        self.linear.bias.zero_()
        self.linear.weight[:kept] = torch.from_numpy(weight_FK.T).to(self.linear.weight)
        self.linear.bias[:kept] = torch.from_numpy(-mean_F @ weight_FK).to(self.linear.bias)


class Ridge(ClosedForm):
    """Two linear encoders into one space, and logistic regression on their vectors."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        encoders = {m: Linear(*shape, model) for m, shape in shapes.items()}
        super().__init__(encoders, model.embedding * len(shapes), classes, model)

    def fit_closed_form(self, training: dict[str, Segments], score: Callable[[], float]) -> None:
        """Solve for every strength, keep the one of the best validation MRR, then fit the classifier."""
        one, other = self.modalities
        pairs_P = np.intersect1d(training[one].pair_id_S, training[other].pair_id_S)
        x_PF, y_PG = (self._pair_means(m, training[m], pairs_P) for m in (one, other))

        def solve(strength: float) -> float:
            weight_FK, weight_GK = shared_space(x_PF, y_PG, strength)
            self._encoder(one).set_projection(x_PF.mean(0), weight_FK)
            self._encoder(other).set_projection(y_PG.mean(0), weight_GK)
            return score()

        solve(max(STRENGTHS, key=solve))
        self._fit_logistic(training)

    def _encoder(self, modality: str) -> Linear:
        encoder = self.encoders[modality]
        assert isinstance(encoder, Linear)
        return encoder

    def _pair_means(self, modality: str, part: Segments, pairs_P: NDArray[np.str_]) -> Array:
        """Standardised features of each pair_id, averaged over its segments, P x ND."""
        mean_PF, _ = group_means(part.x_SND.reshape(len(part), -1), part.pair_id_S, pairs_P)
        encoder = self._encoder(modality)
        centre_F, scale_F = (t.flatten().cpu().numpy().astype(float) for t in (encoder.mean_ND, encoder.scale_ND))
        standardised_PF: Array = (mean_PF - centre_F) / scale_F
        return standardised_PF

    def lone(self, modality: str, encoded_BE: Tensor, subject_B: Tensor) -> Tensor:
        """As System.lone."""
        return F.normalize(encoded_BE.float(), dim=-1)


def shared_space(x_PF: Array, y_PG: Array, strength: float) -> tuple[Array, Array]:
    """Weights of regularised CCA between the principal components of two paired tables.

    Args:
        x_PF: one modality, a row a pair.
        y_PG: the other, rows in the same order.
        strength: of the ridge, in mean variances of a component.

    Returns:
        F x K and G x K, for centred rows; K = at most min(16, P - 1), fewer where a table has fewer features.
    """
    axes_FK, score_PK = _components(x_PF)
    axes_GL, score_PL = _components(y_PG)
    white_K, white_L = _inverse_root(score_PK, strength), _inverse_root(score_PL, strength)
    cross_KL = white_K[:, None] * (score_PK.T @ score_PL / len(x_PF)) * white_L
    u_KJ, c_J, vt_JL = np.linalg.svd(cross_KL, full_matrices=False)
    return axes_FK @ (white_K[:, None] * u_KJ * np.sqrt(c_J)), axes_GL @ (white_L[:, None] * vt_JL.T * np.sqrt(c_J))


def _components(x_PF: Array) -> tuple[Array, Array]:
    """Axes F x K of the principal components, and each row's scores P x K."""
    centred_PF = x_PF - x_PF.mean(0)
    _, _, axes_RF = np.linalg.svd(centred_PF, full_matrices=False)
    axes_FK = axes_RF[: min(COMPONENTS, len(x_PF) - 1)].T
    return axes_FK, centred_PF @ axes_FK


def _inverse_root(score_PK: Array, strength: float) -> Array:
    """(S + r I)^-1/2 of components, whose covariance S is diagonal; as a vector."""
    variance_K = (score_PK**2).mean(0)
    ridge = strength * variance_K.mean()
    root_K: Array = 1 / np.sqrt(np.maximum(variance_K + ridge, np.finfo(float).tiny))
    return root_K
