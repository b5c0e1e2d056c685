"""Preparation against a plain script, and against the same functions without Ray Data; memory; growth with people.

And the memory of a night: a recording of twelve hours against one of one hour, both read from disk in parts.

Recordings are of MODMA's size: 129 x 75,000 samples and eight clips a person. Both alternatives run in a pool of as
many processes as there are cores, one thread each, that has done a recording before the clock starts.
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plain_prepare
from benchmarks.fits import peak_bytes
from benchmarks.harness import Figure, Outcome
from mmray import cluster, config, progress
from mmray.config import Config, Features
from mmray.features import parts, pipeline
from mmray.features.extract import extract
from mmray.features.table import from_table
from mmray.quota import usable_cores
from mmray.recordings import catalogue, synthetic
from mmray.recordings.signals import content_sha256
from mmray.schema import Recording, recordings_table
from mmray.storage import Workspace

SIDES = ("ours", "plain script", "bare pool")
BARS = {"plain script": 3.0, "bare pool": 0.9}
FLOAT32_SIZES = 6.0  # of a recording, that a task may take beside its libraries
_COLUMNS = [*range(67), 68]  # of 69 voice features; the script has no harmonicity
_F0 = 66


def run(*, quick: bool) -> Outcome:
    """Recordings a minute, agreement of the features, and a task's memory."""
    outcome = Outcome("prepare")
    folder = tempfile.mkdtemp(prefix="mmray-benchmark-")
    try:
        settings = _settings(folder, quick)
        synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
        catalogue.catalogue(settings)
        recordings = catalogue.load(Workspace(settings.workspace))
        outcome.figures["agreement of features"] = _agreement(settings, recordings)
        outcome.figures["memory of a task"] = _memory(settings, recordings)
        outcome.figures["memory of a night"] = _night(folder, hours=(0.5, 1) if quick else (1, 12))
        with cluster.session(settings.cluster):
            _compared(outcome, settings, recordings, rounds=1 if quick else 3)
            _grown(outcome, f"{folder}/growth", people=(4, 16) if quick else (16, 256))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _settings(folder: str, quick: bool) -> Config:
    return config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": 4 if quick else 16, "eeg_seconds": 60 if quick else 300, "clips": 2 if quick else 8},
        }
    )


def _compared(outcome: Outcome, settings: Config, recordings: list[Recording], rounds: int) -> None:
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), context, initializer=cluster.limit_threads, initargs=(1,)) as pool:
        works: dict[str, Callable[[list[Recording]], None]] = {
            "ours": lambda some: _ours(settings, some),
            "plain script": lambda some: _pooled(pool, _plain, settings, some),
            "bare pool": lambda some: _pooled(pool, _bare, settings, some),
        }
        people = sorted({recording.subject_id for recording in recordings})
        warm = [recording for recording in recordings if recording.subject_id in people[: 2 * usable_cores()]]
        with progress.bar("prepare: recordings a minute", (rounds + 1) * len(SIDES)) as advance:
            for round_ in range(-1, rounds):
                for side in SIDES if round_ % 2 else SIDES[::-1]:
                    _emptied(settings)
                    start = time.perf_counter()
                    works[side](warm if round_ < 0 else recordings)
                    if round_ >= 0:
                        seconds[side].append(time.perf_counter() - start)
                    advance()
    outcome.rate("recordings a minute, over the", seconds, BARS)
    outcome.detail["people"] = len(people)
    outcome.detail["people a minute"] = {
        side: round(60 * len(people) / statistics.median(took), 2) for side, took in seconds.items()
    }


def _grown(outcome: Outcome, folder: str, people: tuple[int, int]) -> None:
    """Time a recording and the driver's peak memory, of many people over few; 16 s of EEG and one clip each."""
    settings = config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": max(people), "eeg_seconds": 16, "clips": 1},
        }
    )
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    recordings = catalogue.load(Workspace(settings.workspace))
    everybody = sorted({recording.subject_id for recording in recordings})
    _ours(settings, [r for r in recordings if r.subject_id in everybody[: people[0]]])  # warms up
    seconds, peaks = [], []
    for count in people:
        _emptied(settings)
        some = [recording for recording in recordings if recording.subject_id in everybody[:count]]
        start = time.perf_counter()
        _ours(settings, some)
        seconds.append((time.perf_counter() - start) / len(some))
        peaks.append(peak_bytes())
    label = f"at {people[1]} over {people[0]} people"
    for name, (few, many) in (("time a recording", seconds), ("driver's peak memory", peaks)):
        value = round(many / few, 3)
        outcome.figures[f"{name}, {label}"] = Figure(
            value, 1.1, (value, value), at_most=True, detail={"few": few, "many": many}
        )


def _emptied(settings: Config) -> None:
    for name in ("features", "bare"):
        shutil.rmtree(f"{settings.workspace}/{name}", ignore_errors=True)


def _ours(settings: Config, recordings: list[Recording]) -> None:
    Workspace(settings.workspace).write_table(recordings_table(recordings), "recordings.parquet")
    pipeline.prepare(settings)


def _pooled(
    pool: ProcessPoolExecutor, work: Callable[..., None], settings: Config, recordings: list[Recording]
) -> None:
    # the long ones first, as the product does
    ordered = sorted(recordings, key=lambda recording: -recording.size_bytes)
    for _ in pool.map(work, ordered, [settings] * len(ordered)):
        pass


def _plain(recording: Recording, settings: Config) -> None:
    features = settings.features
    if recording.modality == "eeg":
        made = plain_prepare.eeg_features(recording.path, features.eeg)
    else:
        made = plain_prepare.audio_features(recording.path, features.audio)
    place = Path(settings.workspace, "bare")
    place.mkdir(exist_ok=True)
    np.savez(place / f"{recording.recording_id}.npz", *made)


def _bare(recording: Recording, settings: Config) -> None:
    table = extract(recording, settings.features, content_sha256(recording.path))
    Workspace(settings.workspace).write_table(table, "bare", f"{recording.recording_id}.parquet")


def _agreement(settings: Config, recordings: list[Recording]) -> Figure:
    """The least correlation of any feature with the plain script's; log F0 where every frame has a pitch."""
    columns: dict[str, list[float]] = {}
    ours, theirs = _both(settings, next(r for r in recordings if r.modality == "eeg"))
    columns["eeg"] = [_correlation(ours[:, d], theirs[:, d]) for d in range(ours.shape[1])]
    pairs = [_both(settings, r) for r in recordings if r.modality == "audio"][:8]
    ours, theirs = (np.concatenate([pair[side] for pair in pairs]) for side in range(2))
    pitched = ours[:, 67] > 0.95  # harmonicity: no frame of the node is without a pitch
    columns["audio"] = [
        _correlation(ours[pitched, d], theirs[pitched, n]) if d == _F0 else _correlation(ours[:, d], theirs[:, n])
        for n, d in enumerate(_COLUMNS)
    ]
    least = {name: round(min(values), 5) for name, values in columns.items()}
    value = min(least.values())
    return Figure(value, 0.999, (value, value), unit="correlation", detail=least)


def _both(settings: Config, recording: Recording) -> tuple[Any, Any]:
    """Rows of nodes that both sides kept."""
    ours = from_table(extract(recording, settings.features))
    if recording.modality == "eeg":
        number, x_SND, *_ = plain_prepare.eeg_features(recording.path, settings.features.eeg)
        mine = np.rint(ours.start_s_S / settings.features.eeg.segment_s).astype(int)
    else:
        number, x_SND, *_ = plain_prepare.audio_features(recording.path, settings.features.audio)
        mine = np.arange(len(ours))
    shared, here, there = np.intersect1d(mine, number, return_indices=True)
    if len(shared) < 0.9 * max(len(mine), len(number)):
        raise RuntimeError(f"{recording.recording_id}: the script kept {len(number)} segments, mmray {len(mine)}")
    return ours.x_SND[here].reshape(-1, ours.shape[1]), x_SND[there].reshape(-1, x_SND.shape[-1])


def _correlation(first_N: Any, second_N: Any) -> float:
    return float(np.corrcoef(first_N, second_N)[0, 1])


def _memory(settings: Config, recordings: list[Recording]) -> Figure:
    """What extracting one EEG adds to the peak of a process that has done a short one before."""
    recording = next(r for r in recordings if r.modality == "eeg")
    size = 4 * 129 * settings.synth.eeg_seconds * 250
    before, after = _apart(_peak, recording, settings)
    value = round((after - before) / size, 2)
    return Figure(
        value, FLOAT32_SIZES, (value, value), at_most=True, unit="float32 sizes", detail={"libraries": before}
    )


def _night(folder: str, hours: tuple[float, float]) -> Figure:
    """Peak memory of preparing a long recording over that of a shorter one, 128 electrodes at 250 Hz in EDF."""
    peaks, seconds, megabytes = [], [], []
    with progress.bar("prepare: memory of a night", len(hours)) as advance:
        for number in hours:
            path = Path(folder, f"{number:g}h.edf")
            _write_edf(path, round(3600 * number))
            night = Recording("night", "p", "p", "eeg", "1", "sleep", None, None, str(path), "mne", path.stat().st_size)
            start = time.perf_counter()
            peak, rows = _apart(_prepared, night, f"{folder}/night")
            if rows < 0.9 * 3600 * number / 4:
                raise RuntimeError(f"{rows} segments of {number:g} h")
            seconds.append(round(time.perf_counter() - start, 1))
            megabytes.append(round(path.stat().st_size / 2**20))
            peaks.append(peak)
            path.unlink()
            advance()
    value = round(peaks[1] / peaks[0], 3)
    detail = {"hours": hours, "peak_bytes": peaks, "file_mib": megabytes, "seconds": seconds}
    return Figure(value, 1.1, (value, value), at_most=True, detail=detail)


def _write_edf(path: Path, seconds: int) -> None:
    """White noise over shared rhythms in 16-bit EDF, a record of one second at a time."""
    names, rate, span = [f"E{n}" for n in range(1, 129)], 250, 3276.7
    fields: list[tuple[list[Any], int]] = [
        (names, 16), ([""] * 128, 80), (["uV"] * 128, 8), ([-span] * 128, 8), ([span] * 128, 8), ([-32767] * 128, 8),
        ([32767] * 128, 8), ([""] * 128, 80), ([rate] * 128, 8), ([""] * 128, 32),
    ]  # fmt: skip
    starts = ("0", 8), ("X", 80), ("X", 80), ("01.01.15", 8), ("22.00.00", 8), (256 * 129, 8), ("", 44)
    head = [*starts, (seconds, 8), (1, 8), (128, 4), *((value, width) for values, width in fields for value in values)]
    rng = np.random.default_rng(0)
    mixing_CM = rng.uniform(-1, 1, (128, 6))
    with path.open("wb") as file:
        file.write("".join(str(value).ljust(width) for value, width in head).encode("ascii"))
        for second in range(seconds):
            phase_T = 2 * np.pi * (second + np.arange(rate) / rate)
            shared_MT = 15 * np.sin(np.arange(4, 16, 2)[:, None] * phase_T + 0.1 * second)
            data_CT = mixing_CM @ shared_MT + rng.normal(0, 5, (128, rate))
            file.write(np.rint(data_CT / span * 32767).astype("<i2").tobytes())


def _prepared(recording: Recording, workspace: str, pipe: Any) -> None:
    cluster.limit_threads(1)
    rows, _ = parts.write(Workspace(workspace), (), f"{recording.size_bytes}.parquet", recording, Features(), "0" * 64)
    pipe.send((peak_bytes(), rows))


def _apart(work: Callable[..., None], *arguments: Any) -> Any:
    """What a process of its own sends back."""
    pipe, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(*arguments, there))
    process.start()
    there.close()
    sent = pipe.recv()
    process.join()
    return sent


def _peak(recording: Recording, settings: Config, pipe: Any) -> None:
    import mne  # noqa: F401
    import scipy.signal  # noqa: F401

    from mmray.features import eeg

    cluster.limit_threads(1)
    eeg.positions(settings.features.eeg.montage, eeg.node_names(settings.features.eeg))
    before = peak_bytes()
    extract(recording, settings.features)
    pipe.send((before, peak_bytes()))
