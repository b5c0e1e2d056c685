"""What kind of recording a file holds, by its content. Its name is never trusted."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py

from mmray.errors import RecordingError
from mmray.features import stretches
from mmray.recordings import mat5, matlab, signals
from mmray.recordings.references import points_outside, unpacked_bytes
from mmray.schema import Modality, Recording

_KNOWN = "WAV, FLAC, Ogg and MP3 are read as voice; MATLAB, EDF, BDF and EEGLAB .set as EEG"
_STRETCHES = 16
_MOST_RATE = 1 << 20  # of all channels of a sound together: twenty segments of it are read at once
_LARGEST_MATLAB = 8 * stretches.EEG_SAMPLES + (1 << 26)  # of doubles, and what else the file holds
_LARGEST_CSV = 1 << 26  # bytes; the real ones unpack to 10 MB
_LARGEST_DIRECTORY = 1 << 16
_DAMAGED_MATLAB = (OSError, RuntimeError, ValueError, TypeError, LookupError, MemoryError, struct.error, zlib.error)


@dataclass(frozen=True)
class Kind:
    """One format: whose signal it is, which reader serves it, and the suffix that its libraries look for."""

    modality: Modality
    reader: str
    suffix: str


_WAV = Kind("audio", "soundfile", ".wav")
_MODMA = Kind("eeg", "modma-mat", ".mat")
_EEGLAB = Kind("eeg", "mne", ".set")
_FEIS = Kind("eeg", "feis", ".zip")

_SIGNATURES: tuple[tuple[Callable[[bytes], bool], Kind], ...] = (
    (lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE", _WAV),
    (lambda head: head[:4] == b"fLaC", Kind("audio", "soundfile", ".flac")),
    (lambda head: head[:4] == b"OggS", Kind("audio", "soundfile", ".ogg")),
    (
        lambda head: head[:3] == b"ID3" or head[:2] in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
        Kind("audio", "soundfile", ".mp3"),
    ),
    (lambda head: head[:8] == b"0       ", Kind("eeg", "mne", ".edf")),
    (lambda head: head[:8] == b"\xffBIOSEMI", Kind("eeg", "mne", ".bdf")),
)


def kind_of(path: Path, study: str) -> Kind:
    """The format of a file.

    Args:
        study: kind of the study the run was trained on; only one of FEIS takes its zip archives.

    Raises:
        RecordingError: the file cannot be read, or is of no known format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error
    if not head:
        raise RecordingError(f"{path}: the file is empty")
    for matches, kind in _SIGNATURES:
        if matches(head):
            return kind
    if head[:4] == b"PK\x03\x04":
        if study == "feis":
            return _FEIS
        raise RecordingError(f"{path}: is an archive; unpack it and take one recording. {_KNOWN}")
    if head[:10] in (b"MATLAB 5.0", b"MATLAB 7.3") or head[:8] == b"\x89HDF\r\n\x1a\n":
        return _EEGLAB if _is_eeglab(path) else _MODMA
    raise RecordingError(f"{path}: its content is of no known format. {_KNOWN}")


def refuse_hostile(path: Path, study: str, most_s: float) -> None:
    """Refuse a file that reaches into others, or that unpacks or lasts too long, by its headers alone.

    What is read whole may hold no more than a stretch of a long recording does, which bounds the memory; what is read
    in stretches no more than sixteen, which bounds the time.

    Args:
        most_s: how long a recording may be.

    Raises:
        RecordingError: it does; or it is damaged, or of no known format.
    """
    kind = kind_of(path, study)
    refuse_references(path, study)
    _refuse_bomb(path, kind)
    if kind is _FEIS:  # bounded by its CSV; how long it is stands nowhere before its end
        return
    with recording_of(path, study) as recording:
        try:
            samples, channels, rate = _extent(recording, kind)
        except RecordingError as error:
            raise RecordingError(without_folder(str(error), Path(recording.path), str(path))) from error
        streamed = signals.is_streamed(recording)
    if not rate > 0 or samples / rate > most_s:
        lasts = f"{samples / rate:g} s" if rate > 0 else "forever"
        raise RecordingError(
            f"{path}: lasts {lasts}, and at most {most_s:g} s are taken (serve.max_recording_s); send a part of it"
        )
    if recording.modality == "audio" and channels * rate > _MOST_RATE:
        raise RecordingError(
            f"{path}: {channels} channels at {rate:g} Hz are more than the {_MOST_RATE:,} samples a second that are "
            "taken; send fewer channels, or at a lower sampling rate"
        )
    most = _STRETCHES * stretches.EEG_SAMPLES if streamed else stretches.EEG_SAMPLES
    if samples * channels > most:
        raise RecordingError(
            f"{path}: {channels} channels of {samples:,} samples are more than the {most:,} that are taken; send a "
            "part of it, or at a lower sampling rate"
        )


def refuse_references(path: Path, study: str) -> None:
    """Refuse a MATLAB or HDF5 file that points at other files: an upload must not make us read what is not in it.

    Raises:
        RecordingError: it does, it is damaged, or it is of no known format.
    """
    kind = kind_of(path, study)
    if kind.suffix not in (_MODMA.suffix, _EEGLAB.suffix):
        return
    if kind is _EEGLAB and not h5py.is_hdf5(path):
        # the only reader of its structures ends the process on some damaged bytes
        raise RecordingError(f"{path}: EEGLAB's MATLAB 5 form is not taken here; save it as MATLAB 7.3 or export EDF")
    outside = RecordingError(f"{path}: refers to data in another file; save the data inside (EEGLAB: 'one file')")
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                if points_outside(file):
                    raise outside
                data = file["EEG/data"] if "EEG/data" in file else file.get("data")
                if data is not None and data.attrs.get("MATLAB_class") == b"char":
                    raise outside
    except _DAMAGED_MATLAB as error:
        raise _not_matlab(path) from error


def _refuse_bomb(path: Path, kind: Kind) -> None:
    """Refuse what claims to unpack to far more than a recording that is read whole may hold."""
    try:
        if kind is _FEIS:
            _refuse_many_members(path)
            with zipfile.ZipFile(path) as archive:
                held, most = sum(info.file_size for info in archive.infolist()), _LARGEST_CSV
        elif kind.suffix in (_MODMA.suffix, _EEGLAB.suffix):
            most = _LARGEST_MATLAB
            if h5py.is_hdf5(path):
                with h5py.File(path, "r") as file:
                    held = unpacked_bytes(file)
            else:
                held = sum(array.packed_size or len(array.body) for array in mat5.matrices(path).values())
        else:
            return
    except zipfile.BadZipFile as error:
        raise RecordingError(f"{path}: not a whole zip archive; copy or export it again") from error
    except _DAMAGED_MATLAB as error:
        raise _not_matlab(path) from error
    if held > most:
        raise RecordingError(
            f"{path}: unpacks to {held >> 20} MiB, and at most {most >> 20} MiB are taken; send a part"
        )


def _refuse_many_members(path: Path) -> None:
    """Refuse a zip whose directory alone would fill memory; Python reads all of it when the archive is opened."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 64))
        tail = file.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise zipfile.BadZipFile
    (size,) = struct.unpack_from("<I", tail, place + 12)
    if size > _LARGEST_DIRECTORY or b"PK\x06\x07" in tail:  # or in the form for more than 4 GB
        raise RecordingError(f"{path}: lists far more than the one CSV of a FEIS archive")


def _extent(recording: Recording, kind: Kind) -> tuple[int, int, float]:
    """Samples of a channel, channels and sampling rate, from the header."""
    if kind is _MODMA:
        return matlab.extent(Path(recording.path))
    if kind.modality == "eeg":
        with signals.open_eeg(recording, 1.0) as file:
            return file.samples, len(file.channels), file.sampling_rate_hz
    with signals.open_audio(recording) as sound:
        return sound.samples, sound.channels, sound.sampling_rate_hz


def without_folder(message: str, path: Path, name: str) -> str:
    """An error's text under the query's name, without the folder it lay in."""
    message = message.replace(str(path), name).replace(str(path.parent) + "/", "")
    return message if message.startswith(f"{name}: ") else f"{name}: {message}"


def _not_matlab(path: Path) -> RecordingError:
    return RecordingError(f"{path}: not a whole MATLAB file; copy or export it again")


@contextmanager
def recording_of(path: Path, study: str) -> Iterator[Recording]:
    """A file as a recording of nobody known, under a name its reader accepts while the block runs.

    Raises:
        RecordingError: as kind_of.
    """
    kind = kind_of(path, study)
    with TemporaryDirectory(prefix="mmray-") as folder:
        named = path.absolute()
        if path.suffix.lower() != kind.suffix:
            named = Path(folder) / f"recording{kind.suffix}"
            named.symlink_to(path.absolute())
        yield Recording(
            recording_id="query",
            subject_id="query",
            pair_id="query",
            modality=kind.modality,
            session="",
            task="",
            label=None,
            label_name=None,
            path=str(named),
            reader=kind.reader,
            size_bytes=path.stat().st_size,
        )


def _is_eeglab(path: Path) -> bool:
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                names = set(file)
                return "EEG" in names or {"nbchan", "srate", "data"} <= names
        arrays = mat5.matrices(path)
    except _DAMAGED_MATLAB as error:
        raise _not_matlab(path) from error
    # a structure, as EEGLAB's EEG is, is no numeric array; MODMA's files hold one array of every electrode
    return not any(min(array.shape, default=0) >= matlab.ELECTRODES for array in arrays.values())
