"""The dense mean against PyG's sparse layer, and the draw of neighbours."""

from __future__ import annotations

import torch

from mmray.models.baselines.graphsage import DenseSAGE, sample_neighbours
from tests.models.baselines.graphs import D, one_by_one, random_graphs


def made(sampled: int = 2):
    torch.manual_seed(0)
    return DenseSAGE(D, 6, sampled)


def test_the_dense_mean_equals_pygs_sparse_layer():
    layer, (x_BND, weight_BNN) = made().eval(), random_graphs()
    expected = one_by_one(layer.layer, x_BND, weight_BNN, weighted=False)
    torch.testing.assert_close(layer(x_BND, weight_BNN), expected, atol=1e-5, rtol=1e-5)


def test_a_sample_larger_than_every_degree_changes_nothing():
    layer, (x_BND, weight_BNN) = made(sampled=99), random_graphs()
    expected = one_by_one(layer.layer, x_BND, weight_BNN, weighted=False)
    torch.testing.assert_close(layer.train()(x_BND, weight_BNN), expected, atol=1e-5, rtol=1e-5)


def test_a_sample_holds_as_many_neighbours_as_asked_and_no_strangers():
    torch.manual_seed(0)
    edge_BNN = random_graphs()[1] > 0
    kept_BNN = sample_neighbours(edge_BNN, 2)
    assert not (kept_BNN & ~edge_BNN).any()
    assert torch.equal(kept_BNN.sum(-1), edge_BNN.sum(-1).clamp(max=2))


def test_every_neighbour_is_drawn_equally_often():
    torch.manual_seed(0)
    edge_BNN = (torch.arange(9) < 6).expand(6000, 9, 9)
    share_N = sample_neighbours(edge_BNN, 2)[:, 0].float().mean(0)
    torch.testing.assert_close(share_N[:6], torch.full((6,), 2 / 6), atol=0.02, rtol=0)


def test_a_seed_repeats_the_draw_and_the_next_draw_differs():
    edge_BNN = random_graphs()[1] > 0
    torch.manual_seed(3)
    first, second = sample_neighbours(edge_BNN, 1), sample_neighbours(edge_BNN, 1)
    torch.manual_seed(3)
    assert torch.equal(sample_neighbours(edge_BNN, 1), first)
    assert not torch.equal(first, second)


def test_evaluation_draws_nothing():
    layer, (x_BND, weight_BNN) = made().eval(), random_graphs()
    assert torch.equal(layer(x_BND, weight_BNN), layer(x_BND, weight_BNN))
