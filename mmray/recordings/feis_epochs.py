"""FEIS's articulators.zip: one CSV of one-second epochs, read without unpacking it to disk."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from mmray.errors import RecordingError

CHANNELS = ("F3", "FC5", "AF3", "F7", "T7", "P7", "O1", "O2", "P8", "T8", "F8", "AF4", "FC6", "F4")
SAMPLING_RATE_HZ = 256.0
_LARGEST_CSV = 1 << 30  # bytes; the real ones unpack to 10 MB, a bomb to far more


def read_epochs(
    path: Path, channels: tuple[str, ...] = CHANNELS
) -> tuple[NDArray[np.float64], tuple[tuple[int, int], ...]]:
    """Read articulators.zip without unpacking it to disk; no name inside the archive is trusted.

    Args:
        path: the zip with one CSV: `Time:256Hz, Epoch, F3, ..., F4, Label, Stage, Flag`.
        channels: columns to read; none are needed for the epochs alone.

    Returns:
        (C, T) µV as the headset wrote them, about a 4,200 offset; and each epoch's sample range [start, stop).

    Raises:
        RecordingError: the archive or its CSV is damaged, too large, or lacks a column.
    """
    options = pacsv.ConvertOptions(
        include_columns=["Epoch", *channels],
        column_types={"Epoch": pa.int64()} | dict.fromkeys(channels, pa.float64()),
    )
    try:
        with _csv_of(path) as stream:
            table = pacsv.read_csv(stream, convert_options=options)
    except pa.ArrowKeyError as error:
        raise RecordingError(f"{path}: the CSV lacks a column of FEIS: {error}") from error
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        zlib.error,
        zipfile.BadZipFile,
        pa.ArrowException,
    ) as e:
        raise RecordingError(f"{path}: not a zip with a readable CSV of FEIS ({e}); download it again") from e
    if table.num_rows == 0:
        raise RecordingError(f"{path}: the CSV holds no samples; download it again")
    epoch_T = table["Epoch"].to_numpy()
    cuts = [0, *(np.flatnonzero(np.diff(epoch_T)) + 1).tolist(), len(epoch_T)]
    data_CT = np.empty((len(channels), len(epoch_T)))
    for row, name in enumerate(channels):
        data_CT[row] = table[name].to_numpy()
    return data_CT, tuple(itertools.pairwise(cuts))


@contextmanager
def _csv_of(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if info.filename.lower().endswith(".csv")]
        if len(members) != 1 or members[0].file_size > _LARGEST_CSV:
            raise RecordingError(
                f"{path}: wants one CSV of at most {_LARGEST_CSV >> 20} MiB, holds {len(members)}, of "
                f"{sum(info.file_size for info in members) >> 20} MiB"
            )
        with archive.open(members[0]) as stream:  # yields at most the declared size, and checks its CRC
            yield stream
