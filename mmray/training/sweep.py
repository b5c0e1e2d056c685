"""`mmray sweep`: many small fits on the cluster, each kept as soon as it ends, and what they say together.

A fit takes seconds, so a worker process is reused for many, reads the features once, and fits on one thread.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmray import cluster, config
from mmray.config import Config
from mmray.errors import ConfigError
from mmray.evaluation import comparison, pooled
from mmray.evaluation.comparison import Comparison
from mmray.evaluation.evaluate import Ceilings
from mmray.evaluation.pooled import Figure
from mmray.evaluation.table import number, p_text
from mmray.features.table import Segments
from mmray.recordings import oracle, splits
from mmray.storage import Workspace
from mmray.training import results, structure, trainer, trial

Row = dict[str, Any]


@dataclass(frozen=True)
class Spec:
    """One trial: which settings, and where it stands in the grid."""

    trial_id: str
    variant: str
    settings: Config


@dataclass(frozen=True)
class SweepSummary:
    """What `mmray sweep` tells.

    Attributes:
        finished: fits that ended with figures; `failed` names the others with their reasons.
        figures: variant -> pooled figures, each fold and seed at the learning rate that its validation prefers.
        comparisons: the first variant against each other one.
    """

    sweep_id: str
    folder: str
    finished: int
    failed: dict[str, str]
    incomplete: list[str]
    figures: dict[str, list[Figure]]
    comparisons: list[Comparison]

    def render(self) -> RenderableType:
        """As tables for a terminal."""
        shown = Table(box=box.SIMPLE, caption="95 % of chance in brackets; * misses fits, so compare it with care")
        for column in ("", "R@1 eeg>audio", "p", "R@1 audio>eeg", "p", "mAP both", "cross-entropy", "bal. acc."):
            shown.add_column(column)
        for variant, figures in self.figures.items():
            at = {(f.direction, f.metric): f for f in figures}
            cells = [variant + ("*" if variant in self.incomplete else "")]
            for direction in ("eeg->audio", "audio->eeg"):
                one = at[direction, "R@1"]
                cells += [f"{number(one.value, 3)} [{number(one.band_low, 2)}-{number(one.band_high, 2)}]"]
                cells += [p_text(one.p_value)]
            maps = [at[d, "mAP"] for d in ("eeg->audio", "audio->eeg") if (d, "mAP") in at]
            cells.append(" ".join(f"{number(m.value, 3)}" for m in maps) or "-")
            for metric in ("cross_entropy", "balanced_accuracy"):
                one_or_none = at.get(("fused", metric))
                cells.append("-" if one_or_none is None else number(one_or_none.value, 3))
            shown.add_row(*cells)
        tests = Table(box=box.SIMPLE, caption="paired by subject, first less second; p after Holm")
        for column in ("", "against", "difference", "95 %", "p"):
            tests.add_column(column)
        for c in self.comparisons:
            tests.add_row(
                c.metric, c.second, f"{c.difference:+.3f}", f"{c.ci_low:+.3f} to {c.ci_high:+.3f}", p_text(c.p_holm)
            )
        parts: list[RenderableType] = [shown, *([tests] if self.comparisons else [])]
        parts += [Text(f"failed {name}: {reason}") for name, reason in self.failed.items()]
        return Group(*parts, Text(f"{self.finished} fits. All files: {self.folder}"))


def sweep(settings: Config) -> SweepSummary:
    """Run what is missing of the grid, then pool it into sweeps/<id>/.

    Raises:
        WorkspaceError: features, recordings or split are missing or damaged.
        ConfigError: a variant's settings do not exist, or there is no such fold.
    """
    workspace = Workspace(settings.workspace)
    splits.write_split(settings)
    folds = splits.load_split(workspace, settings.split.name)
    chosen = tuple(range(len(folds))) if settings.sweep.folds is None else settings.sweep.folds
    if any(not 0 <= fold < len(folds) for fold in chosen):
        raise ConfigError(f"config: sweep.folds = {list(chosen)}, and the split has folds 0 to {len(folds) - 1}")
    specs = grid(workspace, settings, chosen)
    sweep_id = hashlib.sha256("".join(spec.trial_id for spec in specs).encode()).hexdigest()[:12]
    place = ("sweeps", sweep_id)
    workspace.write_text(config.to_yaml(settings), *place, "config.yaml")
    missing = [spec for spec in specs if not workspace.exists(*place, "trials", f"{spec.trial_id}.parquet")]
    if missing:
        for spec in missing:
            if spec.settings.model.name == "strucgcn":
                structure.prepare(spec.settings, trainer.segments_of(workspace, spec.settings, folds[0]))
                break
        with cluster.session(settings.cluster):
            cluster.require_room("sweep", cpus=1, setting="cluster.num_cpus")
            tasks = [(sweep_id, spec.trial_id, spec.variant, spec.settings.model_dump(mode="json")) for spec in missing]
            for _ in cluster.map(_fit, tasks, label="sweep", cpus=1):
                pass
    rows = pa.concat_tables([workspace.read_table(*place, "trials", f"{spec.trial_id}.parquet") for spec in specs])
    workspace.write_table(rows, *place, "trials.parquet")
    summary = summarise(workspace, settings, sweep_id, rows.to_pylist())
    told = asdict(summary)
    workspace.write_json(told, *place, "summary.json")
    flat = [
        {"variant": variant} | {k: v for k, v in asdict(f).items() if k != "per_subject"}
        for variant, figures in summary.figures.items()
        for f in figures
    ]
    if flat:
        workspace.write_table(pa.Table.from_pylist(flat), *place, "figures.parquet")
    return summary


def grid(workspace: Workspace, settings: Config, folds: tuple[int, ...]) -> list[Spec]:
    """Every trial. Folds and seeds vary slowest, so that a sweep cut short still compares all systems."""
    variants: dict[str, dict[str, Any]] = {name: {"model.name": name} for name in settings.sweep.systems}
    twice = variants.keys() & settings.sweep.variants.keys()
    if twice:
        raise ConfigError(f"config: sweep.variants: '{min(twice)}' is a system's name; choose another")
    variants |= settings.sweep.variants
    specs = []
    for seed in range(settings.seed, settings.seed + settings.sweep.seeds):
        for fold in folds:
            for variant, over in variants.items():
                for rate in settings.sweep.learning_rates:
                    laid = {"train.learning_rate": rate, **over, "train.fold": fold, "seed": seed}
                    chosen = _laid_over(settings, laid)
                    specs.append(Spec(f"{_plain(variant)}-{trainer.run_name(workspace, chosen)}", variant, chosen))
    return specs


def _laid_over(settings: Config, laid: dict[str, Any]) -> Config:
    tree = settings.model_dump(mode="json")
    for key, value in laid.items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return config.from_dict(tree)


def _plain(variant: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in variant)


def _fit(task: tuple[str, str, str, dict[str, Any]]) -> str:
    """One trial on a worker, its row written whole before it counts."""
    sweep_id, trial_id, variant, tree = task
    settings = config.from_dict(tree)
    torch.set_num_threads(1)
    workspace = Workspace(settings.workspace)
    fold = splits.load_split(workspace, settings.split.name)[settings.train.fold]
    segments = _segments(settings.workspace, settings.split.name, config.digest(settings.features), settings)
    row = trial.run(
        settings,
        results.chosen(segments, (*fold.train, *fold.validation, *fold.test)),
        fold,
        trainer.classes_of(workspace),
        trial_id=trial_id,
        variant=variant,
    )
    table = pa.Table.from_pylist([row], schema=trial.TRIALS)
    workspace.write_table(table, "sweeps", sweep_id, "trials", f"{trial_id}.parquet")
    return trial_id


_held: dict[tuple[str, ...], dict[str, Segments]] = {}


def _segments(*key: Any) -> dict[str, Segments]:
    """Everybody's segments, read once a worker process."""
    root, split, digest, settings = key
    if (root, split, digest) not in _held:
        _held.clear()
        workspace = Workspace(root)
        everyone = splits.load_split(workspace, split)[0]
        _held[root, split, digest] = trainer.segments_of(workspace, settings, everyone)
    return _held[root, split, digest]


def summarise(workspace: Workspace, settings: Config, sweep_id: str, rows: list[Row]) -> SweepSummary:
    """Pool the trials; a failed one is named, and its variant marked."""
    failed = {row["trial_id"]: row["error"] for row in rows if row["error"] is not None}
    by_variant: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_variant[row["variant"]].append(row)
    figures: dict[str, list[Figure]] = {}
    incomplete = []
    for variant, mine in by_variant.items():
        finished = [row for row in mine if row["error"] is None]
        cells = {(row["fold"], row["seed"]) for row in finished}
        seeds = {seed for _, seed in cells}
        whole = {fold for fold, _ in cells if all((fold, seed) in cells for seed in seeds)}
        if len(finished) < len(mine):
            incomplete.append(variant)
        if not whole:
            continue
        kept = [row for row in finished if row["fold"] in whole]
        ceilings = _ceilings(settings, kept)
        found: dict[tuple[str, str, str], Figure] = {}
        for task, best in (("retrieval", "validation_mrr"), ("classification", "validation_cross_entropy")):
            picked = [trial.tested(row) for row in _picked(kept, best)]
            pooled_figures = pooled.pool(picked, settings.evaluate, settings.seed, ceilings)
            found |= {(f.task, f.direction, f.metric): f for f in pooled_figures if f.task == task}
        figures[variant] = list(found.values())
    comparisons = _compared(figures, settings)
    return SweepSummary(
        sweep_id,
        workspace.path("sweeps", sweep_id),
        sum(row["error"] is None for row in rows),
        failed,
        incomplete,
        figures,
        comparisons,
    )


def _picked(rows: list[Row], by: str) -> list[Row]:
    """Each fold's and seed's trial at the learning rate that its validation subjects prefer."""
    sign = 1 if by == "validation_mrr" else -1
    cells: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["fold"], row["seed"]].append(row)
    return [max(cell, key=lambda row: sign * (row[by] if row[by] is not None else 0.0)) for cell in cells.values()]


def _compared(figures: dict[str, list[Figure]], settings: Config) -> list[Comparison]:
    """The first variant against every other one, on R@1 and MRR of both directions and on cross-entropy."""
    if len(figures) < 2:
        return []
    first, *others = figures
    found = []
    for metric in ("R@1", "MRR", "cross_entropy"):
        one = _per_subject(figures[first], metric)
        for other in others:
            two = _per_subject(figures[other], metric)
            if one.keys() & two.keys():
                found.append(
                    comparison.compare(first, other, metric, one, two, settings.evaluate.bootstraps, settings.seed)
                )
    return comparison.corrected(found)


def _per_subject(figures: list[Figure], metric: str) -> dict[str, float]:
    """Subject -> value, averaged over directions."""
    columns = [figure.per_subject for figure in figures if figure.metric == metric and figure.per_subject]
    return {s: sum(column[s] for column in columns) / len(columns) for s in (columns[0] if columns else {})}


def _ceilings(settings: Config, rows: list[Row]) -> dict[int, Ceilings]:
    study = Workspace(settings.study.root)
    if not settings.study.root or not study.exists("truth.parquet"):
        return {}
    truth = study.read_table("truth.parquet")
    return {row["fold"]: oracle.ceilings(truth, row["subject_id"]) for row in rows}
