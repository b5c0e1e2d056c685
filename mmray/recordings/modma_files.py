"""How MODMA names its folders and files, and what each name says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmray.recordings.found import Unplaced, entries
from mmray.schema import Modality

REST = "EEG_128channels_resting_lanzhou_2015"
ERP = "EEG_128channels_ERP_lanzhou_2015"
THREE = "EEG_3channels_resting_lanzhou_2015"
AUDIO = "audio_lanzhou_2015"

_ID = re.compile(r"[0-9]{8}")
_CLIP = re.compile(r"[0-9]{1,2}")
_LAST_CLIP = 29
_OF_THE_STUDY = {"chan_info_egi_128.mat"}  # electrode positions, beside the ERP recordings


@dataclass(frozen=True)
class File:
    """A recording before its subject's label and demographics are known."""

    subject: str
    modality: Modality
    name: str  # what follows subject and modality in the recording_id
    task: str
    path: Path
    reader: str


@dataclass(frozen=True)
class Folder:
    """One of MODMA's folders: what its files are, and who is expected in it."""

    modality: Modality
    each: dict[str, int]  # recordings of a person, by task
    subjects: int
    files: Callable[[Path], Iterator[File | Unplaced]]  # of one entry of the folder


def task_of_clip(number: int) -> str:
    """What a clip's number (1-29) says the person was doing."""
    for last, task in ((6, "positive"), (12, "neutral"), (18, "negative")):
        if number <= last:
            return f"interview-{task}"
    return "reading" if number == 19 else "words" if number <= 25 else "picture"


def _eeg(suffix: str, task: str, reader: str) -> Callable[[Path], Iterator[File | Unplaced]]:
    def file(path: Path) -> Iterator[File | Unplaced]:
        # '02010002rest 20150416 1017..mat': the first eight digits are the id, nothing else in the stem is reliable
        subject = _ID.match(path.name)
        if suffix == ".raw" and path.name in _OF_THE_STUDY:
            return
        if path.suffix.lower() != suffix or not path.is_file():
            yield Unplaced(str(path), f"not a {suffix} file")
        elif subject is None:
            yield Unplaced(str(path), "its name does not begin with an eight-digit subject id")
        else:
            yield File(subject[0], "eeg", task, task, path, reader)

    return file


def _clips(folder: Path) -> Iterator[File | Unplaced]:
    subject = _ID.match(folder.name)
    if subject is None or not folder.is_dir():
        yield Unplaced(str(folder), "not a folder whose name begins with an eight-digit subject id")
        return
    for path in entries(folder):
        number = int(path.stem) if _CLIP.fullmatch(path.stem) else 0
        if path.suffix.lower() != ".wav" or not path.is_file() or not 1 <= number <= _LAST_CLIP:
            yield Unplaced(str(path), f"not a clip 01.wav to {_LAST_CLIP}.wav")
        else:
            yield File(subject[0], "audio", f"{number:02d}", task_of_clip(number), path, "soundfile")


_CLIPS = {
    "interview-positive": 6,
    "interview-neutral": 6,
    "interview-negative": 6,
    "reading": 1,
    "words": 6,
    "picture": 4,
}
FOLDERS = {
    REST: Folder("eeg", {"rest": 1}, 53, _eeg(".mat", "rest", "modma-mat")),
    ERP: Folder("eeg", {"dot-probe": 1}, 53, _eeg(".raw", "dot-probe", "mne")),
    THREE: Folder("eeg", {"rest-3ch": 1}, 55, _eeg(".txt", "rest-3ch", "modma-txt")),
    AUDIO: Folder("audio", _CLIPS, 52, _clips),
}
