"""Batched attention against PyG's sparse layers, values and gradients."""

from __future__ import annotations

import pytest
import torch

from mmray import config
from mmray.errors import ConfigError
from mmray.models.baselines.gat import GATLayer
from tests.models.baselines.graphs import D, one_by_one, random_graphs
from tests.models.systems import fresh, leaks


@pytest.fixture(params=[False, True], ids=["GAT", "GATv2"])
def layer(request):
    torch.manual_seed(0)
    layer = GATLayer(D, 6, heads=3, v2=request.param)
    torch.nn.init.normal_(layer.layer.bias)
    return layer


@pytest.mark.parametrize("several", [1, 25], ids=["few", "more than are mixed at once"])
def test_batched_attention_equals_pygs_sparse_layer(layer, several):
    x_BND, weight_BNN = (torch.cat(told) for told in zip(*(random_graphs() for _ in range(several)), strict=True))
    expected = one_by_one(layer.layer, x_BND, weight_BNN, weighted=True)
    torch.testing.assert_close(layer(x_BND, weight_BNN), expected, atol=1e-5, rtol=1e-5)


def test_batched_attention_has_pygs_gradients(layer):
    x_BND, weight_BNN = random_graphs()
    parameters = list(layer.parameters())
    ours = torch.autograd.grad(layer(x_BND, weight_BNN).square().sum(), parameters)
    theirs = torch.autograd.grad(one_by_one(layer.layer, x_BND, weight_BNN, weighted=True).square().sum(), parameters)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


def test_edge_weights_move_the_attention(layer):
    x_BND, weight_BNN = random_graphs()
    other_BNN = weight_BNN * torch.rand_like(weight_BNN).add(0.5)
    assert not torch.allclose(layer(x_BND, weight_BNN), layer(x_BND, other_BNN), atol=1e-4)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="heads = 3 must divide hidden = 64"):
        config.from_dict({"model": {"name": "gat", "heads": 3}})


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
def test_a_partner_leaks_through_gatv2_no_more_than_through_gat(batch, training):
    assert not leaks(fresh("gat", gat_v2=True), batch, "eeg", training)


def test_two_threads_make_the_same_gradient_every_time(layer):
    generator = torch.Generator().manual_seed(0)
    x_BND = torch.randn(64, 48, D, generator=generator)
    weight_BNN = torch.rand(64, 48, 48, generator=generator) * (1 - torch.eye(48))  # no graph here has loops
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = [torch.autograd.grad(layer(x_BND, weight_BNN).square().sum(), layer.parameters()) for _ in range(4)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for again in made[1:] for one, other in zip(made[0], again, strict=True))
