"""`mmray power`: how many people must be recorded? Synthetic studies of known coupling, fitted at growing sizes.

A study has the people of its largest size and those that every size is tested on; a smaller size is part of a larger.
Each study is made, prepared and fitted before the next, and it is deleted when its last fit is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmray import __version__, cluster, config, progress
from mmray.config import Config
from mmray.errors import ConfigError
from mmray.evaluation import pooled, power_page, trials
from mmray.evaluation import power as figures
from mmray.evaluation.power import Cell, FalseAlarms, Fitted, Needed
from mmray.features import pipeline
from mmray.features.table import Segments
from mmray.features.table import load as load_segments
from mmray.recordings import catalogue, synthetic
from mmray.recordings.splits import Fold
from mmray.schema import MODALITIES
from mmray.storage import Workspace, is_uri
from mmray.training import results, structure, trainer, trial, tuning

FITS = pa.schema(
    [
        pa.field("system", pa.string(), nullable=False),
        pa.field("coupling", pa.float64(), nullable=False),
        pa.field("subjects", pa.int64(), nullable=False),
        pa.field("study", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("r1", pa.float64()),
        pa.field("mrr", pa.float64()),
        pa.field("p_retrieval", pa.float64()),
        pa.field("balanced_accuracy", pa.float64()),
        pa.field("p_classification", pa.float64()),
        pa.field("seconds", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Asked:
    """One study: its coupling and number, and the settings of its own workspace."""

    coupling: float
    number: int
    settings: Config


@dataclass(frozen=True)
class PowerSummary:
    """What `mmray power` tells."""

    power_id: str
    folder: str
    report: str
    cells: list[Cell]
    needed: list[Needed]
    false_alarms: list[FalseAlarms]
    failed: dict[str, str]

    @property
    def exit_code(self) -> int:
        """That of what a fit's settings do not allow, where one failed."""
        return ConfigError.exit_code if self.failed else 0

    def render(self) -> RenderableType:
        """As tables for a terminal."""
        shown = Table(box=box.SIMPLE, caption="found: share of studies with p < 0.05; 95 % over studies in brackets")
        for column in ("", "coupling", "learnt from", "R@1", "found"):
            shown.add_column(column, justify="left" if not column else "right")
        for cell in self.cells:
            shown.add_row(
                cell.system,
                f"{cell.coupling:g}",
                str(cell.subjects),
                f"{cell.r1:.3f}" + ("" if cell.r1_low is None else f" [{cell.r1_low:.3f}-{cell.r1_high:.3f}]"),
                f"{cell.found:.2f} [{cell.found_low:.2f}-{cell.found_high:.2f}]",
            )
        lines = [power_page.sentence(one, self.cells) for one in self.needed]
        lines += power_page.alarm_sentences(self.false_alarms)
        lines += [f"failed {name}: {reason}" for name, reason in self.failed.items()]
        return Group(shown, *map(Text, lines), Text(f"report  {self.report}"))


def power(settings: Config) -> PowerSummary:
    """Fit what is missing of the grid, then write power/<id>/: fits, tables, figures and report.html.

    Stopped anywhere, the same command goes on; so does one that asks for more studies, couplings or systems.

    Raises:
        ConfigError: the workspace is no folder, the settings allow no fit, or too few people of a study were prepared.
        As `synthetic.generate`, `pipeline.prepare` and `tuning.run`.
    """
    if is_uri(settings.workspace):
        raise ConfigError("power: synthetic studies are written to a disk; give --workspace a folder")
    for system in settings.power.systems:
        config.laid_over(settings, {"model.name": system})  # refused now, and not by each fit of a prepared study
    workspace = Workspace(settings.workspace)
    power_id = _power_id(settings)
    place = ("power", power_id)
    workspace.write_text(config.to_yaml(settings), *place, "config.yaml")
    asked = list(_studies(settings, power_id))
    with workspace.tidied(*place), cluster.session(settings.cluster):
        for one in asked:
            _fit_study(workspace, settings, power_id, one)
    table = pa.concat_tables([workspace.read_table(*place, "fits", name) for name in _names(settings)])
    fits = [Fitted(**row) for row in table.to_pylist()]
    if all(fit.error for fit in fits):
        raise ConfigError(f"power: none of {len(fits)} fits could be made ({fits[0].error}); see power.subjects")
    summary = PowerSummary(
        power_id,
        workspace.address(*place),
        workspace.address(*place, "report.html"),
        figures.cells(fits, settings.evaluate.bootstraps, settings.seed),
        figures.needed(fits, settings.evaluate.bootstraps, settings.seed),
        figures.false_alarms(fits),
        {
            f"{f.system}, coupling {f.coupling:g}, {f.subjects} people, study {f.study}": f.error
            for f in fits
            if f.error
        },
    )
    workspace.write_table(table, *place, "fits.parquet")
    power_page.write(workspace, place, settings, summary.cells, summary.needed, summary.false_alarms, summary.failed)
    return summary


def _power_id(settings: Config) -> str:
    """Of all that a fit depends on but its system, its coupling and the number of its study."""
    own = config.laid_over(
        settings,
        # what each study and fit sets for itself
        {"synth.subjects": 40, "synth.coupling": 0.0, "model.name": "crossmodal_gcn", "train.fold": 0},
    )
    return config.digest(
        " ".join(map(str, sorted(settings.power.subjects))),
        settings.power.tested,
        own.synth,
        own.features,
        own.split,
        own.model,
        own.train,
        own.evaluate.permutations,
        own.seed,
        __version__,
    )


def _seed(settings: Config, coupling: float, number: int) -> int:
    """Other people in every study, of one coupling and of another, whatever else is asked for."""
    return int(config.digest(settings.seed, coupling, number), 16) % 2**31


def _studies(settings: Config, power_id: str) -> Iterator[Asked]:
    wanted = settings.power
    people = max(wanted.subjects) + wanted.tested
    for coupling in wanted.couplings:
        for number in range(wanted.studies):
            root = f"{settings.workspace}/power/{power_id}/studies/c{coupling:g}-{number}"
            tree = {
                **settings.model_dump(mode="json"),
                "workspace": f"{root}/ws",
                "study": {"kind": "synthetic", "root": f"{root}/study"},
                "synth": {**settings.synth.model_dump(mode="json"), "subjects": people, "coupling": coupling},
                "seed": _seed(settings, coupling, number),
            }
            yield Asked(coupling, number, config.from_dict(tree))


def _name(coupling: float, number: int, subjects: int, system: str) -> str:
    return f"c{coupling:g}-{number}-{subjects}-{system}.parquet"


def _names(settings: Config) -> list[str]:
    wanted = settings.power
    return [
        _name(coupling, number, subjects, system)
        for system in wanted.systems
        for coupling in wanted.couplings
        for subjects in sorted(wanted.subjects)
        for number in range(wanted.studies)
    ]


def _fit_study(workspace: Workspace, settings: Config, power_id: str, asked: Asked) -> None:
    kept = ("power", power_id, "fits")
    todo: list[tuple[int, str]] = [
        (subjects, system)
        for subjects in sorted(settings.power.subjects)
        for system in settings.power.systems
        if not workspace.exists(*kept, _name(asked.coupling, asked.number, subjects, system))
    ]
    if todo:
        own = asked.settings
        synthetic.generate(own.study.root, own.synth, own.seed, own.cluster)
        catalogue.catalogue(own)
        pipeline.prepare(own)
        place = Workspace(own.workspace)
        digest = config.digest(own.features)
        everyone = {r.subject_id for r in catalogue.load(place)}
        segments: dict[str, Segments] = {m: load_segments(place, digest, m, everyone) for m in MODALITIES}
        wanted = settings.power
        part(segments, max(wanted.subjects), wanted.tested, own.split.validation_fraction, own.seed)  # or refused here
        if "strucgcn" in settings.power.systems:
            structure.prepare(config.laid_over(own, {"model.name": "strucgcn"}), segments)
        _fit_all(workspace, power_id, asked, segments, todo)
    workspace.delete_tree("power", power_id, "studies", f"c{asked.coupling:g}-{asked.number}")


def _fit_all(
    workspace: Workspace, power_id: str, asked: Asked, segments: dict[str, Segments], todo: list[tuple[int, str]]
) -> None:
    from ray import tune

    label = f"power: coupling {asked.coupling:g}, study {asked.number + 1}"
    with tuning.folder() as folder, progress.bar(label, len(todo)) as advance:
        fit = tune.with_parameters(
            _fit,
            root=workspace.root,
            power_id=power_id,
            tree=asked.settings.model_dump(mode="json"),
            about=(asked.coupling, asked.number),
            todo=todo,
            segments=segments,
        )
        tuning.run_all(
            [_name(asked.coupling, asked.number, *one) for one in todo],
            lambda: set(workspace.names("power", power_id, "fits")),
            lambda left: tuning.run(
                fit,
                {"position": tune.grid_search(left)},
                asked.settings,
                folder,
                lambda told: advance(1),
                fits=len(left),
            ),
            "power",
            "the same command goes on with these",
        )


@tuning.fit
def _fit(
    at: dict[str, int],
    root: str,
    power_id: str,
    tree: dict[str, Any],
    about: tuple[float, int],
    todo: list[tuple[int, str]],
    segments: dict[str, Segments],
) -> None:
    """One size of one study on a Tune worker."""
    from ray import tune

    cluster.limit_threads(1)
    torch.set_num_threads(1)
    subjects, system = todo[at["position"]]
    settings = config.laid_over(config.from_dict(tree), {"model.name": system})
    fold = part(segments, subjects, settings.power.tested, settings.split.validation_fraction, settings.seed)
    told = results.chosen(segments, (*fold.train, *fold.validation, *fold.test))
    told = trainer.paired(told, settings, fold)
    row = trial.run(settings, told, fold, 2, trial_id="", variant=system)
    fitted = _fitted(settings, row, subjects, about)
    table = pa.Table.from_pylist([asdict(fitted)], schema=FITS)
    Workspace(root).write_table(table, "power", power_id, "fits", _name(*about, subjects, system))
    tune.report({"done": True})


def part(segments: dict[str, Segments], subjects: int, tested: int, validation_fraction: float, seed: int) -> Fold:
    """Who learns, validates and is tested: a size's people are the first of a larger size's; the tested stay the same.

    Args:
        segments: modality -> segments of everybody.
        subjects: people learnt from, validation included.
        tested: further people.
        validation_fraction: of those learnt from; at least two.
        seed: of the draw.

    Raises:
        ConfigError: there are fewer people of both modalities.
    """
    both = set.intersection(*(set(part.subject_id_S.tolist()) for part in segments.values()))
    if len(both) < tested + subjects:
        raise ConfigError(
            f"power: {len(both)} people of a study were prepared in both modalities, and {tested} tested beside "
            f"{subjects} learnt from are asked for; see features/*/quarantine.parquet of the study"
        )
    order = np.random.default_rng(seed).permutation(sorted(both)).tolist()
    test, learnt = order[:tested], order[tested : tested + subjects]
    validation = max(2, round(validation_fraction * subjects))
    return Fold(
        train=tuple(sorted(learnt[validation:])),
        validation=tuple(sorted(learnt[:validation])),
        test=tuple(sorted(test)),
    )


def _fitted(settings: Config, row: trials.Row, subjects: int, about: tuple[float, int]) -> Fitted:
    coupling, number = about
    r1 = mrr = p_retrieval = accuracy = p_classification = None
    if row["error"] is None:
        one = trials.tested(row)
        r1, mrr, p_retrieval = figures.retrieval_p(one, settings.evaluate.permutations, settings.seed)
        for figure in pooled.classified([one], settings.evaluate, settings.seed):
            if figure.metric == "balanced_accuracy":
                accuracy, p_classification = figure.value, figure.p_value
    return Fitted(
        settings.model.name,
        coupling,
        subjects,
        number,
        row["error"],
        r1,
        mrr,
        p_retrieval,
        accuracy,
        p_classification,
        row["seconds"],
    )
