"""Eq. 1 forward and backward: dense, batched products against PyG's sparse GCNConv on the same graphs and weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv
from torch_geometric.utils import dense_to_sparse

from benchmarks.harness import Outcome
from mmray.graphs.adjacency import dense_adjacency, normalise_adjacency
from mmray.models.layers import DenseGCNLayer

GRAPHS, NODES, WIDTH = 64, 128, 64


def run(*, quick: bool) -> Outcome:
    """Time two layers at 8 and at 32 neighbours, one thread."""
    torch.set_num_threads(1)
    outcome = Outcome("train")
    for neighbours, bar in ((8, 3.0), (32, 10.0)):
        ours, theirs = _sides(neighbours)
        torch.testing.assert_close(ours(), theirs(), atol=1e-4, rtol=1e-4)
        outcome.compare(
            f"dense over sparse at {neighbours} neighbours", ours, theirs, rounds=5 if quick else 25, bar=bar
        )
    return outcome


def _sides(neighbours: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    score_BNN = torch.rand(GRAPHS, NODES, NODES, generator=generator)
    score_BNN.diagonal(dim1=1, dim2=2).fill_(-1)
    weight_BNK, neighbour_BNK = score_BNN.topk(neighbours, -1)
    weight_BNN = dense_adjacency(neighbour_BNK, weight_BNK)
    x_BND = torch.randn(GRAPHS, NODES, WIDTH, generator=generator)
    dense = nn.ModuleList(DenseGCNLayer(WIDTH, WIDTH) for _ in range(2))
    sparse = nn.ModuleList(GCNConv(WIDTH, WIDTH) for _ in range(2))
    for one, other in zip(dense, sparse, strict=True):
        assert isinstance(one, DenseGCNLayer)
        assert isinstance(other, GCNConv)
        other.lin.weight.data.copy_(one.weight_DE.data.T)
        other.bias.data.copy_(one.bias_E.data)
    edge_2E, edge_weight_E = dense_to_sparse(weight_BNN)

    def run_dense() -> Tensor:
        dense.zero_grad()
        normalised_BNN = normalise_adjacency(weight_BNN)
        h_BND = x_BND
        for layer in dense:
            h_BND = layer(h_BND, normalised_BNN).relu()
        h_BND.square().mean().backward()  # type: ignore[no-untyped-call]
        return h_BND.detach()

    def run_sparse() -> Tensor:
        sparse.zero_grad()
        h_VD = x_BND.reshape(-1, WIDTH)
        for layer in sparse:
            h_VD = layer(h_VD, edge_2E, edge_weight_E).relu()
        h_VD.square().mean().backward()  # type: ignore[no-untyped-call]
        return h_VD.detach().view_as(x_BND)

    return run_dense, run_sparse
