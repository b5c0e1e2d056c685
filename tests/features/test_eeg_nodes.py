from __future__ import annotations

import numpy as np
import pytest
from scipy import signal

from mmray.config import EEG, from_dict
from mmray.errors import ConfigError, RecordingError
from mmray.features import eeg, eeg_nodes

RATE = 250.0
NAMES = eeg_nodes.names(EEG())
BAND = {name: position for position, name in enumerate(NAMES)}
FAMILIES = ("differential_entropy", "hjorth", "absolute_power", "relative_power", "aperiodic", "asymmetry")


def sine(hertz, seconds=8.0, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(segments=3, nodes=128, samples=1000, seed=0):
    return np.random.default_rng(seed).normal(scale=5, size=(segments, nodes, samples)).astype(np.float32)


def pink(exponent, segments=8, nodes=4, samples=1000, seed=0):
    """Noise whose power falls as f to the -exponent, from spectra drawn at random; microvolts."""
    rng = np.random.default_rng(seed)
    whole = 8 * samples  # cut from longer, so that a segment is not periodic
    frequency = np.fft.rfftfreq(whole, 1 / RATE)
    gain = np.where(frequency > 0.4, np.maximum(frequency, 0.4) ** (-exponent / 2), 0)
    spectrum = gain * (
        rng.normal(size=(segments, nodes, len(gain))) + 1j * rng.normal(size=(segments, nodes, len(gain)))
    )
    return (300 * np.fft.irfft(spectrum, whole)[..., :samples]).astype(np.float32)


@pytest.mark.parametrize(
    ("band", "expected"),
    [("delta", (1, 4)), ("alpha", (8, 13)), ("beta", (13, 25)), ("gamma", (30, 25)), (None, (1, 25))],
)
def test_a_band_ends_where_the_pass_band_does(band, expected):
    assert eeg_nodes.band_hz(band, EEG(highpass_hz=1, lowpass_hz=25)) == expected


@pytest.mark.parametrize(("hertz", "band"), [(2, "delta"), (6, "theta"), (10, "alpha"), (20, "beta"), (38, "gamma")])
def test_differential_entropy_of_a_sine_is_that_of_its_variance(hertz, band):
    amplitude_uv = 12.0
    x = eeg_nodes.node_features((amplitude_uv * sine(hertz, 4.0))[None, None].astype(np.float32), RATE, EEG())[0, 0]
    assert x[BAND[f"de_{band}"]] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * amplitude_uv**2 / 2), abs=0.02)
    assert x[:5].argmax() == BAND[f"de_{band}"]


def test_band_variances_of_white_noise_go_with_their_widths():
    noise = np.random.default_rng(0).normal(scale=5, size=(200, 2, 1000)).astype(np.float32)
    power = eeg_nodes.band_power(noise, RATE, EEG()).mean((0, 1))
    np.testing.assert_allclose(power, 25 * np.array([3.5, 4, 5, 17, 15]) / 125, rtol=0.03)


def test_hjorth_is_its_definition():
    signal = np.random.default_rng(0).normal(size=(2, 3, 400)).astype(np.float32)
    got = eeg_nodes.hjorth(signal, RATE)
    for s in range(2):
        for n in range(3):
            row = signal[s, n].astype(float)
            slope = np.diff(row)
            mobility = np.sqrt(slope.var() / row.var())
            complexity = np.sqrt(np.diff(slope).var() / slope.var()) / mobility
            expected = [np.log(row.var()), mobility * RATE / (2 * np.pi), complexity]
            np.testing.assert_allclose(got[s, n], expected, rtol=1e-4)


def test_mobility_of_a_slow_sine_is_its_frequency_and_its_complexity_1():
    _, mobility, complexity = eeg_nodes.hjorth(sine(5, 20.0)[None, None].astype(np.float32), RATE)[0, 0]
    assert mobility == pytest.approx(5, rel=0.01)
    assert complexity == pytest.approx(1, rel=0.01)


def test_a_band_without_a_frequency_bin_is_a_config_error():
    with pytest.raises(ConfigError, match="gamma"):
        eeg_nodes.node_features(np.ones((1, 1, 250), np.float32), RATE, EEG(lowpass_hz=30.0))


def test_the_default_is_differential_entropy_and_hjorth_to_the_bit():
    wave = noise(2, 3)
    entropy = 0.5 * np.log(2 * np.pi * np.e * np.maximum(eeg_nodes.band_power(wave, RATE, EEG()), 1e-4))
    expected = np.concatenate([entropy, eeg_nodes.hjorth(wave, RATE)], axis=-1).astype(np.float32)
    np.testing.assert_array_equal(eeg_nodes.node_features(wave, RATE, EEG()), expected)
    assert NAMES == (
        "de_delta", "de_theta", "de_alpha", "de_beta", "de_gamma", "log_activity", "mobility_hz", "complexity"
    )  # fmt: skip


def test_every_family_comes_under_its_names_wherever_it_stands():
    wave = noise()
    together = EEG(families=FAMILIES[::-1])
    x = eeg_nodes.node_features(wave, RATE, together)
    assert x.shape == (3, 128, eeg_nodes.width(together))
    assert (x.dtype, np.isfinite(x).all()) == (np.float32, True)
    column = {name: x[..., number] for number, name in enumerate(eeg_nodes.names(together))}
    assert len(column) == eeg_nodes.width(together)
    for family in FAMILIES:
        alone = EEG(families=(family,))
        for number, name in enumerate(eeg_nodes.names(alone)):
            np.testing.assert_array_equal(column[name], eeg_nodes.node_features(wave, RATE, alone)[..., number])


def test_absolute_power_is_the_variance_and_relative_power_its_share():
    x = eeg_nodes.node_features(noise(), RATE, EEG(families=("absolute_power", "relative_power")))
    np.testing.assert_array_equal(x[..., :5], eeg_nodes.band_power(noise(), RATE, EEG()))
    np.testing.assert_allclose(x[..., 5:], x[..., :5] / x[..., :5].sum(-1, keepdims=True), rtol=1e-5)
    silent = eeg_nodes.node_features(0 * noise(), RATE, EEG(families=("relative_power",)))
    np.testing.assert_allclose(silent, 0.2, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha_uv", [0.0, 20.0])
def test_the_exponent_of_noise_is_found_under_an_alpha_peak_too(exponent, alpha_uv):
    wave = pink(exponent) + (alpha_uv * sine(10.3, 4.0)).astype(np.float32)
    offset, found = eeg_nodes.aperiodic(wave, RATE, EEG()).mean((0, 1))
    assert found == pytest.approx(exponent, abs=0.12)
    density = signal.welch(pink(exponent), RATE, nperseg=500)[1].mean((0, 1))  # at 0, 0.5, 1 ... Hz
    for hertz in (5, 20, 30):
        assert offset - found * np.log10(hertz) == pytest.approx(np.log10(density[2 * hertz]), abs=0.1)


def test_the_exponent_knows_no_gain_and_the_offset_its_square():
    one, tenfold = (eeg_nodes.aperiodic(gain * pink(1.5), RATE, EEG()) for gain in (np.float32(1), np.float32(10)))
    np.testing.assert_allclose(tenfold[..., 1], one[..., 1], atol=1e-3)
    np.testing.assert_allclose(tenfold[..., 0] - one[..., 0], 2, atol=1e-3)


def naive_line(x, y):
    """Bisquare regression, one row at a time by numpy's own weighted fit."""
    weight = np.ones(len(x))
    for _ in range(10):
        slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weight))
        residual = y - intercept - slope * x
        scale = max(1.4826 * np.median(np.abs(residual)), 1e-4)
        weight = np.array([(1 - (r / scale / 4.685) ** 2) ** 2 if abs(r) < 4.685 * scale else 0.0 for r in residual])
    return intercept, slope


def test_the_robust_line_is_the_reweighted_fit_row_by_row_and_forgets_outliers():
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.3, 1.6, 50)).astype(np.float32)
    y = (2 - 1.3 * x + 0.05 * rng.normal(size=(3, 4, 50))).astype(np.float32)
    y[..., 38:44] += 1.5  # a peak
    intercept, slope = eeg_nodes.robust_line(x, y)
    for s in range(3):
        for n in range(4):
            expected = naive_line(x.astype(float), y[s, n].astype(float))
            np.testing.assert_allclose((intercept[s, n], slope[s, n]), expected, atol=2e-3)
    np.testing.assert_allclose(slope, -1.3, atol=0.1)
    assert np.abs(np.polyfit(x, y[0, 0], 1)[0] + 1.3) > 0.1, "least squares is led astray, or the test says nothing"


def test_too_few_frequencies_for_a_line_is_a_config_error():
    short = EEG(families=("aperiodic",), segment_s=0.2, highpass_hz=3.0)
    with pytest.raises(ConfigError, match=r"aperiodic has \d frequencies"):
        eeg_nodes.node_features(noise(1, 2, 50), RATE, short)


@pytest.mark.parametrize(
    ("montage", "midline"),
    [("colin27_1020", "z"), ("biosemi64", "z"), ("GSN-HydroCel-129", None), ("GSN-HydroCel-64_1.0", None)],
)
def test_electrodes_pair_off_left_to_right(montage, midline):
    names = eeg.node_names(EEG(montage=montage))
    if midline:  # odd numbers lie left, even ones right; A, M and the old T3-T6 double others' places
        names = tuple(name for name in names if (name[-1] in "123456789z0" and name[0] not in "AM") or name[:2] == "AF")
        names = tuple(name for name in names if name not in ("T3", "T4", "T5", "T6"))
    position = eeg.positions(montage, names)
    partner = eeg_nodes.homologues(position)
    np.testing.assert_array_equal(partner[partner], np.arange(len(names)))
    for one, other in enumerate(partner):
        if midline and names[one].endswith(midline):
            assert other == one
        elif midline:
            stem, number = names[one].rstrip("0123456789"), int(names[one].lstrip("AFPTCOpIN"))
            assert names[other] == f"{stem}{number + 1 if number % 2 else number - 1}"
        elif other != one:
            np.testing.assert_allclose(position[other], position[one] * [-1, 1, 1], atol=2e-3)
        else:
            assert abs(position[one, 0]) < 2e-3


def test_of_two_electrodes_near_a_mirror_image_only_the_nearer_is_a_pair():
    right = np.array([0.06, 0.02, 0.08])
    left, beside = right * [-1, 1, 1], right * [-1, 1, 1] + [0, 0.003, 0]
    partner = eeg_nodes.homologues(np.stack([right, left, beside, [0, 0.1, 0.01], [0, -0.1, 0.01]]))
    assert partner.tolist() == [1, 0, 2, 3, 4]


def test_asymmetry_is_log_right_less_log_left_at_both_and_0_between_them():
    config = EEG(montage="colin27_1020", channels=("F4", "Fz", "F3", "O1"), families=("asymmetry",), neighbours=1)
    amplitude = np.array([20.0, 10.0, 5.0, 7.0])
    wave = (amplitude[:, None] * sine(10, 4.0))[None].astype(np.float32)
    x = eeg_nodes.node_features(wave, RATE, config)
    np.testing.assert_allclose(x[0, :, 0], [2 * np.log(4), 0, 2 * np.log(4), 0], atol=1e-4)


def test_a_montage_without_pairs_has_no_asymmetry():
    config = EEG(montage="colin27_1020", channels=("Fz", "Cz", "Pz", "Oz"), families=("asymmetry",), neighbours=1)
    with pytest.raises(ConfigError, match="mirror each other"):
        eeg_nodes.node_features(noise(1, 4), RATE, config)


WAVES = EEG(families=("waveform",), segment_s=2.0)


@pytest.mark.parametrize("rate", [128.0, 250.0, 256.0, 500.0, 512.0])
def test_a_waveform_is_the_same_sine_at_the_lower_rate(rate):
    rows = np.stack([20 * sine(6, 2.0, rate), 40 * sine(6, 2.0, rate)])[None].astype(np.float32)
    x = eeg_nodes.node_features(rows, rate, WAVES)
    assert (x.shape, x.dtype) == ((1, 2, 128), np.float32)
    expected = sine(6, 2.0, 64.0)
    found = x[0] / (x[0] @ expected / (expected @ expected))[:, None]
    np.testing.assert_allclose(found[:, 8:-8], np.stack([expected, expected])[:, 8:-8], atol=0.02)
    assert x[0, 1].std() / x[0, 0].std() == pytest.approx(2, rel=1e-3), "one scale a recording, not one an electrode"
    assert 1.4826 * np.median(np.abs(x)) == pytest.approx(1, rel=1e-3)


def test_a_waveform_holds_nothing_above_half_its_rate_and_knows_no_gain():
    tone = np.float32(20) * sine(6, 2.0)[None, None].astype(np.float32)
    fast = tone + np.float32(20) * sine(44, 2.0)[None, None].astype(np.float32)  # would fold to 20 Hz
    plain = eeg_nodes.waveform(tone, RATE, WAVES)
    np.testing.assert_allclose(eeg_nodes.waveform(fast, RATE, WAVES)[..., 8:-8], plain[..., 8:-8], atol=0.05)
    np.testing.assert_allclose(eeg_nodes.waveform(7 * tone, RATE, WAVES), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("segment_s", "rate", "hz"), [(0.502, 250.0, 64.0), (1.0, 512.0, 60.0), (3.99, 250.0, 100.0)])
def test_a_waveform_has_the_width_that_its_names_say(segment_s, rate, hz):
    config = EEG(families=("waveform",), segment_s=segment_s, waveform_hz=hz)
    wave = noise(2, 3, round(segment_s * rate))
    assert eeg_nodes.node_features(wave, rate, config).shape[-1] == eeg_nodes.width(config) == round(segment_s * hz)


def test_a_recording_slower_than_its_waveform_is_refused():
    with pytest.raises(RecordingError, match="waveform_hz=64"):
        eeg_nodes.waveform(noise(1, 2, 100), 50.0, WAVES)


@pytest.mark.parametrize("families", [["hjorth", "hjorth"], ["waveform", "hjorth"], [], ["hjort"]])
def test_families_that_cannot_be_are_refused_by_name(families):
    with pytest.raises(ConfigError, match="families"):
        from_dict({"features": {"eeg": {"families": families}}})
