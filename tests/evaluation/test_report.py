from __future__ import annotations

import html
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from mmray import config
from mmray.errors import WorkspaceError
from mmray.evaluation import plots
from mmray.evaluation.evaluate import evaluate
from mmray.evaluation.paired import paired_vectors
from mmray.evaluation.report import write_report
from mmray.evaluation.table import render, verdict
from mmray.schema import Metric, metrics_table
from mmray.storage import Workspace
from tests.evaluation import made_runs

CEILING = {"eeg->audio": {"R@1": 0.9}}


@pytest.fixture(scope="module")
def metrics():
    few = config.Evaluate(bootstraps=100, permutations=99)
    return evaluate(made_runs.embeddings(noise=2.0), made_runs.predictions(strength=1.0), few, 0, CEILING)


def leave_run(root, metrics, run_id="run-1", settings=None):
    workspace = Workspace(str(root))
    history = pa.table({"epoch": [0, 1, 2], "loss": [3.0, 2.5, 2.25], "validation_mrr": [0.1, 0.2, 0.15]})
    workspace.write_text(config.to_yaml(settings or config.Config()), "runs", run_id, "config.yaml")
    workspace.write_table(history, "runs", run_id, "history.parquet")
    workspace.write_table(metrics_table(metrics), "runs", run_id, "metrics.parquet")
    workspace.write_table(made_runs.embeddings(noise=2.0), "runs", run_id, "embeddings.parquet")
    workspace.write_table(made_runs.predictions(), "runs", run_id, "predictions.parquet")
    return workspace


def page_of(workspace, run_id="run-1"):
    return Path(write_report(workspace, run_id)).read_text(encoding="utf-8")


def test_the_report_holds_every_figure_it_was_given(tmp_path, metrics):
    page = page_of(leave_run(tmp_path, metrics))
    for metric in metrics:
        digits = 1 if metric.metric == "median_rank" else 3
        between = "-" if metric.ci_low is None else f"{metric.ci_low:.{digits}f}-{metric.ci_high:.{digits}f}"
        cells = [f"{metric.value:.{digits}f}", between]
        cells.append("-" if metric.chance is None else f"{metric.chance:.{digits}f}")
        cells.append("-" if metric.p_value is None else f"{metric.p_value:.2g}")
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        assert f"<th>{metric.metric.replace('_', ' ')}</th>{row}" in page


def test_the_report_changes_when_a_figure_does(tmp_path, metrics):
    first = page_of(leave_run(tmp_path / "a", metrics))
    other = [Metric(**{**vars(m), "value": m.value * 0.5}) for m in metrics]
    second = page_of(leave_run(tmp_path / "b", other))
    value = f"<td>{metrics[3].value * 0.5:.3f}</td>"
    assert value in second
    assert first != second


def test_the_report_says_the_verdict(tmp_path, metrics):
    assert html.escape(verdict(metrics).replace("->", "\u2192")) in page_of(leave_run(tmp_path, metrics))


def test_the_report_asks_the_network_for_nothing(tmp_path, metrics):
    page = page_of(leave_run(tmp_path, metrics))
    assert not re.search(r"https?:|<script|<link|<img|@import|src=|url\((?!#)", page)


def test_the_same_run_gives_the_same_bytes(tmp_path, metrics):
    workspace = leave_run(tmp_path, metrics)
    assert page_of(workspace) == page_of(workspace)


def test_markup_in_names_and_settings_is_text(tmp_path, metrics):
    nasty = config.from_dict({"study": {"root": "<script>alert(1)</script>&\"'"}})
    evil = [Metric(**{**vars(m), "direction": "<b>eeg</b>"}) for m in metrics]
    page = page_of(leave_run(tmp_path, evil, settings=nasty))
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in page


def test_every_element_of_the_report_is_closed(tmp_path, metrics):
    class Nesting(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Nesting()
    parser.feed(page_of(leave_run(tmp_path, metrics)))
    assert parser.open == []


def test_a_run_without_figures_reports_what_is_left_out(tmp_path):
    page = page_of(leave_run(tmp_path, []))
    assert "No retrieval figure" in page
    assert "fewer than two test subjects have a label" in page


def test_a_missing_run_names_those_that_exist(tmp_path, metrics):
    with pytest.raises(WorkspaceError, match="runs there: run-1"):
        write_report(leave_run(tmp_path, metrics), "run-2")


def test_a_subject_in_two_groups_is_called_out(tmp_path, metrics):
    workspace = leave_run(tmp_path, metrics)
    both = pa.concat_tables([made_runs.predictions(), made_runs.predictions(subjects=2, role="train")])
    workspace.write_table(both, "runs", "run-1", "predictions.parquet")
    assert "WARNING: 2 subjects are in two groups" in page_of(workspace)


def test_figures_are_files_that_an_xml_parser_reads(tmp_path, metrics):
    workspace = leave_run(tmp_path, metrics)
    page_of(workspace)
    names = workspace.names("runs", "run-1", "figures")
    assert names == ["embedding.svg", "loss.svg", "validation_mrr.svg"]
    for name in names:
        assert ElementTree.fromstring(workspace.read_bytes("runs", "run-1", "figures", name)).tag.endswith("svg")


def test_text_in_a_figure_stays_text():
    svg = plots.curves(pa.table({"epoch": [0, 1], "loss": [2.0, 1.0]}), "loss", "loss")
    assert re.search(r"<text[^>]*>epoch</text>", svg)


def test_the_embedding_plot_joins_each_subject_once():
    svg = plots.embedding(paired_vectors(made_runs.embeddings(subjects=7)))
    assert svg.count("opacity: 0.35") == 7


def test_principal_axes_hold_the_spread_of_flat_data():
    rng = np.random.default_rng(0)
    flat_ND = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 9))
    position, share = plots.principal_axes(flat_ND)
    assert share.sum() == pytest.approx(1)
    assert np.linalg.norm(position[0] - position[1]) == pytest.approx(np.linalg.norm(flat_ND[0] - flat_ND[1]))


@pytest.mark.parametrize(("p", "words"), [(0.42, "not distinguishable from chance"), (0.01, "above chance")])
def test_the_verdict_follows_the_p_value(p, words):
    metric = Metric("retrieval", "eeg->audio", "subject", "R@1", 0.1, 11, 0.0, 0.27, 1 / 11, None, p, 11)
    figure = "eeg->audio R@1 0.10 (95 % 0.00-0.27) in a gallery of 11, chance 0.09"
    assert verdict([metric]) == f"{figure}: {words}, p = {p}."


def test_the_terminal_table_fits_eighty_columns_and_shows_chance(metrics):
    console = Console(file=io.StringIO(), width=80)
    console.print(render(metrics))
    text = console.file.getvalue()
    first = next(m for m in metrics if m.metric == "R@1")
    assert "…" not in text
    assert re.search(rf"{first.direction} +{first.value:.2f}.*\n *subject n=12 +{first.chance:.2f}", text)
    assert f"{100 * (first.value - first.chance) / (0.9 - first.chance):.0f} %" in text
