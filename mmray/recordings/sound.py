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
_PASSED = 1 << 20  # samples decoded at once on the way to a window
_KEPT_S = 8  # more than two windows share
_LENGTH_UNKNOWN = 0x7FFF_F000  # a WAV written to a pipe claims this or more


@contextmanager
def opened(path: Path) -> Iterator[tuple[float, int, int, Callable[[int, int], NDArray[np.float32]]]]:
    """Open a sound file; no sample is read.

    Yields:
        The sampling rate in Hz, the number of channels C and of samples T, and what reads the samples [start, stop) as
        C x (stop - start) float32, full scale 1; only a file of floats reaches beyond.

    Raises:
        RecordingError: the file is damaged, cut short, empty, or no sound.
    """
    _refuse_cut_wav(path)
    with _readable(path):
        file = soundfile.SoundFile(path)
    with file:
        promised, rate = file.frames, file.samplerate
        if promised == 0:
            raise RecordingError(
                f"{path}: not audio that libsndfile can read (header says 0 frames); export the clip again"
            )
        if not _RATES_HZ[0] <= rate <= _RATES_HZ[1]:
            raise RecordingError(f"{path}: its header claims {rate} samples a second; export the clip again")
        floats = file.subtype in ("FLOAT", "DOUBLE")
        windows, estimated = _Windows(file), file.format == "MP3" and not _says_how_long(path)

        def sound(start: int, stop: int) -> NDArray[np.float32]:
            with _readable(path):
                data_TC = windows.read(start, stop)
            short = len(data_TC) < min(stop, promised) - start
            whole = start == 0 and stop >= promised and len(data_TC) > 0
            if short and not (estimated and whole):
                raise RecordingError(
                    f"{path}: its header promises {promised} samples, it ends after {start + len(data_TC)}; "
                    "it was cut short, copy or export it again"
                )
            peak = float(np.maximum(data_TC.max(), -data_TC.min()))
            if not peak <= _OVERSHOOT:
                raise RecordingError(
                    f"{path}: samples are NaN or far beyond full scale (peak {peak:g}); export it as PCM"
                )
            if not floats:  # lossy decoders overshoot full scale a little; floats may lie beyond it and be whole
                np.clip(data_TC, -1, 1, out=data_TC)
            return np.ascontiguousarray(data_TC.T)

        yield float(rate), file.channels, promised, sound


def _says_how_long(path: Path) -> bool:
    """Whether an MP3's first frame states its length; else mpg123 goes by the file's size, and is some frames off."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":
            tag_bytes = sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10])))
            file.seek(len(head) + tag_bytes)
        first = head + file.read(4096)
    return any(mark in first for mark in (b"Xing", b"Info", b"VBRI"))


class _Windows:
    """Windows of a file decoded from its beginning on: libsndfile misses the place it seeks in Ogg and MP3.

    Going back costs decoding all before again, but for the last seconds, which are kept.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self._file = file
        self._first, self._kept_TC = 0, np.zeros((0, file.channels), np.float32)  # what was decoded last, and its place

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """T x C, fewer where the file ends."""
        if start < self._first:
            self._file.seek(0)
            self._first, self._kept_TC = 0, self._kept_TC[:0]
        while (reached := self._first + len(self._kept_TC)) < start:
            self._kept_TC = self._file.read(min(start - reached, _PASSED), dtype="float32", always_2d=True)
            self._first = reached
            if len(self._kept_TC) == 0:
                return self._kept_TC
        shared_TC = self._kept_TC[start - self._first : stop - self._first]
        window_TC = np.empty((stop - start, self._file.channels), np.float32)
        window_TC[: len(shared_TC)] = shared_TC
        if stop > reached:
            new_TC = self._file.read(out=window_TC[len(shared_TC) :])  # in place: a passage is large
            window_TC = window_TC[: len(shared_TC) + len(new_TC)]
            self._kept_TC = window_TC[-_KEPT_S * self._file.samplerate :].copy()
            self._first = start + len(window_TC) - len(self._kept_TC)
        return window_TC


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
