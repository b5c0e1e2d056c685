"""Reading the signal of one recording. READERS says which function serves which `reader` of recordings.parquet."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings import archive, beside, feis_epochs, matlab, mne_files, modma_text, sound
from mmray.recordings.formats import COMPANIONS
from mmray.recordings.matlab import MOST_SAMPLES
from mmray.schema import Recording
from mmray.storage import is_uri

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class EEGSignal:
    """Scalp voltages over time.

    Attributes:
        data_CT: volts, float64, C electrodes x T samples; DC offsets as recorded, NaN where the file has it.
        sampling_rate_hz: samples a second.
        channels: C electrode names, as the file or its montage spells them.
        spans: sample ranges [start, stop) without a discontinuity inside, in order; samples outside are no signal.
        states_unit: the file says what its unit is, and features.eeg.scale_to_volts was not asked.
    """

    data_CT: NDArray[np.float64]
    sampling_rate_hz: float
    channels: tuple[str, ...]
    spans: Spans
    states_unit: bool = False


@dataclass(frozen=True)
class AudioSignal:
    """Sound over time: data_CT is float32, full scale 1, C channels x T samples; a file of floats may reach beyond."""

    data_CT: NDArray[np.float32]
    sampling_rate_hz: float


@dataclass(frozen=True)
class EEGFile:
    """An open recording: what its header says, and its samples a window at a time.

    Attributes:
        samples: T, of each channel.
        spans: as EEGSignal's, of the whole recording.
        volts: reads the samples [start, stop) as C x (stop - start) float64.
        states_unit: as EEGSignal's.
    """

    sampling_rate_hz: float
    channels: tuple[str, ...]
    samples: int
    spans: Spans
    volts: Callable[[int, int], NDArray[np.float64]]
    states_unit: bool = False

    def read(self, start: int, stop: int) -> EEGSignal:
        """The samples [start, stop); spans count from `start`. Raises RecordingError where the file is damaged."""
        inside = spans_within(self.spans, start, stop)
        data_CT = self.volts(start, stop)
        return EEGSignal(data_CT, self.sampling_rate_hz, self.channels, inside, self.states_unit)


@dataclass(frozen=True)
class AudioFile:
    """An open recording of sound, T samples of each of C channels.

    Attributes:
        sound: reads the samples [start, stop) as C x (stop - start) float32, full scale 1.
    """

    sampling_rate_hz: float
    channels: int
    samples: int
    sound: Callable[[int, int], NDArray[np.float32]]

    def read(self, start: int, stop: int) -> AudioSignal:
        """The samples [start, stop). Raises RecordingError where the file is damaged or holds no sound."""
        return AudioSignal(self.sound(start, stop), self.sampling_rate_hz)


def spans_within(spans: Spans, start: int, stop: int) -> Spans:
    """What of the spans lies in [start, stop), counted from `start`."""
    cut = ((max(first, start) - start, min(last, stop) - start) for first, last in spans)
    return tuple((first, last) for first, last in cut if first < last)


@contextmanager
def open_eeg(recording: Recording, scale_to_volts: float) -> Iterator[EEGFile]:
    """Open a recording's EEG.

    Args:
        recording: its `path` may be a URI; it is then copied, with a header's data files, for as long as it is open.
        scale_to_volts: volts in one unit of files that state no unit (MODMA, FEIS: 1e-6); formats that MNE reads
            state theirs, and it is not applied to them.

    Raises:
        RecordingError: the file is missing, damaged, empty, too large for its format, or not what its reader expects.
    """
    reader = EEG_READERS.get(recording.reader)
    if reader is None:
        raise RecordingError(f"{recording.path}: no EEG reader {recording.reader!r}; known: {', '.join(EEG_READERS)}")
    with _opened(recording) as path:
        file = reader(path, scale_to_volts)
        if not file.samples or not file.channels:
            raise RecordingError(f"{recording.path}: holds no EEG samples")
        yield file


@contextmanager
def open_audio(recording: Recording) -> Iterator[AudioFile]:
    """Open a recording's sound.

    Raises:
        RecordingError: the file is missing, damaged, cut short or without samples.
    """
    reader = AUDIO_READERS.get(recording.reader)
    if reader is None:
        known = ", ".join(AUDIO_READERS)
        raise RecordingError(f"{recording.path}: no audio reader {recording.reader!r}; known: {known}")
    with _opened(recording) as path, reader(path) as file:
        yield file


def read_eeg(recording: Recording, scale_to_volts: float) -> EEGSignal:
    """All of a recording's EEG at once.

    Raises:
        RecordingError: as `open_eeg`; or it is too long to be held in memory.
    """
    with open_eeg(recording, scale_to_volts) as file:
        _refuse_long(recording, file.samples, len(file.channels), file.sampling_rate_hz)
        return file.read(0, file.samples)


def read_audio(recording: Recording) -> AudioSignal:
    """All of a recording's sound at once.

    Raises:
        RecordingError: as `open_audio`; it has NaN among its samples, or is too long to be held in memory.
    """
    with open_audio(recording) as file:
        _refuse_long(recording, file.samples, file.channels, file.sampling_rate_hz)
        return file.read(0, file.samples)


def is_streamed(recording: Recording) -> bool:
    """Whether a recording is read a window at a time; else all of it is in memory while it is open."""
    # EEGLAB keeps samples in an .fdt beside the header, or in the header file itself
    inside = recording.path.lower().endswith(".set") and not _data_files(recording.path)
    return recording.reader in ("mne", "soundfile") and not inside


def _refuse_long(recording: Recording, samples: int, channels: int, sampling_rate_hz: float) -> None:
    if samples * channels > MOST_SAMPLES:
        hours = samples / sampling_rate_hz / 3600
        raise RecordingError(f"{recording.path}: {hours:.1f} h of {channels} channels are too much to be read at once")


class Content(NamedTuple):
    """Of a recording's bytes, each file read once.

    Attributes:
        sha256: of its file; of the digests of all its files where a header has others beside it.
        samples_sha256: of the file that holds the samples alone, which a renamed copy of a header shares.
    """

    sha256: str
    samples_sha256: str


def content(path: str) -> Content:
    """Digests of a recording, local or at a URI, and of the files beside it that its reader opens.

    Raises:
        RecordingError: a file cannot be read.
    """
    try:
        if not is_uri(path):
            return _content(Path(path))
        filesystem, inside = pafs.FileSystem.from_uri(path)
        if PurePosixPath(inside).suffix.lower() in COMPANIONS:
            with _local(path) as copy:
                return _content(copy)
        with filesystem.open_input_file(inside) as remote:
            sha = hashlib.file_digest(remote, "sha256").hexdigest()
        return Content(sha, sha)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def content_sha256(path: str) -> str:
    """`content`'s digest of all files. Raises RecordingError where one cannot be read."""
    return content(path).sha256


def _content(path: Path) -> Content:
    samples = {path.with_name(name) for name in beside.names(path).samples}
    sha_of = {}
    for file in (path, *beside.there(path)):
        with file.open("rb") as stream:
            sha_of[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    own, *others = sha_of.values()
    whole = hashlib.sha256(" ".join(sha_of.values()).encode()).hexdigest() if others else own
    return Content(whole, next((sha for file, sha in sha_of.items() if file in samples), whole))


def bytes_on_disk(recording: Recording) -> int:
    """A recording's size with the files beside it; those at a URI are not counted."""
    return recording.size_bytes + sum(file.stat().st_size for file in _data_files(recording.path))


def _data_files(path: str) -> list[Path]:
    return [] if is_uri(path) else beside.there(Path(path))


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
            _fetch(filesystem, inside, copy)
            for name in itertools.chain(*beside.names(copy)):
                other = str(PurePosixPath(inside).with_name(name))
                if filesystem.get_file_info(other).type == pafs.FileType.File:
                    _fetch(filesystem, other, copy.with_name(name))
            _refuse_empty(copy, path)
            yield copy
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: cannot be read: {error}") from error


def _fetch(filesystem: pafs.FileSystem, place: str, copy: Path) -> None:
    with filesystem.open_input_stream(place) as remote, copy.open("wb") as file:
        shutil.copyfileobj(remote, file)


def _refuse_empty(file: Path, path: str) -> None:
    if file.stat().st_size == 0:
        raise RecordingError(f"{path}: the file is empty; copy it again from its source")


def _modma_mat(path: Path, scale_to_volts: float) -> EEGFile:
    data_CT, rate = matlab.read_mat(path, scale_to_volts)
    return _in_memory(data_CT, rate, tuple(f"E{number}" for number in range(1, matlab.ELECTRODES + 1)))


def _feis(path: Path, scale_to_volts: float) -> EEGFile:
    data_CT, spans = feis_epochs.read_epochs(path)
    data_CT *= scale_to_volts
    return _in_memory(data_CT, feis_epochs.SAMPLING_RATE_HZ, feis_epochs.CHANNELS, spans)


def _modma_text(path: Path, scale_to_volts: float) -> EEGFile:
    return _in_memory(modma_text.read_text(path, scale_to_volts), modma_text.SAMPLING_RATE_HZ, modma_text.CHANNELS)


def _in_memory(
    data_CT: NDArray[np.float64], rate: float, channels: tuple[str, ...], spans: Spans | None = None
) -> EEGFile:
    """A file of a format that is small by nature, or that cannot be read in windows."""
    samples = data_CT.shape[1]
    return EEGFile(rate, channels, samples, spans or ((0, samples),), lambda start, stop: data_CT[:, start:stop])


def _mne(path: Path, scale_to_volts: float) -> EEGFile:
    return EEGFile(*mne_files.opened(path), states_unit=True)


@contextmanager
def _soundfile(path: Path) -> Iterator[AudioFile]:
    with sound.opened(path) as file:
        yield AudioFile(*file)


EEG_READERS: dict[str, Callable[[Path, float], EEGFile]] = {
    "modma-mat": _modma_mat,
    "modma-txt": _modma_text,
    "feis": _feis,
    "mne": _mne,
}
AUDIO_READERS: dict[str, Callable[[Path], AbstractContextManager[AudioFile]]] = {"soundfile": _soundfile}
READERS = {**EEG_READERS, **AUDIO_READERS}
