"""From a study on disk to recordings.parquet: find, validate, write, count."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from mmray.config import Config, Study
from mmray.errors import RecordingError, WorkspaceError
from mmray.recordings import bids
from mmray.recordings.found import RECORDING_ID, UNPLACED, Found, Unplaced
from mmray.recordings.studies import STUDIES
from mmray.schema import MODALITIES, Recording, recordings_of, recordings_table
from mmray.storage import Workspace, is_uri

__all__ = ["Catalogue", "Count", "Found", "Unplaced", "catalogue", "find", "fingerprint", "load"]

_MOST_UNPLACED = 10  # lines a terminal gets; unplaced.parquet has them all


@dataclass(frozen=True)
class Count:
    """How many recordings of one modality, from how many subjects."""

    subjects: int
    recordings: int


@dataclass(frozen=True)
class Catalogue:
    """What `mmray recordings` tells.

    Attributes:
        labels: subjects by label name; "missing" counts those without one.
        paired: subjects with every modality.
    """

    subjects: int
    modalities: dict[str, Count]
    labels: dict[str, int]
    paired: int
    unplaced: list[Unplaced]
    notes: tuple[str, ...]

    def render(self) -> str:
        """As lines for a terminal."""
        lines = [f"subjects    {self.subjects}, {self.paired} of them with {' and '.join(MODALITIES)}"]
        for modality, count in self.modalities.items():
            lines.append(f"{modality:<12}{count.recordings} recordings of {count.subjects} subjects")
        lines.append("labels      " + ", ".join(f"{name} {count}" for name, count in self.labels.items()))
        lines.extend(f"note        {note}" for note in self.notes)
        lines.append(f"not placed  {len(self.unplaced)}")
        lines.extend(f"  {item.path}: {item.reason}" for item in self.unplaced[:_MOST_UNPLACED])
        if len(self.unplaced) > _MOST_UNPLACED:
            lines.append(f"  ... and {len(self.unplaced) - _MOST_UNPLACED} more in unplaced.parquet")
        return "\n".join(lines)


def find(study: Study) -> Found:
    """Look through a study; cheap, no signal is read.

    Raises:
        RecordingError: the root is missing or not of this layout, a manifest is not valid, or study.tasks names a task
            that nobody did.
    """
    if not study.root:
        raise RecordingError("recordings: study.root is not set; name the study's folder or manifest with --root")
    if is_uri(study.root):
        raise RecordingError(
            f"recordings: {study.root}: a study is listed on a local disk; mount it, or write a local manifest whose "
            "paths are URIs and use --study manifest"
        )
    root = Path(os.path.abspath(Path(study.root).expanduser()))
    if not root.exists():
        raise RecordingError(f"recordings: {root} is not there; check study.root (--root)")
    if study.kind != "manifest" and not root.is_dir():
        raise RecordingError(f"recordings: {root} is a file; --study {study.kind} wants the study's folder")
    found = bids.find(root, study.label_column) if study.kind == "bids" else STUDIES[study.kind].find(root)
    found = _of_tasks(found, study)
    _refuse_duplicates(found.recordings)
    _refuse_contradictions(found.recordings)
    return _only_utf8_paths(found)


def catalogue(config: Config) -> Catalogue:
    """Find the study's recordings and write recordings.parquet and unplaced.parquet into the workspace.

    Raises:
        RecordingError: as `find`, or nothing at all was found.
        WorkspaceError: the workspace cannot be written.
    """
    found = find(config.study)
    if not found.recordings:
        left = [*found.notes, *(f"{item.path}: {item.reason}" for item in found.unplaced[:3])]
        why = "; ".join(left) or "the study is empty"
        raise RecordingError(f"recordings: no recording in {config.study.root} ({why})")
    workspace = Workspace(config.workspace)
    leftovers = pa.Table.from_pylist([asdict(item) for item in found.unplaced], schema=UNPLACED)
    workspace.write_table(leftovers, "unplaced.parquet")
    workspace.write_table(recordings_table(found.recordings), "recordings.parquet")
    return _count(found)


def load(workspace: Workspace) -> list[Recording]:
    """The recordings of a workspace, by recording_id.

    Raises:
        WorkspaceError: there are none yet, or another version wrote them.
    """
    if not workspace.exists("recordings.parquet"):
        raise WorkspaceError(
            f"workspace {workspace.root}: recordings.parquet is not there; run `mmray recordings` first"
        )
    try:
        return recordings_of(workspace.read_table("recordings.parquet"))
    except KeyError as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: recordings.parquet lacks a column: {error.args[0]}; "
            "run `mmray recordings` again"
        ) from error


def fingerprint(recordings: list[Recording]) -> str:
    """A digest of all that recordings.parquet says; what was prepared from it carries the same."""
    rows = json.dumps(recordings_table(recordings).to_pylist(), sort_keys=True)
    return hashlib.sha256(rows.encode()).hexdigest()


def _of_tasks(found: Found, study: Study) -> Found:
    """What study.tasks keeps, or all but what the study leaves aside; and a note of what is not taken."""
    kind = STUDIES[study.kind]
    there = Counter(recording.task for recording in found.recordings)
    for task in sorted(set(study.tasks or ()) - set(there)):
        near = difflib.get_close_matches(task, there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(there)) or 'none'}"
        raise RecordingError(f"recordings: study.tasks: no recording of {task!r} is in this study; {hint}")
    aside = [f"{task} ({there[task]})" for task in sorted(there) if not kind.takes(task, study.tasks)]
    note = f"left aside: {', '.join(aside)}; study.tasks says which tasks are taken"
    return replace(
        found,
        recordings=[recording for recording in found.recordings if kind.takes(recording.task, study.tasks)],
        notes=(*found.notes, note) if aside else found.notes,
        absent=tuple(a for a in found.absent if not a.tasks or any(kind.takes(task, study.tasks) for task in a.tasks)),
    )


def _count(found: Found) -> Catalogue:
    with_modality = {
        modality: {recording.subject_id for recording in found.recordings if recording.modality == modality}
        for modality in MODALITIES
    }
    # a person's recordings may be labelled in part, and never in contradiction
    known_last = sorted(found.recordings, key=lambda recording: recording.label is not None)
    labels = Counter({recording.subject_id: _label_name(recording) for recording in known_last}.values())
    per_modality = Counter(recording.modality for recording in found.recordings)
    return Catalogue(
        subjects=len(set.union(*with_modality.values())),
        modalities={modality: Count(len(with_modality[modality]), per_modality[modality]) for modality in MODALITIES},
        labels=dict(sorted(labels.items())),
        paired=len(set.intersection(*with_modality.values())),
        unplaced=found.unplaced,
        notes=(*found.notes, *_absence(found)),
    )


def _absence(found: Found) -> tuple[str, ...]:
    if not found.absent:
        return ()
    people = len({item.subject_id for item in found.absent})
    return (f"{people} people of the study's own list lack recordings; `mmray recordings --check` names them",)


def _label_name(recording: Recording) -> str:
    if recording.label is None:
        return "missing"
    return recording.label_name or str(recording.label)


def _refuse_duplicates(recordings: list[Recording]) -> None:
    seen: dict[str, str] = {}
    for recording in recordings:
        if not RECORDING_ID.fullmatch(recording.recording_id):
            raise RecordingError(
                f"recordings: {recording.path}: recording_id {recording.recording_id!r} may hold only letters, digits, "
                "'-' and '_'"
            )
        if recording.recording_id in seen:
            raise RecordingError(
                f"recordings: {seen[recording.recording_id]} and {recording.path} are both {recording.recording_id}; "
                "move the one that should not count out of the study"
            )
        seen[recording.recording_id] = recording.path


def _refuse_contradictions(recordings: list[Recording]) -> None:
    """A pair_id is one person's, and a person has one label: else people merge, or a label depends on row order."""
    owner: dict[str, Recording] = {}
    labelled: dict[str, Recording] = {}
    for recording in recordings:
        first = owner.setdefault(recording.pair_id, recording)
        if first.subject_id != recording.subject_id:
            raise RecordingError(
                f"recordings: pair_id {recording.pair_id} is given to subjects {first.subject_id} and "
                f"{recording.subject_id} ({first.path}, {recording.path}); put the subject into it, as in "
                f"{recording.subject_id}-{recording.pair_id}"
            )
        if recording.label is None:
            continue
        known = labelled.setdefault(recording.subject_id, recording)
        if known.label != recording.label:
            raise RecordingError(
                f"recordings: subject {recording.subject_id} has label {known.label} in {known.path} and "
                f"{recording.label} in {recording.path}; give a person one label, or none"
            )


def _only_utf8_paths(found: Found) -> Found:
    # Linux allows names that are no text; Parquet and progress output do not
    kept, unplaced = [], []
    for recording in found.recordings:
        try:
            recording.path.encode()
        except UnicodeEncodeError:
            unplaced.append(Unplaced(_printable(recording.path), "its name is not UTF-8; rename the file"))
        else:
            kept.append(recording)
    unplaced += [Unplaced(_printable(item.path), item.reason) for item in found.unplaced]
    return replace(found, recordings=kept, unplaced=unplaced)


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
