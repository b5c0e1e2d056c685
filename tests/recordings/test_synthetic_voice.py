from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import stft, welch

from mmray.recordings.synthetic_voice import PARAMETERS, SAMPLING_RATE_HZ, synthesise

MEAN = {name: centre for name, (centre, _, _) in PARAMETERS.items()}


def speak(seconds: float = 8.0, nuisance: float = 0.0, seed: int = 0, **changes: float) -> np.ndarray:
    return synthesise(MEAN | changes, seconds, nuisance, np.random.default_rng(seed))


def f0_track(wave_N: np.ndarray) -> np.ndarray:
    """F0 of frames with a clear period, by autocorrelation, Hz."""
    length = int(0.04 * SAMPLING_RATE_HZ)
    found = []
    for start in range(0, len(wave_N) - length, length):
        frame = wave_N[start : start + length] * np.hanning(length)
        lag = np.fft.irfft(np.abs(np.fft.rfft(frame, 2 * length)) ** 2)[:length]
        low, high = SAMPLING_RATE_HZ // 450, SAMPLING_RATE_HZ // 65
        best = low + int(np.argmax(lag[low:high]))
        if lag[best] > 0.5 * lag[0]:
            found.append(SAMPLING_RATE_HZ / best)
    return np.array(found)


def mean_f0(wave_N: np.ndarray) -> float:
    return float(np.median(f0_track(wave_N)))


def f0_range(wave_N: np.ndarray) -> float:
    track = np.log(f0_track(wave_N))
    return float(np.percentile(track, 80) - np.percentile(track, 20))


def envelope(wave_N: np.ndarray) -> np.ndarray:
    """Level of 20 ms frames, relative to the loud ones."""
    length = SAMPLING_RATE_HZ // 50
    level = np.sqrt((wave_N[: len(wave_N) // length * length].reshape(-1, length) ** 2).mean(1))
    return level / np.percentile(level, 90)


def silent_share(wave_N: np.ndarray) -> float:
    return float((envelope(wave_N) < 0.02).mean())


def spectral_fall(wave_N: np.ndarray) -> float:
    frequency_F, psd_F = welch(wave_N, SAMPLING_RATE_HZ, nperseg=4096)
    low, high = (frequency_F > 100) & (frequency_F < 1000), (frequency_F > 1000) & (frequency_F < 3500)
    return float(np.log(psd_F[low].mean() / psd_F[high].mean()))


def second_formant(wave_N: np.ndarray) -> float:
    """Peak of the smoothed long-term spectrum between 1100 and 2100 Hz, of a voice that says one neutral vowel."""
    frequency_F, psd_F = welch(wave_N, SAMPLING_RATE_HZ, nperseg=4096)
    smooth_F = np.convolve(np.log(psd_F), np.hanning(21), "same")
    inside_F = (frequency_F > 1100) & (frequency_F < 2100)
    return float(frequency_F[inside_F][np.argmax(smooth_F[inside_F] + 2 * 21 / 4 * np.log(frequency_F[inside_F]))])


def noisiness(wave_N: np.ndarray) -> float:
    """Power between 6 and 9 kHz, where noise outweighs a tilted pulse, against the whole."""
    frequency_F, psd_F = welch(wave_N, SAMPLING_RATE_HZ, nperseg=4096)
    return float(psd_F[(frequency_F > 6000) & (frequency_F < 9000)].sum() / psd_F.sum())


def spectral_motion(wave_N: np.ndarray) -> float:
    """How far apart the loud frames' spectra between 250 and 2500 Hz lie."""
    frequency_F, _, spectrum_FT = stft(wave_N, SAMPLING_RATE_HZ, nperseg=1024)
    power_FT = np.abs(spectrum_FT[(frequency_F > 250) & (frequency_F < 2500)]) ** 2
    loud_T = power_FT.sum(0) > 0.1 * np.percentile(power_FT.sum(0), 90)
    return float(np.log(power_FT[:, loud_T] + 1e-20).std(1).mean())


def syllable_rate(wave_N: np.ndarray) -> float:
    """Centre of the modulation spectrum of the envelope between 1.5 and 9 Hz."""
    level = envelope(wave_N)
    frequency_F, psd_F = welch(level - level.mean(), 50.0, nperseg=min(256, len(level)))
    inside_F = (frequency_F > 1.5) & (frequency_F < 9)
    return float((frequency_F[inside_F] * psd_F[inside_F]).sum() / psd_F[inside_F].sum())


MEASURES = {
    "f0_hz": mean_f0,
    "f0_range": f0_range,
    "formant_scale": second_formant,
    "tilt_db_per_octave": spectral_fall,
    "breathiness": noisiness,
    "syllables_per_s": syllable_rate,
    "pause_share": silent_share,
    "vowel_space": spectral_motion,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_parameter_two_sd_up_is_heard(name: str) -> None:
    centre, change, logarithmic = PARAMETERS[name]
    others = {"vowel_space": 0.05} if name == "formant_scale" else {}

    def at(drive: float) -> float:
        value = centre * np.exp(change * drive) if logarithmic else centre + change * drive
        return float(np.mean([MEASURES[name](speak(seed=seed, **others, **{name: value})) for seed in range(3)]))

    assert at(2.0) > at(-2.0)


@pytest.mark.parametrize("f0_hz", [90.0, 150.0, 240.0])
def test_f0_is_what_was_asked(f0_hz: float) -> None:
    assert mean_f0(speak(f0_hz=f0_hz, f0_range=0.02)) == pytest.approx(f0_hz, rel=0.05)


@pytest.mark.parametrize("seconds", [1.0, 3.3, 9.0])
def test_a_clip_has_the_asked_length_and_modmas_level(seconds: float) -> None:
    wave_N = speak(seconds)
    assert len(wave_N) == round(seconds * SAMPLING_RATE_HZ)
    assert np.isfinite(wave_N).all()
    assert 20 * np.log10(np.abs(wave_N).max()) == pytest.approx(-40.0)


def test_nuisance_changes_how_loud_clips_are() -> None:
    peaks = {round(float(np.abs(speak(1.0, nuisance=1.0, seed=seed)).max()), 6) for seed in range(3)}
    assert len(peaks) == 3
