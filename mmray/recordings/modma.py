"""MODMA: 128-channel resting EEG and interview audio of people with depression (MDD) and healthy controls (HC).

Cai et al., "A multi-modal open dataset for mental-disorder analysis", Scientific Data 9 (2022), 178,
doi 10.1038/s41597-022-01211-x. 53 people with 128-channel rest, 52 with audio, 38 with both. EEG is CC BY 4.0, audio
restricted. Nothing is time-locked: a match is a person.

Labels come from the id (0201 is MDD, 0202 and 0203 are HC) and are checked against the workbooks. Where the sources
disagree the label is null and the conflict is listed: a disputed diagnosis is not trained on. Questionnaire scores
define the label, so they never leave the workbooks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.found import Found, Unplaced, entries
from mmray.recordings.workbook import Person, read_people
from mmray.schema import Modality, Recording

REST = "EEG_128channels_resting_lanzhou_2015"
AUDIO = "audio_lanzhou_2015"
NOT_READ_YET = ("EEG_128channels_ERP", "EEG_3channels_resting")

LABELS = {"HC": 0, "MDD": 1}
_NAME_OF_PREFIX = {"0201": "MDD", "0202": "HC", "0203": "HC"}
_ID = re.compile(r"[0-9]{8}")
_CLIP = re.compile(r"[0-9]{1,2}")
_LAST_CLIP = 29


@dataclass(frozen=True)
class _File:
    """A recording before its subject's label and demographics are known."""

    subject: str
    modality: Modality
    name: str  # what follows subject and modality in the recording_id
    task: str
    path: Path


def find(root: Path) -> Found:
    """List the rest recordings and voice clips under a MODMA root; signals stay unread.

    Raises:
        RecordingError: neither of the two folders is there.
    """
    files: list[_File] = []
    unplaced: list[Unplaced] = []
    workbooks: list[Path] = []
    folders = {path.name: path for path in entries(root) if path.is_dir()}
    if REST not in folders and AUDIO not in folders:
        raise RecordingError(
            f"recordings: {root} holds neither {REST} nor {AUDIO}; name MODMA's own folder with --root"
        )
    for name, folder in folders.items():
        if name in (REST, AUDIO):
            for path in entries(folder):
                if path.suffix.lower() in (".xlsx", ".xls"):
                    workbooks.append(path)
                elif name == REST:
                    _place(_rest_file(path), files, unplaced)
                else:
                    for item in _clips(path):
                        _place(item, files, unplaced)
        elif name.startswith(NOT_READ_YET):
            unplaced.append(Unplaced(str(folder), "not read yet: only 128-channel rest and audio are"))
        else:
            unplaced.append(Unplaced(str(folder), "not a folder of MODMA"))
    for path in entries(root):
        if path.suffix.lower() in (".mat", ".wav"):
            unplaced.append(Unplaced(str(path), f"belongs into {REST} or {AUDIO}"))

    rows: dict[str, list[Person]] = {}
    for workbook in sorted(workbooks, key=lambda path: (path.parent.name != REST, path.name)):
        people, problems = read_people(workbook)
        unplaced += problems
        for subject, person in people.items():
            rows.setdefault(subject, []).append(person)
    label_names: dict[str, str | None] = {}
    for subject in sorted({file.subject for file in files}):
        label_names[subject], conflict = _diagnosis(subject, rows.get(subject, []))
        if conflict:
            unplaced.append(Unplaced(str(root), conflict))
    return Found([_recording(file, label_names[file.subject], rows.get(file.subject, [])) for file in files], unplaced)


def task_of_clip(number: int) -> str:
    """What a clip's number (1-29) says the person was doing."""
    for last, task in ((6, "positive"), (12, "neutral"), (18, "negative")):
        if number <= last:
            return f"interview-{task}"
    return "reading" if number == 19 else "words" if number <= 25 else "picture"


def _place(item: _File | Unplaced, files: list[_File], unplaced: list[Unplaced]) -> None:
    if isinstance(item, _File):
        files.append(item)
    else:
        unplaced.append(item)


def _rest_file(path: Path) -> _File | Unplaced:
    # '02010002rest 20150416 1017..mat': the first eight digits are the id, nothing else in the stem is reliable
    subject = _ID.match(path.name)
    if path.suffix.lower() != ".mat" or not path.is_file():
        return Unplaced(str(path), "not a .mat file")
    if subject is None:
        return Unplaced(str(path), "its name does not begin with an eight-digit subject id")
    return _File(subject[0], "eeg", "rest", "rest", path)


def _clips(folder: Path) -> list[_File | Unplaced]:
    subject = _ID.match(folder.name)
    if subject is None or not folder.is_dir():
        return [Unplaced(str(folder), "not a folder whose name begins with an eight-digit subject id")]
    clips: list[_File | Unplaced] = []
    for path in entries(folder):
        number = int(path.stem) if _CLIP.fullmatch(path.stem) else 0
        if path.suffix.lower() != ".wav" or not path.is_file() or not 1 <= number <= _LAST_CLIP:
            clips.append(Unplaced(str(path), f"not a clip 01.wav to {_LAST_CLIP}.wav"))
        else:
            clips.append(_File(subject[0], "audio", f"{number:02d}", task_of_clip(number), path))
    return clips


def _diagnosis(subject: str, rows: list[Person]) -> tuple[str | None, str | None]:
    """The label's name, or None where no source knows it or two disagree; then the second value says so."""
    by_id = _NAME_OF_PREFIX.get(subject[:4])
    by_workbook = {row.diagnosis for row in rows} - {None}
    names = by_workbook | ({by_id} if by_id else set())
    if len(names) > 1:
        return None, (
            f"subject {subject}: the id says {by_id or 'nothing'}, the workbooks say "
            f"{' and '.join(sorted(str(name) for name in by_workbook))}; label left empty, correct the wrong one"
        )
    return next(iter(names), None), None


def _recording(file: _File, label_name: str | None, rows: list[Person]) -> Recording:
    def known(values: list[float | None]) -> float | None:
        return next((value for value in values if value is not None), None)

    return Recording(
        recording_id=f"{file.subject}-{file.modality}-{file.name}",
        subject_id=file.subject,
        pair_id=file.subject,
        modality=file.modality,
        session="1",
        task=file.task,
        label=None if label_name is None else LABELS[label_name],
        label_name=label_name,
        path=str(file.path),
        reader="modma-mat" if file.modality == "eeg" else "soundfile",
        size_bytes=file.path.stat().st_size,
        age=known([row.age for row in rows]),
        gender=next((row.gender for row in rows if row.gender), None),
        education_years=known([row.education_years for row in rows]),
    )
