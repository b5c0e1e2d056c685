"""Speech of a person who does not exist: a source-filter voice saying random syllables.

A glottal pulse train with prosody, jitter and shimmer, and noise where consonants and breath are, pass through four
formants that glide from vowel to vowel, frame by frame in the short-time Fourier domain (Fant, Acoustic Theory of
Speech Production, 1960). No words come out, but F0, formants, tilt, rate and pauses are a speaker's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmray.recordings.synthetic_traits import Table

SAMPLING_RATE_HZ = 44_100  # of the clip
_RATE = SAMPLING_RATE_HZ // 2  # of the synthesis; a voice has nothing to say above 11 kHz
_HOP, _WINDOW = 256, 1024  # of the filter, samples at _RATE
_FRAME_S = _HOP / _RATE

# as in synthetic_eeg: value of the mean person, change per SD of the trait, whether of the logarithm
PARAMETERS: Table = {
    "f0_hz": (150.0, 0.16, True),
    "f0_range": (0.14, 0.45, True),  # SD of log F0 within a clip
    "formant_scale": (1.0, 0.06, True),
    "tilt_db_per_octave": (5.0, 1.8, False),  # of the source above 300 Hz, on top of the pulse's own
    "breathiness": (0.08, 0.6, True),  # noise in the vowels; jitter and shimmer follow
    "syllables_per_s": (4.2, 0.2, True),
    "pause_share": (0.22, 0.35, True),
    "vowel_space": (1.0, 0.22, True),  # how far vowels lie from the neutral one
}

_NEUTRAL_HZ = np.array([520.0, 1500.0, 2500.0, 3500.0])
_VOWELS_HZ = np.array(
    [
        [300.0, 2250.0, 2950.0, 3600.0],  # i
        [520.0, 1850.0, 2500.0, 3500.0],  # e
        [780.0, 1250.0, 2500.0, 3500.0],  # a
        [480.0, 900.0, 2450.0, 3400.0],  # o
        [320.0, 800.0, 2350.0, 3400.0],  # u
    ]
)
_BANDWIDTH_HZ = np.array([70.0, 95.0, 140.0, 220.0])


@dataclass(frozen=True)
class _Score:
    """What the speaker does in each of T frames."""

    voiced_T: NDArray[np.float64]  # amplitude of the pulses
    hiss_T: NDArray[np.float64]  # amplitude of consonants' noise
    formant_T4: NDArray[np.float64]  # Hz
    log_f0_T: NDArray[np.float64]


def synthesise(
    parameters: dict[str, float], seconds: float, nuisance: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """A clip of a person with these PARAMETERS: mono, 44.1 kHz, its peak near -40 dBFS as MODMA's.

    Args:
        parameters: a value for each name in PARAMETERS.
        seconds: length of the clip.
        nuisance: scale of what differs between clips without meaning anything: loudness, microphone, room noise.
        rng: the only source of chance.
    """
    from scipy import signal

    length = round(seconds * _RATE)
    score = _score(parameters, length // _HOP + 3, rng)
    source_N, breath_N = _excitation(parameters, score, length, rng)
    voice_N = _vocal_tract(parameters, score, source_N, breath_N)
    voice_N /= np.abs(voice_N).max()
    clip_N: NDArray[np.float64] = signal.resample_poly(voice_N, 2, 1)[: round(seconds * SAMPLING_RATE_HZ)]
    room = 10.0 ** ((-52.0 + 4.0 * nuisance * rng.standard_normal()) / 20.0)
    clip_N += room * rng.standard_normal(len(clip_N), dtype=np.float32)
    # a microphone's colour: one gentle first-order slope up or down
    colour = np.clip(0.12 * nuisance * rng.standard_normal(), -0.6, 0.6)
    clip_N = signal.lfilter([1.0, colour], [1.0], clip_N)
    level_db = np.clip(-40.0 + 2.5 * nuisance * rng.standard_normal(), -52.0, -28.0)
    clip_N *= 10.0 ** (level_db / 20.0) / np.abs(clip_N).max()
    return clip_N


def _score(parameters: dict[str, float], frames: int, rng: np.random.Generator) -> _Score:
    """Syllables (a consonant, then a vowel) in phrases, with pauses between them and at both ends."""
    voiced_T, hiss_T = np.zeros(frames), np.zeros(frames)
    knots: list[tuple[float, NDArray[np.float64]]] = [(0.0, _NEUTRAL_HZ)]
    tune_T = np.zeros(frames)
    vowel_V4 = _NEUTRAL_HZ + parameters["vowel_space"] * (_VOWELS_HZ - _NEUTRAL_HZ)
    syllable = 1.0 / (parameters["syllables_per_s"] * _FRAME_S)  # frames
    at = rng.uniform(0.1, 0.3) / _FRAME_S
    while at < frames:
        count = int(rng.integers(4, 12))
        phrase_start = at
        for _ in range(count):
            duration = syllable * np.exp(0.2 * rng.standard_normal())
            onset = at + 0.3 * duration
            kind = rng.integers(0, 3)  # fricative, stop, sonorant
            before, start, end = int(at), int(onset), int(at + duration)
            if kind == 0:
                hiss_T[before:start] = rng.uniform(0.05, 0.15)
            elif kind == 1:
                hiss_T[max(before, start - 2) : start] = rng.uniform(0.15, 0.3)
            else:
                voiced_T[before:start] = 0.35
            voiced_T[start:end] = np.exp(0.2 * rng.standard_normal())
            formant_4 = vowel_V4[rng.integers(0, len(vowel_V4))] * np.exp(0.03 * rng.standard_normal(4))
            knots += [(onset, formant_4), (at + 0.85 * duration, formant_4)]
            tune_T[before:end] += 0.6 * rng.standard_normal()
            at += duration
        # declination: a phrase falls by about two SD
        first, last = int(phrase_start), min(int(at), frames)
        tune_T[first:last] += np.linspace(1.0, -1.0, max(last - first, 0))
        share = parameters["pause_share"]
        at += (at - phrase_start) * share / (1.0 - share) * np.exp(0.3 * rng.standard_normal())
    tail = max(2, int(rng.uniform(0.1, 0.3) / _FRAME_S))
    voiced_T[-tail:], hiss_T[-tail:] = 0.0, 0.0
    place, value_K4 = np.array([place for place, _ in knots]), np.stack([value for _, value in knots])
    formant_T4 = np.stack([np.interp(np.arange(frames), place, value_K4[:, i]) for i in range(4)], axis=1)
    smooth = np.hanning(7)[1:-1] / np.hanning(7).sum()
    return _Score(
        voiced_T=np.convolve(voiced_T, smooth, "same"),
        hiss_T=hiss_T,
        formant_T4=formant_T4 * parameters["formant_scale"],
        log_f0_T=np.log(parameters["f0_hz"]) + 0.8 * parameters["f0_range"] * np.convolve(tune_T, smooth, "same"),
    )


def _excitation(
    parameters: dict[str, float], score: _Score, length: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Glottal flow derivative and turbulence, N samples each at _RATE."""
    at_N = np.arange(length) / _HOP
    frame_T = np.arange(len(score.voiced_T))
    f0_N = np.exp(np.interp(at_N, frame_T, score.log_f0_T))
    rough = parameters["breathiness"]
    cycle_N = (np.cumsum(f0_N) / _RATE).astype(np.intp)
    cycles = int(cycle_N[-1]) + 1
    jitter_N = (1.0 + 0.1 * rough * rng.standard_normal(cycles))[cycle_N]
    phase_N = np.cumsum(f0_N * jitter_N) / _RATE
    whole_N = np.floor(phase_N)
    shimmer = 1.0 + 0.5 * rough * rng.standard_normal(int(whole_N.max()) + 2)
    phase_N -= whole_N
    # Rosenberg's pulse, differentiated: a slow opening and a sharp closure at 60 % of the cycle
    pulse_N = np.where(phase_N < 0.6, phase_N * (0.4 - phase_N) * 15.0, 0.0)
    voiced_N = np.interp(at_N, frame_T, score.voiced_T)
    source_N = pulse_N * shimmer[np.maximum(whole_N, 0).astype(np.intp)] * voiced_N
    hiss_N = np.interp(at_N, frame_T, score.hiss_T)
    breath_N = (rough * voiced_N + hiss_N) * rng.standard_normal(length, dtype=np.float32)
    return source_N, breath_N


def _vocal_tract(
    parameters: dict[str, float], score: _Score, source_N: NDArray[np.float64], breath_N: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Filter the excitation by gliding formants and the source's tilt (magnitude only), overlap-add."""
    from scipy import signal

    window = np.sqrt(signal.windows.hann(_WINDOW, sym=False)).astype(np.float32)
    transform = signal.ShortTimeFFT(window, _HOP, _RATE, mfft=_WINDOW, scale_to=None)
    frequency_F = transform.f.astype(np.float32)
    # the tilt belongs to the pulses, not to the noise
    tilt_F = (np.maximum(frequency_F, 300.0) / 300.0) ** (-parameters["tilt_db_per_octave"] / 6.02)
    excitation_FT = transform.stft(source_N) * tilt_F[:, None] + transform.stft(breath_N)
    place_T = np.clip(transform.t(len(source_N)) * _RATE / _HOP, 0, len(score.formant_T4) - 1)
    response_FT = np.ones(excitation_FT.shape, dtype=np.float32)
    square_F1 = (frequency_F**2)[:, None]
    for index, bandwidth in enumerate(_BANDWIDTH_HZ):
        formant_T = np.interp(place_T, np.arange(len(score.formant_T4)), score.formant_T4[:, index]).astype(np.float32)
        square_T = formant_T**2
        response_FT *= square_T / np.sqrt((square_F1 - square_T) ** 2 + np.float32(bandwidth**2) * square_F1)
    result_N: NDArray[np.float64] = transform.istft(excitation_FT * response_FT, k1=len(source_N))
    return result_N
