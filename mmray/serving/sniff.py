"""What kind of recording a file holds, by its content. Its name is never trusted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py

from mmray.errors import RecordingError
from mmray.recordings import mat5, matlab
from mmray.recordings.references import points_outside
from mmray.schema import Modality, Recording

_KNOWN = "WAV, FLAC, Ogg and MP3 are read as voice; MATLAB, EDF, BDF and EEGLAB .set as EEG"
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
            return
    except _DAMAGED_MATLAB as error:
        raise RecordingError(f"{path}: not a whole MATLAB file; copy or export it again") from error


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
        raise RecordingError(f"{path}: not a whole MATLAB file; copy or export it again") from error
    # a structure, as EEGLAB's EEG is, is no numeric array; MODMA's files hold one array of every electrode
    return not any(min(array.shape, default=0) >= matlab.ELECTRODES for array in arrays.values())
