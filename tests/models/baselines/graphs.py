"""Random weighted graphs, one node of them isolated, and PyG's view of a batch of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import dense_to_sparse

B, N, D = 3, 11, 5


def random_graphs() -> tuple[Tensor, Tensor]:
    upper_BNN = torch.triu((torch.rand(B, N, N) < 0.3) * torch.rand(B, N, N), 1)
    upper_BNN[:, 0], upper_BNN[:, :, 0] = 0, 0
    return torch.randn(B, N, D), upper_BNN + upper_BNN.transpose(1, 2)


def one_by_one(layer: torch.nn.Module, x_BND: Tensor, weight_BNN: Tensor, weighted: bool) -> Tensor:
    """PyG's sparse layer on each graph by itself."""
    outputs = []
    for x_ND, weight_NN in zip(x_BND, weight_BNN, strict=True):
        edge_index, weight = dense_to_sparse(weight_NN)
        outputs.append(layer(x_ND, edge_index, weight) if weighted else layer(x_ND, edge_index))
    return torch.stack(outputs)
