"""The two library repairs on brains whose artefacts are known."""

from __future__ import annotations

import numpy as np
import pytest

from mmray.config import EEG
from mmray.errors import RecordingError
from mmray.features import artefacts, eeg

pytest.importorskip("mne_icalabel", reason="the extra [ica] is not installed")
pytest.importorskip("autoreject", reason="the extra [autoreject] is not installed")

RATE = 250.0
NAMES = (
    "Fp1",
    "Fp2",
    "F7",
    "F3",
    "Fz",
    "F4",
    "F8",
    "T7",
    "C3",
    "Cz",
    "C4",
    "T8",
    "P7",
    "P3",
    "Pz",
    "P4",
    "P8",
    "O1",
    "Oz",
    "O2",
)
CONFIG = EEG(montage="colin27_1020", channels=NAMES, highpass_hz=1.0, lowpass_hz=100.0)


def blinking(seconds=32, seed=0):
    """Alpha behind, blinks in front, a background of sources and of each electrode; volts, and the blinks alone."""
    rng = np.random.default_rng(seed)
    place = eeg.positions(CONFIG.montage, NAMES)
    direction = place - eeg.sphere_centre(place)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    samples = round(seconds * RATE)
    time = np.arange(samples) / RATE

    def seen(at, sharp):
        return np.exp(sharp * (direction @ (np.asarray(at) / np.linalg.norm(at)) - 1))[:, None]

    sources = np.cumsum(rng.normal(size=(8, samples)), axis=1)
    sources -= np.apply_along_axis(lambda row: np.convolve(row, np.ones(500) / 500, "same"), 1, sources)
    data = sum(seen(rng.normal(size=3), 3) * row for row in sources)
    data = data + 12 * seen((0, -1, 0.3), 4) * np.sin(2 * np.pi * 10 * time) * (1 + 0.5 * np.sin(0.7 * time))
    blink = sum(np.exp(-(((time - at) / 0.08) ** 2)) for at in np.arange(1.5, seconds, 2.7))
    blinks = 150 * seen((0, 1, -0.2), 5) * blink
    return 1e-6 * (data + blinks + rng.normal(size=data.shape)), 1e-6 * blinks


@pytest.fixture(scope="module")
def filtered():
    data, blinks = blinking()
    spans = [(0, data.shape[1])]
    return eeg.band_pass(data, RATE, spans, CONFIG), eeg.band_pass(blinks, RATE, spans, CONFIG), spans


def explained(data, blinks):
    """Share of the frontal electrode's variance that goes with the blinks."""
    return np.corrcoef(data[0], blinks[0])[0, 1] ** 2


def test_blinks_are_called_so_and_taken_out_and_the_alpha_stays(filtered):
    data, blinks, spans = filtered
    bad = np.zeros(len(NAMES), dtype=bool)
    bad[7] = True
    place = eeg.positions(CONFIG.montage, NAMES)
    cleaned, removed = artefacts.remove_components(data.copy(), bad, RATE, spans, place)
    assert "eye blink" in removed
    assert explained(data, blinks) > 0.5
    assert explained(cleaned, blinks) < 0.05
    occipital = NAMES.index("Oz")
    assert np.corrcoef(cleaned[occipital], (data - data[~bad].mean(0))[occipital])[0, 1] > 0.9
    np.testing.assert_array_equal(cleaned[7], data[7])


def test_the_same_recording_is_parted_the_same_way(filtered):
    data, _, spans = filtered
    place = eeg.positions(CONFIG.montage, NAMES)[:8]
    none = np.zeros(8, dtype=bool)
    here, there = (artefacts.remove_components(data[:8].copy(), none, RATE, spans, place) for _ in range(2))
    assert here[1] == there[1]
    np.testing.assert_array_equal(here[0], there[0])


def test_too_little_signal_for_components_is_a_recording_error(filtered):
    data, _, _ = filtered
    place = eeg.positions(CONFIG.montage, NAMES)
    with pytest.raises(RecordingError, match=r"20 good electrodes and 4 s are too little for features\.eeg\.ica"):
        artefacts.remove_components(data[:, :1000], np.zeros(20, dtype=bool), RATE, [(0, 1000)], place)


def test_autoreject_mends_one_bad_sensor_and_gives_a_ruined_segment_up(filtered):
    data, blinks, _ = filtered
    segments = eeg.cut(data - blinks, np.arange(0, 8_000, 250), 250)
    truth = segments.copy()
    rng = np.random.default_rng(0)
    segments[3, 8] += 400 * rng.normal(size=250).astype(np.float32)
    segments[9] += 400 * rng.normal(size=(20, 250)).astype(np.float32)
    place = eeg.positions(CONFIG.montage, NAMES)
    mended, kept = artefacts.repair_segments(segments.copy(), RATE, place)
    assert not kept[9]
    assert kept[3]
    assert kept.mean() > 0.8
    assert np.abs(mended[3, 8] - truth[3, 8]).std() < 0.1 * np.abs(segments[3, 8] - truth[3, 8]).std()


def test_too_few_segments_for_autoreject_are_a_recording_error(filtered):
    data, _, _ = filtered
    with pytest.raises(RecordingError, match=r"9 segments are too few for features\.eeg\.autoreject"):
        artefacts.repair_segments(eeg.cut(data, np.arange(9) * 500, 500), RATE, eeg.positions(CONFIG.montage, NAMES))
