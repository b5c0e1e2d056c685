"""Ten thousand files: each folder is listed as often as it is walked, and no recording is opened."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from mmray.config import Study, from_dict
from mmray.recordings import catalogue
from mmray.recordings.modma_files import AUDIO, REST

_events: Counter[str] = Counter()
_watched: list[str] = []


def _count(event: str, arguments: tuple[object, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(_watched[0]):
        _events[event] += 1


sys.addaudithook(_count)  # for good: a hook cannot be taken back, so it counts only while a root is watched


@pytest.fixture
def events():
    _events.clear()
    yield _events
    _watched.clear()


def touch(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()


def test_a_bids_dataset_of_ten_thousand_files_is_listed_without_opening_a_recording(tmp_path, events):
    root = tmp_path / "bids"
    for number in range(50):
        subject = root / f"sub-{number:02d}"
        touch(subject / "eeg", [f"sub-{number:02d}_task-rest_run-{run}_eeg.edf" for run in range(100)])
        touch(subject / "audio", [f"sub-{number:02d}_task-rest_run-{run}_audio.wav" for run in range(100)])
    (root / "participants.tsv").write_text("participant_id\tgroup\n" + "".join(f"{n:02d}\tx\n" for n in range(50)))
    _watched.append(str(root))
    summary = catalogue.catalogue(
        from_dict({"workspace": str(tmp_path / "ws"), "study": {"kind": "bids", "root": str(root)}})
    )
    _watched.clear()
    assert {name: count.recordings for name, count in summary.modalities.items()} == {"eeg": 5000, "audio": 5000}
    assert events["open"] <= 2  # participants.tsv, dataset_description.json
    assert events["os.listdir"] + events["os.scandir"] <= 1 + 2 * 50 + 2 * 50


def test_a_modma_of_ten_thousand_clips_and_leftovers_is_listed_without_opening_one(tmp_path, events):
    root = tmp_path / "modma"
    touch(root / REST, [f"0201{number:04d}rest.mat" for number in range(300)])
    for number in range(300):
        touch(root / AUDIO / f"0201{number:04d}", [f"{clip:02d}.wav" for clip in range(33)])
    _watched.append(str(root))
    found = catalogue.find(Study(root=str(root)))
    _watched.clear()
    assert (len(found.recordings), len(found.unplaced)) == (300 * 30, 300 * 4)
    assert events["open"] == 0
    assert events["os.listdir"] + events["os.scandir"] <= 3 + 300
