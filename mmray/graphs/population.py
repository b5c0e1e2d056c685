"""Level 2: the population graph, whose nodes are people; a lone query asks its nearest what their partners look like.

Section 3 of the preprint (doi 10.20944/preprints202501.0405.v1) joins A = blockdiag(A^(1..M)) + A^(inter) (x) I_N.
Taken literally the second term joins each sample to its own partner, which for a query is the answer. Here the
intra-modal edges lead from a query to reference samples of other people, and only from those on to their partners.
Pure torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BLOCK = 4096  # reference rows compared at once
STRANGER = -1  # code of a subject who is not in the reference


@dataclass(frozen=True)
class Reference:
    """The training subjects' samples that a query may be joined to, one row a pair_id.

    Attributes:
        vector_RME: encoded vectors, zeros where a modality is absent; no gradient.
        present_RM: which modalities a row has.
        subject_R: int64, position of the row's subject in `subjects`.
        subjects: their ids, sorted.
    """

    vector_RME: Tensor
    present_RM: Tensor
    subject_R: Tensor
    subjects: tuple[str, ...]

    def codes(self, subject_ids: Sequence[str]) -> Tensor:
        """Each subject's position in `subjects`, on the reference's device; STRANGER where it is not there."""
        position = {subject: code for code, subject in enumerate(self.subjects)}
        known = [position.get(str(subject), STRANGER) for subject in subject_ids]
        return torch.tensor(known, dtype=torch.int64, device=self.subject_R.device)

    def tensors(self) -> dict[str, Tensor]:
        """What a file keeps of it, besides the ids."""
        return {"vector_RME": self.vector_RME, "present_RM": self.present_RM, "subject_R": self.subject_R}

    def room(self) -> int:
        """Neighbours that every query finds: complete rows, less those of the subject who owns most of them."""
        own_S = torch.bincount(self.subject_R[self.present_RM.all(1)], minlength=1)
        return int(own_S.sum() - own_S.max())


@torch.no_grad()
def nearest(
    query_QE: Tensor, reference_RE: Tensor, subject_Q: Tensor, subject_R: Tensor, k: int, block: int = BLOCK
) -> Tensor:
    """Each query's k most similar reference rows of other subjects, by cosine; most similar first.

    Compared block by block, so that memory grows as Q x (k + block), not as Q x R.

    Args:
        query_QE: queries of one modality.
        reference_RE: reference rows of the same modality.
        subject_Q: code of each query's subject; STRANGER is nobody's.
        subject_R: code of each row's subject.
        k: at most as many as every query finds.

    Returns:
        int64 rows of the reference, Q x K; a tie goes to the lower one.
    """
    unit_QE = F.normalize(query_QE.float(), dim=-1)
    best_QK = unit_QE.new_full((len(query_QE), 0), 0.0)
    row_QK = torch.zeros_like(best_QK, dtype=torch.int64)
    for start in range(0, len(reference_RE), block):
        unit_CE = F.normalize(reference_RE[start : start + block].float(), dim=-1)
        own_QC = subject_Q[:, None] == subject_R[None, start : start + block]
        cosine_QC = (unit_QE @ unit_CE.T).masked_fill(own_QC, -torch.inf)
        row_C = torch.arange(start, start + len(unit_CE), device=row_QK.device)
        both_QX = torch.cat([best_QK, cosine_QC], 1)
        rows_QX = torch.cat([row_QK, row_C.expand(len(query_QE), -1)], 1)
        order_QK = _largest(both_QX, k)
        best_QK, row_QK = both_QX.gather(1, order_QK), rows_QX.gather(1, order_QK)
    return row_QK


def _largest(score_QX: Tensor, k: int) -> Tensor:
    """Columns of each row's k largest, a tie to the lower one. The whole is sorted only where a tie asks for it."""
    found = score_QX.topk(min(k, score_QX.shape[1]), dim=1)
    if ((score_QX >= found.values[:, -1:]).sum(1) > found.values.shape[1]).any():
        return score_QX.sort(dim=1, descending=True, stable=True).indices[:, :k]
    column_QK, by_column_QK = found.indices.sort(dim=1)
    return column_QK.gather(1, found.values.gather(1, by_column_QK).sort(dim=1, descending=True, stable=True).indices)


def partners(
    query_QE: Tensor, subject_Q: Tensor, reference: Reference, own: int, other: int, k: int, sharpness: Tensor
) -> tuple[Tensor, Tensor]:
    """Which reference rows answer for a query, Q x K, and with what weight: a softmax of similarity.

    A neighbour is a reference sample of the query's own modality, of another subject, that has a partner. Gradient
    flows to the query and the sharpness; the reference stands still.

    Args:
        query_QE: encoded queries of modality `own`.
        subject_Q: code of each query's subject, whose rows are masked.
        own: position of the queries' modality.
        other: position of the modality asked for.
        k: neighbours.
        sharpness: factor of the cosine before the softmax.
    """
    complete_C = (reference.present_RM[:, own] & reference.present_RM[:, other]).nonzero().squeeze(1)
    vector_CE, subject_C = reference.vector_RME[complete_C, own], reference.subject_R[complete_C]
    row_QK = nearest(query_QE, vector_CE, subject_Q, subject_C, k)
    cosine_QK = F.cosine_similarity(query_QE[:, None].float(), vector_CE[row_QK], dim=-1)
    return complete_C[row_QK], (sharpness * cosine_QK).softmax(1)


def partner_message(
    query_QE: Tensor, subject_Q: Tensor, reference: Reference, own: int, other: int, k: int, sharpness: Tensor
) -> Tensor:
    """What the partners of a query's neighbours look like: their weighted mean, Q x E of modality `other`.

    Args: as `partners`.
    """
    row_QK, weight_QK = partners(query_QE, subject_Q, reference, own, other, k, sharpness)
    return torch.einsum("qk,qke->qe", weight_QK, reference.vector_RME[row_QK, other]).to(query_QE.dtype)
