"""Where somebody speaks, how loudly, and over which noise: ITU-T P.56, method B."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

Array = NDArray[np.float32]

_STEP_S = 0.001  # the envelope is worked out on means of about so long: of whole samples
_CONSTANT_S, _HANGOVER_S = 0.03, 0.2
_MARGIN_DB = 15.9  # of the active level over the threshold
_LOWEST_DB = -120.0


@dataclass(frozen=True)
class Speech:
    """What P.56 says of a clip.

    Attributes:
        active_F: steps with speech, pauses up to 0.2 s counted with it.
        step_s: seconds a step; 22 samples of 22,050 a second are not a millisecond.
        level_dbfs: mean power while active, dB of a full-scale square wave's.
        noise_dbfs: median power of the rest, since the envelope is late at an onset; None with less than 0.1 s of it.
        peak_dbfs: largest sample.
    """

    active_F: NDArray[np.bool_]
    step_s: float
    level_dbfs: float
    noise_dbfs: float | None
    peak_dbfs: float

    @property
    def snr_db(self) -> float | None:
        """Active level over noise."""
        return None if self.noise_dbfs is None else self.level_dbfs - self.noise_dbfs

    def active_fraction(self, start_s: float, stop_s: float) -> float:
        """Share of a stretch of time that is speech; 0 of an empty one."""
        some_F = self.active_F[round(start_s / self.step_s) : round(stop_s / self.step_s)]
        return float(some_F.mean()) if len(some_F) else 0.0


def active_speech(wave_T: Array, sampling_rate_hz: int) -> Speech:
    """Active speech level and activity (ITU-T Rec. P.56, 12/2011, clause 7).

    The level is the one that lies 15.9 dB above its own threshold: power over the time for which an envelope of 30 ms,
    held for 0.2 s, stays above the threshold.

    Args:
        wave_T: the clip, full scale 1; at least a millisecond of it, not silent.
    """
    step = max(1, round(_STEP_S * sampling_rate_hz))
    count = len(wave_T) // step
    block_FT = wave_T[: count * step].reshape(count, step)
    power_F = np.square(block_FT, dtype=np.float64).mean(1)
    keep = np.exp(-step / (sampling_rate_hz * _CONSTANT_S))
    envelope_F = np.abs(block_FT).mean(1, dtype=np.float64)
    for _ in range(2):
        envelope_F = signal.lfilter([1 - keep], [1, -keep], envelope_F)
    hangover = round(_HANGOVER_S * sampling_rate_hz / step)
    # each moment's largest envelope of the last 0.2 s
    held_F = ndimage.maximum_filter1d(envelope_F, hangover + 1, mode="constant", origin=hangover // 2)
    threshold = _threshold(held_F, power_F)
    active_F = held_F >= threshold
    rest_F = power_F[~active_F]
    return Speech(
        active_F,
        step / sampling_rate_hz,
        level_dbfs=_db(power_F.sum() / max(1, active_F.sum())),
        noise_dbfs=_db(float(np.median(rest_F))) if len(rest_F) * step >= 0.1 * sampling_rate_hz else None,
        peak_dbfs=_db(float(np.abs(wave_T).max()) ** 2),
    )


def _threshold(held_F: NDArray[np.float64], power_F: NDArray[np.float64]) -> float:
    """The smallest threshold with an active level no more than the margin above it; the smallest envelope if none has.

    Lower ones still count noise as speech; far higher ones can fulfil it again, among a few peaks.
    """
    # with the envelope sorted, every threshold's active time is known at once
    ordered_F = np.sort(held_F)[::-1]
    level_F = 10 * np.log10(power_F.sum() / np.arange(1, len(ordered_F) + 1))
    (within,) = np.nonzero(level_F - 20 * np.log10(np.maximum(ordered_F, 1e-12)) <= _MARGIN_DB)
    return float(ordered_F[within[-1] if len(within) else -1])


def _db(power: float) -> float:
    return max(_LOWEST_DB, 10 * float(np.log10(max(power, 1e-12))))
