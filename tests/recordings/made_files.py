"""Small EEG files written from their formats' definitions, with no help from the readers' library."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def rhythms(channels: int, seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """(C, T) µV: correlated rhythms over noise, so that every electrode passes for one."""
    rng = np.random.default_rng(seed)
    time_T = np.arange(round(seconds * rate)) / rate
    shared_T = 20 * np.sin(2 * np.pi * 10 * time_T) + rng.normal(0, 5, len(time_T)).cumsum() * 0.2
    return shared_T * rng.uniform(0.7, 1.3, (channels, 1)) + rng.normal(0, 4, (channels, len(time_T)))


def write_edf(
    path: Path,
    data_uv_CT: np.ndarray,
    names: list[str],
    rate: int,
    reserved: str = "",
    others: dict[str, np.ndarray] | None = None,
) -> Path:
    """EDF (16 bits) or BDF (24 bits), by the suffix, in records of one second, physical range ±3276.7 µV.

    Args:
        others: channels of rates of their own by name, µV, after the others; as long as those.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    bits = 24 if path.suffix.lower() == ".bdf" else 16
    records = data_uv_CT.shape[1] // rate
    channels = [*zip(names, data_uv_CT, strict=True), *(others or {}).items()]
    names, count = [name for name, _ in channels], len(channels)
    rates = [len(data_T) // records for _, data_T in channels] if others else [rate] * count
    top = 2 ** (bits - 1) - 1

    def text(value: object, width: int) -> bytes:
        return str(value).ljust(width)[:width].encode("ascii")

    head = b"\xffBIOSEMI" if bits == 24 else text(0, 8)
    head += text("X X X X", 80) + text("Startdate X X X X", 80) + text("01.01.15", 8) + text("10.00.00", 8)
    head += text(256 * (count + 1), 8) + text("24BIT" if bits == 24 else reserved, 44)
    head += text(records, 8) + text(1, 8) + text(count, 4)
    columns = [
        (names, 16), (["AgAgCl"] * count, 80), (["uV"] * count, 8), (["-3276.7"] * count, 8), (["3276.7"] * count, 8),
        ([-top] * count, 8), ([top] * count, 8), ([""] * count, 80), (rates, 8), ([""] * count, 32),
    ]  # fmt: skip
    head += b"".join(text(value, width) for values, width in columns for value in values)
    digital = [np.rint(data_T / 3276.7 * top).astype("<i4") for _, data_T in channels]
    body = bytearray()
    for record in range(records):
        for channel_T, own in zip(digital, rates, strict=True):
            body += channel_T[record * own : (record + 1) * own].view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    path.write_bytes(head + bytes(body))
    return path


def write_brainvision(path: Path, data_uv_CT: np.ndarray, names: list[str], rate: int) -> Path:
    """Header, markers (one boundary after a second) and float32 samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = "\n".join(f"Ch{number}={name},,1,µV" for number, name in enumerate(names, start=1))
    path.write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(names)}\nSamplingInterval={1_000_000 // rate}\n\n[Binary Infos]\n"
        f"BinaryFormat=IEEE_FLOAT_32\n\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    path.with_suffix(".vmrk").write_text(
        "Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n\n[Marker Infos]\nMk1=New Segment,,1,1,0\nMk2=New Segment,,{rate + 1},1,0\n",
        encoding="utf-8",
    )
    path.with_suffix(".eeg").write_bytes(data_uv_CT.T.astype("<f4").tobytes())
    return path


def write_egi(path: Path, data_uv_CT: np.ndarray, rate: int, events: dict[str, list[int]]) -> Path:
    """EGI simple binary, version 4 (float32), with one channel of ones and zeros an event code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels, samples = data_uv_CT.shape
    head = struct.pack(">i6hi", 4, 2015, 4, 16, 11, 31, 0, 0)
    head += struct.pack(">5hih", rate, channels, 1, 0, 0, samples, len(events))
    head += b"".join(code.ljust(4)[:4].encode() for code in events)
    event_ET = np.zeros((len(events), samples))
    for row, places in enumerate(events.values()):
        event_ET[row, places] = 1
    path.write_bytes(head + np.vstack([data_uv_CT, event_ET]).T.astype(">f4").tobytes())
    return path


def write_three_channels(path: Path, data_CT: np.ndarray) -> Path:
    """MODMA's 3-channel text: whole numbers, one row a sample."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(" ".join(str(int(value)) for value in row) for row in data_CT.T) + "\n")
    return path
