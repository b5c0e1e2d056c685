"""MODMA: resting and dot-probe EEG and interview audio of people with depression (MDD) and healthy controls (HC).

Nothing is time-locked: a match is a person; 38 people have both 128-channel rest and audio. modma_files.py tells the
layout, modma_labels.py who is who.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings import bids
from mmray.recordings.found import Absent, Found, Unplaced, entries
from mmray.recordings.modma_files import AUDIO, FOLDERS, REST, File
from mmray.recordings.modma_labels import LABELS, labelled
from mmray.recordings.study import Expected, StudyKind
from mmray.recordings.workbook import Person, read_people

_BIDS_FORM = "EEG_LZU_2015"  # 'EEG_LZU_2015_2_resting state': the rest recordings once more, under other ids


def find(root: Path) -> Found:
    """List the recordings under a MODMA root; signals stay unread.

    Raises:
        RecordingError: none of MODMA's folders is there.
    """
    files: list[File] = []
    unplaced: list[Unplaced] = []
    absent: list[Absent] = []
    rows: dict[str, list[Person]] = {}
    bids_form = Found([], [])
    places = sorted(entries(root), key=lambda path: (path.name != REST, path.name))  # its workbook has the first word
    names = {path.name for path in places if path.is_dir()}
    if not any(name in FOLDERS or name.startswith(_BIDS_FORM) for name in names):
        raise RecordingError(f"recordings: {root} holds none of {', '.join(FOLDERS)}; name MODMA's own folder (--root)")
    for place in places:
        if place.name not in names:
            if place.suffix.lower() in (".mat", ".wav", ".raw"):
                unplaced.append(Unplaced(str(place), f"belongs into {REST} or {AUDIO}, or another folder of MODMA"))
        elif place.name in FOLDERS:
            people, missing = _read(place, files, unplaced)
            absent += missing
            for subject, person in people.items():
                rows.setdefault(subject, []).append(person)
        elif place.name.startswith(_BIDS_FORM):
            if REST in names:
                why = f"the people of {REST} under other ids: one person would be trained on and tested"
                unplaced.append(Unplaced(str(place), why))
            else:
                bids_form = _relabelled(bids.find(place))
        else:
            unplaced.append(Unplaced(str(place), "not a folder of MODMA"))
    recordings, conflicts = labelled(files, rows)
    return Found(
        recordings + bids_form.recordings,
        unplaced + [Unplaced(str(root), conflict) for conflict in conflicts] + bids_form.unplaced,
        bids_form.notes,
        (*absent, *bids_form.absent),
    )


def _read(folder: Path, files: list[File], unplaced: list[Unplaced]) -> tuple[dict[str, Person], list[Absent]]:
    """Add a folder's files; its workbook's people, and those among them without a file."""
    people: dict[str, Person] = {}
    subjects: set[str] = set()
    for path in entries(folder):
        if path.suffix.lower() in (".xlsx", ".xls"):
            listed, problems = read_people(path)
            people = listed | people
            unplaced += problems
            continue
        for item in FOLDERS[folder.name].files(path):
            if isinstance(item, File):
                files.append(item)
                subjects.add(item.subject)
            else:
                unplaced.append(item)
    kind = FOLDERS[folder.name]
    return people, [Absent(subject, kind.modality, tuple(kind.each)) for subject in people if subject not in subjects]


def _relabelled(form: Found) -> Found:
    """The BIDS form with MODMA's own labels; its ids are remapped, so nothing but its own column tells them."""
    note = "the BIDS form has ids of its own: its EEG cannot be paired with the voices"
    known = [
        replace(r, label=LABELS.get(r.label_name or ""), label_name=r.label_name if r.label_name in LABELS else None)
        for r in form.recordings
    ]
    return replace(form, recordings=known, notes=(*form.notes, note))


STUDY = StudyKind(
    find,
    title="MODMA",
    citation="Cai et al., A multi-modal open dataset for mental-disorder analysis, Scientific Data 9 (2022), 178",
    doi="10.1038/s41597-022-01211-x",
    licence="EEG CC BY 4.0; audio restricted, on request (UK Data Service, record 854301)",
    expected=tuple(Expected(kind.modality, kind.subjects, kind.each) for kind in FOLDERS.values()),
    left_aside=("dot-probe", "rest-3ch"),
)
