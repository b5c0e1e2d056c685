"""strucgcn: neighbours beside structural peers (StrucGCN, as our design records it).

h' = relu([N(alpha I + gamma A') h || N(A) h] W + b), N(M)_ij = M_ij / sqrt(c_i c_j) with c_i the edges of row i, and A'
the structural similarity of `graphs.structural`. Our reading: A carries its edge weights and no self-loops, A' only
topology; the segment's readout is the mean; concatenation as in gcn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmray import config
from mmray.graphs.adjacency import normalise_by_count
from mmray.graphs.structural_memo import StructuralMemo
from mmray.models.baselines.stack import Stack, widths
from mmray.models.system import System


class StructuralLayer(nn.Module):
    """The linear part, with W as one half for each matrix.

    Shapes: x_BND, matrices_B2NN -> BNE.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width_in, width_out)

    def reset_parameters(self) -> None:
        """New weights."""
        self.linear.reset_parameters()

    def forward(self, x_BND: Tensor, matrices_B2NN: Tensor) -> Tensor:
        """Mix each node with its peers, and with its neighbours."""
        mixed_B2ND = matrices_B2NN @ x_BND[:, None]
        mixed: Tensor = self.linear(mixed_B2ND.transpose(1, 2).flatten(2))
        return mixed


class StrucGCNEncoder(Stack):
    """A stack of structural layers.

    Attributes:
        memo: A' of the topologies seen. It is no weight: anyone can work it out anew.
    """

    def __init__(self, nodes: int, width: int, model: config.Model) -> None:
        super().__init__(nodes, width, [StructuralLayer(*pair) for pair in widths(width, model)], model)
        self.alpha, self.gamma = model.self_weight, model.structural_weight
        self.memo = StructuralMemo()

    # NumPy and a table that grows: nothing to compile, and long to trace
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def graph(self, weight_BNN: Tensor) -> Tensor:
        """N(alpha I + gamma A') and N(A), B x 2 x N x N."""
        similarity = self.memo.dense((weight_BNN > 0).cpu().numpy(), keep=self.training)
        similarity_BNN = torch.from_numpy(similarity).to(weight_BNN)
        peers_BNN = self.alpha * torch.eye(weight_BNN.shape[-1]).to(weight_BNN) + self.gamma * similarity_BNN
        return torch.stack([normalise_by_count(peers_BNN), normalise_by_count(weight_BNN)], 1)


class StrucGCN(System):
    """StrucGCN encoders, joined by concatenation."""

    def __init__(self, shapes: dict[str, tuple[int, int]], classes: int, model: config.Model) -> None:
        super().__init__({m: StrucGCNEncoder(*shape, model) for m, shape in shapes.items()}, classes, model)

    def memo(self, modality: str) -> StructuralMemo:
        """What a modality's encoder knows of structure already."""
        encoder = self.encoders[modality]
        assert isinstance(encoder, StrucGCNEncoder)
        return encoder.memo
