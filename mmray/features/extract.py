"""From a recording to rows of segment graphs: the one code path of `prepare`, `search FILE` and the endpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmray.config import EEG, Audio, Features
from mmray.errors import ConfigError, RecordingError
from mmray.features import audio, eeg, quality
from mmray.graphs import similarity
from mmray.recordings import signals
from mmray.schema import Modality, Recording, features_schema

Columns = dict[str, NDArray[Any]]


def shape(modality: Modality, config: Features) -> tuple[int, int]:
    """Nodes n and features a node d of a modality's segment graphs.

    Raises:
        ConfigError: the montage or a channel is not known, or there are too few nodes for the neighbours.
    """
    if modality == "eeg":
        names = eeg.node_names(config.eeg)
        eeg.positions(config.eeg.montage, names)
        nodes, width, neighbours = len(names), len(eeg.FEATURES), config.eeg.neighbours
    else:
        if config.audio.f0_min_hz >= config.audio.f0_max_hz:
            raise ConfigError("features.audio.f0_min_hz must lie below f0_max_hz")
        nodes, width, neighbours = config.audio.nodes, audio.width(config.audio), config.audio.neighbours
    if neighbours >= nodes:
        raise ConfigError(f"features.{modality}.neighbours: {neighbours} of {nodes} nodes; take at most {nodes - 1}")
    return nodes, width


def extract(recording: Recording, config: Features, source_sha256: str | None = None) -> pa.Table:
    """Segment graphs of one recording, rows in time order, schema features_schema.

    Args:
        source_sha256: the file's content hash where the caller has it already.

    Raises:
        RecordingError: the file cannot be read, has the wrong electrodes or too many bad ones, or yields no segment.
        ConfigError: the settings fit no recording.
    """
    modality: Modality = "eeg" if recording.modality == "eeg" else "audio"
    nodes, width = shape(modality, config)
    section = config.eeg if modality == "eeg" else config.audio
    try:
        if modality == "eeg":
            columns = _eeg(signals.read_eeg(recording, config.eeg.scale_to_volts), config.eeg)
        else:
            columns = _audio(signals.read_audio(recording), config.audio)
    except RecordingError as error:
        if recording.path in str(error):
            raise
        # readers name the file, functions of arrays cannot
        raise RecordingError(f"{recording.path}: {error}") from error
    start_s_S = columns.pop("start_s")
    rows = len(start_s_S)
    constant = {
        name: [getattr(recording, name)] * rows
        for name in ("recording_id", "subject_id", "pair_id", "modality", "session", "task", "label")
    }
    filled: dict[str, Any] = {
        "segment_id": [f"{recording.recording_id}@{round(1000 * start_s):08d}" for start_s in start_s_S],
        **constant,
        "start_s": start_s_S.astype(np.float32),
        "duration_s": np.full(rows, section.segment_s, dtype=np.float32),
        **columns,
        "source_sha256": [source_sha256 or signals.content_sha256(recording.path)] * rows,
    }
    schema = features_schema(modality, nodes, width, section.neighbours)
    return pa.table([_column(filled[field.name], field.type) for field in schema], schema=schema)


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(value))
    return pa.array(value, type=kind)


def _eeg(raw: signals.EEGSignal, config: EEG) -> Columns:
    rate, spans = raw.sampling_rate_hz, raw.spans
    names = eeg.node_names(config)
    position_N3 = eeg.positions(config.montage, names)
    data_NT = eeg.select(raw.data_CT, raw.channels, names)
    length = round(config.segment_s * rate)
    start_S = eeg.segment_starts(spans, length)
    if len(start_S) == 0:
        longest = max((stop - start for start, stop in spans), default=0) / rate
        raise RecordingError(
            f"its longest stretch of {longest:.2f} s is shorter than one segment of {config.segment_s:g} s; "
            "lower features.eeg.segment_s"
        )
    filtered_NT = eeg.band_pass(data_NT, rate, spans, config)
    bad_N = eeg.bad_channels(data_NT, filtered_NT, rate, spans)
    if bad_N.mean() > config.max_bad_fraction or bad_N.all():
        bad_names = [name for name, bad in zip(names, bad_N, strict=True) if bad]
        raise RecordingError(
            f"{len(bad_names)} of {len(names)} electrodes are bad ({', '.join(bad_names[:4])}, ...), more than "
            f"features.eeg.max_bad_fraction={config.max_bad_fraction:g} allows"
        )
    filtered_NT = eeg.average_reference(eeg.interpolate(filtered_NT, bad_N, position_N3))
    signal_SNT = eeg.cut(filtered_NT, start_S, length)
    range_S = eeg.peak_to_peak(signal_SNT)
    kept_S = range_S <= config.reject_uv
    if not kept_S.any():
        raise RecordingError(
            f"each of its {len(kept_S)} segments exceeds features.eeg.reject_uv={config.reject_uv:g} "
            f"(median {np.median(range_S):.0f} uV); check scale_to_volts, or raise reject_uv"
        )
    signal_SNT = signal_SNT[kept_S]
    x_SND = eeg.node_features(signal_SNT, rate, config)
    alike_SNN = similarity.similarity(config.similarity, x_SND, signal_SNT, position_N3)
    neighbour_SNK, weight_SNK = similarity.top_k(alike_SNN, config.neighbours)
    return {
        "start_s": start_S[kept_S] / rate,
        "x": x_SND,
        "neighbour": neighbour_SNK,
        "weight": weight_SNK,
        **quality.eeg(bad_N, range_S, kept_S),
    }


def _audio(raw: signals.AudioSignal, config: Audio) -> Columns:
    rate = config.sampling_rate_hz
    wave_T = audio.resample(audio.mono(raw.data_CT), raw.sampling_rate_hz, rate)
    start, stop = audio.speech_range(wave_T, rate, config.trim_db)
    segments = audio.segment_count(stop - start, config)
    wave_T = audio.normalise_loudness(wave_T[start:stop], rate)
    frames = audio.analyse(wave_T, segments, config)
    x_SND = audio.node_features(frames, config.mfcc)
    neighbour_SNK, weight_SNK = similarity.top_k(similarity.similarity(config.similarity, x_SND), config.neighbours)
    start_s_S = start / rate + np.arange(segments) * config.segment_s
    raw_start_S = np.rint(start_s_S * raw.sampling_rate_hz).astype(np.int64)
    return {
        "start_s": start_s_S,
        "x": x_SND,
        "neighbour": neighbour_SNK,
        "weight": weight_SNK,
        **quality.audio(frames.voiced_SNJ, raw.data_CT, raw_start_S, round(config.segment_s * raw.sampling_rate_hz)),
    }
