"""Arrow schemas: the contract between stages, and the few records that travel through it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import pyarrow as pa

Modality = Literal["eeg", "audio"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

RECORDINGS = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),  # unique; letters, digits, '-', '_' alone
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),  # what counts as a match; the subject by default
        pa.field("modality", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("label", pa.int8()),  # null: not known
        pa.field("label_name", pa.string()),
        pa.field("path", pa.string(), nullable=False),  # absolute path or URI
        pa.field("reader", pa.string(), nullable=False),  # key of recordings.signals.READERS
        pa.field("age", pa.float32()),
        pa.field("gender", pa.string()),
        pa.field("education_years", pa.float32()),
        pa.field("size_bytes", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Recording:
    """One file of one person: a row of recordings.parquet."""

    recording_id: str
    subject_id: str
    pair_id: str
    modality: str
    session: str
    task: str
    label: int | None
    label_name: str | None
    path: str
    reader: str
    size_bytes: int
    age: float | None = None
    gender: str | None = None
    education_years: float | None = None


def recordings_table(recordings: list[Recording]) -> pa.Table:
    """The recordings as a table of schema RECORDINGS, sorted by recording_id."""
    rows = [asdict(recording) for recording in sorted(recordings, key=lambda r: r.recording_id)]
    return pa.Table.from_pylist(rows, schema=RECORDINGS)


def recordings_of(table: pa.Table) -> list[Recording]:
    """The rows of a RECORDINGS table as records."""
    names = [field.name for field in fields(Recording)]
    return [Recording(**row) for row in table.select(names).to_pylist()]


QUALITY: dict[Modality, tuple[str, ...]] = {
    "eeg": ("quality_bad_channels", "quality_peak_to_peak_uv", "quality_kept_fraction"),
    "audio": (
        "quality_voiced_fraction",
        "quality_active_fraction",
        "quality_clipped_fraction",
        "quality_level_dbfs",
        "quality_snr_db",
    ),
}

# features/<digest>/quality.parquet: what was decided about each prepared recording. Null: not of this modality, or not
# to be told. How a long recording's stretches become one row: features.quality.merged.
DECISIONS = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("duration_s", pa.float64(), nullable=False),  # as recorded
        pa.field("sampling_rate_hz", pa.float64(), nullable=False),  # as recorded
        pa.field("segments", pa.int32(), nullable=False),  # cut
        pa.field("kept", pa.int32(), nullable=False),  # of them, neither rejected nor dropped
        pa.field("bad_channels", pa.list_(pa.struct([("name", pa.string()), ("why", pa.string())]))),  # interpolated
        pa.field("components_removed", pa.list_(pa.string())),  # by ICA, what ICLabel called them
        pa.field("peak_to_peak_uv", pa.float64()),  # median over segments, before rejection
        pa.field("mains_db", pa.float64()),  # over their neighbourhood, before the notch
        pa.field("trimmed_s", pa.float64()),  # silence cut at both ends
        pa.field("active_fraction", pa.float64()),  # share of the clip that is speech (ITU-T P.56)
        pa.field("clipped_fraction", pa.float64()),
        pa.field("level_dbfs", pa.float64()),  # while speaking
        pa.field("peak_dbfs", pa.float64()),
        pa.field("snr_db", pa.float64()),  # level while speaking over the power of the rest
        pa.field("lost", pa.string()),  # stretches of a long recording without a usable segment, and why
    ]
)


def features_schema(modality: Modality, nodes: int, width: int, neighbours: int) -> pa.Schema:
    """One row is one segment graph of fixed shape.

    Args:
        modality: eeg (nodes are electrodes) or audio (nodes are time frames).
        nodes: n, nodes a graph.
        width: d, features a node.
        neighbours: k, directed nearest neighbours kept for each node.

    Returns:
        The schema; `x` is n x d float32, `neighbour` n x k int16 node indices, `weight` n x k float32 in [0, 1].
    """
    return pa.schema(
        [
            pa.field("segment_id", pa.string(), nullable=False),  # <recording_id>@<start in ms, 8 digits>
            pa.field("recording_id", pa.string(), nullable=False),
            pa.field("subject_id", pa.string(), nullable=False),
            pa.field("pair_id", pa.string(), nullable=False),
            pa.field("modality", pa.string(), nullable=False),
            pa.field("session", pa.string(), nullable=False),
            pa.field("task", pa.string(), nullable=False),
            pa.field("label", pa.int8()),
            pa.field("start_s", pa.float32(), nullable=False),
            pa.field("duration_s", pa.float32(), nullable=False),
            pa.field("x", pa.fixed_shape_tensor(pa.float32(), [nodes, width]), nullable=False),
            pa.field("neighbour", pa.fixed_shape_tensor(pa.int16(), [nodes, neighbours]), nullable=False),
            pa.field("weight", pa.fixed_shape_tensor(pa.float32(), [nodes, neighbours]), nullable=False),
            *(pa.field(name, pa.float32(), nullable=False) for name in QUALITY[modality]),
            pa.field("source_sha256", pa.string(), nullable=False),
        ]
    )


# features/<digest>/parts.parquet: which part files a reader may trust, one row a prepared recording.
PARTS = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # relative to features/<digest>
        pa.field("segments", pa.int32(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_sha256", pa.string()),  # null: the file could not even be read
    ]
)

# runs/<id>/embeddings.parquet: what a run makes of every segment; z is unit length.
EMBEDDINGS = pa.schema(
    [
        pa.field("segment_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("label", pa.int8()),
        pa.field("role", pa.string(), nullable=False),  # train, validation or test
        pa.field("z", pa.list_(pa.float32()), nullable=False),
    ]
)

# runs/<id>/predictions.parquet: fused class probabilities, one row a subject.
PREDICTIONS = pa.schema(
    [
        pa.field("subject_id", pa.string(), nullable=False),
        pa.field("label", pa.int8()),
        pa.field("role", pa.string(), nullable=False),
        pa.field("probability", pa.list_(pa.float32()), nullable=False),
    ]
)

# runs/<id>/metrics.parquet: every reported figure with its chance level beside it.
METRICS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),  # retrieval or classification
        pa.field("direction", pa.string(), nullable=False),  # eeg->audio, audio->eeg, fused
        pa.field(
            "level", pa.string(), nullable=False
        ),  # of a query: subject, segment; pair, where a subject has several; within its subject
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("ci_low", pa.float64()),  # 95 %, subjects resampled
        pa.field("ci_high", pa.float64()),
        pa.field("chance", pa.float64()),
        pa.field("ceiling", pa.float64()),  # the oracle's, where the study has a truth
        pa.field("p_value", pa.float64()),  # permuted between subjects
        pa.field("queries", pa.int64(), nullable=False),
        pa.field("gallery", pa.int64()),  # rows that a query is ranked among; their median where subjects differ
    ]
)


@dataclass(frozen=True)
class Metric:
    """One reported figure: a row of METRICS."""

    task: str
    direction: str
    level: str
    metric: str
    value: float
    queries: int
    ci_low: float | None = None
    ci_high: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    p_value: float | None = None
    gallery: int | None = None


def metrics_table(metrics: list[Metric]) -> pa.Table:
    """The figures as a table of schema METRICS."""
    return pa.Table.from_pylist([asdict(metric) for metric in metrics], schema=METRICS)


def metrics_of(table: pa.Table) -> list[Metric]:
    """The rows of a METRICS table as records."""
    rows: list[dict[str, Any]] = table.to_pylist()
    return [Metric(**row) for row in rows]
