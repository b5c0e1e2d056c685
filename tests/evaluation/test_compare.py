"""The report of a sweep: what is in it, what it is drawn from, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser

import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from mmray import cli, config
from mmray.errors import WorkspaceError
from mmray.evaluation import compare, compare_plots_people
from mmray.evaluation.trials import Plan
from mmray.schema import PARTS, QUARANTINE, Recording, recordings_table
from tests.evaluation import made_report, made_trials
from tests.evaluation.test_exhibits import one_a_fold

FIGURES = {
    *("retrieval", "accuracy_per_epoch", "f1", "pairs_r1", "pairs_mrr", "pairs_cross_entropy"),
    *("pairs_balanced_accuracy", "critical_difference_mrr", "critical_difference_cross_entropy", "reliability"),
    *("ablation", "sensitivity", "confusion"),
}
TABLES = {
    *(
        "data_card",
        "status",
        "retrieval",
        "classification",
        "accuracy_per_epoch",
        "f1",
        "cross_entropy_by_rate",
        "pairs",
        "ranks",
    ),
    *("reliability", "ablation", "sensitivity", "confusion", "balanced_accuracy_by_task", "runtime"),
}


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    return made_report.report(made_report.leave(tmp_path_factory.mktemp("ws")))


def files_of(tables, figures):
    made = {f"tables/{name}.{kind}" for name in tables for kind in ("parquet", "csv")}
    return made | {f"figures/{name}.{kind}" for name in figures for kind in ("svg", "png")} | {"report.html"}


def test_every_exhibit_is_there_in_every_form(summary):
    assert made_report.files(summary).keys() == files_of(TABLES, FIGURES)
    page = made_report.page(summary)
    assert set(re.findall(r'<figure id="figure-(\w+)"', page)) == FIGURES
    sections = re.findall(r'<section id="([\w-]+)"', page)
    assert re.findall(r'<a href="#([\w-]+)"', page) == sections
    assert len(sections) == 14
    assert "Left out" not in page


def accuracy(row):
    for record in row["history"]:
        record["validation_accuracy"] /= 2


def seconds(row):
    row["seconds"] *= 3


def clips(row):
    for one in row["by_task"]:
        one["probability"] = one["probability"][::-1]


def classes(row):
    row["probability"] = [p[::-1] for p in row["probability"]]


def vectors(row):
    row["eeg"] = row["eeg"][::-1]


@pytest.mark.parametrize(
    ("change", "tables", "figures"),
    [
        (accuracy, {"accuracy_per_epoch"}, {"accuracy_per_epoch"}),
        (seconds, {"runtime"}, set()),
        (clips, {"confusion", "balanced_accuracy_by_task"}, {"confusion"}),
        (
            classes,
            {
                *("classification", "f1", "cross_entropy_by_rate", "pairs", "ranks", "reliability", "ablation"),
                *("sensitivity", "balanced_accuracy_by_task"),
            },
            {
                *("f1", "pairs_cross_entropy", "pairs_balanced_accuracy", "critical_difference_cross_entropy"),
                *("reliability", "ablation", "sensitivity"),
            },
        ),
        (
            vectors,
            {"retrieval", "pairs", "ranks", "ablation", "sensitivity"},
            {"retrieval", "pairs_r1", "pairs_mrr", "critical_difference_mrr", "ablation", "sensitivity"},
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_exhibit_changes_with_the_rows_that_it_is_made_of_and_with_no_others(
    tmp_path, summary, change, tables, figures
):
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    for row in rows:
        change(row)
    before = made_report.files(summary)
    after = made_report.files(made_report.report(made_report.leave(tmp_path, plan, rows)))
    # the workspace's own name is in the page, and nowhere else
    assert {name for name in before if before[name] != after[name]} == files_of(tables, figures)


def test_the_same_rows_give_the_same_bytes(tmp_path):
    workspace = made_report.leave(tmp_path)
    first = made_report.files(made_report.report(workspace))
    assert made_report.files(made_report.report(workspace)) == first


def test_csv_and_parquet_agree(summary):
    for name in TABLES:
        rows, text = made_report.table(summary, name), made_report.as_csv(summary, name)
        assert len(rows) == len(text)
        for row, line in zip(rows, text, strict=True):
            for key, value in row.items():
                if value is None:
                    assert line[key] == ""
                elif isinstance(value, bool):
                    assert line[key] == str(value).lower()
                elif isinstance(value, int | float):
                    assert float(line[key]) == value
                else:
                    assert line[key] == value


def cells_of(page, section):
    body = page.split(f'<section id="{section}">')[1].split("</section>")[0]
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", line) for line in re.findall(r"<tr>(<th>.*?)</tr>", body)]


def test_the_page_shows_what_the_tables_hold(summary):
    page = made_report.page(summary)
    shown = cells_of(page, "retrieval")
    for row in made_report.table(summary, "retrieval"):
        digits = 1 if row["metric"] == "median_rank" else 3
        between = f"{row['ci_low']:.{digits}f}-{row['ci_high']:.{digits}f}"
        start = [row["variant"], f"{row['value']:.{digits}f}", between, f"{row['chance']:.{digits}f}"]
        assert any(cells[:4] == start for cells in shown), start
    lines = {cells[0]: cells for cells in cells_of(page, "cross-entropy")}
    for row in made_report.table(summary, "cross_entropy_by_rate"):
        column = {0.01: 1, 0.001: 2, None: 3}[row["learning_rate"]]
        assert lines[row["variant"]][column] == f"{row['value']:.3f} ({row['ci_low']:.2f}-{row['ci_high']:.2f})"
    for name in ("pairs", "ablation"):
        cells = cells_of(page, name)
        for row in made_report.table(summary, name):
            start = [f"{row['first']} less {row['second']}", f"{row['difference']:+.3f}"]
            assert any(line[:2] == start for line in cells), start


def test_the_page_asks_the_network_for_nothing_and_runs_nothing(summary):
    page = made_report.page(summary)
    assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|\bsrc=|url\((?!#)|\son\w+=", page)


def test_every_element_of_the_page_is_closed_and_every_figure_speaks(summary):
    class Nesting(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.spoken = [], 0

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                self.open.append(tag)
            if tag == "svg":
                self.spoken += dict(attrs).get("role") == "img" and len(dict(attrs)["aria-label"]) > 40

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Nesting()
    parser.feed(made_report.page(summary))
    assert parser.open == []
    assert parser.spoken == len(FIGURES)


def test_figures_take_the_pages_colours(summary):
    page = made_report.page(summary)
    drawn = page[page.index("<section") :]
    assert "currentColor" in drawn
    assert "var(--series-0)" in drawn
    assert not re.search(r"(fill|stroke): ?#(?!none)", drawn)


def test_markup_in_names_is_text(tmp_path):
    plan = made_report.plan()
    evil = tuple(replace(one, variant="<b>no</b> gate") if one.variant == "no gate" else one for one in plan.trials)
    rows = [
        row | {"variant": "<b>no</b> gate"} if row["variant"] == "no gate" else row for row in made_report.rows_of(plan)
    ]
    page = made_report.page(made_report.report(made_report.leave(tmp_path, Plan("made", "d" * 64, evil), rows)))
    assert "<b>" not in page
    assert "&lt;b&gt;no&lt;/b&gt; gate" in page


def test_the_verdict_says_what_was_found_or_that_it_is_chance(summary, tmp_path):
    (row,) = (r for r in summary.retrieval if (r["variant"], r["direction"]) == ("crossmodal_gcn", "eeg->audio"))
    assert f"R@1 {row['value']:.2f}, chance 0.12, p = {row['p']:.2g}): above chance" in summary.verdict
    assert escape(summary.verdict) in made_report.page(summary)
    plan = made_report.plan()
    rows = [made_trials.row(one, noise=100.0) for one in plan.trials]
    nothing = made_report.report(made_report.leave(tmp_path, plan, rows))
    assert nothing.verdict.count("not distinguishable from chance") >= 2
    assert "neither ahead of nor behind any other system" in nothing.verdict


def test_an_unfinished_sweep_is_reported_and_says_what_is_missing(tmp_path):
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    lost = [r for r in rows if (r["variant"], r["fold"], r["seed"]) == ("ridge", 2, 1)]
    bad = next(r for r in rows if r["variant"] == "gcn")
    bad |= {"error": "train: the loss is nan", "subject_id": None}
    told = made_report.report(made_report.leave(tmp_path, plan, [r for r in rows if r not in lost]))
    page = made_report.page(told)
    assert f"This sweep is unfinished: {len(rows) - 3} of {len(rows)} fits are here" in page
    assert "ridge*: 10 of 12 fits finished, 2 missing, 0 failed" in page
    assert "gcn*: 11 of 12 fits finished, 0 missing, 1 failed" in page
    assert "1 failed: train: the loss is nan" in page
    marked = {cells[0] for cells in cells_of(page, "retrieval")}
    assert marked == {"system", "crossmodal_gcn", "gcn*", "ridge*"}
    assert (told.finished, told.planned, len(told.missing), told.incomplete) == (39, 42, 2, ["gcn", "ridge"])
    console = Console(width=100)
    with console.capture() as said:
        console.print(told.render())
    assert "39 of 42 fits: 2 missing, 1 failed; stars mark gcn, ridge" in said.get()


def test_a_whole_sweep_has_no_banner_and_no_star(summary):
    page = made_report.page(summary)
    assert "unfinished" not in page
    assert not any("*" in cells[0] for section in ("retrieval", "cross-entropy") for cells in cells_of(page, section))


def test_a_sweep_of_which_nothing_finished_says_what_to_do(tmp_path):
    plan = made_report.plan()
    with pytest.raises(WorkspaceError, match=r"no fit of sweep made finished.*mmray sweep --resume"):
        made_report.report(made_report.leave(tmp_path / "a", plan, []))
    rows = [row | {"error": "no EEG", "subject_id": None} for row in made_report.rows_of(plan)]
    with pytest.raises(WorkspaceError, match="42 failed: no EEG"):
        made_report.report(made_report.leave(tmp_path / "b", plan, rows))


def test_a_grid_and_an_ablation_sweep_make_one_report(tmp_path, summary):
    whole = made_report.plan()
    rows = {row["trial_id"]: row for row in made_report.rows_of(whole)}
    grid = Plan("grid", whole.data_sha256, tuple(one for one in whole.trials if one.variant != "no gate"))
    other = Plan("ablate", whole.data_sha256, tuple(one for one in whole.trials if one.system == "crossmodal_gcn"))
    for plan in (grid, other):
        workspace = made_report.leave(tmp_path, plan, [rows[one.trial_id] for one in plan.trials])
    told = made_report.report(workspace, ["grid", "ablate"])
    assert told.report.endswith("sweeps/grid/report/report.html")
    for name in TABLES:
        key = json.dumps
        pooled, alone = (sorted(made_report.table(s, name), key=key) for s in (told, summary))
        assert pooled == alone, name


def test_sweeps_of_other_data_are_refused_by_name(tmp_path):
    made_report.leave(tmp_path, made_report.plan("one"))
    workspace = made_report.leave(tmp_path, replace(made_report.plan("two"), data_sha256="e" * 64))
    with pytest.raises(WorkspaceError, match=r"sweeps one \(data d{12}\) and two \(data e{12}\)"):
        made_report.report(workspace, ["one", "two"])


def test_one_name_for_two_settings_is_refused_with_the_setting(tmp_path):
    made_report.leave(tmp_path, made_report.plan("one"))
    plan = made_report.plan("two")
    trials = tuple(replace(one, trial_id=f"x{one.trial_id}") for one in plan.trials)
    other = [row | {"trial_id": f"x{row['trial_id']}"} for row in made_report.rows_of(plan)]
    for row in other:
        row["config"] = json.dumps({"train.epochs": 3, "train.fold": row["fold"]})
    workspace = made_report.leave(tmp_path, replace(plan, trials=trials), other)
    with pytest.raises(WorkspaceError, match=r"'crossmodal_gcn' is not the same in sweeps one and two .*train\.epochs"):
        made_report.report(workspace, ["one", "two"])


def test_a_workspace_without_a_sweep_says_so(tmp_path, capsys):
    assert cli.main(["compare", "--workspace", str(tmp_path)]) == 4
    assert "holds no sweep; run `mmray sweep`" in capsys.readouterr().err


def test_no_labels_make_a_report_without_classes(tmp_path):
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    for row in rows:
        row |= {"label": [-1] * len(row["label"]), "validation_cross_entropy": None}
        for record in row["history"]:
            record["validation_accuracy"] = None
    told = made_report.report(made_report.leave(tmp_path, plan, rows))
    page = made_report.page(told)
    assert "Left out: no test person has a label" in page
    assert "classes apart" not in told.verdict
    assert "figures/retrieval.svg" in made_report.files(told)


def test_one_system_makes_a_report_without_pairs(tmp_path):
    plan = made_trials.plan_of(systems=("gcn",), rates=(1e-3,))
    told = made_report.report(made_report.leave(tmp_path, plan, [made_trials.row(one) for one in plan.trials]))
    page = made_report.page(told)
    assert "Left out: it takes two systems" in page
    assert "Left out: there is one learning rate only" in page
    assert "Left out: every variant of this sweep is a plain system" in page


def test_a_report_of_leaving_one_person_out_is_whole(tmp_path):
    planned, rows = one_a_fold()
    told = made_report.report(made_report.leave(tmp_path, planned, rows))
    page = made_report.page(told)
    assert "Left out: every fold tests one person" in page
    assert "3 systems" in page
    assert (told.retrieval, told.finished) == ([], 24)
    assert "whom it finds cannot be told" in told.verdict


@pytest.mark.parametrize(("difference", "text"), [(10.5, "-10.50"), (0.25, "-.25"), (-0.25, "+.25"), (0.0, "+.00")])
def test_a_cell_of_the_pairs_says_its_number_in_full(difference, text):
    row = {"metric": "cross_entropy", "first": "a", "second": "b", "difference": difference, "p_holm": 1.0}
    figure = compare_plots_people.pairs([row])
    assert [one.get_text() for one in figure.axes[0].texts] == [text]


def test_a_person_labelled_on_one_recording_is_of_that_class(tmp_path):
    workspace = made_report.leave(tmp_path)
    found = [Recording(f"s0-{n}", "s0", "s0", m, "1", "rest", label, name, "/s0", "wav", 1)
             for n, (m, label, name) in enumerate([("eeg", 1, "MDD"), ("audio", None, None)])]  # fmt: skip
    workspace.write_table(recordings_table(found), "recordings.parquet")
    card = made_report.table(made_report.report(workspace), "data_card")
    assert {"what": "people by label", "value": "1 MDD (1)"} in card


def test_the_data_card_counts_what_there_is_and_says_what_was_set_aside(tmp_path):
    workspace = made_report.leave(tmp_path)
    people = [("s000", 0, "HC"), ("s001", 1, "MDD"), ("s002", None, None)]
    found = [
        Recording(f"{s}-{m}", s, s, m, "1", "rest", label, name, f"/{s}", "wav", 1)
        for s, label, name in people
        for m in ("eeg", "audio")
    ]
    workspace.write_table(recordings_table(found), "recordings.parquet")
    digest = config.digest(config.Config().features)
    parts = [{"recording_id": r.recording_id, "modality": r.modality, "path": "p", "segments": 3} for r in found[:4]]
    parts = [part | {"source_sha256": "0"} for part in parts]
    workspace.write_table(pa.Table.from_pylist(parts, schema=PARTS), "features", digest, "parts.parquet")
    aside = [dict.fromkeys(QUARANTINE.names, "x") | {"reason": "flat <signal>"}] * 2
    workspace.write_table(pa.Table.from_pylist(aside, schema=QUARANTINE), "features", digest, "quarantine.parquet")
    card = re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", made_report.page(made_report.report(workspace)))
    assert card[:7] == [
        ("study", "modma"),
        ("people", "3"),
        ("people by label", "1 HC (0), 1 MDD (1), 1 without label"),
        ("recordings", "3 audio, 3 eeg"),
        ("segments", "6 audio, 6 eeg"),
        ("recordings set aside", "2"),
        ("set aside because", "flat &lt;signal&gt; (2)"),
    ]
    assert ("people tested, with both modalities", "24, of which 24 have a label") in card
    assert ("outer folds x seeds", "3 x 2") in card
    assert ("data digest", "d" * 64) in card


def test_a_search_is_shown_where_one_was_made(tmp_path, summary):
    workspace = made_report.leave(tmp_path)
    workspace.write_table(made_report.search_table(), "sweeps", "made", "search.parquet")
    workspace.write_json({"model.gate": 0.25, "train.learning_rate": 0.75}, "sweeps", "made", "importance.json")
    told = made_report.report(workspace)
    page = made_report.page(told)
    assert "figure-search" in page
    assert "settings taken from here need another split, or other people, before they are reported" in unescape(page)
    assert [row["parameter"] for row in made_report.table(told, "search_importance")] == [
        "train.learning_rate",
        "model.gate",
    ]
    assert "figure-search" not in made_report.page(summary)


def test_samples_that_could_not_be_fitted_are_counted_with_a_reason(tmp_path):
    workspace = made_report.leave(tmp_path)
    fitted = made_report.search_table()
    failed = fitted.slice(0, 2).set_column(fitted.column_names.index("error"), "error", [["model: <too wide>"] * 2])
    workspace.write_table(pa.concat_tables([fitted, failed]), "sweeps", "made", "search.parquet")
    told = made_report.report(workspace)
    assert "2 samples of the search could not be fitted, as: model: &lt;too wide&gt;" in made_report.page(told)
    assert len(made_report.table(told, "search_failures")) == 2
    assert len(made_report.table(told, "search")) == 12


def test_files_of_an_older_report_disappear(tmp_path):
    workspace = made_report.leave(tmp_path)
    workspace.write_table(made_report.search_table(), "sweeps", "made", "search.parquet")
    assert "tables/search.csv" in made_report.files(made_report.report(workspace))
    workspace.delete("sweeps", "made", "search.parquet")
    assert made_report.files(made_report.report(workspace)).keys() == files_of(TABLES, FIGURES)


def test_the_page_holds_the_commands_and_the_settings_that_made_it(summary):
    page = made_report.page(summary)
    compared = f"mmray compare --sweep made --workspace {summary.workspace} --set evaluate.bootstraps=50"
    assert compared in page
    settings = page.split("Settings of sweep made</summary><pre>")[1].split("</pre>")[0]
    tree = yaml.safe_load(unescape(settings))
    assert config.from_dict(tree) == config.from_dict({"workspace": summary.workspace})


def test_the_verb_prints_its_summary_as_json(tmp_path, capsys):
    made_report.leave(tmp_path)
    few = [word for name, n in made_report.FEW.items() for word in ("--set", f"evaluate.{name}={n}")]
    assert cli.main(["compare", "--workspace", str(tmp_path), "--json", *few]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["report"] == f"{tmp_path}/sweeps/made/report/report.html"
    assert told["sweeps"] == ["made"]
    assert told["failed"] == {}


def test_a_damaged_config_is_named(tmp_path):
    workspace = made_report.leave(tmp_path)
    workspace.write_text("a: [", "sweeps", "made", "config.yaml")
    with pytest.raises(WorkspaceError, match=r"sweeps/made/config\.yaml is damaged"):
        compare.compare(config.from_dict({"workspace": workspace.root}))
