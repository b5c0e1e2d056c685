"""The rates that a schedule gives, epoch by epoch."""

from __future__ import annotations

import pytest
import torch

from mmray.config import Train
from mmray.training.schedule import advance, schedule


def rates(**settings) -> list[float]:
    train = Train(learning_rate=0.25, **settings)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=train.learning_rate)
    moving, found = schedule(optimiser, train), []
    for _ in range(train.epochs):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        advance(moving, validation_mrr=0.5)
    return found


def test_a_constant_rate_stays():
    assert rates(schedule="constant", epochs=12) == [0.25] * 12


def test_one_cycle_rises_once_to_the_rate_and_falls_below_its_start():
    found = rates(schedule="one_cycle", epochs=39)  # three tenths of 40 less the first: its top falls on epoch 11
    assert found[0] == pytest.approx(0.25 / 25)
    assert found[11] == pytest.approx(0.25)
    assert found[:12] == sorted(found[:12])
    assert found[11:] == sorted(found[11:], reverse=True)
    assert found[-1] < found[0]


@pytest.mark.parametrize("kind", ["constant", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_no_epoch_of_a_short_fit_stands_still(kind, epochs):
    assert min(rates(schedule=kind, epochs=epochs)) > 0.25 / 100
