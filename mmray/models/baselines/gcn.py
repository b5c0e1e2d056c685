"""gcn: graph convolutions, mean readout, concatenation (Kipf & Welling 2017, doi 10.48550/arXiv.1609.02907).

h' = relu(A-hat h W + b), A-hat = D^-1/2 (A + I) D^-1/2 with edge weights. Our reading: the paper names only "GCN"; we
take the two layers of its source, and the mean of the nodes as the segment's readout.
"""

from __future__ import annotations

from torch import Tensor

from mmray import config
from mmray.graphs.adjacency import normalise_adjacency
from mmray.models.baselines.stack import Stack, widths
from mmray.models.layers import DenseGCNLayer
from mmray.models.system import System


class GCNEncoder(Stack):
    """A stack of eq. 1."""

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__(nodes, width, [DenseGCNLayer(*pair) for pair in widths(width, model)], model)

    def graph(self, weight_BNN: Tensor) -> Tensor:
        """A-hat."""
        return normalise_adjacency(weight_BNN)


class GCN(System):
    """GCN encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: GCNEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)
