from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.features.speech import active_speech

RATE = 16000


def noise(seconds, level_db, seed=0):
    rng = np.random.default_rng(seed)
    return (10 ** (level_db / 20) * rng.normal(size=round(seconds * RATE))).astype(np.float32)


def talk():
    """Bursts of 0.3 to 1.2 s at -20 dB, with short and long pauses at -60 dB; 12 s."""
    rng = np.random.default_rng(1)
    parts, spoken = [], []
    while sum(map(len, parts)) < 12 * RATE:
        for level, longest in ((-20, 1.2), (-60, 1.5)):
            parts.append(noise(rng.uniform(0.05 if level < -30 else 0.3, longest), level, seed=len(parts)))
            spoken.append(np.full(len(parts[-1]), level > -30))
    return np.concatenate(parts), np.concatenate(spoken)


def p56(wave, margin_db=15.9):
    """Method B from its definition: thresholds a factor 2 apart, an envelope and a counter a sample, interpolation."""
    keep, hangover = np.exp(-1 / (RATE * 0.03)), round(0.2 * RATE)
    thresholds = 2.0 ** -np.arange(15, 0, -1)
    counts, held = np.zeros(15), np.full(15, hangover)
    first = second = energy = 0.0
    for sample in wave.astype(float):
        energy += sample * sample
        first = keep * first + (1 - keep) * abs(sample)
        second = keep * second + (1 - keep) * first
        above = second >= thresholds
        held = np.where(above, 0, held + 1)
        counts += above | (held < hangover)
    with np.errstate(divide="ignore"):
        level = 10 * np.log10(energy / counts)
        over = level - 20 * np.log10(thresholds) - margin_db
    at = next(j for j in range(15) if over[j] <= 0)
    share = over[at - 1] / (over[at - 1] - over[at])
    return level[at - 1] + share * (level[at] - level[at - 1])


def test_the_level_is_that_of_p56_sample_by_sample():
    wave = talk()[0][: 6 * RATE]
    assert active_speech(wave, RATE).level_dbfs == pytest.approx(p56(wave), abs=0.2)


def test_speech_is_told_from_long_pauses():
    wave, spoken = talk()
    told = active_speech(wave, RATE)
    spoken_F = spoken[: len(told.active_F) * 16].reshape(-1, 16).mean(1) > 0.5
    assert (told.active_F & spoken_F).sum() > 0.85 * spoken_F.sum()
    assert told.level_dbfs == pytest.approx(-20, abs=1.5)
    assert told.noise_dbfs == pytest.approx(-60, abs=1.5)
    assert told.snr_db == pytest.approx(40, abs=2)


def test_a_second_of_speech_among_silence_is_where_it_is():
    wave = noise(6, -70)
    wave[2 * RATE : 3 * RATE] += noise(1, -20, seed=1)
    told = active_speech(wave, RATE)
    assert told.active_fraction(2.1, 3.0) == 1
    assert told.active_fraction(0, 2.0) == 0
    assert told.active_fraction(3.0, 3.15) == 1
    assert told.active_fraction(3.6, 6) == 0
    assert told.active_fraction(7, 8) == 0


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100])
def test_speech_lies_where_it_is_however_many_samples_a_second(rate):
    wave = np.random.default_rng(0).normal(0, 1e-4, 200 * rate).astype(np.float32)
    wave[180 * rate : 190 * rate] *= 1000
    told = active_speech(wave, rate)
    assert told.active_fraction(180.05, 190.0) == 1
    assert told.active_fraction(170.0, 179.99) == 0
    assert told.active_fraction(190.45, 200.0) == 0


def test_without_a_pause_no_noise_is_told():
    told = active_speech(noise(2, -20), RATE)
    assert told.active_F.mean() > 0.95
    assert told.snr_db is None


@settings(max_examples=25, deadline=None)
@given(st.floats(-50, 10))
def test_gain_moves_levels_and_nothing_else(gain_db):
    wave = talk()[0][: 4 * RATE]
    here, there = active_speech(wave, RATE), active_speech((10 ** (gain_db / 20) * wave).astype(np.float32), RATE)
    assert there.level_dbfs - here.level_dbfs == pytest.approx(gain_db, abs=0.01)
    assert there.peak_dbfs - here.peak_dbfs == pytest.approx(gain_db, abs=0.01)
    assert there.snr_db == pytest.approx(here.snr_db, abs=0.01)
    assert (there.active_F != here.active_F).mean() < 0.001


@pytest.mark.parametrize("samples", [16, 17, 300])
def test_a_clip_of_a_few_milliseconds_is_no_error(samples):
    told = active_speech(np.ones(samples, np.float32), RATE)
    assert np.isfinite(told.level_dbfs)
