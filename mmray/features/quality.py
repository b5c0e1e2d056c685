"""What was decided about a recording: the quality_* columns, one value a segment, and its row of DECISIONS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.features.speech import Speech

Array = NDArray[np.float32]
Decisions = dict[str, Any]  # the columns of schema.DECISIONS that a signal tells

_FULL_SCALE = 0.999


def eeg(bad_N: NDArray[np.bool_], peak_to_peak_S: Array, kept_S: NDArray[np.bool_]) -> dict[str, Array]:
    """Bad electrodes and kept fraction of the recording, peak-to-peak range (uV) of each kept segment."""
    kept = int(kept_S.sum())
    return {
        "quality_bad_channels": np.full(kept, bad_N.sum(), dtype=np.float32),
        "quality_peak_to_peak_uv": peak_to_peak_S[kept_S].astype(np.float32),
        "quality_kept_fraction": np.full(kept, kept_S.mean(), dtype=np.float32),
    }


def audio(
    voiced_SNJ: NDArray[np.bool_],
    active_S: Array,
    snr_db: float | None,
    start_s_S: NDArray[np.floating[Any]],
    segment_s: float,
    data_CT: Array,
    sampling_rate_hz: float,
) -> dict[str, Array]:
    """Voiced, spoken and clipped fraction, level (dB of full scale) and signal-to-noise ratio (dB) of each segment.

    The ratio is not a number where the clip has no pause to tell the noise from.

    Args:
        voiced_SNJ: the segments' analysis frames with a pitch.
        active_S: see `active`; `snr_db` is the clip's.
        start_s_S: where the segments begin.
        data_CT: the clip as recorded, since resampling hides clipping.
        sampling_rate_hz: as recorded.
    """
    length = round(segment_s * sampling_rate_hz)
    begins = np.rint(start_s_S * sampling_rate_hz).astype(np.int64)
    power = [np.square(data_CT[:, start : start + length], dtype=np.float64).mean() for start in begins]
    return {
        "quality_voiced_fraction": voiced_SNJ.mean((1, 2)).astype(np.float32),
        "quality_active_fraction": active_S,
        "quality_clipped_fraction": np.array(
            [clipped(data_CT[:, start : start + length]) for start in begins], np.float32
        ),
        "quality_level_dbfs": (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32),
        "quality_snr_db": np.full(len(begins), np.nan if snr_db is None else snr_db, dtype=np.float32),
    }


def active(speech: Speech, start_s_S: NDArray[np.floating[Any]], segment_s: float) -> Array:
    """Share of each segment that is speech."""
    shares = [speech.active_fraction(start_s, start_s + segment_s) for start_s in start_s_S.tolist()]
    return np.array(shares, dtype=np.float32)


def clipped(data_CT: Array) -> float:
    """Share of samples at full scale in any channel."""
    return float((np.abs(data_CT) >= _FULL_SCALE).any(0).mean())
