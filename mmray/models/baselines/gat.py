"""gat: graph attention with edge weights as edge features (Velickovic et al. 2018, doi 10.48550/arXiv.1710.10903).

h'_i = ||_heads sum_j alpha_ij W h_j over neighbours and i itself, alpha_ij = softmax_j of
    GAT    leaky_relu(a_l . W h_j + a_r . W h_i + a_e . w_e a_ij)
    GATv2  a . leaky_relu(W_l h_j + W_r h_i + w_e a_ij)   (Brody et al. 2022, doi 10.48550/arXiv.2105.14491)
A self-loop's edge feature is the mean weight of the node's edges, as in PyG. Our reading: the attention would not see
edge weights at all unless they enter as features; mean readout and concatenation as in gcn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GATv2Conv
from torch_geometric.utils import dense_to_sparse

from mmray import config
from mmray.models.baselines.stack import Stack, widths
from mmray.models.system import System

_AT_ONCE = 32  # graphs whose tables of shares stay in a core's caches, which makes a layer a third faster


class GATLayer(nn.Module):
    """PyG's GATConv or GATv2Conv, whose parameters it holds, on B dense graphs of N nodes.

    GAT's score splits into one number a node and one an edge: it is worked out on the edges, and a dense product mixes
    the values. GATv2's does not split: a table would hold width_out numbers a pair of nodes, so PyG's path runs.

    Args:
        width_in: features a node, D.
        width_out: features a node after the layer, all heads side by side.
        heads: must divide width_out.
        v2: GATv2's attention.

    Shapes: x_BND, weight_BNN (zero diagonal) -> BNE.
    """

    def __init__(self, width_in: int, width_out: int, heads: int, v2: bool) -> None:
        super().__init__()
        layer = GATv2Conv if v2 else GATConv
        self.layer = layer(width_in, width_out // heads, heads=heads, edge_dim=1)
        self.v2 = v2

    def reset_parameters(self) -> None:
        """PyG's."""
        self.layer.reset_parameters()

    def forward(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        """Each node's attention over its neighbours and itself."""
        mixed: Tensor
        if self.v2:
            mixed = self.layer(x_BND.flatten(0, 1), *dense_to_sparse(weight_BNN)).view(*x_BND.shape[:2], -1)
            return mixed
        parts = zip(torch.split(x_BND, _AT_ONCE), torch.split(weight_BNN, _AT_ONCE), strict=True)
        mixed = torch.cat([self._mixed(*part) for part in parts])
        return mixed

    def _mixed(self, x_BND: Tensor, weight_BNN: Tensor) -> Tensor:
        heads, width = self.layer.heads, self.layer.out_channels
        value_BHNC = self.layer.lin(x_BND).view(*x_BND.shape[:2], heads, width).transpose(1, 2)
        # a column of ones sums the unnormalised shares of a row in the same product
        value_BHNV = F.pad(value_BHNC, (0, 1), value=1.0)
        mixed_BHNV = self._shares(value_BHNC, weight_BNN).to(value_BHNC.dtype) @ value_BHNV
        mixed_BHNC = mixed_BHNV[..., :-1] / mixed_BHNV[..., -1:]
        mixed: Tensor = mixed_BHNC.transpose(1, 2).flatten(2) + self.layer.bias
        return mixed

    def _shares(self, value_BHNC: Tensor, weight_BNN: Tensor) -> Tensor:
        """exp(score) of each edge as a table, B x H x N x N, 0 where there is none; each row scaled by its largest."""
        layer, (graphs, heads, nodes) = self.layer, value_BHNC.shape[:3]
        mean_BN = weight_BNN.sum(-1) / (weight_BNN > 0).sum(-1).clamp(min=1)
        # scores are worked out on edges alone: a table of them all would be ten times the work at 8 neighbours
        graph_E, target_E, source_E = torch.nonzero(weight_BNN > 0, as_tuple=True)
        loop_L = torch.arange(graphs * nodes, device=weight_BNN.device)
        row_E = torch.cat([graph_E * nodes + target_E, loop_L])
        column_E = torch.cat([graph_E * nodes + source_E, loop_L])
        weight_E = torch.cat([weight_BNN[graph_E, target_E, source_E], mean_BN.flatten()])
        node_LHC = value_BHNC.transpose(1, 2).flatten(0, 1)
        source_LH, target_LH = ((node_LHC * map_1HC).sum(-1) for map_1HC in (layer.att_src, layer.att_dst))
        edge_H = (layer.lin_edge.weight.view_as(layer.att_edge) * layer.att_edge).sum((0, 2))
        # gather, for the gradient of an index sums in an order that threads decide
        row_EH, column_EH = row_E[:, None].expand(-1, heads), column_E[:, None].expand(-1, heads)
        score_EH = target_LH.gather(0, row_EH) + source_LH.gather(0, column_EH) + edge_H * weight_E[:, None]
        score_EH = F.leaky_relu(score_EH, layer.negative_slope)
        with torch.no_grad():
            largest_LH = torch.full_like(source_LH, -torch.inf).scatter_reduce_(0, row_EH, score_EH, "amax")
        share_EH = (score_EH - largest_LH[row_E]).exp()
        cell_EH = row_E.div(nodes, rounding_mode="floor")[:, None] * heads + torch.arange(heads, device=row_E.device)
        cell_EH = (cell_EH * nodes + (row_E % nodes)[:, None]) * nodes + (column_E % nodes)[:, None]
        share_X = share_EH.new_zeros(graphs * heads * nodes * nodes)
        return share_X.index_put((cell_EH.flatten(),), share_EH.flatten()).view(graphs, heads, nodes, nodes)


class GATEncoder(Stack):
    """A stack of attention layers."""

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        layers = [GATLayer(*pair, model.heads, model.gat_v2) for pair in widths(width, model)]
        super().__init__(nodes, width, layers, model)


class GAT(System):
    """GAT encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: GATEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)
