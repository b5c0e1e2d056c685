"""From a voice to columns of segment graphs, one passage of a long recording at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmray.config import Audio
from mmray.errors import RecordingError
from mmray.features import audio, audio_nodes, encoders, quality, speech, stretches
from mmray.graphs import similarity
from mmray.recordings import signals
from mmray.schema import Recording

Columns = dict[str, NDArray[Any]]


class _Trimmed(NamedTuple):
    """A recording without the silence at its ends, in samples at features.audio.sampling_rate_hz."""

    start: int
    stop: int
    samples: int  # of all of it
    duration_s: float  # as recorded


class _Window(NamedTuple):
    """What is read at once: as recorded, and mono at features.audio.sampling_rate_hz; both begin at `start_s`."""

    raw: signals.AudioSignal
    wave_T: audio.Array
    start_s: int


class _Judged(NamedTuple):
    spoken: speech.Speech
    start_s_S: NDArray[np.floating[Any]]  # of its segments, in the recording
    active_S: audio.Array
    kept_S: NDArray[np.bool_]


def columns(recording: Recording, config: Audio) -> Iterator[tuple[Columns | None, quality.Decisions]]:
    """Columns of a voice's rows, passage by passage, and what was decided; None of a passage without a usable segment.

    Loudness, speech and noise are judged passage by passage; silence is trimmed at the recording's own ends.

    Raises:
        RecordingError: the file cannot be read, is silent or too short, or is one passage without a usable segment.
        ConfigError: the settings fit no recording.
    """
    rate = config.sampling_rate_hz
    with signals.open_audio(recording) as file:
        if file.samples * file.channels <= stretches.AUDIO_SAMPLES:
            yield _whole(file, config)
            return
        longest_s = stretches.seconds_of_audio(file.channels, file.sampling_rate_hz, config.segment_s)
        trimmed = _trimmed(file, longest_s, config)
        segments = audio.segment_count(trimmed.stop - trimmed.start, config)
        for passage in stretches.of_audio(trimmed.start / rate, segments, config.segment_s, longest_s):
            yield _part(file, passage, trimmed, config)


def _whole(file: signals.AudioFile, config: Audio) -> tuple[Columns, quality.Decisions]:
    raw, rate = file.read(0, file.samples), config.sampling_rate_hz
    window = _Window(raw, audio.resample(audio.mono(raw.data_CT), file.sampling_rate_hz, rate), 0)
    samples = len(window.wave_T)
    start, stop = audio.speech_range(window.wave_T, rate, config.trim_db)
    trimmed = _Trimmed(start, stop, samples, raw.data_CT.shape[1] / file.sampling_rate_hz)
    passage = stretches.Passage((0, math.ceil(samples / rate)), 0, audio.segment_count(stop - start, config))
    judged = _judged(window, passage, trimmed, config)
    return _columns(window, window.wave_T[start:stop], 0, slice(None), passage, trimmed, judged, config)


def _part(
    file: signals.AudioFile, passage: stretches.Passage, trimmed: _Trimmed, config: Audio
) -> tuple[Columns | None, quality.Decisions]:
    rate, length = config.sampling_rate_hz, config.segment_s * config.sampling_rate_hz
    window = _window(file, passage.read_s, rate)
    begin = window.start_s * rate
    heard_T = window.wave_T[max(trimmed.start - begin, 0) : trimmed.stop - begin]
    origin = max(begin - trimmed.start, 0)
    first, last = (round(length * number) - origin for number in (passage.first, passage.first + passage.segments))
    try:
        audio.speech_range(heard_T[first:last], rate, None)
        judged = _judged(window, passage, trimmed, config)
    except RecordingError as error:
        begin_s, end_s = ((trimmed.start + origin + sample) / rate for sample in (first, last))
        return None, quality.lost(begin_s, end_s, passage.segments, str(error))
    return _columns(window, heard_T, origin, slice(first, last), passage, trimmed, judged, config)


def _window(file: signals.AudioFile, read_s: tuple[int, int], rate: int) -> _Window:
    recorded = round(file.sampling_rate_hz)
    start, stop = read_s[0] * recorded, min(read_s[1] * recorded, file.samples)
    raw = file.read(start, stop)
    return _Window(raw, audio.resample(audio.mono(raw.data_CT), recorded, rate), read_s[0])


def _trimmed(file: signals.AudioFile, longest_s: float, config: Audio) -> _Trimmed:
    """Where a long recording's sound begins and ends: it is read once for that, and again for its features."""
    rate = config.sampling_rate_hz
    duration_s = file.samples / file.sampling_rate_hz
    powers, rest_T, samples = [], np.zeros(0, np.float32), 0
    for window_s in stretches.windows_s(duration_s, longest_s):
        window = _window(file, stretches.with_margin(*window_s), rate)
        skipped = (window_s[0] - window.start_s) * rate
        own_T = window.wave_T[skipped : skipped + (window_s[1] - window_s[0]) * rate]
        samples += len(own_T)
        power_F, rest_T = audio.frame_power(np.concatenate([rest_T, own_T]), rate)
        powers.append(power_F)
        del window, own_T  # before the next is read
    start, stop = audio.loud_range(np.concatenate(powers), samples, rate, config.trim_db)
    return _Trimmed(start, stop, samples, duration_s)


def _judged(window: _Window, passage: stretches.Passage, trimmed: _Trimmed, config: Audio) -> _Judged:
    """Where somebody speaks. Raises RecordingError where no segment holds speech enough."""
    spoken = speech.active_speech(window.wave_T, config.sampling_rate_hz)
    number_S = np.arange(passage.first, passage.first + passage.segments)
    start_s_S = trimmed.start / config.sampling_rate_hz + number_S * config.segment_s
    active_S = quality.active(spoken, start_s_S - window.start_s, config.segment_s)
    kept_S = active_S >= config.min_active
    if not kept_S.any():
        raise RecordingError(
            f"none of its {passage.segments} segments holds as much speech as "
            f"features.audio.min_active={config.min_active:g}"
        )
    return _Judged(spoken, start_s_S, active_S, kept_S)


def _columns(
    window: _Window,
    heard_T: audio.Array,
    origin: int,
    own: slice,
    passage: stretches.Passage,
    trimmed: _Trimmed,
    judged: _Judged,
    config: Audio,
) -> tuple[Columns, quality.Decisions]:
    """Rows and decisions of a passage.

    Args:
        heard_T: the window without the trimmed silence; its first sample is the trimmed recording's `origin`.
        own: of it, without the margins.
    """
    raw, rate = window.raw, config.sampling_rate_hz
    spoken, kept_S = judged.spoken, judged.kept_S
    wave_T = audio.normalise_loudness(heard_T, rate, own)
    place = (passage.segments, config, passage.first, origin)
    frames = audio.analyse(wave_T, *place).take(kept_S)
    signal_ST = audio.cut(wave_T, *place)[kept_S]
    if config.encoder:
        x_SND = encoders.encode(config, signal_ST, rate, config.nodes)
    else:
        x_SND = audio_nodes.node_features(frames, signal_ST, config)
    neighbour_SNK, weight_SNK = similarity.top_k(similarity.similarity(config.similarity, x_SND), config.neighbours)
    start_s_S = judged.start_s_S[kept_S]
    made: Columns = {
        "start_s": start_s_S,
        "x": x_SND,
        "neighbour": neighbour_SNK,
        "weight": weight_SNK,
        **quality.audio(
            frames.voiced_SNJ,
            judged.active_S[kept_S],
            spoken.snr_db,
            start_s_S - window.start_s,
            config.segment_s,
            raw.data_CT,
            raw.sampling_rate_hz,
        ),
    }
    decided = {
        "duration_s": trimmed.duration_s,
        "sampling_rate_hz": raw.sampling_rate_hz,
        "segments": passage.segments,
        "kept": int(kept_S.sum()),
        "trimmed_s": (trimmed.samples - (trimmed.stop - trimmed.start)) / rate,
        "active_fraction": float(spoken.active_F.mean()),
        "clipped_fraction": quality.clipped(raw.data_CT),
        "level_dbfs": spoken.level_dbfs,
        "peak_dbfs": spoken.peak_dbfs,
        "snr_db": spoken.snr_db,
    }
    return made, decided
