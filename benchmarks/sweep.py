"""The sweep against the same grid as ordinary Tune trials and as a plain loop; and one stacked model against replicas.

Both alternatives fit with the product's own loop and read the same features. An ordinary trial has a process of its own
and loads its data; the plain loop is one process with as many threads as there are cores, its data loaded once.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from typing import Any

import torch

from benchmarks import stacked
from benchmarks.harness import Outcome
from mmray import cluster, config, progress
from mmray.config import Config
from mmray.features import pipeline
from mmray.quota import usable_cores
from mmray.recordings import catalogue, splits, synthetic
from mmray.storage import Workspace
from mmray.training import results, structure, sweep, trainer, trial, tuning

SIDES = ("ours", "ordinary Tune trials", "plain loop")
BARS = {"ordinary Tune trials": 5.0, "plain loop": 1.5}


def run(*, quick: bool) -> Outcome:
    """Fits a minute of six systems at four rates on one fold of 53 people, the default budget a fit."""
    outcome = Outcome("sweep")
    folder = tempfile.mkdtemp(prefix="mmray-benchmark-")
    try:
        settings = _settings(folder, quick)
        _prepared(settings)
        with cluster.session(settings.cluster):
            _compared(outcome, settings, rounds=1 if quick else 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    outcome.detail |= stacked.measured(rounds=3 if quick else 9)
    return outcome


def _settings(folder: str, quick: bool) -> Config:
    systems = ["crossmodal_gcn", "gcn", "gat", "graphsage", "strucgcn", "mamsa"]
    return config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": 20 if quick else 53, "eeg_seconds": 16 if quick else 60, "clips": 2 if quick else 6},
            "train": {"schedule": "constant"} | ({"epochs": 2} if quick else {}),
            "sweep": {
                "systems": systems[1:2] if quick else systems,
                "learning_rates": [1e-2, 1e-3] if quick else [1e-2, 1e-3, 1e-4, 1e-5],
                "folds": [0],
                "seeds": 1,
            },
        }
    )


def _prepared(settings: Config) -> None:
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    pipeline.prepare(settings)
    splits.write_split(settings)
    workspace = Workspace(settings.workspace)
    everyone = splits.load_split(workspace, settings.split.name)[0]
    if "strucgcn" in settings.sweep.systems:  # the product keeps its matrices on disk, so all sides find them there
        chosen = config.laid_over(settings, {"model.name": "strucgcn"})
        structure.prepare(chosen, trainer.recorded(workspace, chosen, everyone))


def _compared(outcome: Outcome, settings: Config, rounds: int) -> None:
    _, specs = sweep.grid(Workspace(settings.workspace), settings)
    works = {"ours": _ours, "ordinary Tune trials": _ordinary, "plain loop": _plain_loop}
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    with progress.bar("sweep: fits a minute", rounds * len(SIDES)) as advance:
        for round_ in range(rounds):
            for side in SIDES if round_ % 2 == 0 else SIDES[::-1]:
                start = time.perf_counter()
                works[side](settings, specs)
                seconds[side].append(time.perf_counter() - start)
                advance()
    outcome.rate("fits a minute, over", seconds, BARS)
    outcome.detail["fits"] = len(specs)
    outcome.detail["fits a minute"] = {
        side: round(60 * len(specs) / statistics.median(took), 2) for side, took in seconds.items()
    }


def _ours(settings: Config, specs: list[sweep.Spec]) -> None:
    shutil.rmtree(f"{settings.workspace}/sweeps", ignore_errors=True)
    sweep.sweep(settings)


def _ordinary(settings: Config, specs: list[sweep.Spec]) -> None:
    from ray import tune

    with tuning.folder() as folder:
        fit = tune.with_parameters(_alone, trees=[spec.settings.model_dump(mode="json") for spec in specs])
        found = tune.Tuner(
            tune.with_resources(fit, {"cpu": 1}),
            param_space={"position": tune.grid_search(list(range(len(specs))))},
            tune_config=tune.TuneConfig(reuse_actors=False, max_concurrent_trials=usable_cores()),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    if found.errors:
        raise RuntimeError(f"an ordinary trial failed: {found.errors[0]}")


def _alone(at: dict[str, int], trees: list[dict[str, Any]]) -> None:
    from ray import tune

    torch.set_num_threads(1)
    settings = config.from_dict(trees[at["position"]])
    workspace = Workspace(settings.workspace)
    fold = splits.load_split(workspace, settings.split.name)[settings.train.fold]
    segments = trainer.segments_of(workspace, settings, fold)
    row = trial.run(settings, segments, fold, trainer.classes_of(workspace), trial_id="", variant="")
    tune.report({"validation_mrr": row["validation_mrr"]})


def _plain_loop(settings: Config, specs: list[sweep.Spec]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    workspace = Workspace(settings.workspace)
    fold = splits.load_split(workspace, settings.split.name)[0]
    segments = trainer.segments_of(workspace, settings, fold)
    told = results.chosen(segments, (*fold.train, *fold.validation, *fold.test))
    for spec in specs:
        trial.run(spec.settings, told, fold, trainer.classes_of(workspace), trial_id="", variant="")
    torch.set_num_threads(before)
