"""A workspace with a small made sweep, an ablation among it, and its report."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa

from mmray import config
from mmray.evaluation import compare
from mmray.evaluation.compare import CompareSummary
from mmray.evaluation.trials import Plan, Planned
from mmray.storage import Workspace
from tests.evaluation import made_trials

FEW = {"bootstraps": 50, "permutations": 99}


def plan(sweep_id: str = "made", ablation: bool = True) -> Plan:
    base = made_trials.plan_of(sweep_id)
    cells = [(fold, seed) for seed in range(2) for fold in range(3)]
    variant = [Planned(f"no-gate-{f}-{s}", "no gate", "crossmodal_gcn", 1e-2, f, s) for f, s in cells]
    return Plan(sweep_id, base.data_sha256, base.trials + tuple(variant if ablation else ()))


def rows_of(made: Plan) -> list[dict]:
    """The ablation is noisier than its system, and the controls have one epoch."""
    return [
        made_trials.row(one, noise=1.2 if one.variant == "no gate" else 0.7, epochs=1 if one.variant == "ridge" else 4)
        for one in made.trials
    ]


def leave(root: Path | str, made: Plan | None = None, rows: list[dict] | None = None) -> Workspace:
    """Write the sweep and its settings."""
    made = made or plan()
    workspace = Workspace(str(root))
    made_trials.write(workspace, made, rows_of(made) if rows is None else rows)
    workspace.write_text(config.to_yaml(config.Config()), "sweeps", made.sweep_id, "config.yaml")
    return workspace


def report(workspace: Workspace, sweeps: list[str] | None = None) -> CompareSummary:
    return compare.compare(config.from_dict({"workspace": workspace.root, "evaluate": FEW}), sweeps)


def page(summary: CompareSummary) -> str:
    return Path(summary.report).read_text(encoding="utf-8")


def table(summary: CompareSummary, name: str) -> list[dict]:
    import pyarrow.parquet as pq

    rows: list[dict] = pq.read_table(Path(summary.report).parent / "tables" / f"{name}.parquet").to_pylist()
    return rows


def as_csv(summary: CompareSummary, name: str) -> list[dict[str, str]]:
    with (Path(summary.report).parent / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(summary: CompareSummary) -> dict[str, bytes]:
    """Every file of the report, by its path inside it."""
    folder = Path(summary.report).parent
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def search_table(count: int = 12) -> pa.Table:
    return pa.table(
        {
            "system": ["gcn"] * count,
            "value": [0.2 + 0.01 * i for i in range(count)],
            "folds": [3] * count,
            "error": pa.nulls(count, pa.string()),
            "param.train.learning_rate": [10.0 ** -(1 + i % 4) for i in range(count)],
            "param.model.gate": [bool(i % 2) for i in range(count)],
        }
    )
