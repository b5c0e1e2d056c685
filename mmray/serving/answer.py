"""What a search is asked and answers, and the two ways it can be asked wrongly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmray.errors import MmrayError


class QueryError(MmrayError):
    """A query that no index could answer: a bad vector, an unknown modality or filter value, top_k out of range."""

    exit_code = 2


class UnknownRecordingError(MmrayError):
    """No recording of this id is in the index."""

    exit_code = 3


@dataclass(frozen=True)
class Filters:
    """Which recordings may be answered; None lets all through.

    Attributes:
        label: the class's name, or its number.
        exclude_subject: a subject whose recordings are left out.
        role: their subject's part in the run: train, validation, test or unseen.
    """

    label: str | None = None
    task: str | None = None
    session: str | None = None
    role: str | None = None
    exclude_subject: str | None = None


@dataclass(frozen=True)
class Match:
    """One recording of an answer.

    Attributes:
        score: cosine similarity.
        seen_in_training: whether the run was fitted on this subject, which makes a good score worth less.
    """

    rank: int
    score: float
    recording_id: str
    subject_id: str
    modality: str
    session: str
    task: str
    label: int | None
    label_name: str | None
    role: str
    seen_in_training: bool


@dataclass(frozen=True)
class Answer:
    """The best matches of one query.

    Attributes:
        gallery: how many recordings it was compared with, after filters.
    """

    query: str
    query_modality: str | None
    target: str
    gallery: int
    index_version: str
    run_id: str
    matches: list[Match]

    def render(self) -> str:
        """As a table for a terminal."""
        head = f"{self.query} -> {self.target}: best {len(self.matches)} of {self.gallery}, index {self.index_version}"
        rows = [("rank", "score", "recording", "subject", "task", "label", "part in the run")]
        for match in self.matches:
            label = match.label_name or ("" if match.label is None else str(match.label))
            rows.append(
                (
                    str(match.rank),
                    f"{match.score:.4f}",
                    match.recording_id,
                    match.subject_id,
                    match.task,
                    label,
                    match.role,
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *lines])


def match_of(rank: int, score: float, row: dict[str, Any]) -> Match:
    """A row of the index's metadata as a match."""
    return Match(
        rank=rank,
        score=score,
        recording_id=row["recording_id"],
        subject_id=row["subject_id"],
        modality=row["modality"],
        session=row["session"],
        task=row["task"],
        label=row["label"],
        label_name=row["label_name"],
        role=row["role"],
        seen_in_training=row["role"] == "train",
    )
