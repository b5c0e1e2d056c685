"""graphsage: the mean of sampled neighbours (Hamilton et al. 2017, doi 10.48550/arXiv.1706.02216).

h'_i = W_l mean_{j in S(i)} h_j + b + W_r h_i. In training S(i) holds at most `model.sampled_neighbours` of i's
neighbours, drawn without replacement, anew in every layer and batch; in evaluation all of them. Edge weights are not
used, as in the source. Our reading: without normalising h'; mean readout and concatenation as in gcn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.nn import SAGEConv

from mmray import config
from mmray.models.baselines.stack import Stack, widths
from mmray.models.system import System


class DenseSAGE(nn.Module):
    """PyG's SAGEConv with mean aggregation, whose parameters it holds, on B dense graphs of N nodes.

    Args:
        width_in: features a node, D.
        width_out: features a node after the layer, E.
        sampled: neighbours a node keeps in training.

    Shapes: x_BND, weight_BNN (zero diagonal) -> BNE.
    """

    def __init__(self, width_in: int, width_out: int, sampled: int) -> None:
        super().__init__()
        self.layer = SAGEConv(width_in, width_out, aggr="mean")
        self.sampled = sampled

    def reset_parameters(self) -> None:
        """PyG's."""
        self.layer.reset_parameters()

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """Each node's neighbours on average, beside itself."""
        edge_BNN = weight_BNN > 0
        if self.training:
            edge_BNN = sample_neighbours(edge_BNN, self.sampled)
        count_BN1 = edge_BNN.sum(-1, keepdim=True).clamp(min=1)
        mean_BND = edge_BNN.to(x_BND.dtype) @ x_BND / count_BN1
        mixed: Tensor = self.layer.lin_l(mean_BND) + self.layer.lin_r(x_BND)
        return mixed


def sample_neighbours(edge_BNN: Tensor, count: int) -> Tensor:
    """At most `count` of each row's edges, uniformly without replacement; directed from then on.

    The draw comes from torch's generator and takes equally many numbers whatever the graph is, so what one modality's
    graphs are never moves the draw of another's.
    """
    key_BNN = torch.rand(edge_BNN.shape, device=edge_BNN.device).masked_fill(~edge_BNN, -1.0)
    index_BNK = key_BNN.topk(min(count, edge_BNN.shape[-1]), -1).indices
    return torch.zeros_like(edge_BNN).scatter_(-1, index_BNK, True) & edge_BNN


class SAGEEncoder(Stack):
    """A stack of sampled means."""

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        layers = [DenseSAGE(*pair, model.sampled_neighbours) for pair in widths(width, model)]
        super().__init__(nodes, width, layers, model)


class GraphSAGE(System):
    """GraphSAGE encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: SAGEEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)
