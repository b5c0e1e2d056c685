"""Eq. 6 and the classification loss, exact over a global batch that several workers share.

Each worker computes the terms of its own rows, scaled so that the mean over workers, which is what DDP takes of the
gradients, is the mean over the global batch. One worker and W workers therefore make the same gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from mmray.config import Train
from mmray.models.system import Batch, Output


@dataclass(frozen=True)
class Losses:
    """One batch's losses on this worker; `total` is what is differentiated."""

    total: Tensor
    retrieval: Tensor
    classification: Tensor


def total_loss(output: Output, batch: Batch, train: Train, class_weight_C: Tensor | None = None) -> Losses:
    """w_r * eq. 6 + w_c * cross-entropy, its rows weighted by class where weights are given."""
    retrieval = retrieval_loss(output.z, batch.present_BM, batch.pair_B, output.logit_scale)
    classification = classification_loss(output.logit_BC, batch.label_B, class_weight_C)
    total = train.retrieval_weight * retrieval + train.classification_weight * classification
    return Losses(total, retrieval, classification)


def retrieval_loss(z: dict[str, Tensor], present_BM: Tensor, pair_B: Tensor, logit_scale: Tensor) -> Tensor:
    """Eq. 6: symmetric InfoNCE over all ordered pairs of modalities, negatives from the global batch.

    A query's target is uniform over its positives, the gallery rows of the same pair_id. A row whose modality is
    absent is no candidate; a query without a positive is left out of the mean.

    Args:
        z: modality -> B x E unit vectors of this worker's rows, in the order of present_BM's columns.
        present_BM: which modalities a row has.
        pair_B: int64 pair codes.
        logit_scale: inverse temperature.

    Returns:
        This worker's share, a scalar; the mean over workers is the global loss.
    """
    present_GM, pair_G = gather_rows(present_BM), gather_rows(pair_B)
    gallery = {modality: gather_rows(z_BE) for modality, z_BE in z.items()}
    match_BG = pair_B[:, None] == pair_G[None, :]
    directions = []
    for (i, query), (j, target) in permutations(enumerate(z), 2):
        positive_BG = match_BG & present_BM[:, i, None] & present_GM[None, :, j]
        score_BG = logit_scale * (z[query] @ gallery[target].T)
        score_BG = score_BG.masked_fill(~present_GM[None, :, j], torch.finfo(score_BG.dtype).min)
        directions.append(_multi_positive_cross_entropy(score_BG, positive_BG))
    return torch.stack(directions).mean()


def classification_loss(logit_BC: Tensor, label_B: Tensor, class_weight_C: Tensor | None = None) -> Tensor:
    """Cross-entropy over the global batch's labelled rows; a label of -1 is not known. This worker's share.

    With class weights it is the weighted mean: sum_b w(y_b) loss_b / sum_b w(y_b), both sums over the global batch.
    """
    summed = F.cross_entropy(logit_BC.float(), label_B, class_weight_C, ignore_index=-1, reduction="sum")
    known_B = label_B >= 0
    if class_weight_C is None:
        return summed * _world_size() / _global_count(known_B)
    weight = _global_sum((class_weight_C[label_B.clamp(min=0)] * known_B).sum())
    return summed * _world_size() / torch.where(weight > 0, weight, 1)


def balanced(label_U: NDArray[np.int64], classes: int) -> Tensor:
    """Class weights under which every class counts alike: w_c = n / (C n_c), of the n labelled people.

    Args:
        label_U: one class a person; -1 where it is not known.
        classes: C; one that nobody has weighs 0.
    """
    count_C = np.bincount(label_U[label_U >= 0], minlength=classes)
    weight_C = np.where(count_C, count_C.sum() / (classes * np.maximum(count_C, 1)), 0)
    return torch.tensor(weight_C, dtype=torch.float32)


def gather_rows(local_BX: Tensor) -> Tensor:
    """All workers' rows, in worker order; floating-point rows carry gradient back to the worker they came from.

    Every worker must hold equally many rows.
    """
    if _world_size() == 1:
        return local_BX
    if local_BX.is_floating_point():
        gathered: Tensor = _GatherRows.apply(local_BX)  # type: ignore[no-untyped-call]
        return gathered
    return _gather(local_BX)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_BX: Tensor) -> Tensor:
        return _gather(local_BX)

    @staticmethod
    def backward(ctx: Any, gradient_GX: Tensor) -> Tensor:
        # every worker's loss depends on these rows, so their gradients add up
        gradient_GX = gradient_GX.contiguous()
        dist.all_reduce(gradient_GX)
        return gradient_GX.chunk(dist.get_world_size())[dist.get_rank()]


def _gather(local_BX: Tensor) -> Tensor:
    # NCCL and gloo gather no booleans
    sent_BX = local_BX.to(torch.uint8) if local_BX.dtype == torch.bool else local_BX.contiguous()
    parts = [torch.empty_like(sent_BX) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, sent_BX)
    return torch.cat(parts).to(local_BX.dtype)


def _multi_positive_cross_entropy(score_BG: Tensor, positive_BG: Tensor) -> Tensor:
    count_B = positive_BG.sum(1)
    log_share_BG = score_BG.log_softmax(1).masked_fill(~positive_BG, 0.0)
    loss_B = -log_share_BG.sum(1) / count_B.clamp(min=1)
    return loss_B.sum() * _world_size() / _global_count(count_B > 0)


def _global_count(chosen_B: Tensor) -> Tensor:
    return _global_sum(chosen_B.sum().float()).clamp(min=1)


def _global_sum(own: Tensor) -> Tensor:
    if _world_size() > 1:
        dist.all_reduce(own)
    return own


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
