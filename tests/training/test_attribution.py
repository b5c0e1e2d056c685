"""Attributions add up, and nodes are followed through the poolings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmray import config
from mmray.models.registry import build
from mmray.training.attribution import integrated_gradients, pooled, survival
from tests.models.systems import SHAPES, SYSTEMS, fresh

# which nodes a pooling keeps, and whom a query asks, jump, and no gradient sees a jump
SETTINGS = {"crossmodal_gcn": {"pooling": False, "population": False}}
TOLERANCE = 0.05  # of what single nodes add or take, at 64 steps; the kinks of ReLU and leaky ReLU cost it


def test_attributions_of_a_linear_score_are_weight_times_distance_from_the_baseline():
    x_SND, baseline_ND, weight_ND = torch.randn(3, 5, 4), torch.randn(5, 4), torch.randn(5, 4)
    found = integrated_gradients(lambda x: (x * weight_ND).sum((1, 2)) + 2.0, x_SND, baseline_ND, steps=3)
    expected_SND = weight_ND * (x_SND - baseline_ND)
    np.testing.assert_allclose(found.node_SN, expected_SND.sum(2), atol=1e-5)
    np.testing.assert_allclose(found.node_N, expected_SND.mean(0).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.feature_D, expected_SND.mean(0).sum(0), atol=1e-5)
    assert found.residual == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_attributions_of_a_smooth_score_sum_to_its_rise(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    net.requires_grad_(False)
    found = integrated_gradients(lambda x: net(x)[:, 0], torch.randn(4, 5, 4), torch.randn(5, 4))
    assert abs(found.residual) < 1e-3
    assert sum(found.node_N) == pytest.approx(found.score - found.baseline, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SYSTEMS)
def test_attributions_of_a_whole_system_sum_to_its_rise(name, seed):
    model = fresh(name, **SETTINGS.get(name, {})).eval().requires_grad_(False)
    torch.manual_seed(seed)
    x_SND, upper_SNN = 2 * torch.randn(4, *SHAPES["eeg"]), torch.rand(4, 12, 12).triu(1)
    weight_SNN, target_E = upper_SNN + upper_SNN.mT, torch.nn.functional.normalize(torch.randn(8), dim=-1)
    present_M = torch.tensor([True, False])

    def class_score(x):
        own_SE = model.encode("eeg", x, weight_SNN)
        fused_SE, _, _ = model.fuse({"eeg": own_SE, "audio": torch.zeros_like(own_SE)}, present_M.expand(len(x), -1))
        return model.classify(fused_SE)[:, 1]

    def match(x):
        return model.embed("eeg", x, weight_SNN) @ target_E

    for score in (class_score, match):
        if name == "logreg" and score is class_score:  # its fused vector is of another width
            continue
        found = integrated_gradients(score, x_SND, torch.zeros(*SHAPES["eeg"]))
        assert sum(found.node_N) == pytest.approx(sum(found.feature_D), abs=1e-4)
        assert abs(found.residual) <= TOLERANCE * np.abs(found.node_N).sum() + 1e-5


def test_attributions_of_ridge_are_its_weights_times_the_distance():
    model = fresh("ridge").eval().requires_grad_(False)
    x_SND, axis = torch.randn(3, *SHAPES["eeg"]), 2
    encoder = model.encoders["eeg"]
    encoder.mean_ND.normal_()
    encoder.scale_ND.uniform_(0.5, 2)
    weight_ND = encoder.linear.weight[axis].view(*SHAPES["eeg"]) / encoder.scale_ND
    found = integrated_gradients(
        lambda x: model.encode("eeg", x, torch.empty(0))[:, axis], x_SND, encoder.mean_ND, steps=4
    )
    np.testing.assert_allclose(found.node_SN, (weight_ND * (x_SND - encoder.mean_ND)).sum(2), atol=1e-5)
    assert abs(found.residual) < 1e-5


def test_a_constant_score_is_made_up_of_nothing():
    found = integrated_gradients(lambda x: torch.full((len(x),), 0.3), torch.randn(2, 5, 4), torch.zeros(5, 4))
    assert found.node_N == [0.0] * 5
    assert found.residual == 0.0


def test_survivors_are_followed_to_the_nodes_they_were():
    # segment 0: 5 nodes, kept 4 2 0, of these kept positions 2 0, that is nodes 0 and 4; segment 1: 1 2 3, then 2 and 3
    first = torch.tensor([[5.0, 4.0, 3.0], [2.0, 1.0, 0.0]]), torch.tensor([[4, 2, 0], [1, 2, 3]])
    second = torch.tensor([[9.0, 8.0], [7.0, 6.0]]), torch.tensor([[2, 0], [1, 2]])
    one, two = survival([first, second], 5)
    assert one.kept_N == [0.5, 0.5, 1.0, 0.5, 0.5]
    assert one.score_N == [3.0, 2.0, 2.5, 0.0, 5.0]
    assert two.kept_N == [0.5, 0.0, 0.5, 0.5, 0.5]
    assert two.score_N == [9.0, None, 7.0, 6.0, 8.0]


def test_what_a_pooling_is_said_to_keep_is_what_the_network_reads_out():
    torch.manual_seed(0)
    model = build(config.Model(hidden=8, embedding=8, layers=2), SHAPES, classes=2).eval()
    x_1ND, upper_1NN = torch.randn(1, *SHAPES["eeg"]), torch.rand(1, 12, 12).triu(1)
    weight_1NN = upper_1NN + upper_1NN.mT
    seen = []
    pools = model.encoders["eeg"].pools
    hooks = [pool.register_forward_hook(lambda pool, given, out: seen.append((given[0], out[0]))) for pool in pools]
    layers = pooled(model, "eeg", x_1ND, weight_1NN)
    for hook in hooks:
        hook.remove()
    alive = np.arange(12)
    for layer, (before_1NH, after_1KH) in zip(layers, seen, strict=True):
        stays = [n for n in alive if layer.kept_N[n]]
        assert len(stays) == after_1KH.shape[1]
        expected = {
            n: before_1NH[0, list(alive).index(n)] * np.tanh(layer.score_N[n]) for n in stays
        }  # a kept row is the node's own, scaled by its score
        for n in stays:
            assert torch.isclose(after_1KH[0], expected[n], atol=1e-5).all(1).any()
        order = sorted(stays, key=lambda n: -layer.score_N[n])
        alive = np.array(order)
    assert pooled(fresh("gcn"), "eeg", x_1ND, weight_1NN) is None
