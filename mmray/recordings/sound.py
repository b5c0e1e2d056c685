"""Sound files that libsndfile reads: WAV, FLAC, Ogg, MP3 and what else it knows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from mmray.errors import RecordingError

_OVERSHOOT = 4.0  # 12 dB over full scale
_RATES_HZ = (4_000, 768_000)
_LENGTH_UNKNOWN = 0x7FFF_F000  # a WAV written to a pipe claims this or more


def opened(path: Path) -> tuple[float, int, int, Callable[[int, int], NDArray[np.float32]]]:
    """Open a sound file; no sample is read.

    Returns:
        The sampling rate in Hz, the number of channels C and of samples T, and what reads the samples [start, stop) as
        C x (stop - start) float32 in [-1, 1].

    Raises:
        RecordingError: the file is damaged, cut short, empty, or no sound.
    """
    _refuse_cut_wav(path)
    with _readable(path):
        promised = soundfile.info(path)
    if promised.frames == 0:
        raise RecordingError(
            f"{path}: not audio that libsndfile can read (header says 0 frames); export the clip again"
        )
    if not _RATES_HZ[0] <= promised.samplerate <= _RATES_HZ[1]:
        raise RecordingError(f"{path}: its header claims {promised.samplerate} samples a second; export the clip again")

    def sound(start: int, stop: int) -> NDArray[np.float32]:
        with _readable(path):
            data_TC, _ = soundfile.read(path, stop - start, start, dtype="float32", always_2d=True)
        if len(data_TC) == 0:
            raise RecordingError(
                f"{path}: ends before the {promised.frames} samples that its header promises; export the clip again"
            )
        peak = float(np.abs(data_TC).max())
        if not peak <= _OVERSHOOT:
            raise RecordingError(f"{path}: samples are NaN or far beyond full scale (peak {peak:g}); export it as PCM")
        # lossy decoders overshoot full scale a little
        return np.ascontiguousarray(np.clip(data_TC, -1, 1).T)

    return float(promised.samplerate), promised.channels, promised.frames, sound


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise RecordingError(f"{path}: not audio that libsndfile can read ({error}); export the clip again") from error


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
