"""What the four plain graph networks share: layers, a mean readout, a projection."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mmray import config
from mmray.models.dropout import Dropout
from mmray.models.system import Encoder, projection


class Stack(Encoder):
    """h = dropout(relu(layer(h, graph))), layer after layer; then the mean over nodes and the shared projection.

    Args:
        nodes: N, fixed.
        width: D features a node.
        layers: modules of (h_BND, graph) -> h_BNH, the first from D, all to model.hidden.
        model: sizes.

    Shapes: x_BND, weight_BNN -> BE.
    """

    def __init__(self, nodes: int, width: int, layers: Sequence[nn.Module], model: config.Model) -> None:
        super().__init__(nodes, width)
        self.layers = nn.ModuleList(layers)
        self.dropout = Dropout(model.dropout)
        self.head = projection(model.hidden, model)

    def graph(self, weight_BNN: Tensor) -> Tensor:
        """What the layers take of the edge weights, made once a batch."""
        return weight_BNN

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """The segment's vector."""
        graph, h_BNH = self.graph(weight_BNN), self.standardised(x_BND)
        for layer in self.layers:
            h_BNH = self.dropout(F.relu(layer(h_BNH, graph)))
        encoded_BE: Tensor = self.head(h_BNH.mean(1))
        return encoded_BE


def widths(width: int, model: config.Model) -> list[tuple[int, int]]:
    """Features in and out of each layer."""
    inputs = [width] + [model.hidden] * (model.layers - 1)
    return [(features, model.hidden) for features in inputs]
