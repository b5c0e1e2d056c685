"""A temperature cools where it must, and changes no decision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmray.training.calibration import MAX_TEMPERATURE, temperature


def drawn(sharpness: float, seed: int = 0, count: int = 4000) -> tuple[torch.Tensor, np.ndarray]:
    """Scores that claim `sharpness` times the certainty with which the labels follow them."""
    rng = np.random.default_rng(seed)
    logit_UC = rng.normal(size=(count, 2))
    probability_UC = torch.tensor(logit_UC).softmax(1).numpy()
    label_U = (rng.random(count) < probability_UC[:, 1]).astype(np.int64)
    return torch.tensor(sharpness * logit_UC), label_U


@pytest.mark.parametrize("sharpness", [1.5, 3.0, 8.0])
def test_an_overconfident_classifier_is_cooled_by_what_it_claims_too_much(sharpness):
    assert temperature(*drawn(sharpness)) == pytest.approx(sharpness, rel=0.15)


def test_a_timid_classifier_is_left_alone():
    assert temperature(*drawn(0.3)) == pytest.approx(1.0, abs=1e-3)


@given(seed=st.integers(0, 1000), count=st.integers(1, 12))
def test_cross_entropy_never_rises_on_the_subjects_that_set_it(seed, count):
    logit_UC, label_U = drawn(5.0, seed, count)
    found = temperature(logit_UC, label_U)
    assert 1.0 <= found <= MAX_TEMPERATURE
    before, after = (
        float(torch.nn.functional.cross_entropy(logit_UC / t, torch.as_tensor(label_U))) for t in (1.0, found)
    )
    assert after <= before + 1e-4


def test_without_labels_nothing_is_set():
    assert temperature(torch.randn(3, 2), np.full(3, -1)) == 1.0
