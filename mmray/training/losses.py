"""Eq. 6 and the classification loss, exact over a global batch that several workers share.

Each worker gathers everybody's embeddings and class scores, computes the loss of the whole batch, and passes gradient
on through its own rows alone, times the number of workers, so that the mean over workers, which is what DDP takes, is
their sum. One worker and W workers therefore make the same gradient, and a step costs two small gathers, none of them
on the way back: where workers are processes of one CPU, waiting for one another costs more than these products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    """One global batch's losses, the same on every worker; `total` is what is differentiated."""

    total: Tensor
    retrieval: Tensor
    classification: Tensor


def total_loss(output: Output, batch: Batch, train: Train, class_weight_C: Tensor | None = None) -> Losses:
    """w_r * eq. 6 + w_c * cross-entropy, of the global batch; every worker must hold equally many rows."""
    output, batch = _everyones(output, batch)
    retrieval = retrieval_loss(output.z, batch.present_BM, batch.pair_B, output.logit_scale)
    classification = classification_loss(output.logit_BC, batch.label_B, class_weight_C)
    total = train.retrieval_weight * retrieval + train.classification_weight * classification
    return Losses(total, retrieval, classification)


def retrieval_loss(z: dict[str, Tensor], present_BM: Tensor, pair_B: Tensor, logit_scale: Tensor) -> Tensor:
    """Eq. 6: symmetric InfoNCE over all ordered pairs of modalities, negatives from the batch.

    A query's target is uniform over its positives, the gallery rows of the same pair_id. A row whose modality is
    absent is no candidate; a query without a positive is left out of the mean.

    Args:
        z: modality -> B x E unit vectors, in the order of present_BM's columns.
        present_BM: which modalities a row has.
        pair_B: int64 pair codes.
        logit_scale: inverse temperature.
    """
    match_BB = pair_B[:, None] == pair_B[None, :]
    directions = []
    for (i, query), (j, target) in permutations(enumerate(z), 2):
        positive_BB = match_BB & present_BM[:, i, None] & present_BM[None, :, j]
        score_BB = logit_scale * (z[query] @ z[target].T)
        score_BB = score_BB.masked_fill(~present_BM[None, :, j], torch.finfo(score_BB.dtype).min)
        directions.append(_multi_positive_cross_entropy(score_BB, positive_BB))
    return torch.stack(directions).mean()


def classification_loss(logit_BC: Tensor, label_B: Tensor, class_weight_C: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the labelled rows; a label of -1 is not known.

    With class weights it is the weighted mean, sum_b w(y_b) loss_b / sum_b w(y_b).
    """
    summed = F.cross_entropy(logit_BC.float(), label_B, class_weight_C, ignore_index=-1, reduction="sum")
    known_B = label_B >= 0
    if class_weight_C is None:
        return summed / known_B.sum().clamp(min=1)
    weight = (class_weight_C[label_B.clamp(min=0)] * known_B).sum()
    return summed / torch.where(weight > 0, weight, 1)


def balanced(label_U: NDArray[np.int64], classes: int) -> Tensor:
    """Class weights under which every class counts alike: w_c = n / (C n_c), of the n labelled people.

    Args:
        label_U: one class a person; -1 where it is not known.
        classes: C; one that nobody has weighs 0.
    """
    count_C = np.bincount(label_U[label_U >= 0], minlength=classes)
    weight_C = np.where(count_C, count_C.sum() / (classes * np.maximum(count_C, 1)), 0)
    return torch.tensor(weight_C, dtype=torch.float32)


def _everyones(output: Output, batch: Batch) -> tuple[Output, Batch]:
    """What the losses read, of all workers' rows: one gather of numbers that carry gradient, one of codes."""
    if _world_size() == 1:
        return output, batch
    modalities = len(output.z)
    # float: under autocast the class scores are of half the width
    number_GX = gather_rows(torch.cat([*output.z.values(), output.logit_BC.float()], 1))
    code_BX = torch.cat([batch.present_BM.long(), torch.stack([batch.pair_B, batch.label_B], 1)], 1)
    present_GM, pair_G, label_G = gather_rows(code_BX).tensor_split([modalities, modalities + 1], 1)
    widths = [z_BE.shape[1] for z_BE in output.z.values()]
    *z_of, logit_GC = torch.split(number_GX, [*widths, output.logit_BC.shape[1]], 1)
    return (
        replace(output, z=dict(zip(output.z, z_of, strict=True)), logit_BC=logit_GC),
        replace(batch, present_BM=present_GM.bool(), pair_B=pair_G.squeeze(1), label_B=label_G.squeeze(1)),
    )


def gather_rows(local_BX: Tensor) -> Tensor:
    """All workers' rows, in worker order; floating-point rows carry W times their gradient back to their worker.

    For a loss that every worker computes alike from all rows, and whose gradients DDP averages.

    Every worker must hold equally many rows.
    """
    if _world_size() == 1:
        return local_BX
    if local_BX.is_floating_point():
        gathered: Tensor = _GatherRows.apply(local_BX)  # type: ignore[no-untyped-call]
        return gathered
    return _gather(local_BX)


def dealt_back(share_PX: Tensor, world: int) -> Tensor:
    """The rows that workers took as [rank::world], in their order again; equally many each."""
    if world == 1:
        return share_PX
    gathered = gather_rows(share_PX)
    return gathered.reshape(world, len(share_PX), *share_PX.shape[1:]).transpose(0, 1).reshape(gathered.shape)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_BX: Tensor) -> Tensor:
        return _gather(local_BX)

    @staticmethod
    def backward(ctx: Any, gradient_GX: Tensor) -> Tensor:
        world = dist.get_world_size()
        return world * gradient_GX.chunk(world)[dist.get_rank()]


def _gather(local_BX: Tensor) -> Tensor:
    # NCCL and gloo gather no booleans
    sent_BX = local_BX.to(torch.uint8) if local_BX.dtype == torch.bool else local_BX.contiguous()
    parts = [torch.empty_like(sent_BX) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, sent_BX)
    return torch.cat(parts).to(local_BX.dtype)


def _multi_positive_cross_entropy(score_BB: Tensor, positive_BB: Tensor) -> Tensor:
    count_B = positive_BB.sum(1)
    log_share_BB = score_BB.log_softmax(1).masked_fill(~positive_BB, 0.0)
    loss_B = -log_share_BB.sum(1) / count_B.clamp(min=1)
    return loss_B.sum() / (count_B > 0).sum().clamp(min=1)


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
