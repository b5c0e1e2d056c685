from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.recordings import synthetic_eeg, synthetic_voice
from mmray.recordings.synthetic_traits import draw_latents, label_shift, realise

TABLES = {"eeg": synthetic_eeg.PARAMETERS, "voice": synthetic_voice.PARAMETERS}


def draw(label: int, coupling: float, people: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    latents = [draw_latents(label, 2.0, coupling, 3, rng) for _ in range(people)]
    return np.stack([item.eeg_K for item in latents]), np.stack([item.audio_K for item in latents])


@pytest.mark.parametrize("coupling", [0.0, 0.5, 0.8, 1.0])
def test_traits_of_both_modalities_correlate_by_the_coupling(coupling: float) -> None:
    eeg_SK, audio_SK = draw(1, coupling)
    for trait in range(3):
        assert np.corrcoef(eeg_SK[:, trait], audio_SK[:, trait])[0, 1] == pytest.approx(coupling, abs=0.05)


@pytest.mark.parametrize("coupling", [0.0, 0.6])
def test_class_reaches_the_voice_only_through_the_coupling(coupling: float) -> None:
    eeg_gap_K = draw(1, coupling)[0].mean(0) - draw(0, coupling)[0].mean(0)
    audio_gap_K = draw(1, coupling)[1].mean(0) - draw(0, coupling)[1].mean(0)
    assert np.linalg.norm(eeg_gap_K) == pytest.approx(2.0, abs=0.15)
    assert np.linalg.norm(audio_gap_K) == pytest.approx(2.0 * coupling, abs=0.15)


@given(effect=st.floats(0, 5), traits=st.integers(1, 8))
@settings(max_examples=25, deadline=None)
def test_classes_lie_the_label_effect_apart_for_any_number_of_traits(effect: float, traits: int) -> None:
    gap_K = label_shift(1, effect, traits) - label_shift(0, effect, traits)
    assert np.linalg.norm(gap_K) == pytest.approx(effect)


@pytest.mark.parametrize("modality", ["eeg", "voice"])
@given(low=st.floats(-6, 5.9), step=st.floats(0.05, 1))
@settings(max_examples=25, deadline=None)
def test_each_parameter_rises_with_its_trait_and_with_no_other(modality: str, low: float, step: float) -> None:
    table = TABLES[modality]
    still_P = np.zeros(len(table))
    for trait, name in enumerate(table):
        below_K = np.zeros(len(table))
        below_K[trait] = low
        above_K = below_K.copy()
        above_K[trait] = low + step
        below, above = realise(table, below_K, still_P), realise(table, above_K, still_P)
        assert above.pop(name) > below.pop(name)
        assert above == below


def test_fewer_traits_than_parameters_drive_several_each() -> None:
    values = realise(synthetic_eeg.PARAMETERS, np.array([2.0]), np.zeros(len(synthetic_eeg.PARAMETERS)))
    assert all(values[name] > centre for name, (centre, _, _) in synthetic_eeg.PARAMETERS.items())
