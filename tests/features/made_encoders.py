"""Encoders that the tests name; each breaks the contract of docs/encoders.md in one way, or keeps it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

ROOM = Path(tempfile.gettempdir(), f"mmray-made-encoders-{os.getuid()}")


class Counted:
    """Keeps it: the process, its constructions and calls there, and the mean size of each frame."""

    version = "1"
    width = 4
    constructed = 0

    def __init__(self):
        type(self).constructed += 1
        self.called = 0

    def __call__(self, signal, sampling_rate_hz):
        self.called += 1
        frames_SNT = signal[:, : signal.shape[1] // 32 * 32].reshape(len(signal), 32, -1)
        told = np.empty((len(signal), 32, 4), np.float32)
        told[..., :3] = os.getpid(), self.constructed, self.called
        told[..., 3] = np.abs(frames_SNT).mean(-1)
        return told


class Picky(Counted):
    """Takes no clip of two segments."""

    def __call__(self, signal, sampling_rate_hz):
        if len(signal) == 2:
            raise ValueError("two segments are one too many")
        return super().__call__(signal, sampling_rate_hz)


class Busy(Counted):
    """Shares a device that has no room until the file ROOM is there."""

    def __call__(self, signal, sampling_rate_hz):
        if not ROOM.exists():
            raise MemoryError("no room on the device")
        return super().__call__(signal, sampling_rate_hz)


class Deadly(Counted):
    def __call__(self, signal, sampling_rate_hz):
        os._exit(1)


class Unmade(Counted):
    def __init__(self):
        raise FileNotFoundError("weights.safetensors")


class Untold:
    width = 4

    def __call__(self, signal, sampling_rate_hz):
        raise AssertionError("never asked")


class Uncallable:
    version, width = "1", 4


def scalp(signal, sampling_rate_hz):
    """Mean size and last sample of each electrode."""
    return np.stack([np.abs(signal).mean(-1), signal[..., -1]], axis=-1)


def envelope(signal, sampling_rate_hz):
    """Mean size, largest sample, last one and SD of each frame."""
    frames_SNT = signal[:, : signal.shape[1] // 32 * 32].reshape(len(signal), 32, -1)
    told = np.abs(frames_SNT).mean(-1), frames_SNT.max(-1), frames_SNT[..., -1], frames_SNT.std(-1)
    return np.stack(told, axis=-1)


def flat(signal, sampling_rate_hz):
    return np.zeros((len(signal), 4), np.float32)


def narrow(signal, sampling_rate_hz):
    return np.zeros((len(signal), 31, 4), np.float32)


def starved(signal, sampling_rate_hz):
    raise MemoryError("no room")


def whole_numbers(signal, sampling_rate_hz):
    return np.zeros((len(signal), 32, 4), np.int64)


def listed(signal, sampling_rate_hz):
    return [[0.0]]


def endless(signal, sampling_rate_hz):
    return np.full((len(signal), 32, 4), np.inf, np.float32)


def greedy(signal, sampling_rate_hz):
    signal *= 0
    return np.zeros((len(signal), 32, 4), np.float32)


def double(signal, sampling_rate_hz):
    return np.ones((len(signal), 32, 4), np.float64)


for function in (scalp, envelope, flat, narrow, starved, whole_numbers, listed, endless, greedy, double):
    function.version, function.width = "1", 4
scalp.width = 2
constant = 3
