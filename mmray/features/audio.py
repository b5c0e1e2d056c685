"""Voice to analysis frames, about 10 ms apart. Pure functions of arrays; `extract` strings them together.

From `normalise_loudness` on everything is the same at any microphone gain.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from mmray.config import Audio
from mmray.errors import ConfigError, RecordingError

Array = NDArray[np.float32]

_HOP_S = 0.010
_CHUNK = 1024  # frames
_WINDOW_S = 0.032
_ACTIVE_DB = 30.0  # frames this far below the loudest do not count towards the loudness
_POWER_FLOOR = 1e-7  # of the loudness
_F0_REFERENCE_HZ = 150.0  # log F0 is 0 here, between men's and women's; and where nothing is voiced
_YIN_DIP = 0.15
_VOICED = 0.7  # harmonicity from which a frame counts as voiced


class Frames(NamedTuple):
    """Analysis frames of a clip: S segments, N nodes, J frames a node."""

    log_mel_SNJM: Array
    log_f0_SNJ: Array  # octaves above 150 Hz
    harmonicity_SNJ: Array  # 0 noise to 1 periodic
    energy_SNJ: Array  # log power over the clip's loudness

    def take(self, kept_S: NDArray[np.bool_]) -> Frames:
        """Those of some segments."""
        return self if kept_S.all() else Frames(*(value_SNJ[kept_S] for value_SNJ in self))

    @property
    def voiced_SNJ(self) -> NDArray[np.bool_]:
        """Frames with a pitch."""
        return self.harmonicity_SNJ >= _VOICED


def mono(data_CT: Array) -> Array:
    """Mean of the channels; not-a-number counts as silence."""
    mean_T: Array = np.nan_to_num(data_CT, posinf=0, neginf=0).mean(0, dtype=np.float32)
    return mean_T


def resample(wave_T: Array, from_hz: float, to_hz: float) -> Array:
    """Band-limited resampling (soxr, high quality)."""
    if from_hz == to_hz:
        return wave_T
    import librosa

    resampled_T: Array = librosa.resample(wave_T, orig_sr=from_hz, target_sr=to_hz, res_type="soxr_hq")
    return resampled_T


def frame_power(wave_T: Array, sampling_rate_hz: int) -> tuple[Array, Array]:
    """Mean power of each whole 10 ms, and the samples that are left over."""
    hop = round(_HOP_S * sampling_rate_hz)
    whole = len(wave_T) // hop * hop
    power_F: Array = np.square(wave_T[:whole].reshape(-1, hop)).mean(1)
    return power_F, wave_T[whole:]


def speech_range(wave_T: Array, sampling_rate_hz: int, trim_db: float | None) -> tuple[int, int]:
    """[start, stop) without the leading and trailing silence more than `trim_db` below the loudest 10 ms.

    Raises:
        RecordingError: the clip is silent.
    """
    return loud_range(frame_power(wave_T, sampling_rate_hz)[0], len(wave_T), sampling_rate_hz, trim_db)


def loud_range(power_F: Array, samples: int, sampling_rate_hz: int, trim_db: float | None) -> tuple[int, int]:
    """As `speech_range`, of a clip of so many samples whose `frame_power` is known."""
    hop = round(_HOP_S * sampling_rate_hz)
    if len(power_F) == 0:
        return 0, samples
    if power_F.max() <= 1e-12:
        raise RecordingError("the clip is silent; re-export it")
    if trim_db is None:
        return 0, samples
    loud = np.flatnonzero(power_F >= power_F.max() * 10 ** (-trim_db / 10))
    last = samples if loud[-1] + 1 == len(power_F) else (loud[-1] + 1) * hop
    return int(loud[0] * hop), int(last)


def normalise_loudness(wave_T: Array, sampling_rate_hz: int, own: slice = slice(None)) -> Array:
    """Scale to unit RMS over the frames within 30 dB of the loudest, so that no feature carries the microphone gain.

    Args:
        own: the samples whose loudness counts.
    """
    hop = round(_HOP_S * sampling_rate_hz)
    own_T = wave_T[own]
    power_F = np.square(own_T[: len(own_T) // hop * hop].reshape(-1, hop)).mean(1, dtype=np.float64)
    active_F = power_F >= power_F.max() * 10 ** (-_ACTIVE_DB / 10)
    scaled_T: Array = (wave_T / np.sqrt(power_F[active_F].mean())).astype(np.float32)
    return scaled_T


def segment_count(samples: int, config: Audio) -> int:
    """Whole segments in a clip; the last, partial one is dropped.

    Raises:
        RecordingError: there is not one.
    """
    # a clip of exactly one segment may lose a sample to resampling
    count = int((samples + 2) // (config.segment_s * config.sampling_rate_hz))
    if count == 0:
        raise RecordingError(
            f"{samples / config.sampling_rate_hz:.2f} s of sound is shorter than one segment of "
            f"{config.segment_s:g} s; lower features.audio.segment_s"
        )
    return count


def cut(wave_T: Array, segments: int, config: Audio, first: int = 0, origin: int = 0) -> Array:
    """So many of the clip's segments, S x T; zeros past its end.

    Args:
        first: number of the first of them.
        origin: which of the clip's samples is wave_T's first.
    """
    length = config.segment_s * config.sampling_rate_hz
    start_S = np.rint(np.arange(first, first + segments) * length) - origin
    return frame(wave_T, start_S + round(length) // 2, round(length))


def analyse(wave_T: Array, segments: int, config: Audio, first: int = 0, origin: int = 0) -> Frames:
    """Log-mel spectrum, pitch, harmonicity and energy of every analysis frame of the segments that `cut` yields."""
    rate = config.sampling_rate_hz
    per_node = max(1, round(config.segment_s / config.nodes / _HOP_S))
    each = config.nodes * per_node
    count = segments * each
    centre_F = (np.arange(first * each, first * each + count) + 0.5) * (config.segment_s * rate / each) - origin
    two_periods = 2 * math.ceil(rate / config.f0_min_hz) + 2
    parts: list[tuple[Array, ...]] = []
    for first in range(0, count, _CHUNK):  # an hour of frames at once would fill gigabytes
        centre_C = centre_F[first : first + _CHUNK]
        frames_CT = frame(wave_T, centre_C, _window(rate))
        power_CM = mel_power(frames_CT, config)
        f0_C, harmonicity_C = yin(frame(wave_T, centre_C, two_periods), config)
        energy_C = np.square(frames_CT).mean(1)
        parts.append(
            (
                np.log(power_CM + _POWER_FLOOR),
                np.log2(f0_C / _F0_REFERENCE_HZ),
                harmonicity_C,
                np.log(energy_C + _POWER_FLOOR),
            )
        )
    shape = (segments, config.nodes, per_node)
    joined = [np.concatenate(part_F) for part_F in zip(*parts, strict=True)]
    return Frames(*(value_F.reshape(*shape, *value_F.shape[1:]) for value_F in joined))


def mel_power(frames_FT: Array, config: Audio) -> Array:
    """Power in each mel band (Slaney's scale and area norm, as librosa) of Hann-windowed frames, F x mels."""
    window = frames_FT.shape[1]
    hann_T = np.hanning(window + 1)[:-1].astype(np.float32)
    spectrum = fft.rfft(frames_FT * hann_T)
    # over the window's energy, so that the figures stay near 1 for unit RMS
    power = (spectrum.real**2 + spectrum.imag**2) / float(np.square(hann_T).sum())
    mel_FM: Array = power @ _mel_filters(config.sampling_rate_hz, window, config.mels)
    return mel_FM


@cache
def _mel_filters(rate: int, window: int, mels: int) -> Array:
    import warnings

    import librosa

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its warning of empty bands; ours is an error
        filters_MF = librosa.filters.mel(sr=rate, n_fft=window, n_mels=mels, fmin=0.0, fmax=rate / 2)
    if (filters_MF.max(1) == 0).any():
        raise ConfigError(f"features.audio.mels={mels} leaves bands without a frequency at {rate} Hz; take fewer")
    filters_FM: Array = np.ascontiguousarray(filters_MF.T, dtype=np.float32)
    return filters_FM


def yin(frames_FT: Array, config: Audio) -> tuple[Array, Array]:
    """F0 (Hz) and harmonicity of each frame by YIN (de Cheveigné & Kawahara 2002, doi 10.1121/1.1458024).

    Steps 1 to 5: difference function by FFT, cumulative mean normalisation d', first dip under 0.15 (else the lowest),
    parabolic interpolation. Harmonicity is 1 - d' at that dip, within [0, 1]; a silent frame has none.
    """
    rate = config.sampling_rate_hz
    shortest, longest = max(2, int(rate / config.f0_max_hz)), int(np.ceil(rate / config.f0_min_hz))
    frames, samples = frames_FT.shape
    window = samples - longest - 1  # compared at every lag
    size = fft.next_fast_len(samples, real=True)
    frames_FT = frames_FT - frames_FT.mean(1, keepdims=True)
    spectrum = fft.rfft(frames_FT, size)
    head = fft.rfft(frames_FT[:, :window], size)
    cross_FL = fft.irfft(spectrum * head.conj(), size)[:, : longest + 2]
    energy_FT = np.zeros((frames, samples + 1))
    np.cumsum(np.square(frames_FT), axis=1, out=energy_FT[:, 1:])  # in float64: it is a difference of sums that counts
    lags = np.arange(longest + 2, dtype=np.float32)
    lagged_FL = (energy_FT[:, window : window + len(lags)] - energy_FT[:, : len(lags)]).astype(np.float32)
    difference_FL = np.maximum(lagged_FL[:, :1] + lagged_FL - 2 * cross_FL, 0)
    total_FL = np.cumsum(difference_FL[:, 1:], axis=1)
    silent_F = lagged_FL[:, 0] <= 1e-10 * window
    normal_FL = np.ones_like(difference_FL)
    normal_FL[:, 1:] = difference_FL[:, 1:] * lags[1:] / np.maximum(total_FL, 1e-12 * window)
    inner_FL = normal_FL[:, shortest : longest + 1]
    before_FL, after_FL = normal_FL[:, shortest - 1 : longest], normal_FL[:, shortest + 1 : longest + 2]
    dip_FL = (inner_FL < _YIN_DIP) & (inner_FL <= before_FL) & (inner_FL < after_FL)
    chosen_F = np.where(dip_FL.any(1), dip_FL.argmax(1), inner_FL.argmin(1))
    row = np.arange(frames)
    left, middle, right = before_FL[row, chosen_F], inner_FL[row, chosen_F], after_FL[row, chosen_F]
    curvature = left - 2 * middle + right
    shift = np.where(curvature > 1e-12, 0.5 * (left - right) / np.maximum(curvature, 1e-12), 0)
    period_F = shortest + chosen_F + np.clip(shift, -0.5, 0.5)
    harmonicity_F = np.where(silent_F, 0, np.clip(1 - middle, 0, 1))
    return (rate / period_F).astype(np.float32), harmonicity_F.astype(np.float32)


def _window(rate: int) -> int:
    return int(2 ** round(np.log2(_WINDOW_S * rate)))


def frame(wave_T: Array, centre_F: NDArray[np.floating[Any]], length: int) -> Array:
    """Frames of `length` samples around these positions, F x length; zeros past the ends."""
    padded = np.pad(wave_T, length)
    view = np.lib.stride_tricks.sliding_window_view(padded, length)
    start_F = np.clip(np.rint(centre_F).astype(np.int64) + length - length // 2, 0, len(view) - 1)
    frame_FT: Array = view[start_F]
    return frame_FT
