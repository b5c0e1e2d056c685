"""One pydantic tree is the whole experiment: YAML, then `--set a.b=c`, then validated once.

Every stage reads its own section. `digest` names an artefact by the settings that made it; fields that only say which
hardware to use are left out, so moving a run to another machine does not rename it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from mmray.errors import ConfigError

HARDWARE: dict[str, Any] = {"hardware": True}  # marks a field that changes where work runs, not what comes out
# sections and fields that a run's weights are made with; the rest may change afterwards
FITTING = ("seed", "features", "split", "model", "train")

System = Literal[
    "crossmodal_gcn", "gcn", "gat", "graphsage", "strucgcn", "mamsa", "clip", "majority", "logreg", "ridge", "trf"
]
StudyName = Literal[
    "modma", "feis", "eav", "bids", "manifest", "synthetic", "listening"
]  # keys of recordings.studies.STUDIES
Similarity = Literal[
    "cosine", "euclidean", "pearson", "phase_locking", "coherence", "imaginary_coherence", "wpli", "distance"
]
AudioFamily = Literal["log_mel", "mfcc", "pitch", "harmonicity", "energy", "envelope", "prosody", "egemaps"]
Spot = Literal["prefer", "require", "ignore"]
Band = Literal["delta", "theta", "alpha", "beta", "gamma"]
EEGFamily = Literal[
    "differential_entropy", "hjorth", "absolute_power", "relative_power", "aperiodic", "asymmetry", "waveform"
]
Positive = Annotated[float, Field(gt=0)]
_ELSEWHERE = {"elsewhere": True}  # pydantic's context where settings are only passed on
AtLeastOne = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def _absolute(place: str, about: ValidationInfo) -> str:
    if place.startswith("~") and about.context == _ELSEWHERE:
        return place
    if "://" not in place:
        return os.path.abspath(os.path.expanduser(place)) if place else place
    if re.match(r"[^/]*://[^/@:]*:[^/@]*@", place):
        # the settings are saved beside every result, and messages name the workspace
        raise ValueError(
            "the URI holds a secret; put it in the environment, as AWS_SECRET_ACCESS_KEY or MMRAY_MILVUS_TOKEN"
        )
    return place


_T = TypeVar("_T")


def _each_once(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{', '.join(map(str, values))} names one twice")
    return values


Grid = Annotated[tuple[_T, ...], Field(min_length=1), AfterValidator(_each_once)]
# an object that can be imported, as package.module:name
Importable = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
# a folder or a URI; absolute at once, because a worker's working directory is not ours
Place = Annotated[str, AfterValidator(_absolute)]


class Section(BaseModel):
    """A part of the tree: immutable, and closed to keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _named_with_its_version(encoder: str | None, version: str | None) -> None:
    if (encoder is None) != (version is None):
        raise ValueError("encoder and encoder_version go together: name the version that the encoder declares")


class Study(Section):
    """Where the recordings lie and in which layout."""

    kind: StudyName = Field("modma", description="layout of the study; docs/studies.md has them all")
    root: Place = Field("", description="folder of the study; for a manifest, the CSV or Parquet file")
    tasks: tuple[str, ...] | None = Field(
        None, description="only recordings of these tasks; null: all but those that the study leaves aside"
    )
    label_column: str | None = Field(
        None, description="bids: the column of participants.tsv that is the label; null: group, diagnosis or label"
    )

    @model_validator(mode="after")
    def _columns_are_bids(self) -> Self:
        if self.label_column is not None and self.kind != "bids":
            raise ValueError(f"label_column is for kind = bids, not {self.kind}; its labels come from elsewhere")
        return self


class Synth(Section):
    """The synthetic study in MODMA's layout."""

    subjects: int = Field(53, ge=4, description="people")
    eeg_seconds: float = Field(300.0, ge=4, description="rest EEG a subject, s; up to 12 % longer, as MODMA's")
    clips: int = Field(29, ge=1, le=29, description="voice clips a subject")
    clip_seconds: float = Field(15.0, ge=1, description="mean length of an interview clip, s; reading runs longer")
    coupling: Fraction = Field(0.8, description="correlation of the modalities' latent traits; 0: chance")
    traits: int = Field(8, ge=1, le=8, description="latent traits a subject and modality")
    nuisance: float = Field(1.0, ge=0, description="scale of what differs without meaning anything")
    label_effect: float = Field(
        1.0, ge=0, description="distance of the classes' EEG traits, SD; the voice's is coupling times it"
    )


class Listening(Section):
    """The synthetic time-locked study: people who each listen to speech of their own."""

    subjects: int = Field(24, ge=4, description="people")
    trials: int = Field(4, ge=1, description="recordings of EEG and speech a person")
    trial_seconds: int = Field(60, ge=4, description="length of each, s")
    response_db: tuple[float, float] = Field(
        (-15.0, 0.0), description="range of the people's responses to the speech, dB over the rest of their EEG"
    )
    nuisance: float = Field(1.0, ge=0, description="scale of what differs without meaning anything")

    @model_validator(mode="after")
    def _levels_are_ordered(self) -> Self:
        if self.response_db[0] > self.response_db[1]:
            raise ValueError("response_db: name the lower level first")
        return self


class EEG(Section):
    """Microvolts to node features, one node an electrode."""

    montage: str = Field("GSN-HydroCel-129", description="electrode positions, one of mne's built-in montages")
    channels: tuple[str, ...] | None = Field(None, description="names in node order; null: all of the montage's but Cz")
    scale_to_volts: Positive = Field(1e-6, description="volts a unit of the file, where the format does not say")
    highpass_hz: Positive = Field(0.5, description="lower edge of the band-pass")
    lowpass_hz: Positive = Field(45.0, description="upper edge of the band-pass")
    line_hz: Positive = Field(50.0, description="mains frequency, notched out")
    segment_s: Positive = Field(4.0, description="length of a segment, s")
    reject_uv: Positive = Field(200.0, description="median over electrodes of the peak-to-peak range; more is rejected")
    max_bad_fraction: Fraction = Field(0.25, description="a recording with more bad electrodes is quarantined")
    ica: bool = Field(
        False,
        description="take out independent components that ICLabel calls eye, muscle, heart, mains or channel noise"
        "; needs the extra [ica]",
    )
    autoreject: bool = Field(
        False,
        description="judge each segment sensor by sensor and mend it, before reject_uv; needs the extra [autoreject]",
    )
    families: Grid[EEGFamily] = Field(
        ("differential_entropy", "hjorth"),
        description=f"what a node tells, of docs/features.md: {', '.join(typing.get_args(EEGFamily))}",
    )
    waveform_hz: Positive = Field(64.0, description="samples a second of a waveform; what lies above half is cut off")
    encoder: Importable | None = Field(
        None, description="package.module:callable whose node features take the families' place; see docs/encoders.md"
    )
    encoder_version: str | None = Field(
        None, description="the version that the encoder must declare; part of the digest"
    )
    similarity: Similarity = Field(
        "pearson", description=f"what makes two electrodes neighbours: {', '.join(typing.get_args(Similarity))}"
    )
    connectivity_band: Band | None = Field(
        "alpha", description="where coherence, imaginary_coherence and wpli look; null: the whole pass-band"
    )
    neighbours: int = Field(8, ge=1, le=127, description="k, edges kept a node")

    @model_validator(mode="after")
    def _band_is_ordered(self) -> Self:
        if self.highpass_hz >= self.lowpass_hz:
            raise ValueError("highpass_hz must lie below lowpass_hz")
        return self

    @model_validator(mode="after")
    def _families_go_together(self) -> Self:
        _named_with_its_version(self.encoder, self.encoder_version)
        if "waveform" in self.families and len(self.families) > 1:
            raise ValueError(
                "families: waveform stands alone; an encoder of samples cannot read other features as time"
            )
        return self


class Audio(Section):
    """Voice to node features, one node a time frame."""

    sampling_rate_hz: int = Field(16000, ge=8000, description="every clip is resampled to it")
    segment_s: Positive = Field(4.0, description="length of a segment, s; a shorter clip is quarantined")
    nodes: int = Field(32, ge=4, description="time frames a segment")
    trim_db: Positive | None = Field(40.0, description="silence at the ends this far below the peak is cut; null: none")
    min_active: Fraction = Field(
        0.0, description="a segment with a smaller share of speech is dropped (ITU-T P.56); 0: all are kept"
    )
    mels: int = Field(40, ge=8, description="mel bands")
    mfcc: int = Field(13, ge=2, description="cepstral coefficients, mean and SD of each")
    f0_min_hz: Positive = Field(65.0, description="lowest voice pitch looked for")
    f0_max_hz: Positive = Field(500.0, description="highest voice pitch looked for")
    families: Grid[AudioFamily] = Field(
        ("log_mel", "mfcc", "pitch", "harmonicity", "energy"),
        description=f"what a node tells, of docs/features.md: {', '.join(typing.get_args(AudioFamily))}; egemaps needs "
        "the extra [opensmile]",
    )
    encoder: Importable | None = Field(
        None, description="package.module:callable whose node features take the families' place; see docs/encoders.md"
    )
    encoder_version: str | None = Field(
        None, description="the version that the encoder must declare; part of the digest"
    )
    similarity: Literal["cosine", "euclidean", "pearson"] = Field(
        "cosine", description="what makes two frames neighbours"
    )
    neighbours: int = Field(8, ge=1, le=127, description="k, edges kept a node")

    @model_validator(mode="after")
    def _families_go_together(self) -> Self:
        _named_with_its_version(self.encoder, self.encoder_version)
        if not self.encoder and "mfcc" in self.families and self.mfcc > self.mels:
            raise ValueError(f"mfcc = {self.mfcc} coefficients of mels = {self.mels} bands; take at most as many")
        return self


class Features(Section):
    """What `mmray prepare` makes; its digest names features/<digest>."""

    pairing: Literal["recording", "window"] = Field(
        "recording",
        description="what matches: all of a pair_id's recordings; or, where its EEG and its voice began at the same "
        "moment, the same window of both",
    )
    eeg: EEG = EEG()
    audio: Audio = Audio()

    @model_validator(mode="after")
    def _windows_are_the_same(self) -> Self:
        if self.pairing == "window" and self.eeg.segment_s != self.audio.segment_s:
            raise ValueError(
                f"pairing = window needs windows of one length; eeg.segment_s = {self.eeg.segment_s:g} and "
                f"audio.segment_s = {self.audio.segment_s:g} differ"
            )
        if self.pairing == "window" and self.audio.trim_db is not None:
            raise ValueError("pairing = window keeps the clock of both recordings; set audio.trim_db=null")
        return self


class Split(Section):
    """Subject-disjoint folds, made once and then a file."""

    name: str = Field("default", pattern=r"^[\w-]+$", description="names splits/<name>.json")
    folds: int = Field(5, ge=2, description="outer folds; each subject is tested in one")
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="share of the other subjects that stops training early"
    )
    seed: int = Field(0, ge=0, description="of the draw")


class Model(Section):
    """The network."""

    name: System = Field("crossmodal_gcn", description=f"which system: {', '.join(typing.get_args(System))}")
    hidden: int = Field(64, ge=2, description="width of a node inside the encoder")
    embedding: int = Field(64, ge=2, description="width d of z and of the retrieval embedding")
    layers: int = Field(2, ge=1, description="graph layers; crossmodal_gcn pools after each")
    pool_ratio: Annotated[float, Field(gt=0, le=1)] = Field(0.5, description="share of nodes a pooling keeps")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="in training")
    components: int = Field(
        10,
        ge=1,
        description="crossmodal_gcn: directions its linear skip takes, in which training people differ most, for how "
        "much each differs from himself",
    )
    stochastic_depth: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.5, description="crossmodal_gcn: share of training batches in which its skip does without the graph layers"
    )
    attention: bool = Field(True, description="crossmodal_gcn: cross-modal attention, eq. 2-4; off for ablation")
    gate: bool = Field(True, description="crossmodal_gcn: feature-level gate; off: the mean of what is there")
    population: bool = Field(
        True, description="crossmodal_gcn: a lone query asks similar training subjects what their partners look like"
    )
    population_neighbours: int = Field(5, ge=1, description="crossmodal_gcn: k, how many of them")
    pooling: bool = Field(True, description="crossmodal_gcn: top-k pooling after each layer; off: every node stays")
    node_encoder: Literal["linear", "mlp", "conv"] = Field(
        "linear",
        description="crossmodal_gcn: a node's features to its hidden vector; conv filters an electrode's samples, and "
        "needs features.eeg.families=[waveform]; voices keep the linear map under it",
    )
    time_steps: int | None = Field(
        None,
        ge=2,
        description="crossmodal_gcn: stretches of a window whose order its embedding keeps, a divisor of embedding; "
        "for features.pairing=window; null: a segment is summed up",
    )
    time_span: int = Field(
        17,
        ge=3,
        description="crossmodal_gcn, trf: samples or frames that a filter in time spans; trf takes the later half",
    )
    learned_adjacency: bool = Field(
        False,
        description="crossmodal_gcn: a learned weight a pair of electrodes, from 0, added to the segment's own graph",
    )
    heads: int = Field(4, ge=1, description="gat: attention heads a layer; they share its width, so they divide hidden")
    gat_v2: bool = Field(False, description="gat: attention of GATv2, which ranks neighbours anew for each node")
    sampled_neighbours: int = Field(8, ge=1, description="graphsage: neighbours a node averages over in training")
    self_weight: Positive = Field(1.0, description="strucgcn: alpha, a node's own weight beside its structural peers")
    structural_weight: float = Field(1.0, ge=0, description="strucgcn: gamma, weight of the structural similarity")
    tokens: int = Field(4, ge=1, description="mamsa: vectors a segment is summed up in before fusion")

    @model_validator(mode="after")
    def _steps_share_the_width(self) -> Self:
        if self.time_steps is not None and self.embedding % self.time_steps:
            raise ValueError(f"time_steps = {self.time_steps} must divide embedding = {self.embedding}")
        return self

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.name == "gat" and self.hidden % self.heads:
            raise ValueError(f"heads = {self.heads} must divide hidden = {self.hidden}")
        return self


class Train(Section):
    """One fit: which fold, which budget, and on how many workers."""

    fold: int = Field(0, ge=0, description="outer fold to test on")
    epochs: int = Field(60, ge=1, description="at most")
    batch_size: int = Field(256, ge=2, description="distinct pair_ids a global batch, at most")
    passes: int = Field(8, ge=1, description="times an epoch sees each pair_id, its segments drawn anew each time")
    segments: int = Field(4, ge=1, description="segments of each modality that a training sample is the mean of")
    learning_rate: Positive = Field(1e-3, description="of AdamW, where its schedule is highest")
    schedule: Literal["constant", "cosine", "one_cycle", "plateau"] = Field(
        "cosine",
        description="of the learning rate, epoch by epoch; plateau halves it when validation MRR stands still for more "
        "than a third of patience",
    )
    clip_norm: Positive | None = Field(1.0, description="norm that a longer gradient is cut to; null: none")
    weight_decay: float = Field(1e-2, ge=0, description="of AdamW, on matrices alone")
    retrieval_weight: float = Field(1.0, ge=0, description="w_r, of eq. 6; validation MRR picks the epoch at 0 as well")
    classification_weight: float = Field(0.5, ge=0, description="w_c, of the cross-entropy")
    class_weights: bool = Field(
        False,
        description="the cross-entropy weighs each class by n / (C n_c), of the fold's labelled training subjects",
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.98, description="decay of the averaged weights that are validated and kept; 0: the last weights themselves"
    )
    reference_every: int = Field(1, ge=1, description="epochs between refreshes of the population graph's reference")
    reference_segments: int = Field(4, ge=1, description="segments that a reference sample is the mean of, at most")
    validation_segments: int = Field(
        16,
        ge=1,
        description="segments that a validation pair_id is the mean of while training and for the temperature, at most",
    )
    patience: int = Field(15, ge=1, description="epochs without a better validation MRR before it stops")
    shuffled_pairs: int | None = Field(
        None,
        ge=0,
        description="control: voices are dealt out anew among the people of a part, or among a person's trials or "
        "windows, drawn by this seed, so that nothing can be found; null: as recorded",
    )
    num_workers: Annotated[int, Field(ge=0)] | tuple[AtLeastOne, AtLeastOne] = Field(
        0,
        json_schema_extra=HARDWARE,
        description="0: in this process; N: DDP; [least, most]: as many as there is room for, fewer after a node is "
        "lost and more when one comes; the figures depend on it a little",
    )
    compile: bool = Field(
        False,
        json_schema_extra=HARDWARE,
        description="torch.compile of the encoders in the fit; on a CPU we measured no gain",
    )
    max_failures: int = Field(
        3, ge=0, json_schema_extra=HARDWARE, description="worker deaths it recovers from; announced losses do not count"
    )
    track: Literal["none", "tensorboard", "mlflow"] = Field(
        "none", json_schema_extra=HARDWARE, description="who else is told of every epoch; mlflow needs its extra"
    )

    @property
    def group(self) -> tuple[int, int]:
        """Least and most workers; (0, 0) where the fit is in this process."""
        return self.num_workers if isinstance(self.num_workers, tuple) else (self.num_workers, self.num_workers)

    @model_validator(mode="after")
    def _least_comes_first(self) -> Self:
        if self.group[0] > self.group[1]:
            raise ValueError(f"num_workers = {list(self.group)}: name the lower number first")
        return self

    @model_validator(mode="after")
    def _class_weights_weigh_something(self) -> Self:
        if self.class_weights and not self.classification_weight:
            raise ValueError("class_weights weigh nothing where classification_weight = 0; switch them off")
        return self

    @model_validator(mode="after")
    def _plateau_comes_before_the_end(self) -> Self:
        if self.schedule == "plateau" and self.patience < 2:
            raise ValueError("schedule = plateau lowers no rate before patience = 1 ends the fit; raise patience")
        return self


class Range(Section):
    """Numbers that a search draws from."""

    low: float
    high: float
    log: bool = Field(False, description="even over orders of magnitude")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low = {self.low} must be below high = {self.high}, and above 0 where log = true")
        return self


class Search(Section):
    """Which settings matter: samples of them by Optuna, judged by each fold's validation subjects, beside the grid."""

    samples: int = Field(0, ge=0, description="0: no search; needs the extra [search]")
    system: System = Field("crossmodal_gcn", description="whose settings")
    space: dict[str, Range | tuple[bool | int | float | str, ...]] = Field(
        {
            "train.learning_rate": Range(low=1e-5, high=1e-2, log=True),
            "train.weight_decay": Range(low=1e-4, high=1e-1, log=True),
            "train.classification_weight": Range(low=0.1, high=2.0, log=True),
            "train.schedule": ("constant", "cosine", "one_cycle", "plateau"),
            "model.dropout": Range(low=0.0, high=0.6),
            "model.hidden": (16, 32, 64, 128),
        },
        description="setting -> {low, high, log} or a list of choices",
    )
    asha: bool = Field(
        True, description="stop samples that lag behind after a few folds (ASHA); the reported grid never stops early"
    )


class Sweep(Section):
    """Which fits are compared: (systems + variants) x learning rates x folds x seeds."""

    systems: Grid[System] = Field(
        ("crossmodal_gcn", "gcn", "gat", "graphsage", "strucgcn", "mamsa"),
        description="the first is what the others are tested against",
    )
    variants: dict[str, dict[str, bool | int | float | str]] = Field(
        {}, description="name -> settings over the experiment's own, as {no gate: {model.gate: false}}, for ablations"
    )
    learning_rates: Grid[Positive] = Field(
        (1e-2, 1e-3, 1e-4, 1e-5), description="each fold and seed takes the one that its validation subjects prefer"
    )
    folds: Grid[int] | None = Field(None, description="outer folds; null: all of the split")
    seeds: int = Field(3, ge=1, description="fits of each fold, which differ in weights and batches alone")
    pbt: bool = Field(
        False,
        description="also fit the first system's learning rates as one population a fold and seed, under the name pbt",
    )
    search: Search = Search()


class Evaluate(Section):
    """Resampling behind intervals and p-values."""

    bootstraps: int = Field(2000, ge=10, description="resamples of subjects, for 95 % intervals")
    permutations: int = Field(2000, ge=99, description="between subjects, for p-values")


class Power(Section):
    """How many people a study needs: the grid of synthetic studies that `mmray power` fits."""

    systems: Grid[System] = Field(("crossmodal_gcn", "ridge"), description="who looks for partners")
    subjects: Grid[Annotated[int, Field(ge=8)]] = Field(
        (40, 80, 160, 320), description="people that a fit learns from, validation included"
    )
    couplings: Grid[Fraction] = Field((0.0, 0.4, 0.8), description="of the studies; 0: nothing can be found")
    tested: int = Field(60, ge=6, description="further people, whom it is tested on: the gallery")
    studies: int = Field(5, ge=2, description="synthetic studies a coupling, each of people of its own")


class Index(Section):
    """The vector index."""

    kind: Literal["auto", "flat", "hnsw", "sq", "ivfpq"] = Field(
        "auto", description="flat is exact; hnsw, fast when large; sq and ivfpq, small; auto: flat or hnsw by size"
    )
    exact_below: int = Field(20_000, ge=1, description="vectors of a modality; auto is flat below, hnsw from here on")
    hnsw_links: int = Field(32, ge=4, description="M of an HNSW")
    hnsw_ef: int | None = Field(
        None,
        ge=8,
        description="candidates an HNSW search keeps; null: as few of 64 to 2048 as find 0.99 of the ten best",
    )
    ivf_lists: int | None = Field(None, ge=1, description="cells of an ivfpq; null: 4 sqrt(vectors)")
    ivf_probe: int | None = Field(None, ge=1, description="cells an ivfpq search looks into; null: likewise")
    pq_bytes: int | None = Field(None, ge=1, description="of an ivfpq's code; must divide the width; null: width / 4")
    rerank: int | None = Field(
        None,
        ge=1,
        description="candidates of sq or ivfpq, a match, compared by their exact vectors; null: 20 to 320, likewise",
    )
    min_recall: Fraction = Field(0.95, description="recall@10 that an index must reach to be published")
    build_threads: int = Field(
        1, ge=1, description="of an HNSW build; with more than one, building again gives other bytes"
    )
    backend: Literal["faiss", "milvus"] = Field("faiss", description="files in the workspace, or a Milvus beyond them")
    milvus_uri: Place | None = Field(
        None,
        json_schema_extra=HARDWARE,
        description="of a server, or a .db file of milvus-lite; a token comes from MMRAY_MILVUS_TOKEN alone",
    )

    @model_validator(mode="after")
    def _milvus_has_a_place(self) -> Self:
        if self.backend == "milvus" and not self.milvus_uri:
            raise ValueError("index.backend = milvus needs index.milvus_uri, as http://host:19530 or a file's path")
        if self.milvus_uri and "@" in self.milvus_uri and "://" in self.milvus_uri:
            raise ValueError("index.milvus_uri holds a secret; set MMRAY_MILVUS_TOKEN=user:password in the environment")
        if self.backend == "milvus" and self.kind in ("sq", "ivfpq"):
            raise ValueError(f"index.kind = {self.kind} is of faiss; with index.backend = milvus take flat or hnsw")
        return self


class Serve(Section):
    """The endpoint."""

    host: str = Field("127.0.0.1", json_schema_extra=HARDWARE, description="loopback refuses every other machine")
    port: int = Field(8000, ge=1, le=65535, json_schema_extra=HARDWARE, description="of the front")
    replicas: int = Field(1, ge=1, json_schema_extra=HARDWARE, description="processes that answer")
    replicas_max: int | None = Field(
        None, ge=1, json_schema_extra=HARDWARE, description="grow up to these under load; null: as many as replicas"
    )
    max_ongoing_requests: int = Field(16, ge=1, json_schema_extra=HARDWARE, description="in flight a replica")
    max_queued_requests: int = Field(64, ge=1, json_schema_extra=HARDWARE, description="waiting; more are answered 503")
    request_timeout_s: Positive = Field(30.0, json_schema_extra=HARDWARE, description="a longer request is cut")
    refresh_s: Positive = Field(
        2.0, json_schema_extra=HARDWARE, description="between looks at the index that is published"
    )
    max_upload_mb: Positive = Field(200.0, json_schema_extra=HARDWARE, description="a larger upload is answered 413")
    max_recording_s: Positive = Field(
        3600.0, json_schema_extra=HARDWARE, description="a longer uploaded recording is answered 422"
    )
    top_k_limit: int = Field(1000, ge=1, json_schema_extra=HARDWARE, description="matches an answer may hold")
    playback: bool = Field(
        True, json_schema_extra=HARDWARE, description="whether stored recordings can be heard and seen by who has a key"
    )
    access_log: Place | None = Field(
        None,
        json_schema_extra=HARDWARE,
        description="folder of a file a replica with a line a request; null: stderr, which Ray keeps in its logs",
    )

    @model_validator(mode="after")
    def _grows(self) -> Serve:
        if self.replicas_max is not None and self.replicas_max < self.replicas:
            raise ValueError(f"replicas_max is {self.replicas_max}, below replicas ({self.replicas})")
        return self


class Cluster(Section):
    """Where work runs. Never part of an artefact's name."""

    address: str | None = Field(None, description="null: RAY_ADDRESS if set, else an embedded Ray")
    num_cpus: int | None = Field(None, ge=2, description="of an embedded Ray; null: the cores, at least 4")
    task_cpus: Positive = Field(1.0, description="of a preparation task, and its thread count")
    encoder_cpus: Positive = Field(
        1.0, description="of an actor that holds features.<modality>.encoder, and its threads"
    )
    encoder_gpus: float = Field(0.0, ge=0, description="of such an actor; 0.25: four share a GPU; 0: CPU")
    worker_cpus: Positive = Field(0.5, description="of a training worker, and its thread count, at least 1")
    gpus_per_worker: float = Field(
        0.0, ge=0, description="of a training worker, a whole number or, of a single worker, a share of one; 0: CPU"
    )
    worker_gib: float = Field(0.0, ge=0, description="memory of a training worker, GiB; 0: it asks for none")
    replica_gib: float = Field(0.0, ge=0, description="memory of a serving replica, GiB; 0: it asks for none")
    spot: Spot = Field(
        "prefer",
        description="nodes labelled mmray/market=spot for preparation, indexing and other tasks that are simply run "
        "again: prefer, require or ignore; replicas never stand on them",
    )
    wait_s: float = Field(
        0.0,
        ge=0,
        description="how long a stage waits for nodes that it misses, s, having asked the autoscaler for them; and a "
        "training group for a node that it lost, at least 60 s",
    )


class Config(Section):
    """The experiment."""

    workspace: Place = Field(
        "mmray-ws", validate_default=True, json_schema_extra=HARDWARE, description="folder or URI of every artefact"
    )
    seed: int = Field(0, ge=0, description="of weights, batches, resampling and the synthetic study")
    study: Study = Study()
    synth: Synth = Synth()
    listening: Listening = Listening()
    features: Features = Features()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    sweep: Sweep = Sweep()
    evaluate: Evaluate = Evaluate()
    power: Power = Power()
    index: Index = Index()
    serve: Serve = Serve()
    cluster: Cluster = Field(Cluster(), json_schema_extra=HARDWARE)

    @model_validator(mode="after")
    def _gpus_go_to_workers(self) -> Self:
        gpus, most = self.cluster.gpus_per_worker, self.train.group[1]
        if gpus and not most:
            raise ValueError(
                f"cluster.gpus_per_worker = {gpus:g} is for training workers, and train.num_workers = 0 has none: it "
                "fits in this process, on its GPU where there is one; set train.num_workers to 1 or more"
            )
        if gpus % 1 and (gpus > 1 or most > 1):
            raise ValueError(
                f"cluster.gpus_per_worker = {gpus:g}: Ray shares out no more than one GPU, and workers of a group "
                "cannot share theirs (NCCL refuses it); set a whole number"
            )
        return self

    @model_validator(mode="after")
    def _filters_meet_samples(self) -> Self:
        scalp = self.features.eeg
        if self.model.node_encoder == "conv" and not scalp.encoder and scalp.families != ("waveform",):
            raise ValueError(
                "model.node_encoder = conv filters along time, and features.eeg.families = "
                f"[{', '.join(scalp.families)}] are no samples; set these to [waveform], or take linear"
            )
        return self

    @model_validator(mode="after")
    def _time_is_shared(self) -> Self:
        scalp = self.features.eeg
        asks = "model.name = trf" if self.model.name == "trf" else "model.time_steps"
        if self.model.name != "trf" and self.model.time_steps is None:
            return self
        if self.features.pairing != "window" or (not scalp.encoder and scalp.families != ("waveform",)):
            raise ValueError(
                f"{asks} compares samples with what was heard at that moment; set features.pairing=window and "
                "features.eeg.families=[waveform]"
            )
        return self


def load(path: str | Path | None = None, overrides: list[str] | None = None, *, elsewhere: bool = False) -> Config:
    """Read a YAML file, lay `a.b=c` overrides on top, and validate.

    Args:
        path: YAML file; None starts from the defaults.
        overrides: `section.field=value`; the value is read as YAML, so `null`, `1e-3` and `[F3, F4]` mean what they
            say.
        elsewhere: the settings are for another machine: a path that begins with ~ stays so, for the home is another.

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
    return from_dict(tree, elsewhere=elsewhere)


def override(key: str, value: Any) -> str:
    """`key=value` as `load` reads it, whatever characters the value holds."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def from_dict(tree: dict[str, Any], *, elsewhere: bool = False) -> Config:
    """Validate a plain tree. Raises ConfigError as `load` does."""
    try:
        return Config.model_validate(tree, context=_ELSEWHERE if elsewhere else None)
    except ValidationError as error:
        lines = [_explain(tuple(item["loc"]), item["type"], item["msg"], item["input"]) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def laid_over(config: Config, values: dict[str, Any]) -> Config:
    """The same with some settings replaced, `section.field` -> value.

    Raises:
        ConfigError: there is no such setting, or a value is refused.
    """
    tree = config.model_dump(mode="json")
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"config: {key} is not a setting; {parent} is a value, not a section")
        node[leaf] = value
    return from_dict(tree)


def to_yaml(config: Config) -> str:
    """The resolved config as YAML that `load` reads back to an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def reference() -> str:
    """Every setting with its default and meaning, as Markdown."""
    lines = [
        "# Settings",
        "",
        "Written by `mmray settings`. In a file given by `--config`, or one by one as `--set section.field=value`.",
    ]
    for title, section in _sections(Config, ""):
        summary = (section.__doc__ or "").splitlines()[0]
        lines += ["", f"## {title or 'top'}", "", summary, "", "| setting | default | meaning |", "|---|---|---|"]
        for name, field in section.model_fields.items():
            if not isinstance(field.default, Section):
                key = f"{title}.{name}" if title else name
                lines.append(
                    f"| `{key}` | `{json.dumps(field.default, default=_as_json)}` | {field.description or ''} |"
                )
    return "\n".join(lines) + "\n"


def _sections(section: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    if any(not isinstance(field.default, Section) for field in section.model_fields.values()):
        yield path, section
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            yield from _sections(type(field.default), f"{path}.{name}" if path else name)


def digest(*parts: Section | str | int | float) -> str:
    """Twelve hex digits naming these settings; hardware fields are left out, key order does not matter."""
    plain = [_scientific(part) if isinstance(part, Section) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, default=_as_json)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fitting(config: Config) -> dict[str, Any]:
    """What a fit depends on, as `section.field` -> JSON value; hardware fields are left out."""
    kept = {name: value for name, value in _scientific(config).items() if name in FITTING}
    return dict(_flat(json.loads(json.dumps(kept)), ""))


def _flat(tree: dict[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _as_json(section: Section) -> dict[str, Any]:
    """A section that stands in a setting's value, for json.dumps."""
    return section.model_dump(mode="json")


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
        return json.loads(text)  # any characters, and 1e-3, which YAML 1.1 takes for a string
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: cannot read the value {text!r}: {error}") from error


def _explain(location: tuple[Any, ...], kind: str, message: str, given: Any) -> str:
    key = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")  # pydantic's word for a rule of ours
    if kind == "literal_error":
        near = difflib.get_close_matches(str(given), re.findall(r"'([^']*)'", message), n=1)
        return f"config: {key}: {message}, not {given!r}" + (f"; did you mean '{near[0]}'?" if near else "")
    if kind != "extra_forbidden":
        return f"config: {key}: {message}" if key else f"config: {message}"
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
