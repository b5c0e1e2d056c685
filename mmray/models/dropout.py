"""Dropout whose masks cost a fraction of PyTorch's on a CPU, where drawing them was a quarter of a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

_LEVELS = 256


class Dropout(nn.Module):
    """x * m / q in training, m ~ Bernoulli(q), q = 1 - p; x itself in evaluation (Srivastava et al. 2014).

    On a CPU eight masks are cut from each 64-bit draw of torch's generator, so q is the nearest 256th, which the
    division uses too: the mean stays x. Elsewhere PyTorch's own kernel is the fast one.

    Args:
        p: share set to zero, in [0, 1).

    Shapes: any.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """The input, thinned out in training."""
        kept = max(1, round((1 - self.p) * _LEVELS))
        if not self.training or kept == _LEVELS:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        level_X = draws.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (level_X < kept).to(x.dtype).mul_(_LEVELS / kept)
