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


class GATLayer(nn.Module):
    """PyG's GATConv or GATv2Conv, whose parameters it holds, on B dense graphs of N nodes.

    GAT's score splits into one number a node and one an edge, so a dense N x N table of it is cheap and beats PyG's
    sparse path. GATv2's does not: its table would hold width_out numbers a pair of nodes, so PyG's path runs.

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
        score_BHNN, value_BHNC = self._dense_scores(x_BND, weight_BNN)
        mixed_BHNC = score_BHNN.softmax(-1).to(value_BHNC.dtype) @ value_BHNC
        mixed = mixed_BHNC.transpose(1, 2).flatten(2) + self.layer.bias
        return mixed

    def _dense_scores(self, x_BND: Tensor, weight_BNN: Tensor) -> tuple[Tensor, Tensor]:
        layer, edge_BNN = self.layer, weight_BNN > 0
        mean_BN = weight_BNN.sum(-1) / edge_BNN.sum(-1).clamp(min=1)
        looped_BNN = weight_BNN + torch.diag_embed(mean_BN)
        here_BNN = edge_BNN | torch.eye(edge_BNN.shape[-1], dtype=torch.bool, device=edge_BNN.device)
        value_BHNC = layer.lin(x_BND).view(*x_BND.shape[:2], layer.heads, layer.out_channels).transpose(1, 2)
        source_BHN = (value_BHNC @ layer.att_src[0, :, :, None]).squeeze(-1)
        target_BHN = (value_BHNC @ layer.att_dst[0, :, :, None]).squeeze(-1)
        edge_H = (layer.lin_edge.weight.view_as(layer.att_edge) * layer.att_edge).sum((0, 2))
        score_BHNN = target_BHN[..., None] + source_BHN[..., None, :] + edge_H[:, None, None] * looped_BNN[:, None]
        score_BHNN = F.leaky_relu(score_BHNN, layer.negative_slope)
        return score_BHNN.masked_fill(~here_BNN[:, None], -torch.inf), value_BHNC


class GATEncoder(Stack):
    """A stack of attention layers."""

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        layers = [GATLayer(*pair, model.heads, model.gat_v2) for pair in widths(width, model)]
        super().__init__(nodes, width, layers, model)


class GAT(System):
    """GAT encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: GATEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)
