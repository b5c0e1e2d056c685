"""`mmray sweep`: many small fits on Ray Tune, each kept as soon as it ends, and what they say together.

A fit takes seconds, so starting a process, importing torch and reading the features for each would cost as much again:
processes are reused, and the features stand once a node in the object store. A fit has one thread and its process to
itself, unless the settings ask for several workers, which are then a Ray Train group of its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmray import cluster, config, progress
from mmray.config import Config
from mmray.errors import ConfigError, WorkspaceError
from mmray.evaluation import study, trials
from mmray.evaluation.comparison import Comparison
from mmray.evaluation.pooled import Figure
from mmray.evaluation.table import number, p_text
from mmray.evaluation.trials import Plan, Planned
from mmray.features.table import Segments
from mmray.models.system import System
from mmray.recordings import catalogue, oracle, splits
from mmray.storage import Workspace
from mmray.training import loop, pbt, results, search, structure, tracking, trainer, trial, tuning
from mmray.training.checkpoint import Checkpoint, EpochRecord

PBT = "pbt"  # name of the variant that is a population


@dataclass(frozen=True)
class Spec:
    """One trial: which settings, and where it stands in the grid.

    Attributes:
        rates: of a population; empty where the trial is one fit.
    """

    trial_id: str
    variant: str
    settings: Config
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class SweepSummary:
    """What `mmray sweep` tells.

    Attributes:
        finished: fits that ended with figures; `failed` names the others with their reasons.
        figures: variant -> pooled figures, each fold and seed at the learning rate that its validation prefers.
        comparisons: the first variant against each other one.
    """

    sweep_id: str
    workspace: str
    folder: str
    finished: int
    failed: dict[str, str]
    incomplete: list[str]
    figures: dict[str, list[Figure]]
    comparisons: list[Comparison]

    @property
    def exit_code(self) -> int:
        """That of what a fit's settings do not allow, where one failed."""
        return ConfigError.exit_code if self.failed else 0

    def render(self) -> RenderableType:
        """As tables for a terminal."""
        shown = Table(box=box.SIMPLE, caption="95 % of chance in brackets; * misses fits, so compare it with care")
        for column in ("", "R@1 eeg>audio", "p", "R@1 audio>eeg", "p", "mAP both", "cross-entropy", "bal. acc."):
            shown.add_column(column)
        for variant, figures in self.figures.items():
            at = {(f.direction, f.metric): f for f in figures}
            cells = [variant + ("*" if variant in self.incomplete else "")]
            for direction in ("eeg->audio", "audio->eeg"):
                found = at.get((direction, "R@1"))
                if found is None:  # every fold tests one person
                    cells += ["-", "-"]
                    continue
                cells += [f"{number(found.value, 3)} [{number(found.band_low, 2)}-{number(found.band_high, 2)}]"]
                cells += [p_text(found.p_value)]
            maps = [at[d, "mAP"] for d in ("eeg->audio", "audio->eeg") if (d, "mAP") in at]
            cells.append(" ".join(f"{number(m.value, 3)}" for m in maps) or "-")
            for metric in ("cross_entropy", "balanced_accuracy"):
                one_or_none = at.get(("fused", metric))
                cells.append("-" if one_or_none is None else number(one_or_none.value, 3))
            shown.add_row(*cells)
        tests = Table(box=box.SIMPLE, caption="paired by subject, first less second; p after Holm over all rows")
        for column in ("", "first", "second", "difference", "95 %", "p"):
            tests.add_column(column)
        for c in self.comparisons:
            tests.add_row(
                c.metric,
                c.first,
                c.second,
                f"{c.difference:+.3f}",
                "-" if c.ci_low is None else f"{c.ci_low:+.3f} to {c.ci_high:+.3f}",
                p_text(c.p_holm),
            )
        parts: list[RenderableType] = [shown, *([tests] if self.comparisons else [])]
        parts += [Text(f"failed {name}: {reason}") for name, reason in self.failed.items()]
        return Group(
            *parts,
            Text(f"{self.finished} fits. All files: {self.folder}"),
            Text(f"report  mmray compare --sweep {self.sweep_id} --workspace {self.workspace}"),
        )


def sweep(settings: Config) -> SweepSummary:
    """Run what is missing of the grid, then pool it into sweeps/<id>/.

    A fit that another sweep of the workspace made of the same data and settings is taken from there; one that failed is
    tried again.

    Raises:
        WorkspaceError: features, recordings or split are missing or damaged, or a result cannot be written.
        ConfigError: a variant's settings do not exist, there is no such fold, the study pairs trials or windows, or
            train.num_workers is a range.
        ResourceError: there is no room for one fit, or fits ended without a result; the same command goes on with them.
    """
    workspace = Workspace(settings.workspace)
    _require_one_group(settings)
    _require_one_pair_a_person(workspace, settings)
    splits.write_split(settings)
    plan, specs = grid(workspace, settings)
    place = ("sweeps", plan.sweep_id)
    workspace.write_text(config.to_yaml(settings), *place, "config.yaml")
    trials.write_plan(workspace, plan)
    trials.adopt(workspace, plan)
    there = trials.finished(workspace, plan.sweep_id)
    missing = [spec for spec in specs if spec.trial_id not in there]
    with workspace.tidied(*place):
        if missing:
            _fit_all(workspace, settings, plan, missing, len(there))
        if settings.sweep.search.samples:
            search.search(workspace, settings, plan.sweep_id)
    summary = summarise(workspace, settings, plan)
    workspace.write_json(asdict(summary), *place, "summary.json")
    flat = [
        {"variant": variant} | {k: v for k, v in asdict(f).items() if k != "per_subject"}
        for variant, figures in summary.figures.items()
        for f in figures
    ]
    if flat:
        workspace.write_table(pa.Table.from_pylist(flat), *place, "figures.parquet")
    return summary


def _require_one_group(settings: Config) -> None:
    """Fits that are compared stand on equally many workers."""
    least, most = settings.train.group
    if least != most:
        raise ConfigError(
            f"sweep: train.num_workers = [{least}, {most}] lets each fit have another number of workers, and a sweep "
            "compares fits; give it one number"
        )


def _require_one_pair_a_person(workspace: Workspace, settings: Config) -> None:
    """What is kept of a trial is a vector a person."""
    recordings = catalogue.load(workspace)
    people, pairs = ({getattr(r, name) for r in recordings} for name in ("subject_id", "pair_id"))
    if settings.features.pairing == "window" or len(pairs) > len(people):
        raise ConfigError(
            "sweep: this study pairs trials or windows, and sweeps compare people; run `mmray train` for each "
            "model.name, which reports the pairs among all and among each person's own"
        )


def _require_tested(workspace: Workspace, settings: Config, asked: set[int], segments: dict[str, Segments]) -> None:
    """What is kept of a trial is of people whose both modalities were prepared; a fold without any says nothing."""
    folds = splits.load_split(workspace, settings.split.name)
    both = set.intersection(*(set(part.subject_id_S.tolist()) for part in segments.values()))
    empty = sorted(fold for fold in asked if not both & set(folds[fold].test))
    if empty:
        raise ConfigError(
            f"sweep: nobody whom fold {', '.join(map(str, empty))} tests has segments of {' and '.join(segments)}; "
            "name the other folds in sweep.folds, or take fewer split.folds under a new split.name"
        )


def resume(root: str) -> SweepSummary:
    """Go on with the newest sweep of a workspace, under its own settings.

    Raises:
        WorkspaceError: there is none, or data, split or program are no longer those that it was planned with.
        As `sweep`.
    """
    workspace = Workspace(root)
    sweep_id = trials.newest(workspace)
    settings = trials.read_settings(workspace, sweep_id)
    plan, _ = grid(workspace, settings)
    if plan.sweep_id != sweep_id:
        raise WorkspaceError(
            f"sweeps/{sweep_id} was planned on other features, another split or another version of mmray than "
            f"workspace {root} has now, and fits of both must not stand in one table; run `mmray sweep` with its "
            "config for a new one"
        )
    return sweep(settings)


def grid(workspace: Workspace, settings: Config) -> tuple[Plan, list[Spec]]:
    """Every trial. Folds and seeds vary slowest, so that a sweep cut short still compares all systems.

    Raises:
        ConfigError: a variant's settings do not exist or are not a fit's own, or there is no such fold.
    """
    folds = splits.load_split(workspace, settings.split.name)
    chosen_folds = tuple(range(len(folds))) if settings.sweep.folds is None else settings.sweep.folds
    if any(not 0 <= fold < len(folds) for fold in chosen_folds):
        raise ConfigError(f"config: sweep.folds = {list(chosen_folds)}, and the split has folds 0 to {len(folds) - 1}")
    variants: dict[str, dict[str, Any]] = {name: {"model.name": name} for name in settings.sweep.systems}
    twice = {*variants, PBT} & settings.sweep.variants.keys()
    if twice:
        raise ConfigError(f"config: sweep.variants: '{min(twice)}' is taken; choose another name")
    for name, over in settings.sweep.variants.items():
        for key in over:
            trial.require_of_a_fit(key, f"sweep.variants: '{name}'")
    variants |= settings.sweep.variants
    data = trainer.data_digest(workspace, settings)
    specs: dict[str, Spec] = {}  # a variant with a learning rate of its own is planned once
    for seed in range(settings.seed, settings.seed + settings.sweep.seeds):
        for fold in chosen_folds:
            for variant, over in variants.items():
                for rate in settings.sweep.learning_rates:
                    laid = {"train.learning_rate": rate, **over, "train.fold": fold, "seed": seed}
                    chosen = config.laid_over(settings, laid)
                    trial_id = f"{_plain(variant)}-{trainer.named(chosen, data)}"
                    specs.setdefault(trial_id, Spec(trial_id, variant, chosen))
            if settings.sweep.pbt:
                population = _population(settings, data, fold, seed)
                specs[population.trial_id] = population
    sweep_id = hashlib.sha256("".join(specs).encode()).hexdigest()[:12]
    planned = (
        Planned(s.trial_id, s.variant, c.model.name, c.train.learning_rate, c.train.fold, c.seed)
        for s in specs.values()
        for c in [s.settings]
    )
    return Plan(sweep_id, data, tuple(planned)), list(specs.values())


def _population(settings: Config, data: str, fold: int, seed: int) -> Spec:
    """A trial that is a population; the rates are part of what it is."""
    rates = settings.sweep.learning_rates
    laid = {"train.learning_rate": max(rates), "train.schedule": "constant", "train.fold": fold, "seed": seed}
    chosen = config.laid_over(settings, {"model.name": settings.sweep.systems[0], **laid})
    return Spec(f"{PBT}-{trainer.named(chosen, data)}-{config.digest(*rates)}", PBT, chosen, rates)


def summarise(workspace: Workspace, settings: Config, plan: Plan) -> SweepSummary:
    """Pool the trials; a failed one is named, and its variant marked."""
    found = study.pool(
        plan, trials.read(workspace, plan), settings.evaluate, settings.seed, oracle.truth_of(settings.study)
    )
    return SweepSummary(
        plan.sweep_id,
        workspace.root,
        workspace.address("sweeps", plan.sweep_id),
        found.finished,
        found.failed,
        found.incomplete,
        found.figures,
        found.comparisons,
    )


def _plain(variant: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in variant)


def _fit_all(workspace: Workspace, settings: Config, plan: Plan, missing: list[Spec], done: int) -> None:
    everyone = splits.load_split(workspace, settings.split.name)[0]
    segments = trainer.recorded(workspace, settings, everyone)
    _require_tested(workspace, settings, {spec.settings.train.fold for spec in missing}, segments)
    for spec in missing:
        if spec.settings.model.name == "strucgcn":
            structure.prepare(spec.settings, segments)
            break
    with cluster.session(settings.cluster), tuning.folder() as folder:
        from ray import tune

        with progress.bar("sweep", len(plan.trials)) as advance:
            advance(done)
            fit = tune.with_parameters(
                _trial,
                specs=[(s.trial_id, s.variant, s.settings.model_dump(mode="json"), s.rates) for s in missing],
                sweep_id=plan.sweep_id,
                segments=segments,
            )
            best = (-1.0, "")
            in_groups = settings.train.group[1] > 0

            def ended(told: dict[str, Any]) -> None:
                nonlocal best
                _track(workspace, settings, plan, told["trial"])
                best = max(best, (told["validation_mrr"] or -1.0, told["variant"]))
                advance(1, f"best validation MRR {best[0]:.3f}, {best[1]}")

            tuning.run_all(
                [spec.trial_id for spec in missing],
                lambda: trials.finished(workspace, plan.sweep_id),
                lambda left: tuning.run(
                    fit,
                    {"position": tune.grid_search(left)},
                    settings,
                    folder,
                    ended,
                    fits=len(left),
                    in_groups=in_groups,
                ),
                "sweep",
                f"`{trials.resume_command(workspace)}` goes on with these; `mmray compare` reports what is there",
            )


@tuning.fit
def _trial(
    at: dict[str, int],
    specs: list[tuple[str, str, dict[str, Any], tuple[float, ...]]],
    sweep_id: str,
    segments: dict[str, Segments],
) -> None:
    """One fit on a Tune worker, its row written whole before it counts."""
    from ray import tune

    trial_id, variant, tree, rates = specs[at["position"]]
    settings = config.from_dict(tree)
    cluster.limit_threads(1)
    torch.set_num_threads(1)
    workspace = Workspace(settings.workspace)
    fold = splits.load_split(workspace, settings.split.name)[settings.train.fold]
    told = results.chosen(segments, (*fold.train, *fold.validation, *fold.test))
    told = trainer.paired(told, settings, fold)

    def fit(model: System, training: dict[str, Segments], validation: dict[str, Segments]) -> Checkpoint:
        if rates:
            return pbt.fit(model, training, validation, settings.train, rates, settings.seed)
        if settings.train.group[1]:
            run_id = trainer.run_name(workspace, settings)
            with workspace.tidied("runs", run_id):
                return trainer.fit_run(workspace, settings, run_id, told, fold)
        return loop.fit(model, training, validation, settings.train, settings.seed)

    row = trial.run(
        settings,
        told,
        fold,
        trainer.classes_of(workspace),
        trial_id=trial_id,
        variant=variant,
        fit=fit,
    )
    trials.write(workspace, sweep_id, row)
    tune.report({"trial": trial_id, "variant": variant, "validation_mrr": row["validation_mrr"]})


def _track(workspace: Workspace, settings: Config, plan: Plan, trial_id: str) -> None:
    """A fit that ended, told as `train.track` asks; from the driver, so that one process writes."""
    if settings.train.track == "none":
        return
    one = next(planned for planned in plan.trials if planned.trial_id == trial_id)
    row = trials.read(workspace, replace(plan, trials=(one,)))[0]
    fitted_with = config.laid_over(settings, json.loads(row["config"]))
    with tracking.tracked(workspace, fitted_with, "sweeps", plan.sweep_id, trial_id) as track:
        for record in row["history"] or []:
            track(EpochRecord(**record))
