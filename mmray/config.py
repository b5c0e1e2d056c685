"""One pydantic tree is the whole experiment: YAML, then `--set a.b=c`, then validated once.

Every stage reads its own section. `digest` names an artefact by the settings that made it; fields that only say which
hardware to use are left out, so moving a run to another machine does not rename it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmray.errors import ConfigError

HARDWARE: dict[str, Any] = {"hardware": True}  # marks a field that changes where work runs, not what comes out

Similarity = Literal["cosine", "euclidean", "pearson", "phase_locking", "distance"]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _absolute(place: str) -> str:
    return place if not place or "://" in place else os.path.abspath(os.path.expanduser(place))


# a folder or a URI; absolute at once, because a worker's working directory is not ours
Place = Annotated[str, AfterValidator(_absolute)]


class Section(BaseModel):
    """A part of the tree: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Study(Section):
    """Where the recordings lie and in which layout."""

    kind: Literal["modma", "feis", "manifest", "synthetic"] = "modma"
    root: Place = Field("", description="folder of the study; for a manifest, the CSV or Parquet file")


class Synth(Section):
    """The synthetic study in MODMA's layout (DESIGN section 5)."""

    subjects: int = Field(53, ge=4)
    eeg_seconds: float = Field(300.0, ge=4, description="rest EEG a subject, s; up to 12 % longer, as MODMA's")
    clips: int = Field(29, ge=1, le=29, description="voice clips a subject")
    clip_seconds: float = Field(15.0, ge=1, description="mean length of an interview clip, s; reading runs longer")
    coupling: Fraction = Field(0.8, description="correlation of the modalities' latent traits; 0: chance")
    traits: int = Field(8, ge=1, le=8, description="latent traits a subject and modality")
    nuisance: float = Field(1.0, ge=0, description="scale of what differs without meaning anything")
    label_effect: float = Field(
        1.0, ge=0, description="distance of the classes' EEG traits, SD; the voice's is coupling times it"
    )


class EEG(Section):
    """Microvolts to node features, one node an electrode."""

    montage: str = "GSN-HydroCel-129"
    channels: tuple[str, ...] | None = Field(None, description="names in node order; null: all of the montage's but Cz")
    scale_to_volts: Positive = 1e-6
    highpass_hz: Positive = 0.5
    lowpass_hz: Positive = 45.0
    line_hz: Positive = 50.0
    segment_s: Positive = 4.0
    reject_uv: Positive = Field(200.0, description="median over electrodes of the peak-to-peak range; more is rejected")
    max_bad_fraction: Fraction = Field(0.25, description="a recording with more bad electrodes is quarantined")
    similarity: Similarity = "pearson"
    neighbours: int = Field(8, ge=1, le=127)

    @model_validator(mode="after")
    def _band_is_ordered(self) -> Self:
        if self.highpass_hz >= self.lowpass_hz:
            raise ValueError("highpass_hz must lie below lowpass_hz")
        return self


class Audio(Section):
    """Voice to node features, one node a time frame."""

    sampling_rate_hz: int = Field(16000, ge=8000)
    segment_s: Positive = 4.0
    nodes: int = Field(32, ge=4, description="time frames a segment")
    trim_db: float | None = Field(40.0, description="leading and trailing silence this far below the peak is cut")
    mels: int = Field(40, ge=8)
    mfcc: int = Field(13, ge=2)
    f0_min_hz: Positive = 65.0
    f0_max_hz: Positive = 500.0
    similarity: Literal["cosine", "euclidean", "pearson"] = "cosine"
    neighbours: int = Field(8, ge=1, le=127)


class Features(Section):
    """What `mmray prepare` makes; its digest names features/<digest>."""

    eeg: EEG = EEG()
    audio: Audio = Audio()


class Split(Section):
    """Subject-disjoint folds, made once and then a file."""

    name: str = Field("default", pattern=r"^[\w-]+$")
    folds: int = Field(5, ge=2)
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    seed: int = Field(0, ge=0)


class Model(Section):
    """The network."""

    name: Literal["crossmodal_gcn"] = "crossmodal_gcn"
    hidden: int = Field(64, ge=2)
    embedding: int = Field(64, ge=2, description="width d of z and of the retrieval embedding")
    layers: int = Field(2, ge=1)
    pool_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1


class Train(Section):
    """One fit: which fold, which budget, and on how many workers."""

    fold: int = Field(0, ge=0)
    epochs: int = Field(60, ge=1)
    batch_size: int = Field(32, ge=2, description="distinct subjects a global batch")
    passes: int = Field(8, ge=1, description="times an epoch sees each subject, paired anew each time")
    learning_rate: Positive = 1e-3
    weight_decay: float = Field(1e-2, ge=0)
    retrieval_weight: float = Field(1.0, ge=0, description="w_r, of eq. 6")
    classification_weight: float = Field(0.5, ge=0, description="w_c, of the cross-entropy")
    patience: int = Field(15, ge=1, description="epochs without a better validation MRR before it stops")
    num_workers: int = Field(0, ge=0, json_schema_extra=HARDWARE, description="0: in this process; N: DDP")
    max_failures: int = Field(3, ge=0, json_schema_extra=HARDWARE)


class Evaluate(Section):
    """Resampling behind intervals and p-values."""

    bootstraps: int = Field(2000, ge=10)
    permutations: int = Field(2000, ge=10)


class Index(Section):
    """The vector index."""

    kind: Literal["flat", "hnsw"] = "flat"
    hnsw_links: int = Field(32, ge=4)
    hnsw_ef: int = Field(64, ge=8)


class Serve(Section):
    """The endpoint."""

    host: str = Field("127.0.0.1", json_schema_extra=HARDWARE)
    port: int = Field(8000, ge=1, le=65535, json_schema_extra=HARDWARE)
    replicas: int = Field(1, ge=1, json_schema_extra=HARDWARE)
    max_ongoing_requests: int = Field(16, ge=1, json_schema_extra=HARDWARE)
    max_queued_requests: int = Field(64, ge=1, json_schema_extra=HARDWARE)
    request_timeout_s: Positive = Field(30.0, json_schema_extra=HARDWARE)
    max_upload_mb: Positive = Field(200.0, json_schema_extra=HARDWARE)
    top_k_limit: int = Field(1000, ge=1, json_schema_extra=HARDWARE)


class Cluster(Section):
    """Where work runs. Never part of an artefact's name."""

    address: str | None = Field(None, description="null: RAY_ADDRESS if set, else an embedded Ray")
    num_cpus: int | None = Field(None, ge=2, description="of an embedded Ray; null: the cores, at least 4")
    task_cpus: Positive = Field(1.0, description="of a preparation task, and its thread count")
    worker_cpus: Positive = Field(0.5, description="of a training worker")
    gpus_per_worker: float = Field(0.0, ge=0)


class Config(Section):
    """The experiment."""

    workspace: Place = Field(
        "mmray-ws", validate_default=True, json_schema_extra=HARDWARE, description="folder or URI of every artefact"
    )
    seed: int = Field(0, ge=0)
    study: Study = Study()
    synth: Synth = Synth()
    features: Features = Features()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    index: Index = Index()
    serve: Serve = Serve()
    cluster: Cluster = Field(Cluster(), json_schema_extra=HARDWARE)


def load(path: str | Path | None = None, overrides: list[str] | None = None) -> Config:
    """Read a YAML file, lay `a.b=c` overrides on top, and validate.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `section.field=value`; the value is read as YAML, so `null`, `1e-3` and `[F3, F4]` mean what they
            say.

    Raises:
        ConfigError: the file cannot be read, or a key or a value is refused; the message names the key and, for a
            misspelt one, the nearest that exists.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"config: cannot read {path}: {error}") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"config: {path} holds a {type(tree).__name__}, not a mapping of sections")
    for override in overrides or []:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {override}: write it as section.field=value")
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override}: {parent} is a value, not a section")
        node[leaf] = _scalar(text)
    return from_dict(tree)


def from_dict(tree: dict[str, Any]) -> Config:
    """Validate a plain tree. Raises ConfigError as `load` does."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(tuple(item["loc"]), item["type"], item["msg"]) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `load` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def digest(*parts: Section | str | int | float) -> str:
    """Twelve hex digits naming these settings; hardware fields are left out, key order does not matter."""
    plain = [_scientific(part) if isinstance(part, Section) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _scientific(section: Section) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("hardware"):
            continue
        value = getattr(section, name)
        kept[name] = _scientific(value) if isinstance(value, Section) else value
    return kept


def _scalar(text: str) -> Any:
    try:
        return float(text) if _is_exponent(text) else yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: cannot read the value {text!r}: {error}") from error


def _is_exponent(text: str) -> bool:
    # YAML 1.1 reads 1e-3 as a string; every user means a number
    head, _, tail = text.lower().partition("e")
    try:
        float(head), int(tail)
    except ValueError:
        return False
    return True


def _explain(location: tuple[Any, ...], kind: str, message: str) -> str:
    key = ".".join(str(part) for part in location)
    if kind != "extra_forbidden":
        return f"config: {key}: {message}"
    parent = _section_at(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), list(parent.model_fields), n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(parent.model_fields)}"
    return f"config: {key} is not a setting; {hint}"


def _section_at(location: tuple[Any, ...]) -> type[Section]:
    section: type[Section] = Config
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
        section = next(m for m in members if isinstance(m, type) and issubclass(m, Section))
    return section
