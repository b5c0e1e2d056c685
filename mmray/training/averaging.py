"""Averaged weights: steadier than any one step's, which decides much where an epoch is a few steps on few people."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mmray.models.system import System


def averaged(model: System) -> System:
    """A copy that follows the model by `follow`; it is in evaluation mode and takes no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def follow(average: System, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the parameters after optimiser step `step` (0, 1, ...).

    The model may be wrapped for several workers: its parameters come in the same order. The decay grows to its value
    as (1 + step) / (10 + step), so that the start is soon forgotten.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), share)
