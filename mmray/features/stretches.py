"""How a long recording is parted: stretches of bounded size, on its grid of segments, with signal to spare beside them.

One no larger than a stretch is one stretch, read as a whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# samples of all channels together that are held at once: 17 min of 128 electrodes at 250 Hz, 25 min of mono at 44.1 kHz
EEG_SAMPLES = 1 << 25
AUDIO_SAMPLES = 1 << 26
_FEWEST_SEGMENTS = 20  # half of them are still enough to judge electrodes by, at whatever sampling rate
_SPARE_S = 2  # of sound: far more than a resampler, an analysis frame or the speech detector looks ahead or behind


class Stretch(NamedTuple):
    """A part of an EEG recording, in samples from the recording's first.

    Attributes:
        read: [start, stop) with the margins.
        own: [start, stop) without; all of a recording in one stretch, else from its first segment to its last.
        start_S: first samples of its segments.
    """

    read: tuple[int, int]
    own: tuple[int, int]
    start_S: NDArray[np.int64]


def of_eeg(samples: int, channels: int, start_S: NDArray[np.int64], length: int, margin: int) -> list[Stretch]:
    """Part a recording into windows of equal length; a segment belongs to the window it starts in.

    Args:
        samples: T, of each channel.
        start_S: first samples of all segments; at least one.
        length: samples of a segment.
        margin: samples that the filter wants on both sides.
    """
    most = max(EEG_SAMPLES // channels, _FEWEST_SEGMENTS * length + 2 * margin)
    if samples <= most:
        return [Stretch((0, samples), (0, samples), start_S)]
    windows = math.ceil(samples / (most - 2 * margin))
    edges = [samples * window // windows for window in range(windows + 1)]
    found = []
    for first, last in itertools.pairwise(np.searchsorted(start_S, edges).tolist()):
        if first < last:
            own = (int(start_S[first]), int(start_S[last - 1]) + length)
            read = (max(0, own[0] - margin), min(samples, own[1] + margin))
            found.append(Stretch(read, own, start_S[first:last]))
    return found


class Passage(NamedTuple):
    """A part of a voice.

    Attributes:
        read_s: [start, stop) in whole seconds, so that samples of any two rates begin together; the last may lie past
            the recording's end.
        first: number of its first segment; `segments`, how many it has.
    """

    read_s: tuple[int, int]
    first: int
    segments: int


def seconds_of_audio(channels: int, sampling_rate_hz: float, segment_s: float) -> float:
    """How long a part of a voice may be."""
    return max(AUDIO_SAMPLES / (channels * sampling_rate_hz) - 2 * _SPARE_S, _FEWEST_SEGMENTS * segment_s)


def of_audio(start_s: float, segments: int, segment_s: float, longest_s: float) -> list[Passage]:
    """Part a voice into passages of as nearly the same number of segments as can be.

    Args:
        start_s: where the first segment begins.
    """
    count = math.ceil(segments * segment_s / longest_s)
    edges = [segments * passage // count for passage in range(count + 1)]
    found = []
    for first, last in itertools.pairwise(edges):
        begin_s, end_s = math.floor(start_s + first * segment_s), math.ceil(start_s + last * segment_s)
        found.append(Passage(with_margin(begin_s, end_s), first, last - first))
    return found


def windows_s(duration_s: float, longest_s: float) -> Iterator[tuple[int, int]]:
    """Windows of whole seconds, back to back over all of a voice."""
    step = max(1, math.floor(longest_s))
    for start in range(0, math.ceil(duration_s), step):
        yield start, start + step


def with_margin(start_s: int, stop_s: int) -> tuple[int, int]:
    """A window with sound to spare; it may reach past the recording's end."""
    return max(0, start_s - _SPARE_S), stop_s + _SPARE_S
