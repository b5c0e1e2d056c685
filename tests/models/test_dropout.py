"""Dropout by bytes: how much it drops, that the mean stays, what a seed fixes; nothing happens in evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chisquare

from mmray.models.dropout import Dropout

COUNT = 200_003  # no multiple of eight


def drawn(p: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return Dropout(p).train()(torch.ones(COUNT))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.9, 0.999])
def test_it_drops_what_it_is_told_to_and_keeps_the_mean(p):
    y = drawn(p)
    assert abs(float((y == 0).float().mean()) - p) < 1 / 256 + 4 * np.sqrt(p * (1 - p) / COUNT)
    assert float(y.mean()) == pytest.approx(1, abs=4 * np.sqrt(min(p, 255 / 256) / (1 - min(p, 255 / 256)) / COUNT))
    assert y.unique().numel() == 2


def test_masks_of_neighbours_and_of_one_draws_bytes_know_nothing_of_one_another():
    kept = drawn(0.5).numpy() > 0
    for lag in (1, 2, 4, 8, 64, 128):
        same = int((kept[:-lag] == kept[lag:]).sum())
        assert binomtest(same, COUNT - lag).pvalue > 1e-4
    by_byte = [int(kept[byte::8].sum()) for byte in range(8)]
    assert chisquare(by_byte).pvalue > 1e-4


def test_a_seed_fixes_the_mask_and_another_changes_it():
    assert torch.equal(drawn(0.3), drawn(0.3))
    assert not torch.equal(drawn(0.3), drawn(0.3, seed=1))


@pytest.mark.parametrize("layer", [Dropout(0.3).eval(), Dropout(0.0).train()], ids=["evaluation", "p = 0"])
def test_it_can_be_nothing_and_then_draws_nothing(layer):
    x, before = torch.randn(5, 7), torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(6, 9, requires_grad=True)
    y = Dropout(0.5).train()(x)
    y.sum().backward()
    torch.testing.assert_close(y.detach(), x.detach() * x.grad)
