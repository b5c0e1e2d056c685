"""Each connectivity against its definition, pair by pair, and what none may depend on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from mmray.errors import ConfigError
from mmray.graphs import connectivity, similarity

RATE = 128.0
KINDS = {
    "coherence": connectivity.coherence,
    "imaginary_coherence": connectivity.imaginary_coherence,
    "wpli": connectivity.wpli,
}
EVERY = pytest.mark.parametrize("kind", list(KINDS))
LAYOUTS = pytest.mark.parametrize(("samples", "band"), [(512, (1.0, 4.0)), (205, (4.0, 40.0)), (128, (8.0, 13.0))])


def mixed(samples, nodes=5, segments=2, seed=0):
    """Electrodes that share delayed and undelayed parts of one another, and drift."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(segments, 3, samples + 40))
    delayed = np.stack([source[:, n % 3, 5 * n : 5 * n + samples] for n in range(nodes)], axis=1)
    shared = source[:, :1, :samples]
    drift = np.linspace(0, 8, samples) * np.arange(nodes)[:, None]
    return (delayed + 0.5 * shared + 0.7 * rng.normal(size=delayed.shape) + drift).astype(np.float32)


def inside(frequency, band):
    return (frequency >= band[0]) & (frequency < band[1]) & (frequency > 0)


def pairwise(function, x_SNT):
    return np.array([[[function(a, b) for b in rows] for a in rows] for rows in x_SNT.astype(float)])


def windows(samples):
    """Of a quarter of the segment each, half overlapping, for scipy."""
    window = samples // 4
    return {"nperseg": window, "noverlap": window - window // 2}


@pytest.mark.parametrize("samples", [128, 256, 500, 1000, 205, 300, 511, 31, 19])
def test_there_are_seven_windows_however_long_a_segment_is(samples):
    seen = []
    connectivity._of_each(mixed(samples), RATE, (0, RATE), lambda x_FNK: seen.append(x_FNK.shape[2]) or np.zeros(1))
    assert seen == [7, 7]


@LAYOUTS
def test_coherence_is_scipys_of_every_pair(samples, band):
    def of_pair(a, b):
        frequency, value = signal.coherence(a, b, RATE, **windows(samples))
        return value[inside(frequency, band)].mean()

    x = mixed(samples)
    np.testing.assert_allclose(connectivity.coherence(x, RATE, band), pairwise(of_pair, x), atol=2e-4)


@LAYOUTS
def test_imaginary_coherence_is_from_scipys_cross_spectrum_of_every_pair(samples, band):
    def of_pair(a, b):
        frequency, cross = signal.csd(a, b, RATE, **windows(samples))
        own, other = (signal.welch(row, RATE, **windows(samples))[1] for row in (a, b))
        return np.abs(cross.imag / np.sqrt(own * other))[inside(frequency, band)].mean()

    x = mixed(samples)
    np.testing.assert_allclose(connectivity.imaginary_coherence(x, RATE, band), pairwise(of_pair, x), atol=2e-4)


def naive_wpli(a, b, window, band):
    """Vinck's debiased estimator as a mean over pairs of windows: sum I_j I_k over sum |I_j I_k|, j other than k."""
    step, shape = window // 2, signal.get_window("hann", window)
    found = []
    for cycles in range(1, window // 2 + 1):
        if not band[0] <= cycles * RATE / window < band[1]:
            continue
        wave = np.exp(-2j * np.pi * cycles * np.arange(window) / window)
        lags = []
        for start in range(0, len(a) - window + 1, step):
            one, other = (row[start : start + window] - row[start : start + window].mean() for row in (a, b))
            lags.append(np.imag((wave * shape * one).sum() * np.conj((wave * shape * other).sum())))
        pairs = [(i, j) for n, i in enumerate(lags) for m, j in enumerate(lags) if n != m]
        total = sum(abs(i * j) for i, j in pairs)
        found.append(sum(i * j for i, j in pairs) / total if total > 1e-12 else 0.0)
    return max(float(np.mean(found)), 0.0)


@LAYOUTS
def test_wpli_is_the_mean_over_pairs_of_windows(samples, band):
    x = mixed(samples)
    expected = pairwise(lambda a, b: 0.0 if a is b else naive_wpli(a, b, samples // 4, band), x)
    expected[:, np.arange(5), np.arange(5)] = 0  # no lag to itself, but for rounding
    np.testing.assert_allclose(connectivity.wpli(x, RATE, band), expected, atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(KINDS)), st.integers(0, 1000), st.integers(60, 300), st.integers(2, 6))
def test_no_gain_and_no_sign_matters_and_all_is_symmetric_and_within_0_and_1(kind, seed, samples, nodes):
    x = mixed(samples, nodes, seed=seed)
    gain = np.random.default_rng(seed).uniform(0.01, 100, nodes) * np.random.default_rng(seed).choice([-1, 1], nodes)
    alike = KINDS[kind](x, RATE, (4.0, 40.0))
    assert ((alike >= 0) & (alike <= 1)).all()
    np.testing.assert_allclose(alike, alike.swapaxes(1, 2), atol=1e-6)
    scaled = KINDS[kind]((x * gain[:, None]).astype(np.float32), RATE, (4.0, 40.0))
    np.testing.assert_allclose(scaled, alike, atol=5e-3)
    neighbour, weight = similarity.top_k(alike, nodes - 1)
    assert neighbour.shape == weight.shape == (2, nodes, nodes - 1)
    assert [sorted(row) for row in neighbour[0].tolist()] == [[m for m in range(nodes) if m != n] for n in range(nodes)]


def test_a_lag_in_the_band_connects_and_the_same_wave_at_once_is_coherent_alone():
    rng = np.random.default_rng(0)
    sections = signal.butter(4, (9, 12), "bandpass", fs=RATE, output="sos")
    source = 5 * signal.sosfiltfilt(sections, rng.normal(size=(3, 560)))
    rows = np.stack([source[:, 20:532], source[:, 17:529], -3 * source[:, 20:532]], axis=1)  # 3 samples: 23 ms
    x = (rows + 0.1 * rng.normal(size=rows.shape) * [[1], [1], [0]]).astype(np.float32)
    x[:, 2] = -3 * x[:, 0]
    found = {kind: function(x, RATE, (9.0, 12.0)).mean(0) for kind, function in KINDS.items()}
    assert found["coherence"][0, 1] > 0.9
    assert found["imaginary_coherence"][0, 1] > 0.8
    assert found["wpli"][0, 1] > 0.9
    np.testing.assert_allclose([found[kind][0, 2] for kind in KINDS], [1, 0, 0], atol=1e-3)
    elsewhere = {kind: function(x, RATE, (25.0, 40.0)).mean(0) for kind, function in KINDS.items()}
    assert max(value[0, 1] for value in elsewhere.values()) < 0.4


def test_strangers_have_little_debiased_phase_lag():
    x = np.random.default_rng(0).normal(size=(20, 12, 512)).astype(np.float32)
    other = ~np.eye(12, dtype=bool)
    assert connectivity.wpli(x, RATE, (8.0, 13.0))[:, other].mean() < 0.12


@EVERY
def test_a_silent_electrode_is_connected_to_nothing(kind):
    x = mixed(250)
    x[:, 1] = 333.37  # whose mean is not that to the bit
    x[:, 3] = 0
    alike = KINDS[kind](x, RATE, (8.0, 13.0))
    assert not alike[:, 1].any()
    assert not alike[:, :, 3].any()


@EVERY
def test_a_band_without_a_frequency_is_a_config_error(kind):
    with pytest.raises(ConfigError, match=r"connectivity_band: windows of 0\.25 s"):
        similarity.similarity(kind, np.zeros((2, 5, 1), np.float32), mixed(128), None, RATE, (0.5, 4.0))


@EVERY
def test_without_time_series_there_is_no_connectivity(kind):
    with pytest.raises(ConfigError, match=kind):
        similarity.similarity(kind, np.zeros((1, 4, 4), np.float32), band_hz=(8.0, 13.0))
