"""Reading the signal of one recording. READERS says which function serves which `reader` of recordings.parquet."""

from __future__ import annotations

import hashlib
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import soundfile
from numpy.typing import NDArray

from mmray.errors import RecordingError
from mmray.recordings import feis, matlab
from mmray.schema import Recording
from mmray.storage import is_uri

if TYPE_CHECKING:
    import mne


_OVERSHOOT = 4.0  # 12 dB over full scale
_RATES_HZ = (4_000, 768_000)
_LENGTH_UNKNOWN = 0x7FFF_F000  # a WAV written to a pipe claims this or more


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
    with _local(recording.path) as path:
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
    with _local(recording.path) as path:
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
    suffixes = {".set": (".fdt",), ".vhdr": (".eeg", ".dat", ".vmrk")}.get(path.suffix.lower(), ())
    return [file for suffix in suffixes if (file := path.with_suffix(suffix)).is_file()]


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
    data_CT, spans = feis.read_epochs(path)
    data_CT *= scale_to_volts
    return EEGSignal(data_CT, feis.SAMPLING_RATE_HZ, feis.CHANNELS, spans)


def _mne(path: Path, scale_to_volts: float) -> EEGSignal:
    import mne

    try:
        raw = mne.io.read_raw(path, preload=True, verbose="error")
        raw.pick("eeg", verbose="error")
    except Exception as error:  # MNE raises bare Exception for an unknown FIF tag; its formats share no error type
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecordingError(f"{path}: MNE cannot read EEG from it ({why})") from error
    return EEGSignal(raw.get_data(), float(raw.info["sfreq"]), tuple(raw.ch_names), _spans(raw))


def _spans(raw: mne.io.BaseRaw) -> tuple[tuple[int, int], ...]:
    """Cut where an annotation marks a joint (EEGLAB, BrainVision: boundary) or a gap filled up (BAD_ACQ_SKIP)."""
    notes = raw.annotations
    gaps = []  # a boundary's duration tells how much is gone already, so it is a gap of no samples
    for onset, duration, text in zip(notes.onset, notes.duration, notes.description, strict=True):
        if "boundary" in text.lower() or "new segment" in text.lower():
            gaps.append((onset, 0.0))
        elif text.upper().startswith("BAD_ACQ_SKIP"):
            gaps.append((onset, duration))
    spans, start = [], 0
    for onset, duration in sorted(gaps):
        first, last = raw.time_as_index([onset, onset + duration], use_rounding=True, origin=notes.orig_time).tolist()
        spans.append((start, first))
        start = max(start, last)
    spans.append((start, int(raw.n_times)))
    return tuple((start, stop) for start, stop in spans if start < stop)


def _soundfile(path: Path) -> AudioSignal:
    _refuse_cut_wav(path)
    try:
        promised = soundfile.info(path)
        if promised.frames * promised.channels > matlab.MOST_SAMPLES:
            raise RecordingError(f"{path}: {promised.duration / 3600:.1f} h of sound in one file; cut it into parts")
        data_TC, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise RecordingError(f"{path}: not audio that libsndfile can read ({error}); export the clip again") from error
    if len(data_TC) == 0:
        raise RecordingError(
            f"{path}: not audio that libsndfile can read (header says 0 frames); export the clip again"
        )
    if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
        raise RecordingError(f"{path}: its header claims {rate} samples a second; export the clip again")
    peak = float(np.abs(data_TC).max())
    if not peak <= _OVERSHOOT:
        raise RecordingError(f"{path}: samples are NaN or far beyond full scale (peak {peak:g}); export it as PCM")
    # lossy decoders overshoot full scale a little
    return AudioSignal(np.ascontiguousarray(np.clip(data_TC, -1, 1).T), float(rate))


def _refuse_cut_wav(path: Path) -> None:
    """Refuse a RIFF WAVE whose data chunk claims more bytes than the file has: libsndfile would read on in silence."""
    size = path.stat().st_size
    with path.open("rb") as file:
        riff, _, wave = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
        if riff != b"RIFF" or wave != b"WAVE":
            return
        while len(header := file.read(8)) == 8:
            name, claimed = struct.unpack("<4sI", header)
            held = size - file.tell()
            if name == b"data":
                if held < claimed < _LENGTH_UNKNOWN:
                    raise RecordingError(
                        f"{path}: its header claims {claimed} bytes of sound, the file holds {held}; it was cut short, "
                        "copy or export it again"
                    )
                return
            file.seek(claimed + claimed % 2, 1)


EEG_READERS: dict[str, Callable[[Path, float], EEGSignal]] = {"modma-mat": _modma_mat, "feis": _feis, "mne": _mne}
AUDIO_READERS: dict[str, Callable[[Path], AudioSignal]] = {"soundfile": _soundfile}
READERS = {**EEG_READERS, **AUDIO_READERS}
