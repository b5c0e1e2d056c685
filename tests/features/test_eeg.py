from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from mmray.config import EEG
from mmray.errors import ConfigError, RecordingError
from mmray.features import eeg

RATE = 250.0


def sine(hertz, seconds=8.0, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def amplitude(row, hertz, rate=RATE):
    t = np.arange(len(row)) / rate
    return 2 * abs(np.mean(row * np.exp(-2j * np.pi * hertz * t)))


def test_filter_keeps_10_hz_and_kills_50_hz_and_the_offset():
    data = 1e-6 * (20 * sine(10) + 20 * sine(50) + 4e4)[None]
    filtered = eeg.band_pass(data, RATE, [(0, data.shape[1])], EEG())[0, 500:-500]
    assert amplitude(filtered, 10) == pytest.approx(20, rel=0.02)
    assert amplitude(filtered, 50) < 0.2
    assert abs(filtered.mean()) < 0.1


def test_filter_does_not_delay():
    data = 1e-6 * 20 * sine(10)[None]
    filtered = eeg.band_pass(data, RATE, [(0, data.shape[1])], EEG())[0]
    np.testing.assert_allclose(filtered[500:-500], 1e6 * data[0, 500:-500], atol=0.5)


def test_one_second_epoch_keeps_its_alpha_under_a_large_drift():
    rate = 256.0
    data = 1e-6 * (4200 + 30 * np.arange(256) / 256 + 20 * sine(10, 1.0, rate))[None]
    filtered = eeg.band_pass(data, rate, [(0, 256)], EEG())[0]
    assert amplitude(filtered, 10, rate) == pytest.approx(20, rel=0.15)
    assert np.abs(filtered).max() < 40


@pytest.mark.parametrize(("seconds", "near_uv", "tolerance_uv"), [(1.0, 0, 3.0), (8.0, 1, 0.5), (60.0, 4, 0.02)])
def test_filter_is_scipys_forwards_and_backwards(seconds, near_uv, tolerance_uv):
    rng = np.random.default_rng(0)
    samples = round(seconds * RATE)
    data = 3e4 + np.cumsum(rng.normal(size=(20, samples)), axis=1) + 5 * sine(50, seconds) + 0.1 * np.arange(samples)
    sections = np.vstack(
        [
            signal.butter(4, (0.5, 45.0), "bandpass", fs=RATE, output="sos"),
            signal.tf2sos(*signal.iirnotch(50.0, 25.0, fs=RATE)),
        ]
    )
    pad = min(round(3 * RATE / 0.5), samples - 1)
    expected = signal.sosfiltfilt(sections, signal.detrend(data), padlen=pad)
    found = eeg.band_pass(1e-6 * data, RATE, [(0, samples)], EEG())
    edge = round(near_uv * RATE)
    inner = slice(edge, samples - edge)
    assert np.abs(found[:, inner] - expected[:, inner]).max() < tolerance_uv
    # an end's continuation is a guess on either side, and most of a second is end
    like = min(np.corrcoef(a, b)[0, 1] for a, b in zip(found, expected, strict=True))
    assert like > (0.97 if seconds == 1 else 0.995)


@pytest.mark.parametrize("seconds", [1.0, 8.0])
def test_a_straight_drift_leaves_no_trace(seconds):
    data = np.random.default_rng(0).normal(size=(3, round(seconds * RATE)))
    line = 2e4 + 3000 * np.arange(data.shape[1]) / RATE
    here, there = (eeg.band_pass(1e-6 * x, RATE, [(0, data.shape[1])], EEG()) for x in (data, data + line))
    np.testing.assert_allclose(here, there, atol=1e-3)


def test_spans_are_filtered_apart():
    data = np.hstack([1e-6 * sine(10)[None], 1e-2 + 1e-6 * sine(10)[None]])
    half = data.shape[1] // 2
    filtered = eeg.band_pass(data, RATE, [(0, half), (half, 2 * half)], EEG())[0]
    np.testing.assert_allclose(filtered[:half], filtered[half:], atol=1e-3)


def test_a_rate_too_low_for_the_lowpass_is_a_recording_error():
    with pytest.raises(RecordingError, match="lowpass_hz"):
        eeg.band_pass(np.zeros((2, 80)), 80.0, [(0, 80)], EEG())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=6), st.integers(1, 25))
def test_segments_lie_inside_one_span_and_do_not_overlap(gaps, length):
    spans, at = [], 0
    for gap, size in gaps:
        spans.append((at + gap, at + gap + size))
        at += gap + size
    starts = eeg.segment_starts(spans, length)
    for start in starts:
        assert sum(a <= start and start + length <= b for a, b in spans) >= 1
    assert (np.diff(starts) >= length).all()
    assert len(starts) == sum((b - a) // length for a, b in spans)


def test_cut_takes_the_samples_it_names():
    data = np.arange(40, dtype=np.float32).reshape(2, 20)
    cut = eeg.cut(data, np.array([3, 11]), 4)
    np.testing.assert_array_equal(cut, [[[3, 4, 5, 6], [23, 24, 25, 26]], [[11, 12, 13, 14], [31, 32, 33, 34]]])


def test_unknown_montage_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'GSN-HydroCel-129'"):
        eeg.positions("GSN-Hydrocell-129", ("E1",))


def test_electrode_outside_the_montage_is_named():
    with pytest.raises(ConfigError, match="E999"):
        eeg.positions("GSN-HydroCel-129", ("E1", "E999"))


def test_select_orders_rows_by_node_whatever_the_case():
    data = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(eeg.select(data, ("CZ", "Fz", "Oz"), ("Oz", "Cz")), data[[2, 0]])


def test_missing_electrodes_are_counted():
    with pytest.raises(RecordingError, match=r"found 1 of the 3 electrodes.*missing Cz, Pz"):
        eeg.select(np.zeros((2, 4)), ("Fz", "Oz"), ("Fz", "Cz", "Pz"))
