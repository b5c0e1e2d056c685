"""In which directions people differ most, for how much one person differs from himself: Fisher's linear discriminants.

Principal components take what varies most between people, and much of that is the moment or the microphone. With B the
covariance of people's means and W that within a person, the directions here are the first solutions a of
B a = lambda W a (Fisher 1936, doi 10.1111/j.1469-1809.1936.tb02137.x), as speakers are told apart (Dehak et al. 2011,
doi 10.1109/TASL.2010.2064307). There are more features than people, so both stand on the principal components of the
people's means, and W is shrunk towards a multiple of I.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RIDGE = 0.1  # of the canonical correlations, in variances of a score over people
PRINCIPAL = 30  # components of the people's means among which the directions are sought, if no more are asked for
# What W is shrunk by, and so how little it counts. Recordings of a person differ as they will in life; segments of one
# recording share its electrodes and its day.
SHRUNK = {"recordings": 0.1, "segments": 0.5}


def discriminants(
    seen: Callable[[int], Tensor], recordings: Sequence[NDArray[np.str_]], count: int
) -> tuple[Tensor, Tensor]:
    """A centre F and axes F x K: (x - centre) @ axes has unit variance over people, and zeros where people are too few.

    Within a person stand his recordings' means, where people have two of a modality on average, else his segments.

    Args:
        seen: the features of one person's segments, T x F, by his number from 0 to U - 1; asked for twice, so that
            never more than one person's stand in memory.
        recordings: of each of U people, the recording that each segment is of.
        count: K.
    """
    mean_UF = torch.stack([seen(person).double().mean(0) for person in range(len(recordings))])
    centre_F = mean_UF.mean(0)
    axes_FK = mean_UF.new_zeros(mean_UF.shape[1], count)
    # float64, so that rounding does not mix axes of near-equal spread
    _, singular_R, axis_RF = torch.linalg.svd(mean_UF - centre_F, full_matrices=False)
    rank = min(max(PRINCIPAL, count), int((singular_R > 1e-6 * singular_R[0].clamp(min=1e-6)).sum()))
    if rank:
        axis_RF = axis_RF[:rank]
        score_UR = (mean_UF - centre_F) @ axis_RF.T
        between_RR = score_UR.T @ score_UR / (len(mean_UF) - 1)
        weight_RK = _solutions(between_RR, _within(seen, recordings, axis_RF))[:, :count]
        found_FK = axis_RF.T @ weight_RK
        found_FK /= ((mean_UF - centre_F) @ found_FK).std(0)
        axes_FK[:, : found_FK.shape[1]] = _signed(found_FK)
    return centre_F, axes_FK


def _within(seen: Callable[[int], Tensor], recordings: Sequence[NDArray[np.str_]], axis_RF: Tensor) -> Tensor:
    """Shrunk covariance within a person, R x R, mean over people; I where nobody has two of anything."""
    several = sum(len(np.unique(of_one)) for of_one in recordings) >= 2 * len(recordings)
    within_RR, count = axis_RF.new_zeros(len(axis_RF), len(axis_RF)), 0
    for person, recording_T in enumerate(recordings):
        unit_TR = seen(person).double() @ axis_RF.T
        if several:
            unit_TR = torch.stack([unit_TR[torch.as_tensor(recording_T == r)].mean(0) for r in np.unique(recording_T)])
        deviation_TR = unit_TR - unit_TR.mean(0)
        within_RR += deviation_TR.T @ deviation_TR / len(unit_TR)
        count += len(unit_TR) > 1
    within_RR /= max(count, 1)
    level = within_RR.trace() / len(within_RR)
    identity_RR = torch.eye(len(within_RR), dtype=within_RR.dtype, device=within_RR.device)
    if level <= 0:
        return identity_RR
    shrunk = SHRUNK["recordings" if several else "segments"]
    return (1 - shrunk) * within_RR + shrunk * level * identity_RR


def _solutions(between_RR: Tensor, within_RR: Tensor) -> Tensor:
    """All a of B a = lambda W a, R x R, the largest lambda first."""
    lower_RR = torch.linalg.cholesky(within_RR)
    half_RR = torch.linalg.solve_triangular(lower_RR, between_RR, upper=False)
    _, vector_RR = torch.linalg.eigh(torch.linalg.solve_triangular(lower_RR, half_RR.T, upper=False))
    solution_RR: Tensor = torch.linalg.solve_triangular(lower_RR.T, vector_RR.flip(1), upper=True)
    return solution_RR


def _signed(axes_FK: Tensor) -> Tensor:
    """Each axis with its largest entry positive: which way it points is left open, and rounding would decide it."""
    return axes_FK * axes_FK.gather(0, axes_FK.abs().argmax(0, keepdim=True)).sign()


def canonical(score_PK: Sequence[Tensor]) -> list[Tensor]:
    """Weights that take each modality's scores to where the modalities agree, K x K; axes count by how far they do.

    Canonical correlation analysis of any number of modalities (MAXVAR, Kettenring 1971, doi 10.1093/biomet/58.3.433):
    of two with correlations c, the canonical vectors times c^1/2.

    Args:
        score_PK: of each modality, a row a pair, the pairs in one order.
    """
    modalities, (pairs, width) = len(score_PK), score_PK[0].shape
    centred_PL = torch.cat([score_PK_m - score_PK_m.mean(0) for score_PK_m in score_PK], 1).double()
    joint_LL = centred_PL.T @ centred_PL / pairs
    block_L = torch.arange(len(joint_LL), device=joint_LL.device) // width
    same_LL = block_L[:, None] == block_L
    own_LL = joint_LL * same_LL + RIDGE * torch.eye(len(joint_LL), dtype=joint_LL.dtype, device=joint_LL.device)
    across_LL = joint_LL * ~same_LL
    weight_LK = _signed(_solutions(across_LL, own_LL)[:, :width])  # w^T own w = I
    agreed_K = ((across_LL @ weight_LK) * weight_LK).sum(0).clamp(min=0) / (modalities - 1)
    return list(torch.split((modalities * agreed_K).sqrt() * weight_LK, width))
