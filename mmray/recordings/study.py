"""What a study is: where it comes from, what it holds when it is whole, and who finds its recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmray.recordings.found import Found
from mmray.schema import Modality


@dataclass(frozen=True)
class Expected:
    """What the whole study holds of one modality.

    Attributes:
        subjects: how many people have it.
        each: recordings of each of them, by task.
    """

    modality: Modality
    subjects: int
    each: Mapping[str, int]

    @property
    def recordings(self) -> int:
        """Recordings of all people together."""
        return self.subjects * sum(self.each.values())


@dataclass(frozen=True)
class StudyKind:
    """One row of studies.STUDIES.

    Attributes:
        find: lists the recordings under a root without reading a signal; raises RecordingError where the root is not
            of this layout.
        licence: of the recordings; mmray ships none of them.
        expected: counts of the whole study as published; empty where everyone's differs.
        left_aside: tasks that are taken only where study.tasks names them, because one montage does not fit all.
    """

    find: Callable[[Path], Found]
    title: str
    citation: str
    doi: str
    licence: str
    expected: tuple[Expected, ...] = ()
    left_aside: tuple[str, ...] = ()

    def takes(self, task: str, tasks: tuple[str, ...] | None) -> bool:
        """Whether recordings of a task are wanted, given study.tasks."""
        return task not in self.left_aside if tasks is None else task in tasks
