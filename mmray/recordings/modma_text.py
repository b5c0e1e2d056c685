"""MODMA's 3-channel resting EEG: a text file with three whole numbers a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmray.errors import RecordingError

CHANNELS = ("Fp1", "Fpz", "Fp2")
SAMPLING_RATE_HZ = 250.0
_MOST_BYTES = 1 << 30  # the real ones have half a megabyte


def read_text(path: Path, scale: float) -> NDArray[np.float64]:
    """Read the rows as channels.

    Args:
        scale: what one count of the recorder is in the unit wanted; MODMA states no unit.

    Returns:
        (3, T) scaled samples of Fp1, Fpz and Fp2 at 250 Hz.

    Raises:
        RecordingError: a row does not hold exactly three whole numbers, or there is none.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise RecordingError(f"{path}: {size >> 20} MiB of text cannot be read in parts; export it as EDF or FIF")
    try:
        rows_TC = np.loadtxt(path, dtype=np.int64, ndmin=2, comments=None)
    except (OSError, ValueError, OverflowError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordingError(
            f"{path}: not rows of three whole numbers ({why}); copy it again from its source"
        ) from error
    if rows_TC.shape[1] != len(CHANNELS) or not len(rows_TC):
        raise RecordingError(f"{path}: not rows of three whole numbers (it has {rows_TC.shape[1]} a row)")
    return np.ascontiguousarray(rows_TC.T * scale)
