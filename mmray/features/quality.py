"""The quality_* columns: what a reader may filter on, one value a segment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

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
    voiced_SNJ: NDArray[np.bool_], data_CT: Array, start_S: NDArray[np.integer[Any]], length: int
) -> dict[str, Array]:
    """Voiced and clipped fraction, and level (dB of full scale), of each segment.

    Args:
        voiced_SNJ: the segments' analysis frames with a pitch.
        data_CT: the clip as recorded, since resampling hides clipping.
        start_S: first sample of each segment in it.
        length: samples a segment.
    """
    clipped = [(np.abs(data_CT[:, start : start + length]) >= _FULL_SCALE).any(0).mean() for start in start_S]
    power = [np.square(data_CT[:, start : start + length], dtype=np.float64).mean() for start in start_S]
    return {
        "quality_voiced_fraction": voiced_SNJ.mean((1, 2)).astype(np.float32),
        "quality_clipped_fraction": np.array(clipped, dtype=np.float32),
        "quality_level_dbfs": (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32),
    }
