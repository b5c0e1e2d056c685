"""Dense adjacency against its definition and PyG's gcn_norm."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import dense_to_sparse, to_dense_adj

from mmray.graphs.adjacency import dense_adjacency, normalise_adjacency, normalise_by_count


def random_neighbours(seed: int, graphs: int = 3, nodes: int = 7, neighbours: int = 3):
    generator = torch.Generator().manual_seed(seed)
    # repeated neighbours and self-loops on purpose
    neighbour_BNK = torch.randint(nodes, (graphs, nodes, neighbours), generator=generator)
    return neighbour_BNK.to(torch.int16), torch.rand(graphs, nodes, neighbours, generator=generator)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_dense_adjacency_is_the_larger_of_both_directions(seed):
    neighbour_BNK, weight_BNK = random_neighbours(seed)
    dense_BNN = dense_adjacency(neighbour_BNK, weight_BNK)
    graphs, nodes, neighbours = neighbour_BNK.shape
    for b in range(graphs):
        for i in range(nodes):
            for j in range(nodes):
                named = [float(weight_BNK[b, i, k]) for k in range(neighbours) if neighbour_BNK[b, i, k] == j]
                named += [float(weight_BNK[b, j, k]) for k in range(neighbours) if neighbour_BNK[b, j, k] == i]
                assert float(dense_BNN[b, i, j]) == (0.0 if i == j else max(named, default=0.0))


def test_normalised_adjacency_equals_gcn_norm():
    weight_BNN = dense_adjacency(*random_neighbours(1, graphs=1))
    edge_index, weight = gcn_norm(*dense_to_sparse(weight_BNN[0]), num_nodes=7)
    torch.testing.assert_close(normalise_adjacency(weight_BNN), to_dense_adj(edge_index, edge_attr=weight))


def test_an_isolated_node_keeps_only_itself():
    assert torch.equal(normalise_adjacency(torch.zeros(1, 3, 3))[0], torch.eye(3))


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="edge weights must be >= 0"):
        normalise_adjacency(torch.tensor([[[0.0, -0.1], [-0.1, 0.0]]]))


def test_normalising_by_count_leaves_the_weights_out_of_the_degree():
    matrix_BNN = torch.tensor([[[0.0, 9.0, 4.0], [9.0, 0.0, 0.0], [4.0, 0.0, 0.0]]])
    expected = matrix_BNN / torch.tensor(2.0).sqrt()
    torch.testing.assert_close(normalise_by_count(matrix_BNN), expected)


def test_a_row_without_edges_stays_zero_when_normalised_by_count():
    assert torch.equal(normalise_by_count(torch.zeros(1, 3, 3)), torch.zeros(1, 3, 3))
