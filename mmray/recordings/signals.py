"""Reading the signal of one recording. READERS says which function serves which `reader` of recordings.parquet."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings import archive, feis_epochs, matlab, mne_files, modma_text, sound
from mmray.recordings.formats import COMPANIONS
from mmray.schema import Recording
from mmray.storage import is_uri


@dataclass(frozen=True)
class EEGSignal:
    """Scalp voltages over time.

    Attributes:
        data_CT: volts, float64, C electrodes x T samples; DC offsets as recorded, NaN where the file has it.
        sampling_rate_hz: samples a second.
        channels: C electrode names, as the file or its montage spells them.
        spans: sample ranges [start, stop) without a discontinuity inside, in order; samples outside are no signal.
    """

    data_CT: NDArray[np.float64]
    sampling_rate_hz: float
    channels: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class AudioSignal:
    """Sound over time: data_CT is float32 in [-1, 1], C channels x T samples."""

    data_CT: NDArray[np.float32]
    sampling_rate_hz: float


def read_eeg(recording: Recording, scale_to_volts: float) -> EEGSignal:
    """Read a recording's EEG in volts.

    Args:
        recording: its `path` may be a URI; the file is then copied for the time of reading.
        scale_to_volts: volts in one unit of files that state no unit (MODMA, FEIS: 1e-6); formats that MNE reads
            state theirs, and it is not applied to them.

    Raises:
        RecordingError: the file is missing, damaged, empty, all NaN, or not what its reader expects.
    """
    reader = EEG_READERS.get(recording.reader)
    if reader is None:
        raise RecordingError(f"{recording.path}: no EEG reader {recording.reader!r}; known: {', '.join(EEG_READERS)}")
    with _opened(recording) as path:
        signal = reader(path, scale_to_volts)
    if signal.data_CT.size == 0:
        raise RecordingError(f"{recording.path}: holds no EEG samples")
    if not np.isfinite(signal.data_CT).any():
        raise RecordingError(f"{recording.path}: every EEG sample is NaN or infinite; export the recording again")
    return signal


def read_audio(recording: Recording) -> AudioSignal:
    """Read a recording's sound.

    Raises:
        RecordingError: the file is missing, damaged, cut short, without samples, or has NaN among them.
    """
    reader = AUDIO_READERS.get(recording.reader)
    if reader is None:
        known = ", ".join(AUDIO_READERS)
        raise RecordingError(f"{recording.path}: no audio reader {recording.reader!r}; known: {known}")
    with _opened(recording) as path:
        return reader(path)


def content_sha256(path: str) -> str:
    """SHA-256 of a recording's bytes, local or at a URI; a header's data files (.fdt, .eeg, .vmrk) count with it.

    Raises:
        RecordingError: the file cannot be read.
    """
    try:
        if is_uri(path):
            filesystem, inside = pafs.FileSystem.from_uri(path)
            with filesystem.open_input_file(inside) as remote:
                return hashlib.file_digest(remote, "sha256").hexdigest()
        digest = hashlib.sha256()
        for file in (Path(path), *_data_files(Path(path))):
            with file.open("rb") as stream:
                hashlib.file_digest(stream, lambda: digest)  # goes on with the same digest
        return digest.hexdigest()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _data_files(path: Path) -> list[Path]:
    suffixes = COMPANIONS.get(path.suffix.lower(), ())
    return [file for suffix in suffixes if (file := path.with_suffix(suffix)).is_file()]


@contextmanager
def _opened(recording: Recording) -> Iterator[Path]:
    with _local(recording.path) as path:
        if path.suffix.lower() != ".zip" or recording.reader == "feis":  # whose recordings are zips
            yield path
            return
        with archive.unpacked(path) as inside:
            yield inside


@contextmanager
def _local(path: str) -> Iterator[Path]:
    try:
        if not is_uri(path):
            _refuse_empty(Path(path), path)
            yield Path(path)
            return
        with tempfile.TemporaryDirectory(prefix="mmray-") as folder:
            filesystem, inside = pafs.FileSystem.from_uri(path)
            copy = Path(folder) / Path(inside).name
            with filesystem.open_input_stream(inside) as remote, copy.open("wb") as file:
                shutil.copyfileobj(remote, file)
            _refuse_empty(copy, path)
            yield copy
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _refuse_empty(file: Path, path: str) -> None:
    if file.stat().st_size == 0:
        raise RecordingError(f"{path}: the file is empty; copy it again from its source")


def _modma_mat(path: Path, scale_to_volts: float) -> EEGSignal:
    data_CT, rate = matlab.read_mat(path, scale_to_volts)
    channels = tuple(f"E{number}" for number in range(1, matlab.ELECTRODES + 1))
    return EEGSignal(data_CT, rate, channels, ((0, data_CT.shape[1]),))


def _feis(path: Path, scale_to_volts: float) -> EEGSignal:
    data_CT, spans = feis_epochs.read_epochs(path)
    data_CT *= scale_to_volts
    return EEGSignal(data_CT, feis_epochs.SAMPLING_RATE_HZ, feis_epochs.CHANNELS, spans)


def _modma_text(path: Path, scale_to_volts: float) -> EEGSignal:
    data_CT = modma_text.read_text(path, scale_to_volts)
    return EEGSignal(data_CT, modma_text.SAMPLING_RATE_HZ, modma_text.CHANNELS, ((0, data_CT.shape[1]),))


def _mne(path: Path, scale_to_volts: float) -> EEGSignal:
    return EEGSignal(*mne_files.read(path))


def _soundfile(path: Path) -> AudioSignal:
    return AudioSignal(*sound.read_sound(path))


EEG_READERS: dict[str, Callable[[Path, float], EEGSignal]] = {
    "modma-mat": _modma_mat,
    "modma-txt": _modma_text,
    "feis": _feis,
    "mne": _mne,
}
AUDIO_READERS: dict[str, Callable[[Path], AudioSignal]] = {"soundfile": _soundfile}
READERS = {**EEG_READERS, **AUDIO_READERS}
