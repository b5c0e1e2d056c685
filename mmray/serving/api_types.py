"""What travels over HTTP. No path and no signal is in any answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from mmray.schema import Modality

Text = Annotated[str, Field(min_length=1, max_length=200)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ask(_Closed):
    """What to look for, whatever the query is."""

    target: Modality = Field(description="what to look for: the recordings of this modality are ranked")
    top_k: int = Field(10, description="how many matches, at most serve.top_k_limit")
    label: Text | None = Field(None, description="only recordings of this class, by name or number")
    task: Text | None = Field(None, description="only recordings of this task")
    session: Text | None = Field(None, description="only recordings of this session")
    role: Text | None = Field(
        None, description="only subjects of this part in the run: train, validation, test or unseen"
    )
    exclude_subject: Text | None = Field(None, description="leave this subject's recordings out")


class SearchById(Ask):
    """Search with a stored recording."""

    recording_id: Text


class SearchByVector(Ask):
    """Search with an embedding; it need not be unit length."""

    vector: list[float] = Field(max_length=65536)


class Match(BaseModel):
    """One recording of an answer; score is the cosine similarity."""

    model_config = ConfigDict(from_attributes=True)

    rank: int
    score: float
    recording_id: str
    subject_id: str
    modality: Modality
    session: str
    task: str
    label: int | None
    label_name: str | None
    role: str = Field(description="the subject's part in the run: train, validation, test or unseen")
    seen_in_training: bool


class SearchAnswer(BaseModel):
    """The best matches, best first."""

    model_config = ConfigDict(from_attributes=True)

    query: str
    query_modality: Modality | None
    target: Modality
    gallery: int = Field(description="recordings compared with, after filters")
    index_version: str
    run_id: str
    matches: list[Match]


class Status(BaseModel):
    """What this endpoint serves."""

    index_version: str
    run_id: str
    model: str = Field(description="sha256 of the weights")
    features: str
    kind: str
    width: int = Field(description="numbers in a vector")
    recordings: dict[str, int] = Field(description="by modality")
    top_k_limit: int
    max_upload_mb: float
    version: str


class Health(BaseModel):
    """The replica answers."""

    status: str = "ok"


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
