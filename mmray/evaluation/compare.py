"""`mmray compare`: from a sweep's rows, never from a model, to report.html with its tables and figures."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmray import config, progress
from mmray.config import Config
from mmray.errors import WorkspaceError
from mmray.evaluation import compare_page, compare_plots, data_card, exhibits, fits, trials, verdict
from mmray.evaluation.compare_html import Told
from mmray.evaluation.compare_style import DIRECTIONS
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.table import number, p_text
from mmray.evaluation.trials import Plan, Row
from mmray.recordings import oracle
from mmray.storage import Workspace

_VERSIONS = ("mmray", "torch", "ray", "numpy", "scipy", "matplotlib")
_GRID = {"train.fold", "train.learning_rate", "seed"}  # what a variant's fits differ in


@dataclass(frozen=True)
class CompareSummary:
    """What `mmray compare` tells.

    Attributes:
        report: full path of report.html; tables/ and figures/ lie beside it.
        retrieval: rows of R@1, a system and direction each.
        incomplete: variants that miss any fit; `failed` names trials with their reasons.
        left_out: exhibit -> why it is not in the report.
        resume: the command that goes on with the newest sweep.
    """

    sweeps: list[str]
    workspace: str
    report: str
    verdict: str
    retrieval: list[dict[str, Any]]
    planned: int
    finished: int
    failed: dict[str, str]
    missing: list[str]
    incomplete: list[str]
    left_out: dict[str, str]
    resume: str

    def render(self) -> RenderableType:
        """As a short table for a terminal."""
        shown = Table(box=box.SIMPLE, caption="of people never trained on; * misses fits", caption_justify="left")
        for column in ("", "R@1", "95 %", "chance", "p", "of the way"):
            shown.add_column(column, justify="left" if not column else "right")
        for direction, title in DIRECTIONS.items():
            shown.add_row(Text(title, style="bold"))
            for row in (row for row in self.retrieval if row["direction"] == direction):
                share = row["share_of_ceiling"]
                shown.add_row(
                    row["variant"] + ("" if row["complete"] else "*"),
                    number(row["value"]),
                    "-" if row["ci_low"] is None else f"{row['ci_low']:.2f}-{row['ci_high']:.2f}",
                    Text(number(row["chance"]), style="dim"),
                    p_text(row["p"]),
                    "-" if share is None else f"{100 * share:.0f} %",
                )
        parts: list[RenderableType] = [Text(self.verdict, style="bold"), shown]
        parts += [Text(f"failed {trial}: {reason}") for trial, reason in self.failed.items()]
        if self.incomplete:
            lost = f"{len(self.missing)} missing, {len(self.failed)} failed; stars mark {', '.join(self.incomplete)}"
            parts.append(Text(f"{self.finished} of {self.planned} fits: {lost}. {self.resume} goes on"))
        parts += [Text(f"left out {name.replace('_', ' ')}: {why}") for name, why in self.left_out.items()]
        return Group(*parts, Text(f"report  {self.report}"))


def compare(settings: Config, sweeps: list[str] | None = None) -> CompareSummary:
    """Write sweeps/<first id>/report/: report.html, tables/*.parquet and *.csv, figures/*.svg and *.png.

    Args:
        settings: its workspace, and its evaluate for how many bootstraps and permutations; all else is the sweep's.
        sweeps: ids to pool into one report; none: the newest.

    Raises:
        WorkspaceError: there is no such sweep, nothing of it finished, a file is damaged, or sweeps are of other data
            or call different settings by one name.
    """
    workspace = Workspace(settings.workspace)
    sweep_ids = list(dict.fromkeys(sweeps or [trials.newest(workspace)]))
    plan, rows = _pooled(workspace, sweep_ids)
    if all(row["error"] is not None for row in rows):
        reasons = "; ".join(sorted({row["error"] for row in rows}))
        raise WorkspaceError(
            f"compare: no fit of sweep {', '.join(sweep_ids)} finished, so there is nothing to report"
            f"{f' ({len(rows)} failed: {reasons})' if rows else ''}; {trials.resume_command(workspace)} goes on with it"
        )
    made = {sweep_id: trials.read_settings(workspace, sweep_id) for sweep_id in sweep_ids}
    own = next(iter(made.values()))
    variants = len({one.variant for one in plan.trials})
    with progress.bar("compare", variants + 2) as advance:
        found = fits.gather(plan, rows, settings.evaluate, own.seed, oracle.truth_of(own.study), advance)
        if not found.shown:
            raise WorkspaceError(
                f"compare: no system of sweep {', '.join(sweep_ids)} has a fold with all its seeds yet, so there is "
                f"nothing to report; {trials.resume_command(workspace)} goes on with it"
            )
        tables, left_out = exhibits.tables(found)
        tables |= {"data_card": data_card.rows_of(workspace, own, found), **_search(workspace, sweep_ids)}
        advance(1, "tables")
        pictures = compare_plots.draw(tables)
        advance(1, "figures")
    told = Told(
        sweeps=sweep_ids,
        verdict=verdict.verdict(tables),
        tables=tables,
        pictures=pictures,
        left_out=left_out,
        commands=_commands(workspace, sweep_ids, settings),
        made={sweep_id: config.to_yaml(one) for sweep_id, one in made.items()},
        versions={name: importlib.metadata.version(name) for name in _VERSIONS},
        resume=trials.resume_command(workspace),
    )
    report = _publish(workspace, sweep_ids[0], told)
    return CompareSummary(
        sweep_ids,
        workspace.root,
        report,
        told.verdict,
        [row for row in tables.get("retrieval", ()) if row["metric"] == "R@1"],
        len(plan.trials),
        found.study.finished,
        found.study.failed,
        found.study.missing,
        found.study.incomplete,
        left_out,
        told.resume,
    )


def _pooled(workspace: Workspace, sweep_ids: list[str]) -> tuple[Plan, list[Row]]:
    """Plans and rows of several sweeps as one, a fit that is in two of them once.

    Raises:
        WorkspaceError: they are of different data, or a variant's name means two things.
    """
    plans = [trials.read_plan(workspace, sweep_id) for sweep_id in sweep_ids]
    first = plans[0]
    for other in plans[1:]:
        if other.data_sha256 != first.data_sha256:
            raise WorkspaceError(
                f"compare: sweeps {first.sweep_id} (data {first.data_sha256[:12]}) and {other.sweep_id} (data "
                f"{other.data_sha256[:12]}) are of different features or folds, so their figures are not for one "
                "table; compare them one by one, or run `mmray sweep` for one of them on the other's data"
            )
    rows: dict[str, Row] = {}
    meaning: dict[str, tuple[str, str]] = {}
    for plan in plans:
        for row in trials.read(workspace, plan):
            tree = {key: value for key, value in json.loads(row["config"]).items() if key not in _GRID}
            said = json.dumps(tree, sort_keys=True)
            sweep_id, before = meaning.setdefault(row["variant"], (plan.sweep_id, said))
            if before != said:
                old = json.loads(before)
                keys = sorted(k for k in old.keys() | tree.keys() if old.get(k) != tree.get(k))
                raise WorkspaceError(
                    f"compare: '{row['variant']}' is not the same in sweeps {sweep_id} and {plan.sweep_id} (they "
                    f"differ in {', '.join(keys)}); give it another name in sweep.variants of one of them"
                )
            rows[row["trial_id"]] = row
    planned = {one.trial_id: one for plan in plans for one in plan.trials}
    return replace(first, trials=tuple(planned.values())), list(rows.values())


def _search(workspace: Workspace, sweep_ids: list[str]) -> Tables:
    for sweep_id in sweep_ids:
        place = ("sweeps", sweep_id)
        if workspace.exists(*place, "search.parquet"):
            shares = (
                workspace.read_json(*place, "importance.json") if workspace.exists(*place, "importance.json") else {}
            )
            return exhibits.from_search(workspace.read_table(*place, "search.parquet").to_pylist(), shares)
    return {}


def _commands(workspace: Workspace, sweep_ids: list[str], settings: Config) -> list[str]:
    """What makes the sweeps again, and this report from them."""
    lines = [
        shlex.join(
            ["mmray", "sweep", "--config", workspace.path("sweeps", s, "config.yaml"), "--workspace", workspace.root]
        )
        for s in sweep_ids
    ]
    words = ["mmray", "compare", *(word for s in sweep_ids for word in ("--sweep", s)), "--workspace", workspace.root]
    for name in ("bootstraps", "permutations"):
        value = getattr(settings.evaluate, name)
        if value != config.Evaluate.model_fields[name].default:
            words += ["--set", f"evaluate.{name}={value}"]
    return [*lines, shlex.join(words)]


def _publish(workspace: Workspace, sweep_id: str, told: Told) -> str:
    """Write tables, figures, then the page; files of an older report that are no longer made disappear."""
    place = ("sweeps", sweep_id, "report")
    kept = {"tables": set[str](), "figures": set[str]()}
    for name, rows in told.tables.items():
        table = pa.Table.from_pylist(rows)
        workspace.write_table(table, *place, "tables", f"{name}.parquet")
        workspace.write_csv(table, *place, "tables", f"{name}.csv")
        kept["tables"] |= {f"{name}.parquet", f"{name}.csv"}
    for name, picture in told.pictures.items():
        workspace.write_text(picture.svg, *place, "figures", f"{name}.svg")
        workspace.write_bytes(picture.png, *place, "figures", f"{name}.png")
        kept["figures"] |= {f"{name}.svg", f"{name}.png"}
    workspace.write_text(compare_page.page(told), *place, "report.html")
    for folder, names in kept.items():
        for name in workspace.names(*place, folder):
            if name not in names:
                workspace.delete(*place, folder, name)
    return workspace.address(*place, "report.html")
