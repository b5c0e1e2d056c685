"""MODMA's rest recordings: one array of a .mat file, MATLAB 5 or 7.3, chosen by its shape."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings.mat5 import matrices

ELECTRODES = 128  # E1-E128 of GSN-HydroCel-129; a 129th row is Cz, the reference, all zeros
# of all channels together, 2.3 h of 128 at 250 Hz: what a recording that is read whole may have; a file can claim, or
# unpack to, far more than memory holds
MOST_SAMPLES = 1 << 28
_MOST_BYTES = 8 * MOST_SAMPLES + (1 << 26)  # of doubles, the Cz row, and what else the file holds
_RATE = "samplingRate"
_DAMAGED_V5 = (OSError, ValueError, MemoryError, struct.error, zlib.error)
_DAMAGED_V73 = (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError, OverflowError)


def read_mat(path: Path, scale: float) -> tuple[NDArray[np.float64], float]:
    """Read the EEG array and its rate.

    The file and one scaled copy are in memory at once, no more.

    Args:
        path: a MODMA rest .mat; the array's name is not looked at.
        scale: what one unit of the file is in the unit wanted, 1e-6 for µV to V.

    Returns:
        (128, T) scaled samples of E1-E128, contiguous in time, and the sampling rate, Hz. The Cz row is dropped.

    Raises:
        RecordingError: the file is damaged or cut short, has not exactly one array of 128 or 129 channels, has no
            usable samplingRate, or is too large to be read whole.
    """
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise _too_large(path, f"{size >> 20} MiB")
        if h5py.is_hdf5(path):
            return _read_v73(path, scale)
    except _DAMAGED_V73 as error:
        raise _damaged(path, error) from error
    try:
        return _read_v5(path, scale)
    except _DAMAGED_V5 as error:
        raise _damaged(path, error) from error


def extent(path: Path) -> tuple[int, int, float]:
    """Samples of a channel, channels and sampling rate; of the array itself nothing is read.

    Raises:
        RecordingError: as `read_mat`.
    """
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                arrays = _arrays_v73(file)
                name = _chosen_with_rate(path, {name: array.shape for name, array in arrays.items()})
                return max(arrays[name].shape), ELECTRODES, _rate(path, arrays[_RATE][()])
    except _DAMAGED_V73 as error:
        raise _damaged(path, error) from error
    try:
        held = matrices(path)
        name = _chosen_with_rate(path, {name: array.shape for name, array in held.items()})
        return max(held[name].shape), ELECTRODES, _rate(path, held[_RATE].values())
    except _DAMAGED_V5 as error:
        raise _damaged(path, error) from error


def _read_v5(path: Path, scale: float) -> tuple[NDArray[np.float64], float]:
    arrays = matrices(path)
    name = _chosen_with_rate(path, {name: array.shape for name, array in arrays.items()})
    array = arrays[name].values()
    return _scaled(array if array.shape[0] < array.shape[1] else array.T, scale), _rate(path, arrays[_RATE].values())


def _read_v73(path: Path, scale: float) -> tuple[NDArray[np.float64], float]:
    with h5py.File(path, "r") as file:
        arrays = _arrays_v73(file)
        name = _chosen_with_rate(path, {name: array.shape for name, array in arrays.items()})
        # MATLAB stores columns first, so HDF5 shows a (129, N) array as (N, 129)
        array = arrays[name][()]
        return _scaled(array if array.shape[0] < array.shape[1] else array.T, scale), _rate(path, arrays[_RATE][()])


def _arrays_v73(file: h5py.File) -> dict[str, h5py.Dataset]:
    return {name: item for name, item in file.items() if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu"}


def _chosen_with_rate(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    name = _choose(path, shapes)
    if _RATE not in shapes:
        raise RecordingError(f"{path}: has no {_RATE}; export the recording with it, in Hz")
    return name


def _choose(path: Path, shapes: dict[str, tuple[int, ...]]) -> str:
    chosen = [
        name
        for name, shape in shapes.items()
        if len(shape) == 2 and min(shape) in (ELECTRODES, ELECTRODES + 1) and max(shape) > ELECTRODES + 1
    ]
    if len(chosen) == 1:
        if (samples := max(shapes[chosen[0]])) * ELECTRODES > MOST_SAMPLES:
            raise _too_large(path, f"{samples:,} samples a channel")
        return chosen[0]
    listed = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()) or "nothing numeric"
    raise RecordingError(
        f"{path}: {'several arrays' if chosen else 'no array'} of 128 or 129 channels x samples (it holds {listed}); "
        "export one 128-channel recording a file"
    )


def _scaled(array: NDArray[Any], scale: float) -> NDArray[np.float64]:
    data_CT = np.empty((ELECTRODES, array.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):  # damage writes any bits; what is no number stays none
        np.multiply(array[:ELECTRODES], scale, out=data_CT)
    return data_CT


def _rate(path: Path, array: NDArray[Any]) -> float:
    if array.size != 1 or not np.isfinite(array).all() or float(array.flat[0]) <= 0:
        raise RecordingError(f"{path}: {_RATE} is not one positive number; export the recording again")
    return float(array.flat[0])


def _too_large(path: Path, much: str) -> RecordingError:
    return RecordingError(
        f"{path}: claims {much}, and a .mat cannot be read in parts; export the recording as EDF or FIF"
    )


def _damaged(path: Path, error: BaseException) -> RecordingError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    return RecordingError(f"{path}: not a whole MATLAB 5 or 7.3 file ({why}); copy it again from its source")
