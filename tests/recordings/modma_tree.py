"""Writes small MODMA trees with the quirks of the real one, independent of the synthetic study's writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openpyxl
import scipy.io
import soundfile

from mmray.recordings.modma_files import AUDIO, REST
from mmray.schema import Recording

SAMPLES = 600
HEADER = (
    "subject id",
    "type",
    "age",
    "gender",
    "education（years）",
    "PHQ-9",
    "CTQ-SF",
    "LES",
    "SSRS",
    "GAD-7",
    "PSQI",
)


def eeg_129(seed: int = 0) -> np.ndarray:
    """(129, T) µV with a large offset; the Cz row is zero."""
    data_CT = np.random.default_rng(seed).normal(20_000, 30, (129, SAMPLES))
    data_CT[128] = 0
    return data_CT


def write_v5(path: Path, data: np.ndarray | None = None, **extra: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "a02010002rest_20150416_1017mat": eeg_129() if data is None else data,
        "samplingRate": np.array([[250.0]]),
        "Impedances_0": np.full((129, 1), 40.0),
        "DIN_1": np.array([["DIN1", 1.0]], dtype=object),
    } | extra
    compress = content.pop("compress", False)
    scipy.io.savemat(
        path, {k: v for k, v in content.items() if v is not None}, appendmat=False, do_compression=compress
    )
    return path


def write_v73(path: Path, data: np.ndarray | None = None, rate: float | None = 250.0) -> Path:
    """As MATLAB lays it out: a 512-byte user block, arrays with their axes reversed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        array = file.create_dataset("a02010002rest", data=(eeg_129() if data is None else data).T)
        array.attrs["MATLAB_class"] = np.bytes_("double")
        file["Impedances_0"] = np.full((1, 129), 40.0)
        file.create_group("#refs#")
        if rate is not None:
            file["samplingRate"] = np.array([[rate]])
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def write_wav(path: Path, seconds: float = 0.5, rate: int = 44_100, channels: int = 1, subtype: str = "PCM_24") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time_T = np.arange(int(seconds * rate)) / rate
    sound_TC = np.repeat(0.01 * np.sin(2 * np.pi * 220 * time_T)[:, None], channels, axis=1)
    soundfile.write(path, sound_TC, rate, subtype=subtype)
    return path


def write_workbook(path: Path, rows: list[tuple[Any, ...]], header: tuple[Any, ...] = HEADER) -> Path:
    """Sheet1 with two junk columns behind the scores, then two empty sheets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append([*header, None, "note"])
    for row in rows:
        sheet.append([*row, *[99] * (len(header) - len(row)), None, "x"])
    book.create_sheet("Sheet2")
    book.create_sheet("Sheet3")
    book.save(path)
    return path


def write_study(root: Path) -> Path:
    """Three people: 02010002 (MDD) and 02020008 (HC) with both modalities, 02030014 (HC) with audio alone."""
    write_v5(root / REST / "02010002rest 20150416 1017..mat")
    write_v73(root / REST / "02020008_restnew 20150713 14.mat")
    write_workbook(
        root / REST / f"subjects_information_{REST}.xlsx",
        [("02010002", "MDD", 18, "F", 12), (2020008, "HC", 30, "M", 16)],
    )
    for subject in ("02010002", "02020008", "02030014"):
        for clip in (1, 7, 13, 19, 20, 26):
            write_wav(root / AUDIO / subject / f"{clip:02d}.wav")
    write_workbook(
        root / AUDIO / f"subjects_information_{AUDIO}.xlsx",
        [(2010002.0, "MDD", 18, "F", 12), ("2020008", "HC", 30, "M", 16), ("02030014", "HC", 44, "M", None)],
    )
    return root


def recording(path: Path | str, reader: str) -> Recording:
    modality = "audio" if reader == "soundfile" else "eeg"
    return Recording("r", "s", "s", modality, "1", "rest", None, None, str(path), reader, 1)
