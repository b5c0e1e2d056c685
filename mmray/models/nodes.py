"""What is done before or beside any graph layer: to a node's own features, and to a window's course in time."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmray import config

CHANNELS = 8
KERNEL = 7  # values; odd, so that a filter is centred


def node_encoder(width: int, model: config.Model, in_time: bool = True) -> nn.Module:
    """The map that `model.node_encoder` names, BND -> BNH.

    Args:
        width: D features a node.
        model: sizes.
        in_time: whether a node's values can be samples in time; where not, a linear map stands in for filters.
    """
    match model.node_encoder if in_time or model.node_encoder != "conv" else "linear":
        case "linear":
            return nn.Linear(width, model.hidden)
        case "mlp":
            return nn.Sequential(nn.Linear(width, model.hidden), nn.GELU(), nn.Linear(model.hidden, model.hidden))
        case "conv":
            return NodeConvolution(model.hidden)


class NodeConvolution(nn.Module):
    """h = W pool(gelu(k * x)) + b: filters along a node's D values, averaged over about H / 8 stretches of them.

    For nodes whose values are samples in time. Any D is taken; where it is less than the stretches, they share values.

    Args:
        hidden: H.

    Shapes: x_BND -> BNH.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        stretches = math.ceil(hidden / CHANNELS)
        self.filters = nn.Conv1d(1, CHANNELS, KERNEL, padding=KERNEL // 2)
        self.activation = nn.GELU()
        self.pool = nn.AdaptiveAvgPool1d(stretches)
        self.linear = nn.Linear(CHANNELS * stretches, hidden)

    def reset_parameters(self) -> None:
        """New filters and a new map."""
        self.filters.reset_parameters()
        self.linear.reset_parameters()

    def forward(self, x_BND: Tensor) -> Tensor:
        """Each node's vector, from its own values alone."""
        filtered_R8D = self.activation(self.filters(x_BND.flatten(0, 1)[:, None]))
        h_BNH: Tensor = self.linear(self.pool(filtered_R8D).flatten(1)).unflatten(0, x_BND.shape[:2])
        return h_BNH


class TimeFilter(nn.Module):
    """z = pool(k * s + b): a window's series filtered along time, its order kept: E / S filters of S steps each.

    For windows of two modalities that were recorded together: an inner product of two such vectors compares them step
    by step, and the same filters serve every step, so that a response is learnt once, not for each moment of a window.

    Args:
        series: C of them: electrodes, or the features of a voice's frames.
        steps: S.
        width: E, a multiple of S.
        span: samples or frames that a filter spans.

    Shapes: series_BCT -> BE.
    """

    def __init__(self, series: int, steps: int, width: int, span: int) -> None:
        super().__init__()
        self.filters = nn.Conv1d(series, width // steps, span, padding="same")
        self.pool = nn.AdaptiveAvgPool1d(steps)

    def forward(self, series_BCT: Tensor) -> Tensor:
        """The window's vector."""
        filtered_BE: Tensor = self.pool(self.filters(series_BCT)).flatten(1)
        return filtered_BE
