"""Any EEG dataset in BIDS, with voices where BIDS has no place for them yet.

`sub-X[_ses-Y]_task-Z[_run-N]_eeg.<edf|bdf|set|vhdr|fif>` in `eeg/`, and beside that folder, in `audio/` or `beh/`,
`sub-X[_ses-Y]_task-Z[_run-N]_audio.<wav|flac|ogg|mp3>`. A match is a person. Names are split here and not by mne-bids,
which refuses `task-Resting-state` and knows no `_audio`.
"""

from __future__ import annotations

import json
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.formats import AUDIO_SUFFIXES, COMPANIONS, EEG_SUFFIXES
from mmray.recordings.found import NO_FILE, RECORDING_ID, Absent, Found, Unplaced, entries, size_of
from mmray.recordings.participants import Participant, read_participants
from mmray.recordings.study import StudyKind
from mmray.schema import Modality, Recording

_FOLDERS: dict[str, Modality] = {"eeg": "eeg", "audio": "audio", "beh": "audio"}
_SUFFIXES = {"eeg": EEG_SUFFIXES, "audio": AUDIO_SUFFIXES}
_SAMPLES = tuple(suffix for suffixes in COMPANIONS.values() for suffix in suffixes)


def find(root: Path, label_column: str | None = None) -> Found:
    """List a dataset's recordings; of all files only participants.tsv and dataset_description.json are opened.

    Args:
        label_column: of participants.tsv; None: the first of participants.LABEL_COLUMNS.

    Raises:
        RecordingError: no folder `sub-...` is there, or there is no such column.
    """
    folders = [path for path in entries(root) if path.name.startswith("sub-") and path.is_dir()]
    if not folders:
        raise RecordingError(f"recordings: {root} holds no folder sub-...; name the BIDS dataset's own with --root")
    people = read_participants(root / "participants.tsv", label_column)
    unplaced = list(people.unplaced)
    recordings: list[Recording] = []
    for folder in folders:
        for place in (folder, *(path for path in entries(folder) if path.name.startswith("ses-") and path.is_dir())):
            for data in entries(place):
                if data.name not in _FOLDERS or not data.is_dir():
                    continue
                files = entries(data)
                headers = {path.stem for path in files if path.suffix.lower() in COMPANIONS}
                for path in files:
                    item = _recording(path, _FOLDERS[data.name], folder.name, place.name, people.rows.get(folder.name))
                    if isinstance(item, Recording):
                        recordings.append(item)
                    elif item:
                        unplaced.append(item)
                    elif path.suffix.lower() in _SAMPLES and path.stem not in headers:
                        unplaced.append(Unplaced(str(path), "its header (.vhdr or .set) is not there"))
    with_eeg = {recording.subject_id for recording in recordings if recording.modality == "eeg"}
    absent = tuple(Absent(subject, "eeg") for subject in people.rows if subject not in with_eeg)
    label = f"column {people.label_column}" if people.label_column else "no column (study.label_column can name one)"
    notes = (*_described(root / "dataset_description.json"), f"labels from {label} of participants.tsv")
    return Found(recordings, unplaced, notes, absent)


def _recording(
    path: Path, modality: Modality, subject: str, session: str, person: Participant | None
) -> Recording | Unplaced | None:
    """The recording, why it is none, or None for what belongs to one or to another modality."""
    suffix = path.suffix.lower()
    *pairs, kind = path.stem.split("_")
    entities = {key: value for key, _, value in (pair.partition("-") for pair in pairs)}
    if suffix not in _SUFFIXES[modality] or kind != modality:
        beside = path.parent.name == "beh" or suffix in (".json", ".tsv", *_SAMPLES)
        return None if beside else Unplaced(str(path), f"not a sub-..._{modality}<{'|'.join(_SUFFIXES[modality])}>")
    if entities.get("split", "1").lstrip("0") not in ("", "1"):
        return None  # MNE reads on from the first part
    if f"sub-{entities.get('sub')}" != subject:
        return Unplaced(str(path), f"its name does not say {subject}, the folder does")
    if session.startswith("ses-") and f"ses-{entities.get('ses')}" != session:
        return Unplaced(str(path), f"its name does not say {session}, the folder does")
    if not RECORDING_ID.fullmatch(path.stem):
        return Unplaced(str(path), "its name may hold only letters, digits, '-' and '_'")
    if (size := size_of(str(path))) is None:
        return Unplaced(str(path), NO_FILE)
    person = person or Participant()
    return Recording(
        recording_id=path.stem,
        subject_id=subject,
        pair_id=subject,
        modality=modality,
        session=entities.get("ses", "1"),
        task=entities.get("task", "recording"),
        label=person.label,
        label_name=person.label_name,
        path=str(path),
        reader="mne" if modality == "eeg" else "soundfile",
        size_bytes=size,
        age=person.age,
        gender=person.gender,
        education_years=person.education_years,
    )


def _described(path: Path) -> tuple[str, ...]:
    """The dataset's name and licence, which are its own."""
    try:
        said = json.loads(path.read_text(encoding="utf-8-sig"))
        return (f"{said['Name']}, licence {said.get('License', 'not stated')}",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


STUDY = StudyKind(
    find,
    title="BIDS",
    citation="any EEG dataset in BIDS: Pernet et al., EEG-BIDS, Scientific Data 6 (2019), 103",
    doi="10.1038/s41597-019-0104-8",
    licence="the dataset's own, in dataset_description.json",
)
