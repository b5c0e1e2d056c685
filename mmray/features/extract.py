"""From a recording to rows of segment graphs: the one code path of `prepare`, `search FILE` and the endpoint."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmray.config import EEG, Features
from mmray.errors import ConfigError, RecordingError
from mmray.features import artefacts, audio_nodes, cleaning, eeg, eeg_nodes, encoders, quality, stretches, voice
from mmray.graphs import similarity
from mmray.recordings import signals
from mmray.schema import Modality, Recording, features_schema

Columns = dict[str, NDArray[Any]]
DECISIONS_KEY = b"mmray.decisions"  # of a part's metadata: what was decided about the recording, as JSON


@dataclass(frozen=True)
class CleanEEG:
    """A recording, or a stretch of it, cut into segments, filtered and mended, and what was decided on the way.

    Attributes:
        signal_SNT: microvolts, the segments that were kept.
        why_N: of a bad electrode what is wrong with it (see `cleaning.bad_channels`), else empty.
        start_S: first samples, in the recording, of all segments that were cut; `range_S` their peak-to-peak ranges,
            `kept_S` which stay.
        removed: labels of the components taken out.
        mains_db: see `cleaning.mains_db`.
    """

    signal_SNT: eeg.Array
    why_N: NDArray[np.str_]
    start_S: NDArray[np.int64]
    range_S: eeg.Array
    kept_S: NDArray[np.bool_]
    removed: tuple[str, ...]
    mains_db: float | None


def feature_names(modality: Modality, config: Features) -> tuple[str, ...]:
    """What each feature of a node is, in order. Raises ConfigError where an encoder cannot say it."""
    section = config.eeg if modality == "eeg" else config.audio
    if section.encoder:
        return encoders.names(section)
    return eeg_nodes.names(section) if isinstance(section, EEG) else audio_nodes.names(section)


def shape(modality: Modality, config: Features) -> tuple[int, int]:
    """Nodes n and features a node d of a modality's segment graphs.

    Raises:
        ConfigError: the montage or a channel is not known, a package or an encoder is missing, or there are too few
            nodes for the neighbours.
    """
    if modality == "eeg":
        names = eeg.node_names(config.eeg)
        eeg.positions(config.eeg.montage, names)
        nodes, neighbours = len(names), config.eeg.neighbours
    else:
        if config.audio.f0_min_hz >= config.audio.f0_max_hz:
            raise ConfigError("features.audio.f0_min_hz must lie below f0_max_hz")
        audio_nodes.require_packages(config.audio)
        nodes, neighbours = config.audio.nodes, config.audio.neighbours
    if neighbours >= nodes:
        raise ConfigError(f"features.{modality}.neighbours: {neighbours} of {nodes} nodes; take at most {nodes - 1}")
    return nodes, len(feature_names(modality, config))


def extract(recording: Recording, config: Features, source_sha256: str | None = None) -> pa.Table:
    """Segment graphs of one recording, rows in time order, schema features_schema; `decisions` reads what was decided.

    Args:
        source_sha256: the file's content hash where the caller has it already.

    Raises:
        RecordingError: the file cannot be read, has the wrong electrodes or too many bad ones, or yields no segment.
        ConfigError: the settings fit no recording.
    """
    found = list(rows(recording, config, source_sha256))
    table = pa.concat_tables([table for table, _ in found if table is not None])
    decided = quality.merged([decided for _, decided in found])
    return table.replace_schema_metadata({DECISIONS_KEY: json.dumps(decided)})


def rows(
    recording: Recording, config: Features, source_sha256: str | None = None
) -> Generator[tuple[pa.Table | None, quality.Decisions]]:
    """As `extract`, but stretch by stretch: its rows, None where it has no usable segment, and what was decided.

    A stretch without a usable segment costs a recording that stretch; one without a usable stretch is refused.
    """
    schema = schema_of(recording, config)
    sha = source_sha256 or signals.content_sha256(recording.path)
    found = _eeg(recording, config) if recording.modality == "eeg" else voice.columns(recording, config.audio)
    lost: list[str] = []
    used = False
    try:
        for columns, decided in found:
            used = used or columns is not None
            lost += [decided["lost"]] if columns is None else []
            yield None if columns is None else _table(recording, columns, config, schema, sha), decided
        if not used:
            raise RecordingError(f"none of its {len(lost)} stretches can be used; the first: {lost[0]}")
    except RecordingError as error:
        if recording.path in str(error):
            raise
        # readers name the file, functions of arrays cannot
        raise RecordingError(f"{recording.path}: {error}") from error


def schema_of(recording: Recording, config: Features) -> pa.Schema:
    """The schema of a recording's rows. Raises ConfigError as `shape`."""
    modality: Modality = "eeg" if recording.modality == "eeg" else "audio"
    section = config.eeg if modality == "eeg" else config.audio
    return features_schema(modality, *shape(modality, config), section.neighbours)


def _table(recording: Recording, columns: Columns, config: Features, schema: pa.Schema, sha: str) -> pa.Table:
    start_s_S = columns.pop("start_s")
    count = len(start_s_S)
    segment_s = (config.eeg if recording.modality == "eeg" else config.audio).segment_s
    in_windows = config.pairing == "window"
    if in_windows:  # the number of the window, not the sample nearest to it, is what both modalities share
        start_s_S = np.rint(start_s_S / segment_s) * segment_s
    clock = [f"@{round(1000 * start_s):08d}" for start_s in start_s_S]
    constant = {
        name: [getattr(recording, name)] * count
        for name in ("recording_id", "subject_id", "modality", "session", "task", "label")
    }
    filled: dict[str, Any] = {
        "segment_id": [recording.recording_id + moment for moment in clock],
        "pair_id": [recording.pair_id + moment * in_windows for moment in clock],
        **constant,
        "start_s": start_s_S.astype(np.float32),
        "duration_s": np.full(count, segment_s, dtype=np.float32),
        **columns,
        "source_sha256": [sha] * count,
    }
    return pa.table([_column(filled[field.name], field.type) for field in schema], schema=schema)


def decisions(metadata: dict[bytes, bytes] | None) -> quality.Decisions | None:
    """What was decided about the recording of a part, from its schema or its file; None: it is not told."""
    told: quality.Decisions | None = json.loads((metadata or {}).get(DECISIONS_KEY, b"null"))
    return told


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(value))
    return pa.array(value, type=kind)


def _eeg(recording: Recording, features: Features) -> Iterator[tuple[Columns | None, quality.Decisions]]:
    config = features.eeg
    with signals.open_eeg(recording, config.scale_to_volts) as file:
        rate = file.sampling_rate_hz
        eeg.rows_of(file.channels, eeg.node_names(config))  # before a night is read
        eeg.require_rate(rate, config)
        start_S = _starts(file.spans, rate, features)
        length, margin = round(config.segment_s * rate), eeg.margin(rate, config)
        parts = stretches.of_eeg(file.samples, len(file.channels), start_S, length, margin)
        for part in parts:
            yield _eeg_part(file, part, len(parts) == 1, features)


def _eeg_part(
    file: signals.EEGFile, part: stretches.Stretch, only: bool, features: Features
) -> tuple[Columns | None, quality.Decisions]:
    rate = file.sampling_rate_hz
    raw = file.read(*part.read)
    try:
        clean = clean_eeg(raw, features, part)
    except RecordingError as error:
        if only:
            raise
        return None, quality.lost(part.own[0] / rate, part.own[1] / rate, len(part.start_S), str(error))
    del raw  # twice the size of all that follows
    return _eeg_columns(clean, rate, file.samples / rate, features.eeg)


def _eeg_columns(clean: CleanEEG, rate: float, duration_s: float, config: EEG) -> tuple[Columns, quality.Decisions]:
    names = eeg.node_names(config)
    position_N3 = eeg.positions(config.montage, names)
    if config.encoder:
        x_SND = encoders.encode(config, clean.signal_SNT, rate, len(names))
    else:
        x_SND = eeg_nodes.node_features(clean.signal_SNT, rate, config)
    band_hz = eeg_nodes.band_hz(config.connectivity_band, config)
    alike_SNN = similarity.similarity(config.similarity, x_SND, clean.signal_SNT, position_N3, rate, band_hz)
    neighbour_SNK, weight_SNK = similarity.top_k(alike_SNN, config.neighbours)
    bad_N = clean.why_N != ""
    columns: Columns = {
        "start_s": clean.start_S[clean.kept_S] / rate,
        "x": x_SND,
        "neighbour": neighbour_SNK,
        "weight": weight_SNK,
        **quality.eeg(bad_N, clean.range_S, clean.kept_S),
    }
    decided = {
        "duration_s": duration_s,
        "sampling_rate_hz": rate,
        "segments": len(clean.kept_S),
        "kept": int(clean.kept_S.sum()),
        "bad_channels": [{"name": names[n], "why": str(clean.why_N[n])} for n in np.flatnonzero(bad_N)],
        "components_removed": list(clean.removed),
        "peak_to_peak_uv": float(np.median(clean.range_S)),
        "mains_db": clean.mains_db,
    }
    return columns, decided


def clean_eeg(raw: signals.EEGSignal, features: Features, part: stretches.Stretch | None = None) -> CleanEEG:
    """Select, filter, mend and cut a recording, and reject what cannot be used.

    Args:
        part: which stretch of its recording `raw` is; its margins are the filter's alone. None: all of it.

    Raises:
        RecordingError: an electrode is not there, too many are bad, or no segment is left.
        ConfigError: the settings fit no recording, or want an extra that is not installed.
    """
    config, rate, samples = features.eeg, raw.sampling_rate_hz, raw.data_CT.shape[1]
    names = eeg.node_names(config)
    position_N3 = eeg.positions(config.montage, names)
    data_NT = eeg.within_reach(eeg.select(raw.data_CT, raw.channels, names))
    if part is None:
        part = stretches.Stretch((0, samples), (0, samples), _starts(raw.spans, rate, features))
    if not np.isfinite(data_NT).any():
        raise RecordingError("every EEG sample is NaN or infinite; export the recording again")
    filtered_NT = eeg.band_pass(data_NT, rate, raw.spans, config)
    first, last = (sample - part.read[0] for sample in part.own)
    data_NT, filtered_NT = data_NT[:, first:last], filtered_NT[:, first:last]
    spans = signals.spans_within(raw.spans, first, last)
    why_N = cleaning.bad_channels(data_NT, filtered_NT, rate, spans)
    bad_N = why_N != ""
    if bad_N.mean() > config.max_bad_fraction or bad_N.all():
        bad_names = [f"{name} {why}" for name, why in zip(names, why_N, strict=True) if why]
        raise RecordingError(
            f"{len(bad_names)} of {len(names)} electrodes are bad ({', '.join(bad_names[:4])}, ...), more than "
            f"features.eeg.max_bad_fraction={config.max_bad_fraction:g} allows"
        )
    removed: tuple[str, ...] = ()
    if config.ica:
        filtered_NT, removed = artefacts.remove_components(filtered_NT, bad_N, rate, spans, position_N3)
    filtered_NT = cleaning.average_reference(cleaning.interpolate(filtered_NT, bad_N, position_N3))
    signal_SNT = eeg.cut(filtered_NT, part.start_S - part.own[0], round(config.segment_s * rate))
    mendable_S = np.ones(len(signal_SNT), dtype=bool)
    if config.autoreject:
        signal_SNT, mendable_S = artefacts.repair_segments(signal_SNT, rate, position_N3)
    range_S = cleaning.peak_to_peak(signal_SNT)
    kept_S = mendable_S & (range_S <= config.reject_uv)
    if not kept_S.any():
        raise RecordingError(_why_none(mendable_S, range_S, config, raw.states_unit))
    mains_db = cleaning.mains_db(data_NT, rate, spans, config.line_hz)
    # in place: a second copy would be the task's peak of memory
    for row, segment in enumerate(np.flatnonzero(kept_S)):
        signal_SNT[row] = signal_SNT[segment]
    return CleanEEG(signal_SNT[: kept_S.sum()], why_N, part.start_S, range_S, kept_S, removed, mains_db)


def _why_none(mendable_S: NDArray[np.bool_], range_S: eeg.Array, config: EEG, states_unit: bool) -> str:
    """Why no segment is kept: what autoreject dropped was not judged by its range."""
    count, dropped = len(mendable_S), int((~mendable_S).sum())
    if dropped == count:
        return f"features.eeg.autoreject drops each of its {count} segments; look at the recording, or do without"
    unit = "correct the unit that the file states" if states_unit else "check features.eeg.scale_to_volts"
    what = f"each of its {count} segments exceeds"
    if dropped:
        what = f"features.eeg.autoreject drops {dropped} of its {count} segments, each of the others exceeds"
    return (
        f"{what} features.eeg.reject_uv={config.reject_uv:g} (median {np.median(range_S[mendable_S]):.0f} uV); "
        f"{unit}, or raise reject_uv"
    )


def _starts(spans: eeg.Spans, rate: float, features: Features) -> NDArray[np.int64]:
    """First samples of all of a recording's segments; at least one."""
    config = features.eeg
    if features.pairing == "window":
        start_S = eeg.window_starts(spans, config.segment_s, rate)
    else:
        start_S = eeg.segment_starts(spans, round(config.segment_s * rate))
    if len(start_S) == 0:
        longest = max((stop - start for start, stop in spans), default=0) / rate
        raise RecordingError(
            f"its longest part without a gap, {longest:.2f} s, is shorter than one segment of {config.segment_s:g} s; "
            "lower features.eeg.segment_s"
        )
    return start_S
