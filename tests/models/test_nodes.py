"""What a node's hidden vector is made from: all of its own values, and nobody else's."""

from __future__ import annotations

import pytest
import torch

from mmray import config
from mmray.models.nodes import TimeFilter, node_encoder

KINDS = pytest.mark.parametrize("kind", ["linear", "mlp", "conv"])


@KINDS
@pytest.mark.parametrize("hidden", [2, 12])
@pytest.mark.parametrize("width", [1, 2, 5, 250])
def test_any_number_of_values_is_heard_to_the_last(kind, hidden, width):
    torch.manual_seed(0)
    encoder = node_encoder(width, config.Model(node_encoder=kind, hidden=hidden))
    x_BND = torch.randn(2, 3, width, requires_grad=True)
    h_BNH = encoder(x_BND)
    assert h_BNH.shape == (2, 3, hidden)
    h_BNH.square().sum().backward()
    assert (x_BND.grad != 0).all()


@KINDS
def test_a_node_is_encoded_by_itself(kind):
    torch.manual_seed(0)
    encoder = node_encoder(9, config.Model(node_encoder=kind, hidden=6))
    x_BND = torch.randn(2, 3, 9)
    expected = [[encoder(x_D[None, None])[0, 0] for x_D in x_ND] for x_ND in x_BND]
    torch.testing.assert_close(encoder(x_BND), torch.stack([torch.stack(row) for row in expected]))


def test_filters_give_way_to_a_linear_map_where_values_are_no_samples():
    conv = config.Model(node_encoder="conv", hidden=6)
    assert isinstance(node_encoder(9, conv, in_time=False), torch.nn.Linear)
    assert isinstance(node_encoder(9, config.Model(node_encoder="mlp"), in_time=False), torch.nn.Sequential)


def test_a_convolution_takes_a_wave_that_comes_a_little_later_for_much_the_same():
    """Where a linear map, at equal SD of its output, takes it for another."""
    torch.manual_seed(0)
    time_T = torch.arange(256) / 256
    phase_B = 2 * torch.pi * torch.rand(64)
    wave, later = (
        torch.sin(2 * torch.pi * 32 * (time_T - delay) + phase_B[:, None])[:, None] for delay in (0.0, 1 / 128)
    )
    moved = {}
    for kind in ("linear", "conv"):
        encoder = node_encoder(256, config.Model(node_encoder=kind, hidden=16))
        moved[kind] = float((encoder(later) - encoder(wave)).std() / encoder(wave).std())
    assert moved["conv"] < 0.2 * moved["linear"]


def test_a_filter_in_time_keeps_the_order_and_knows_no_moment():
    """What comes three steps later in the window comes three steps later in the vector, and is else the same."""
    torch.manual_seed(0)
    filtered = TimeFilter(series=5, steps=32, width=64, span=7)
    event_BCT = torch.zeros(1, 5, 32)
    event_BCT[0, :, 10] = torch.randn(5)
    before, after = (
        filtered(x).view(2, 32) - filtered(torch.zeros(1, 5, 32)).view(2, 32) for x in (event_BCT, event_BCT.roll(3, 2))
    )
    torch.testing.assert_close(before.roll(3, 1), after)
    assert set(before.abs().sum(0).nonzero().flatten().tolist()) == set(range(7, 14))


@pytest.mark.parametrize("samples", [20, 64, 128])
def test_series_of_any_length_come_to_the_same_steps(samples):
    filtered = TimeFilter(series=3, steps=32, width=96, span=5)
    assert filtered(torch.randn(2, 3, samples)).shape == (2, 96)
