"""What is sent to the endpoint, and what it tells of itself. Answers to queries are in `answer`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field

from mmray.schema import Metric, Modality
from mmray.serving.answer import MOST_QUERIES, Filters

MOST_IDS = 1000  # of a batch
MOST_FILES = 4
MOST_LISTED = 1000

Text = Annotated[str, Field(min_length=1, max_length=200)]
Age = Annotated[float, Field(ge=0, le=200)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Ask(_Closed):
    """What to look for, whatever the query is."""

    target: Modality = Field(description="what to look for: the recordings of this modality are ranked")
    top_k: int = Field(10, ge=1, description="how many matches, at most serve.top_k_limit")
    label: Text | None = Field(None, description="only recordings of this class, by name or number")
    study: Text | None = Field(None, description="only recordings of this study")
    task: Text | None = Field(None, description="only recordings of this task")
    session: Text | None = Field(None, description="only recordings of this session")
    role: Text | None = Field(
        None, description="only subjects of this part in the run: train, validation, test or unseen"
    )
    exclude_subject: Text | None = Field(None, description="leave this subject's recordings out")
    age_min: Age | None = Field(None, description="only subjects known to be this old or older, in years")
    age_max: Age | None = Field(None, description="only subjects known to be this old or younger, in years")

    def filters(self) -> Filters:
        """Which recordings may be answered."""
        return Filters(
            self.label,
            self.study,
            self.task,
            self.session,
            self.role,
            self.exclude_subject,
            self.age_min,
            self.age_max,
        )


class ById(_Closed):
    """Stored recordings, of one person where there are several."""

    recording_id: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_QUERIES)]

    @property
    def ids(self) -> list[str]:
        """All of them."""
        return [self.recording_id] if isinstance(self.recording_id, str) else self.recording_id


class SearchById(Ask, ById):
    """Search with stored recordings; several are joined."""

    explain: bool = Field(True, description="tell what filled a lone query's other slots; without, it is quicker")


class FormIds(_Closed):
    """The stored recordings of a form, beside its files."""

    recording_id: Annotated[list[Text], Field(max_length=MOST_QUERIES)] = []


class SearchForm(Ask, FormIds):
    """The fields of a search form, beside its files."""

    explain: bool = Field(True, description="tell what filled a lone query's other slots; without, it is quicker")


class SearchByVector(Ask):
    """Search with an embedding; it need not be unit length."""

    vector: Annotated[list[float], FailFast()] = Field(max_length=65536)


class SearchBatch(Ask):
    """One search a stored recording."""

    recording_ids: list[Text] = Field(min_length=1, max_length=MOST_IDS)


class Status(BaseModel):
    """What this endpoint serves."""

    index_version: str
    run_id: str
    model: str = Field(description="sha256 of the weights")
    features: str
    kind: str
    width: int = Field(description="numbers in a vector")
    recordings: dict[str, int] = Field(description="by modality")
    labels: list[str] = Field(description="names of the classes")
    evaluation: list[Metric] = Field(description="what the run's own test found, beside chance")
    takeover: str | None = Field(description="why the version that the workspace points at is not served; null: it is")
    top_k_limit: int
    max_upload_mb: float
    max_recording_s: float
    playback: bool = Field(description="whether stored recordings can be heard and seen")
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
