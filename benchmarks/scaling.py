"""What stages cost, fitted on small sizes and checked by predicting a larger one; the figures of docs/scaling.md.

Each law is fitted to the smaller sizes alone. The figure is how far it is off at the size held out, which is larger
than, or unlike, all of them. Sizes are taken in turn, round by round, and the median of a size counts, so that a busy
minute meets them all. The laws go into the detail, for `python -m benchmarks.cost_model`.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import cost_model, search
from benchmarks.cost_model import Law
from benchmarks.fits import SEGMENTS_EACH, SHAPES, Fit, segments_of
from benchmarks.harness import Figure, Outcome, timed
from mmray import cluster, config, progress
from mmray.config import Config
from mmray.features import pipeline
from mmray.index import embed, faiss_index
from mmray.models import registry
from mmray.quota import usable_cores
from mmray.recordings import catalogue, synthetic
from mmray.schema import recordings_table
from mmray.storage import Workspace

BAR = 0.20  # of the measured cost, that a prediction may be off

# subjects, seconds of EEG, clips and seconds of one; the last is held out, larger than all others in everything
STUDIES = (
    *((4, 30, 1, 5), (4, 300, 1, 5), (4, 30, 12, 5), (4, 30, 12, 20), (12, 30, 2, 5), (8, 120, 6, 10), (12, 200, 4, 5)),
    (16, 300, 8, 15),
)
QUICK_STUDIES = (
    (4, 16, 1, 5),
    (4, 60, 1, 5),
    (4, 16, 6, 5),
    (4, 16, 6, 10),
    (8, 16, 1, 5),
    (6, 32, 3, 5),
    (8, 60, 6, 5),
)

Sizes = Sequence[Mapping[str, float]]


def run(*, quick: bool) -> Outcome:
    """Errors of the predictions at the sizes held out, and the laws."""
    torch.set_num_threads(1)
    outcome = Outcome("scaling")
    laws: dict[str, Law] = {}
    train = config.Train()
    facts: dict[str, float] = {"epochs": train.epochs, "subjects_a_step": train.batch_size / train.passes}
    with cluster.session(config.Cluster()):
        _dispatch(outcome, laws, quick)
        _prepare(outcome, laws, quick)
    _train(outcome, laws, facts, quick)
    _index(outcome, laws, quick)
    outcome.detail |= {"laws": cost_model.as_json(laws), "facts": facts}
    return outcome


def _held_out(
    outcome: Outcome,
    laws: dict[str, Law],
    name: str,
    terms: Sequence[str],
    sizes: Sizes,
    costs: Sequence[float],
    *,
    rounds: int = 1,
) -> None:
    """Fit all sizes but the last, and say how far off the last is predicted."""
    unit = "s" if "seconds" in name else "bytes"
    law = cost_model.fit(terms, sizes[:-1], costs[:-1], unit)
    predicted, measured = law(sizes[-1]), costs[-1]
    off = round(abs(predicted / measured - 1), 4)
    fitted = [law(size) / cost - 1 for size, cost in zip(sizes[:-1], costs[:-1], strict=True)]
    detail = {
        "predicted": float(f"{predicted:.6g}"),
        "measured": float(f"{measured:.6g}"),
        "held_out": dict(sizes[-1]),
        "rounds": rounds,
        "worst_of_fitted": round(max(map(abs, fitted)), 4),
    }
    note = f"; {predicted:.4g} {unit} predicted, {measured:.4g} measured"
    figure = Figure(off, BAR, (off, off), at_most=True, unit="of the measured", note=note, detail=detail)
    outcome.figures[f"{name}, error at the held-out size"] = figure
    # what a plan is made with knows all sizes
    laws[name] = cost_model.fit(terms, sizes, costs, unit)


def _in_turn(label: str, works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each work."""
    seconds: list[list[float]] = [[] for _ in works]
    with progress.bar(f"scaling: {label}", rounds * len(works)) as advance:
        for round_ in range(rounds):
            order = range(len(works)) if round_ % 2 else reversed(range(len(works)))
            for at in order:
                seconds[at].append(timed(works[at]))
                advance()
    return [statistics.median(taken) for taken in seconds]


def _dispatch(outcome: Outcome, laws: dict[str, Law], quick: bool) -> None:
    """The driver's time a task that does nothing."""
    counts = (100, 200, 400, 800) if quick else (500, 1000, 2000, 6000)
    list(cluster.map(_nothing, range(100), label="scaling: workers start"))
    rounds = 1 if quick else 3
    seconds = _in_turn("tasks", [partial(_tasks, count) for count in counts], rounds)
    sizes = [{"tasks": float(count)} for count in counts]
    _held_out(outcome, laws, "dispatch: seconds", ("once", "task"), sizes, seconds, rounds=rounds)


def _tasks(count: int) -> None:
    for _ in cluster.map(_nothing, range(count), label="scaling: tasks that do nothing"):
        pass


def _nothing(item: int) -> int:
    return item


def _prepare(outcome: Outcome, laws: dict[str, Law], quick: bool) -> None:
    """Whole `mmray prepare` runs on studies of several shapes."""
    folder = tempfile.mkdtemp(prefix="mmray-benchmark-")
    rounds = 1 if quick else 2
    try:
        studies = [_study(f"{folder}/{n}", *of) for n, of in enumerate(QUICK_STUDIES if quick else STUDIES)]
        _prepared(studies[0])  # the workers import what they need
        seconds = _in_turn("prepare", [partial(_prepared, study) for study in studies], rounds)
        sizes = [_size(study) for study in studies]
        core_s = [usable_cores() * taken for taken in seconds]
        terms = ("once", "EEG recording", "voice recording", "EEG hour", "voice hour")
        _held_out(outcome, laws, "prepare: core-seconds", terms, sizes, core_s, rounds=rounds)
        written = [_bytes(Path(study.workspace, "features")) for study in studies]
        _held_out(outcome, laws, "prepare: bytes written", terms, sizes, written)
        read = [float(sum(r.size_bytes for r in catalogue.load(Workspace(s.workspace)))) for s in studies]
        _held_out(outcome, laws, "prepare: bytes read", terms[1:], sizes, read)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _study(folder: str, subjects: int, eeg_seconds: float, clips: int, clip_seconds: float) -> Config:
    settings = config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {
                "subjects": subjects,
                "eeg_seconds": eeg_seconds,
                "clips": clips,
                "clip_seconds": clip_seconds,
            },
        }
    )
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    # one EEG each, as for all but three of MODMA's people
    workspace = Workspace(settings.workspace)
    kept = [r for r in catalogue.load(workspace) if r.modality == "audio" or r.task == "rest"]
    workspace.write_table(recordings_table(kept), "recordings.parquet")
    return settings


def _prepared(settings: Config) -> None:
    shutil.rmtree(f"{settings.workspace}/features", ignore_errors=True)
    pipeline.prepare(settings)


def _size(settings: Config) -> dict[str, float]:
    """Recordings, and hours as the published segments cover them."""
    workspace = Workspace(settings.workspace)
    (folder,) = Path(settings.workspace, "features").iterdir()
    parts = workspace.read_table("features", folder.name, "parts.parquet").to_pylist()
    second = {"eeg": settings.features.eeg.segment_s, "audio": settings.features.audio.segment_s}
    hours = {
        modality: sum(part["segments"] for part in parts if part["modality"] == modality) * second[modality] / 3600
        for modality in second
    }
    counts = {modality: float(sum(part["modality"] == modality for part in parts)) for modality in second}
    return {
        "eeg_recordings": counts["eeg"],
        "voice_recordings": counts["audio"],
        "eeg_h": hours["eeg"],
        "voice_h": hours["audio"],
    }


def _bytes(folder: Path) -> float:
    return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def _train(outcome: Outcome, laws: dict[str, Law], facts: dict[str, float], quick: bool) -> None:
    """Epochs of the product's fit, and what two workers make of one."""
    counts, rounds = ((40, 80, 160, 320), 2) if quick else ((100, 200, 300, 400, 600, 1000), 2)
    with ExitStack() as stack, progress.bar("scaling: fits start", len(counts) + 1) as advance:
        fits = []
        for count in counts:
            fits.append(stack.enter_context(Fit(count)))
            advance()
        two = stack.enter_context(Fit(counts[-2], world=2))
        advance()
        *seconds, two_s = _in_turn("epochs", [*fits, two], rounds)
        sizes = [{"subjects": float(count)} for count in counts]
        terms = ("once", "subject", "pair of subjects")
        _held_out(outcome, laws, "train: seconds an epoch", terms, sizes, seconds, rounds=rounds)
    # Amdahl's law, solved for its serial part: t2 = t1 (s + (1 - s) / 2)
    facts["serial_share"] = round(min(1.0, max(0.0, 2 * two_s / seconds[-2] - 1)), 4)
    model = registry.build(config.Model(), SHAPES, classes=2)
    facts["gradient_bytes"] = float(sum(4 * parameter.numel() for parameter in model.parameters()))
    larger = (100, 200, 300) if quick else (500, 1000, 1500, 2000)  # below, a step's arrays hide the subjects'
    held = [_peak_bytes(count) for count in larger]
    sizes = [{"subjects": float(count)} for count in larger]
    _held_out(outcome, laws, "train: bytes of a worker", ("once", "subject"), sizes, held)
    outcome.detail["two workers over one"] = round(seconds[-2] / two_s, 3)
    outcome.detail["segments a subject and modality"] = SEGMENTS_EACH


def _peak_bytes(subjects: int) -> float:
    with Fit(subjects) as fit:
        return float(fit.peak_bytes)


def _index(outcome: Outcome, laws: dict[str, Law], quick: bool) -> None:
    """Embedding of prepared segments, and the build of an HNSW, one thread each."""
    rounds = 1 if quick else 3
    model = registry.build(config.Model(population=False), SHAPES, classes=2).eval()
    subjects = (25, 50, 100, 200) if quick else (50, 100, 200, 600)
    parts = [segments_of(count)["eeg"] for count in subjects]
    embed.segment_vectors(model, parts[0])
    works = [partial(embed.segment_vectors, model, part) for part in parts]
    seconds = _in_turn("embedding", works, rounds)
    sizes: Sizes = [{"segments": float(len(part))} for part in parts]
    _held_out(outcome, laws, "index: seconds of embedding", ("once", "segment"), sizes, seconds, rounds=rounds)
    rows = (2_000, 4_000, 8_000, 16_000) if quick else (25_000, 50_000, 100_000, 300_000)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{count}") for count in rows]
        built = [partial(_built, count, path) for count, path in zip(rows, paths, strict=True)]
        built[0]()  # the first build of a process pays for faiss as well: half as much again at this size
        seconds = _processor(built)
        sizes = [{"vectors": float(count)} for count in rows]
        terms = ("vector", "vector to the 5/4")
        _held_out(outcome, laws, "index: seconds of an HNSW's build", terms, sizes, seconds)
        written = [float(path.stat().st_size) for path in paths]
        _held_out(outcome, laws, "index: bytes", ("vector",), sizes, written)


def _built(rows: int, path: Path) -> None:
    faiss_index.write(search.people(rows), config.Index(), "hnsw", path)


def _processor(works: Sequence[Callable[[], Any]]) -> list[float]:
    """Seconds of this process's own processor time; one thread works."""
    faiss_index.faiss.omp_set_num_threads(1)
    taken = []
    with progress.bar("scaling: index", len(works)) as advance:
        for work in works:
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
            advance()
    return taken
