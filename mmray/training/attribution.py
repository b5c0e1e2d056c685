"""How much each node counted, two ways: integrated gradients of a score, and what a pooling kept.

Integrated gradients (Sundararajan et al. 2017, doi 10.48550/arXiv.1703.01365) tell how a score is made up of the
features, beginning at the training subjects' mean: IG_nd = (x_nd - mean_nd) * mean over a of df/dx_nd at
mean + a (x - mean). Their sum is f(x) - f(mean), up to the steps taken; what is missing is told as `residual`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmray.models.crossmodal_gcn import GraphEncoder
from mmray.models.system import System

STEPS = 64
GRADE = 3  # steps grow as the cube of their number


@dataclass(frozen=True)
class Importance:
    """Integrated gradients of one score, averaged over segments.

    Attributes:
        score: f(x), of the recording; `baseline`: of the training subjects' mean.
        residual: f(x) - f(mean) less the sum of all attributions. Steps of the path add to it, and so do jumps that no
            gradient sees: which nodes a pooling keeps, whom a query asks.
        node_SN: of each explained segment.
        node_N: summed over features; positive pushes the score up.
        feature_D: summed over nodes.
    """

    score: float
    baseline: float
    residual: float
    node_SN: list[list[float]]
    node_N: list[float]
    feature_D: list[float]


@dataclass(frozen=True)
class Pooling:
    """What one pooling layer made of the recording's nodes, by the node's number before any pooling.

    Attributes:
        kept_N: share of segments in which the node stays.
        score_N: its mean score where it stays; None where it never does.
    """

    kept_N: list[float]
    score_N: list[float | None]


def integrated_gradients(
    score: Callable[[Tensor], Tensor],
    x_SND: Tensor,
    baseline_ND: Tensor,
    steps: int = STEPS,
    advance: Callable[[], None] = lambda: None,
) -> Importance:
    """Attributions of a score to node features, by the midpoint rule, averaged over segments.

    Steps are finest at the baseline: a LayerNorm or a cosine turns at once where its vector has hardly left zero, and
    equal steps pass that by.

    Args:
        score: S x N x D features -> S scores, each of its own segment alone.
        x_SND: the segments.
        baseline_ND: where the path begins.
        steps: of the path.
        advance: called after each step.
    """
    way_SND = x_SND - baseline_ND
    total_SND = torch.zeros_like(x_SND)
    for step in range(steps):
        start, end = (step / steps) ** GRADE, ((step + 1) / steps) ** GRADE
        at_SND = (baseline_ND + (start + end) / 2 * way_SND).requires_grad_()
        score_S = score(at_SND)
        if score_S.requires_grad:  # a constant score has no gradient
            total_SND += (end - start) * torch.autograd.grad(score_S.sum(), at_SND)[0]
        advance()
    attribution_SND = way_SND * total_SND
    attribution_ND = attribution_SND.mean(0)
    with torch.no_grad():
        reached, begun = float(score(x_SND).mean()), float(score(baseline_ND.expand_as(x_SND)).mean())
    return Importance(
        score=reached,
        baseline=begun,
        residual=reached - begun - float(attribution_ND.sum()),
        node_SN=attribution_SND.sum(2).tolist(),
        node_N=attribution_ND.sum(1).tolist(),
        feature_D=attribution_ND.sum(0).tolist(),
    )


@torch.no_grad()
def pooled(model: System, modality: str, x_SND: Tensor, weight_SNN: Tensor) -> list[Pooling] | None:
    """What each pooling layer keeps of these segments; None for a system without pooling."""
    encoder = model.encoders[modality]
    if not isinstance(encoder, GraphEncoder) or not len(encoder.pools):
        return None
    layers: list[tuple[Tensor, Tensor]] = []
    hooks = [
        pool.register_forward_pre_hook(lambda pool, given: layers.append(pool.chosen(given[0], given[2])))
        for pool in encoder.pools
    ]
    try:
        model.encode(modality, x_SND, weight_SNN)
    finally:
        for hook in hooks:
            hook.remove()
    return survival(layers, x_SND.shape[1])


def survival(layers: list[tuple[Tensor, Tensor]], nodes: int) -> list[Pooling]:
    """How often and with which score each of `nodes` survives, layer by layer.

    Args:
        layers: for each pooling the scores of the nodes that it keeps, S x K, and their positions among the nodes that
            the layer before left.
        nodes: before the first.
    """
    original_SK = torch.arange(nodes).expand(len(layers[0][0]), -1)
    found = []
    for score_SK, index_SK in layers:
        original_SK = original_SK.gather(1, index_SK)
        count_N = torch.bincount(original_SK.flatten(), minlength=nodes)
        total_N = torch.bincount(original_SK.flatten(), weights=score_SK.flatten().double(), minlength=nodes)
        mean_N = (total_N / count_N.clamp(min=1)).tolist()
        found.append(
            Pooling(
                kept_N=(count_N / len(original_SK)).tolist(),
                score_N=[mean if count else None for mean, count in zip(mean_N, count_N.tolist(), strict=True)],
            )
        )
    return found
