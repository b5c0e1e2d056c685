"""report.html of one run: one file that needs no network, from what the run left in the workspace and nothing else."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from html import escape
from string import Template
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from mmray.errors import WorkspaceError
from mmray.evaluation import explain_page, plots
from mmray.evaluation.paired import paired_vectors
from mmray.evaluation.table import interval, number, p_text, share_of_ceiling, verdict
from mmray.schema import Metric, metrics_of
from mmray.storage import Workspace

_ASKED = {"within": "each pair among its own person's"}
_HEAD = "<thead><tr><th>figure</th><th>value</th><th>95 %</th><th>chance</th><th>p</th>"


def write_report(workspace: Workspace, run_id: str) -> str:
    """Write runs/<run_id>/report.html and its figures as runs/<run_id>/figures/*.svg.

    Reads config.yaml, history.parquet, metrics.parquet, embeddings.parquet and predictions.parquet of the run.

    Returns:
        The report's full path.

    Raises:
        WorkspaceError: the run or one of its files is missing or damaged.
    """
    run = ("runs", run_id)
    if not workspace.exists(*run):
        known = ", ".join(workspace.names("runs")) or "none"
        raise WorkspaceError(f"report: run {run_id} is not in workspace {workspace.root}; runs there: {known}")
    settings = _settings(workspace, run_id)
    metrics = metrics_of(workspace.read_table(*run, "metrics.parquet"))
    history = workspace.read_table(*run, "history.parquet")
    embeddings = workspace.read_table(*run, "embeddings.parquet")
    predictions = workspace.read_table(*run, "predictions.parquet", columns=["subject_id", "role"])

    paired = paired_vectors(embeddings.filter(pc.equal(embeddings["role"], "test")))
    figures = {
        "loss": plots.curves(history, "loss", "loss"),
        "validation_mrr": plots.curves(history, "mrr", "validation MRR"),
        "embedding": plots.embedding(paired),
    }
    for name, svg in figures.items():
        if svg is not None:
            workspace.write_text(svg, *run, "figures", f"{name}.svg")

    curves = [
        _figure(figures["loss"], "Loss per epoch."),
        _figure(figures["validation_mrr"], "Mean reciprocal rank on validation subjects, which picks the epoch."),
    ]
    text = Template(explain_page.template("report.html")).substitute(
        style=explain_page.template("style.css"),
        run_id=escape(run_id),
        subtitle=escape(_subtitle(settings, history, predictions)),
        verdict=escape(_arrows(verdict(metrics))),
        retrieval=_retrieval(metrics),
        classification=_classification(metrics),
        curves="\n".join(figure for figure in curves if figure) or "<p>No epoch was recorded.</p>",
        embedding=_figure(
            figures["embedding"],
            "Principal axes of the test subjects' vectors, both modalities together; a line joins a person's EEG "
            "(filled) and voice (hollow), the marker's shape is the class. A match is near when its line is short, but "
            "two axes show only the shares of variance named: the table above is the evidence.",
        )
        or "<p>Left out: fewer than two test subjects have both modalities.</p>",
        explained=explain_page.report_part(workspace, run_id),
        command=escape(_command(workspace, run_id)),
        settings=_settings_table(settings),
    )
    workspace.write_text(text, *run, "report.html")
    return workspace.address(*run, "report.html")


def _settings(workspace: Workspace, run_id: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(workspace.read_bytes("runs", run_id, "config.yaml"))
    except yaml.YAMLError as error:
        raise WorkspaceError(f"report: runs/{run_id}/config.yaml is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise WorkspaceError(f"report: runs/{run_id}/config.yaml holds no settings; train the run again")
    return settings


def _subtitle(settings: dict[str, Any], history: pa.Table, predictions: pa.Table) -> str:
    plain = dict(_flat(settings))
    people = {
        role: set(predictions.filter(pc.equal(predictions["role"], role))["subject_id"].to_pylist())
        for role in ("train", "validation", "test")
    }
    subjects = ", ".join(f"{len(found)} {role}" for role, found in people.items() if found)
    shared = sum(map(len, people.values())) - len(set().union(*people.values()))
    overlap = f"WARNING: {shared} subjects are in two groups" if shared else "no subject is in two groups"
    return (
        f"{plain.get('model.name', 'model')} on {plain.get('study.kind', 'a study')}, fold {plain.get('train.fold')}, "
        f"{history.num_rows} epochs; subjects classified: {subjects or 'none'}; {overlap}."
    )


def _command(workspace: Workspace, run_id: str) -> str:
    made_from = workspace.path("runs", run_id, "config.yaml") if workspace.is_local else "config.yaml"
    return shlex.join(["mmray", "train", "--config", made_from, "--workspace", workspace.root])


def _retrieval(metrics: list[Metric]) -> str:
    found = [metric for metric in metrics if metric.task == "retrieval"]
    if not found:
        return "<p>Left out: fewer than two test subjects have both modalities.</p>"
    with_oracle = any(metric.ceiling is not None for metric in found)
    bodies: dict[str, list[str]] = {}
    for metric in found:
        what = _ASKED.get(metric.level, f"one query a {metric.level}")
        if metric.metric == "mAP":
            what = "others of the same label"
        group = f"{metric.direction}, {what}: {metric.queries} queries, gallery {metric.gallery}"
        cells = _cells(metric, digits=1 if metric.metric == "median_rank" else 3)
        bodies.setdefault(group, []).append(_row(metric.metric, [*cells, _oracle(metric)] if with_oracle else cells))
    head = f"{_HEAD}{'<th>to the oracle</th>' if with_oracle else ''}</tr></thead>"
    group_cell = f'<th class="group" colspan="{6 if with_oracle else 5}">'
    rows = "".join(
        f"<tbody><tr>{group_cell}{escape(_arrows(group))}</th></tr>{''.join(body)}</tbody>"
        for group, body in bodies.items()
    )
    note = (
        "Ranks over the whole gallery, ties against the query. 95 %: subjects resampled, gallery fixed. p: one-sided, "
        "pairings (for mAP: labels) permuted between subjects. Chance is exact. mAP ranks other subjects only."
    )
    if any(metric.level == "within" for metric in found):
        note += (
            " Among a person's own pairs nothing but timing can tell them apart; there p is of pairs rotated against "
            "each other within each person, and gallery and chance are the median and the mean over people."
        )
    return f'<p class="soft">{note}</p><div class="wide"><table>{head}{rows}</table></div>'


def _classification(metrics: list[Metric]) -> str:
    found = [metric for metric in metrics if metric.task == "classification"]
    if not found:
        return "<p>Left out: fewer than two test subjects have a label.</p>"
    note = (
        f"{found[0].queries} test subjects, each by the mean of its segments. Chance is "
        "the best constant answer that knows the classes' shares. p: labels permuted between subjects."
    )
    if not any(metric.metric == "AUC" for metric in found):
        note += " All are of one class, so balanced accuracy, F1 and AUC are undefined and left out."
    rows = "".join(_row(metric.metric, _cells(metric, 3)) for metric in found)
    head = f"{_HEAD}</tr></thead>"
    return f'<p class="soft">{note}</p><div class="wide"><table>{head}<tbody>{rows}</tbody></table></div>'


def _cells(metric: Metric, digits: int) -> list[str]:
    value, chance = number(metric.value, digits), number(metric.chance, digits)
    return [value, interval(metric, digits), chance, p_text(metric.p_value)]


def _oracle(metric: Metric) -> str:
    share = share_of_ceiling(metric)
    return "-" if share is None else f"{100 * share:.0f} % of the way to {number(metric.ceiling)}"


def _arrows(text: str) -> str:
    return text.replace("->", "\u2192")  # does not break at the hyphen


def _row(name: str, cells: Iterable[str]) -> str:
    data = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr><th>{escape(name.replace('_', ' '))}</th>{data}</tr>"


def _figure(svg: str | None, caption: str) -> str:
    if svg is None:
        return ""
    text = escape(caption)
    return f"<figure>{plots.inline(svg, text)}<figcaption>{text}</figcaption></figure>"


def _settings_table(settings: dict[str, Any]) -> str:
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(str(value))}</td></tr>" for key, value in _flat(settings))
    return (
        f'<details open><summary>All settings</summary><table class="settings"><tbody>{rows}</tbody></table></details>'
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
