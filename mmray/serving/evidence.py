"""A run's own figures, beside what it answers."""

from __future__ import annotations

from collections.abc import Sequence

from mmray.evaluation.table import SIGNIFICANT
from mmray.schema import Metric, metrics_of
from mmray.serving.answer import Evidence
from mmray.storage import Workspace

_LEVELS = ("subject", "pair")


def metrics_of_run(workspace: Workspace, run_id: str) -> list[Metric]:
    """What a run's own test found; empty where it was not evaluated."""
    if not workspace.exists("runs", run_id, "metrics.parquet"):
        return []
    return metrics_of(workspace.read_table("runs", run_id, "metrics.parquet"))


def evidence(metrics: Sequence[Metric], direction: str, metric: str) -> Evidence | None:
    """The figure of one direction on people the run never saw; None where it was not evaluated."""
    rows = {row.level: row for row in metrics if (row.direction, row.metric) == (direction, metric)}
    row = next((rows[level] for level in _LEVELS if level in rows), None)
    if row is None:
        return None
    above = row.p_value is not None and row.p_value < SIGNIFICANT
    return Evidence(direction, metric, row.value, row.chance, row.p_value, row.ci_low, row.ci_high, above)
