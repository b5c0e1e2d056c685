"""What is asked and answered, over HTTP and without it, and the two ways to ask wrongly. No path and no signal in any.

The endpoint sends these dataclasses as JSON, and `mmray.client` reads them back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mmray.errors import MmrayError
from mmray.schema import Modality

MOST_QUERIES = 16  # recordings that are asked with together
MOST_MATCHES = 100_000  # of all answers of a batch
NOTE = "not a diagnosis: a research model's class probabilities, to be read beside its balanced accuracy and chance"


class QueryError(MmrayError):
    """A query that no index could answer: a bad vector, an unknown modality or filter value, top_k out of range."""

    exit_code = 2


class NothingServedError(MmrayError):
    """The workspace has no index any more, and what this endpoint had may not be told any more."""


class UnknownRecordingError(MmrayError):
    """No recording of this id is in the index."""

    exit_code = 3


@dataclass(frozen=True)
class Filters:
    """Which recordings may be answered; None lets all through.

    Attributes:
        label: the class's name, or its number.
        role: their subject's part in the run: train, validation, test or unseen.
        exclude_subject: a subject whose recordings are left out.
        age_min: of the subject, in years; somebody of unknown age passes neither this nor age_max.
    """

    label: str | None = None
    study: str | None = None
    task: str | None = None
    session: str | None = None
    role: str | None = None
    exclude_subject: str | None = None
    age_min: float | None = None
    age_max: float | None = None


@dataclass(frozen=True)
class Match:
    """One recording of an answer."""

    rank: int
    score: Annotated[float, Field(description="cosine similarity")]
    recording_id: str
    subject_id: str
    modality: Modality
    study: str
    session: str
    task: str
    label: int | None
    label_name: str | None
    age: float | None
    role: Annotated[str, Field(description="the subject's part in the run: train, validation, test or unseen")]
    seen_in_training: Annotated[
        bool, Field(description="whether the run was fitted on this subject, which makes a good score worth less")
    ]
    start_s: Annotated[float | None, Field(description="start of the match's segment that is most like the query")]


@dataclass(frozen=True)
class Evidence:
    """What the run's own test says of questions like this one, on people it never saw."""

    direction: Annotated[str, Field(description="as eeg->audio; fused for classes")]
    metric: str
    value: float
    chance: float | None
    p_value: float | None
    ci_low: float | None
    ci_high: float | None
    above_chance: Annotated[bool, Field(description="p_value < 0.05")]


@dataclass(frozen=True)
class Neighbour:
    """A training sample whose partner filled the lone query's slot of the other modality."""

    recording_id: Annotated[str, Field(description="a recording, or the sample's name where it is the mean of several")]
    subject_id: str
    modality: Annotated[Modality, Field(description="of what was filled in")]
    weight: Annotated[float, Field(description="mean over the query's segments; those of a modality sum to 1")]


@dataclass(frozen=True)
class SearchAnswer:
    """The best matches of one query, best first."""

    query: str
    query_modality: Annotated[str | None, Field(description="eeg, audio or eeg+audio; null for a vector")]
    target: Modality
    gallery: Annotated[int, Field(description="recordings compared with, after filters")]
    index_version: str
    run_id: str
    model: Annotated[str, Field(description="sha256 of the weights")]
    matches: list[Match]
    evidence: Evidence | None
    neighbours: list[Neighbour]
    modality_weights: Annotated[
        dict[str, float] | None,
        Field(description="share of each modality's slot in the query's vector; sums to 1, and may be negative"),
    ]

    def render(self) -> str:
        """As a table for a terminal."""
        head = f"{self.query} -> {self.target}: best {len(self.matches)} of {self.gallery}, index {self.index_version}"
        rows = [("rank", "score", "recording", "subject", "task", "label", "from", "part in the run")]
        for match in self.matches:
            label = match.label_name or ("" if match.label is None else str(match.label))
            start = "" if match.start_s is None else f"{match.start_s:g} s"
            rank, score = str(match.rank), f"{match.score:.4f}"
            rows.append((rank, score, match.recording_id, match.subject_id, match.task, label, start, match.role))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([head, *lines, *self._told()])

    def _told(self) -> list[str]:
        if self.evidence is None or self.evidence.chance is None or self.evidence.p_value is None:
            return []
        of = self.evidence
        said = "above chance" if of.above_chance else "not distinguishable from chance"
        figures = f"{of.metric} {of.value:.3f}, chance {of.chance:.3f}, p {of.p_value:.2g}"
        return [f"this run, on unseen people: {figures}: {said}"]


@dataclass(frozen=True)
class BatchAnswer:
    """One answer an id, in the order asked, all of one index version."""

    index_version: str
    run_id: str
    answers: list[SearchAnswer]


@dataclass(frozen=True)
class ClassProbability:
    """How probable a class is."""

    label: int
    label_name: str | None
    probability: float


@dataclass(frozen=True)
class Classification:
    """Class probabilities of one person's recordings, joined."""

    run_id: str
    model: Annotated[str, Field(description="sha256 of the weights")]
    query: str
    query_modality: Annotated[str, Field(description="eeg, audio or eeg+audio")]
    classes: list[ClassProbability]
    modality_weights: Annotated[
        dict[str, float] | None, Field(description="share of each modality in the fused vector; they sum to 1")
    ]
    subject_seen_in_training: Annotated[bool | None, Field(description="null where the file is of nobody known")]
    evidence: Annotated[Evidence | None, Field(description="balanced accuracy of the run")]
    note: str = NOTE


@dataclass(frozen=True)
class Stored:
    """A recording of the index."""

    recording_id: str
    subject_id: str
    modality: Modality
    study: str
    session: str
    task: str
    label: int | None
    label_name: str | None
    age: float | None
    role: Annotated[str, Field(description="the subject's part in the run: train, validation, test or unseen")]
    segments: int


@dataclass(frozen=True)
class StoredRecording(Stored):
    """A recording of the index, with where its segments begin."""

    index_version: str
    segment_start_s: list[float]


@dataclass(frozen=True)
class StoredList:
    """Recordings of the index, in order of id."""

    total: Annotated[int, Field(description="how many there are, of which at most `limit` follow")]
    recordings: list[Stored]
