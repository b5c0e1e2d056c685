"""`mmray recordings --check`: a study on disk beside the study as published. Nothing is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from mmray.config import Study
from mmray.errors import RecordingError
from mmray.recordings.catalogue import find
from mmray.recordings.found import Absent, Unplaced
from mmray.recordings.studies import STUDIES
from mmray.recordings.study import Expected
from mmray.schema import Recording

_MOST = 20  # lines of a kind a terminal gets; --json has them all


@dataclass(frozen=True)
class Part:
    """One line of what is expected, beside what is there."""

    modality: str
    tasks: tuple[str, ...]
    subjects: int
    expected_subjects: int
    recordings: int
    expected_recordings: int


@dataclass(frozen=True)
class Short:
    """A subject with fewer recordings than everyone has.

    Attributes:
        missing: how many, by task.
    """

    subject_id: str
    modality: str
    recordings: int
    expected: int
    missing: dict[str, int]


@dataclass(frozen=True)
class Check:
    """What `mmray recordings --check` tells.

    Attributes:
        parts: empty where nothing is published about such a study.
        absent: people of the study's own list without a recording of these tasks.
        complete: nothing that is expected is missing.
    """

    study: str
    parts: list[Part]
    short: list[Short]
    absent: list[Absent]
    unplaced: list[Unplaced]
    notes: tuple[str, ...]
    complete: bool

    @property
    def exit_code(self) -> int:
        """0, or that of a RecordingError."""
        return 0 if self.complete else RecordingError.exit_code

    def render(self) -> str:
        """As lines for a terminal."""
        lines = [f"study       {self.study}" + ("" if self.parts else ", of which no counts are published")]
        for part in self.parts:
            lines.append(
                f"{part.modality:<12}{', '.join(part.tasks)}: {part.recordings} of {part.expected_recordings} "
                f"recordings, {part.subjects} of {part.expected_subjects} subjects"
            )
        lines.extend(f"note        {note}" for note in self.notes)
        fewer = [part for part in self.parts if part.subjects < part.expected_subjects]
        missing = [
            f"{p.expected_subjects - p.subjects} people without {p.modality} {', '.join(p.tasks)}" for p in fewer
        ]
        missing += [f"{item.subject_id} has {_of(item)}" for item in self.short]
        missing += [f"{a.subject_id} is listed without {a.modality} {', '.join(a.tasks)}".rstrip() for a in self.absent]
        for title, items in (
            ("missing", missing),
            ("not placed", [f"{item.path}: {item.reason}" for item in self.unplaced]),
        ):
            lines.append(f"{title:<12}{len(items)}")
            lines.extend(f"  {item}" for item in items[:_MOST])
            if len(items) > _MOST:
                lines.append(f"  ... and {len(items) - _MOST} more; --json has them all")
        lines.append("complete" if self.complete else "not complete")
        return "\n".join(lines)


def check(study: Study) -> Check:
    """Compare a study with what is expected of it, within study.tasks.

    Raises:
        RecordingError: as catalogue.find.
    """
    found = find(study)
    parts: list[Part] = []
    short: list[Short] = []
    for expected in _expected(study):
        part, lacking = _compare(expected, found.recordings)
        parts.append(part)
        short += lacking
    whole = all(p.subjects >= p.expected_subjects and p.recordings >= p.expected_recordings for p in parts)
    return Check(
        study=STUDIES[study.kind].title,
        parts=parts,
        short=short,
        absent=list(found.absent),
        unplaced=found.unplaced,
        notes=found.notes,
        complete=whole and not short and not found.absent,
    )


def _expected(study: Study) -> list[Expected]:
    kind = STUDIES[study.kind]
    taken = []
    for part in kind.expected:
        each = {task: count for task, count in part.each.items() if kind.takes(task, study.tasks)}
        if each:
            taken.append(Expected(part.modality, part.subjects, each))
    return taken


def _compare(expected: Expected, recordings: list[Recording]) -> tuple[Part, list[Short]]:
    there: dict[str, Counter[str]] = defaultdict(Counter)
    for recording in recordings:
        if recording.modality == expected.modality and recording.task in expected.each:
            there[recording.subject_id][recording.task] += 1
    short = []
    for subject, counts in sorted(there.items()):
        missing = {task: n - counts[task] for task, n in expected.each.items() if counts[task] < n}
        if missing:
            held, due = sum(counts.values()), sum(expected.each.values())
            short.append(Short(subject, expected.modality, held, due, missing))
    held = sum(counts.total() for counts in there.values())
    tasks = tuple(expected.each)
    part = Part(expected.modality, tasks, len(there), expected.subjects, held, expected.recordings)
    return part, short


def _of(item: Short) -> str:
    missing = ", ".join(f"{count} of {task}" for task, count in item.missing.items())
    return f"{item.recordings} of {item.expected} {item.modality} recordings; missing {missing}"
