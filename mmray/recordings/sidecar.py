"""The sampling rate that a BIDS sidecar states for a recording (`_eeg.json`, SamplingFrequency)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmray.errors import RecordingError


@dataclass(frozen=True)
class Stated:
    """What a sidecar says, Hz, and which one."""

    sampling_rate_hz: float
    path: Path


def stated_rate(path: Path) -> Stated | None:
    """The rate of the nearest sidecar that speaks of this file (BIDS's inheritance principle); None: none does.

    Raises:
        RecordingError: a sidecar is not JSON.
    """
    if not path.stem.endswith("_eeg"):
        return None
    for sidecar in _sidecars(path):
        try:
            said = json.loads(sidecar.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise RecordingError(
                f"{path}: its sidecar {sidecar} is not JSON ({error}); correct or remove it"
            ) from error
        rate = said.get("SamplingFrequency") if isinstance(said, dict) else None
        if isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0:
            return Stated(float(rate), sidecar)
    return None


def refuse_conflict(path: Path, sampling_rate_hz: float) -> None:
    """Raise RecordingError where the file's own header and its sidecar disagree by more than a thousandth."""
    stated = stated_rate(path)
    if stated and abs(stated.sampling_rate_hz - sampling_rate_hz) > 1e-3 * sampling_rate_hz:
        raise RecordingError(
            f"{path}: its header says {sampling_rate_hz:g} Hz, its sidecar {stated.path} says "
            f"{stated.sampling_rate_hz:g} Hz; correct the wrong one"
        )


def _sidecars(path: Path) -> Iterator[Path]:
    """From the recording's folder up to the dataset's, the most specific first."""
    own = path.with_suffix(".json")
    if own.is_file():
        yield own
    entities = set(path.stem.split("_"))
    folder = path.parent
    while True:
        shared = [file for file in folder.glob("*_eeg.json") if set(file.stem.split("_")) <= entities and file != own]
        yield from sorted(shared, key=lambda file: (-len(file.stem.split("_")), file.name))
        if folder.name != "eeg" and not folder.name.startswith(("ses-", "sub-")):
            return
        folder = folder.parent
