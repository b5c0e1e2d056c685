"""The numbers of a report against slow and obvious ones, made from the same rows."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from itertools import combinations

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, f1_score

from mmray import config
from mmray.evaluation import exhibit_pairs, exhibits, fits, retrieval, verdict
from mmray.evaluation.trials import Plan
from mmray.recordings import oracle, synthetic
from mmray.storage import Workspace
from mmray.training.sweep import SweepSummary
from tests.evaluation import made_report, made_trials

EVALUATE = config.Evaluate(bootstraps=50, permutations=99)


def made(rows=None, plan=None):
    plan = plan or made_report.plan()
    rows = made_report.rows_of(plan) if rows is None else rows
    return fits.gather(plan, rows, EVALUATE, 0, None, lambda steps=1, note="": None), rows


@pytest.fixture(scope="module")
def told():
    found, rows = made()
    return exhibits.tables(found)[0], rows


def naive_cross_entropy(rows):
    """Mean over people of the mean over seeds of -ln p, from finished rows."""
    costs = defaultdict(list)
    for row in rows:
        for subject, label, p in zip(row["subject_id"], row["label"], row["probability"], strict=True):
            costs[subject].append(-math.log(p[label]))
    people = [sum(values) / len(values) for values in costs.values()]
    return sum(people) / len(people)


def naive_pick(rows, key, sign):
    cells = {}
    for row in rows:
        at = (row["fold"], row["seed"])
        if at not in cells or sign * row[key] > sign * cells[at][key]:
            cells[at] = row
    return list(cells.values())


def test_table_1_is_the_mean_over_people_of_the_mean_over_seeds(told):
    tables, rows = told
    table = {(row["variant"], row["learning_rate"]): row for row in tables["cross_entropy_by_rate"]}
    assert len(table) == 3 * 3  # an ablation is no system
    rates = set()
    for variant in made_trials.SYSTEMS:
        mine = [row for row in rows if row["variant"] == variant]
        for rate in (1e-2, 1e-3):
            at_rate = [row for row in mine if row["learning_rate"] == rate]
            assert table[variant, rate]["value"] == pytest.approx(naive_cross_entropy(at_rate), abs=1e-12)
        picked = naive_pick(mine, "validation_cross_entropy", -1)
        rates |= {row["learning_rate"] for row in picked}
        assert table[variant, None]["value"] == pytest.approx(naive_cross_entropy(picked), abs=1e-12)
    assert rates == {1e-2, 1e-3}  # so that picking was tried


def test_table_1_puts_the_papers_printed_figures_beside_ours(told):
    paper = {(row["variant"], row["learning_rate"]): row["paper"] for row in told[0]["cross_entropy_by_rate"]}
    assert paper["crossmodal_gcn", 1e-3] == 0.16
    assert paper["gcn", 1e-2] == 0.245
    assert paper["ridge", 1e-2] is None
    assert paper["gcn", None] is None


def test_picked_cross_entropy_is_that_of_the_pooled_figure(told):
    tables, _ = told
    pooled = {row["variant"]: row["value"] for row in tables["classification"] if row["metric"] == "cross_entropy"}
    for row in tables["cross_entropy_by_rate"]:
        if row["learning_rate"] is None:
            assert row["value"] == pytest.approx(pooled[row["variant"]])


def test_f1_is_scikit_learns_on_the_people_of_a_fold(told):
    tables, rows = told
    for row in tables["f1"]:
        mine = [r for r in rows if r["variant"] == row["variant"]]
        cell = [r for r in mine if (r["fold"], r["seed"]) == (row["fold"], row["seed"])]
        (chosen,) = naive_pick(cell, "validation_cross_entropy", -1)
        guess = np.argmax(chosen["probability"], axis=1)
        assert row["f1"] == pytest.approx(f1_score(chosen["label"], guess))


def test_epochs_are_medians_of_fits_that_keep_their_last_value(told):
    rows = made_report.rows_of(made_report.plan())
    early = next(r for r in rows if (r["variant"], r["fold"], r["seed"]) == ("gcn", 0, 0))
    for other in rows:  # both rates, so that whichever is picked stopped
        if (other["variant"], other["fold"], other["seed"]) == ("gcn", 0, 0):
            other["history"] = other["history"][:2]
    table = [row for row in exhibits.accuracy_per_epoch(made(rows)[0]) if row["variant"] == "gcn"]
    picked = naive_pick([r for r in rows if r["variant"] == "gcn"], "validation_cross_entropy", -1)
    last = [r["history"][-1]["validation_accuracy"] for r in picked]
    assert [row["epoch"] for row in table] == [0, 1, 2, 3]
    assert [row["running"] for row in table] == [6, 6, 5, 5]
    assert table[3]["median"] == pytest.approx(np.median(last))
    assert table[3]["low"] == pytest.approx(np.percentile(last, 25))
    assert len(early["history"]) == 2


def test_holm_runs_over_all_pairs_of_a_metric(told):
    for metric in exhibit_pairs.COMPARED:
        mine = sorted((r for r in told[0]["pairs"] if r["metric"] == metric), key=lambda r: r["p"])
        assert {(r["first"], r["second"]) for r in mine} == set(combinations(made_trials.SYSTEMS, 2))
        largest = 0.0
        for step, row in enumerate(mine):
            largest = max(largest, min(1.0, row["p"] * (len(mine) - step)))
            assert row["p_holm"] == pytest.approx(largest)


def test_a_pairs_difference_is_that_of_the_figures(told):
    tables, _ = told
    value = defaultdict(list)
    for row in tables["retrieval"]:
        value[row["variant"], row["metric"]].append(row["value"])
    for row in tables["classification"]:
        value[row["variant"], row["metric"]].append(row["value"])
    for row in tables["pairs"]:
        first, second = (np.mean(value[row[side], row["metric"]]) for side in ("first", "second"))
        assert row["difference"] == pytest.approx(first - second), row


def test_balanced_accuracy_of_a_pair_weighs_classes_alike():
    rows = made_report.rows_of(made_report.plan())
    for row in rows:
        row["label"] = [0] * 6 + [1] * 2
    tables, _ = exhibits.tables(made(rows)[0])
    value = {r["variant"]: r["value"] for r in tables["classification"] if r["metric"] == "balanced_accuracy"}
    plain = {r["variant"]: r["value"] for r in tables["classification"] if r["metric"] == "accuracy"}
    mine = [r for r in tables["pairs"] if r["metric"] == "balanced_accuracy"]
    assert len(mine) == 3
    for row in mine:
        assert row["difference"] == pytest.approx(value[row["first"]] - value[row["second"]])
    assert value != pytest.approx(plain)


def test_equal_systems_do_not_differ_where_one_misses_people():
    plan = made_report.plan()
    rows = {row["trial_id"]: row for row in made_report.rows_of(plan)}
    for row in rows.values():
        row["label"] = [0] * 6 + [1] * 2 if row["fold"] else [0] * 3 + [1] * 5
    for one in plan.trials:  # gcn becomes a copy of crossmodal_gcn, without fold 2
        if one.variant == "gcn":
            twin = rows[one.trial_id.replace("gcn", "crossmodal_gcn", 1)]
            rows[one.trial_id] |= {name: twin[name] for name in ("eeg", "audio", "probability")}
            rows[one.trial_id] |= {name: twin[name] for name in ("validation_mrr", "validation_cross_entropy")}
            if one.fold == 2:
                rows[one.trial_id] |= {"error": "train: the loss is nan", "subject_id": None}
    tables, _ = exhibits.tables(made(list(rows.values()), plan)[0])
    mine = [r for r in tables["pairs"] if {r["first"], r["second"]} == {"crossmodal_gcn", "gcn"}]
    assert {r["metric"]: (r["difference"], r["people"]) for r in mine} == {
        metric: (0.0, 16) for metric in ("R@1", "MRR", "cross_entropy", "balanced_accuracy")
    }


def test_a_picked_cross_entropy_has_one_interval_wherever_it_stands():
    rows = made_report.rows_of(made_report.plan())
    people = sorted({subject for row in rows for subject in row["subject_id"]})
    for row in rows:  # names in another order than the folds
        row["subject_id"] = [f"p{7 * people.index(subject) % 31:02d}" for subject in row["subject_id"]]
        row["by_task"] = []
    tables, _ = exhibits.tables(made(rows)[0])
    picked = {r["variant"]: r for r in tables["cross_entropy_by_rate"] if r["learning_rate"] is None}
    for row in tables["classification"]:
        if row["metric"] == "cross_entropy":
            other = picked[row["variant"]]
            for name in ("value", "ci_low", "ci_high"):
                assert row[name] == pytest.approx(other[name], abs=1e-12)


def test_calibration_has_no_chance_and_so_no_p(told):
    of_ece = [row for row in told[0]["classification"] if row["metric"] == "ECE"]
    assert {(row["chance"], row["p"], row["band_low"], row["band_high"]) for row in of_ece} == {(None,) * 4}


def test_only_ranks_that_a_gallery_can_fail_are_shown(told):
    assert {row["metric"] for row in told[0]["retrieval"]} == {"R@1", "R@5", "MRR", "median_rank", "mAP"}  # of eight
    assert retrieval.telling(("R@1", "R@5", "R@10", "MRR"), 11) == ["R@1", "R@5", "R@10", "MRR"]


def test_who_had_other_rates_to_pick_from_is_marked(told):
    # the ablation was run at one rate, its system at two
    assert {row["same_rates"] for row in told[0]["ablation"]} == {False}
    assert {row["same_rates"] for row in told[0]["pairs"]} == {True}


def test_the_ceiling_is_the_oracles_and_the_figure_a_share_of_it(tmp_path):
    people = config.Synth(subjects=24, eeg_seconds=4, clips=1, coupling=0.8)
    synthetic.generate(str(tmp_path), people, 0, config.Cluster())
    truth = Workspace(str(tmp_path)).read_table("truth.parquet")
    names = truth["subject_id"].to_pylist()
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    for row in rows:
        row["subject_id"] = names[8 * row["fold"] : 8 * row["fold"] + 8]
        row["by_task"] = []
    found = fits.gather(plan, rows, EVALUATE, 0, truth, lambda steps=1, note="": None)
    row = next(r for r in exhibits.retrieval(found) if (r["variant"], r["metric"]) == ("gcn", "R@1"))
    tops = [oracle.ceilings(truth, names[8 * fold : 8 * fold + 8])["eeg->audio"]["R@1"] for fold in range(3)]
    assert row["ceiling"] == pytest.approx(sum(tops) / 3)
    way = (row["value"] - row["chance"]) / (row["ceiling"] - row["chance"])
    assert row["share_of_ceiling"] == pytest.approx(way)


def test_an_ablation_is_compared_with_the_system_that_it_changes(told):
    tables, rows = told
    row = next(r for r in tables["ablation"] if r["metric"] == "cross_entropy")
    assert (row["first"], row["second"]) == ("no gate", "crossmodal_gcn")
    parts = [naive_pick([r for r in rows if r["variant"] == v], "validation_cross_entropy", -1) for v in row_names(row)]
    assert row["difference"] == pytest.approx(naive_cross_entropy(parts[0]) - naive_cross_entropy(parts[1]))
    assert all("no gate" not in (r["variant"],) for r in tables["retrieval"])


def row_names(row):
    return row["first"], row["second"]


def test_average_ranks_count_who_is_better_and_half_of_the_ties():
    value_SV = np.random.default_rng(0).integers(0, 3, (20, 5)).astype(float)
    for lower in (False, True):
        naive = []
        for v in range(5):
            ranks = []
            for row in value_SV:
                better = sum((other < row[v]) if lower else (other > row[v]) for other in row)
                ties = sum(other == row[v] for other in row) - 1
                ranks.append(1 + better + ties / 2)
            naive.append(sum(ranks) / len(ranks))
        assert exhibit_pairs.average_ranks(value_SV, lower).tolist() == pytest.approx(naive)


def test_friedmans_p_is_that_of_his_formula(told):
    tables, rows = told
    cost = {}
    for variant in made_trials.SYSTEMS:
        costs = defaultdict(list)
        for row in naive_pick([r for r in rows if r["variant"] == variant], "validation_cross_entropy", -1):
            for subject, label, p in zip(row["subject_id"], row["label"], row["probability"], strict=True):
                costs[subject].append(-math.log(p[label]))
        cost[variant] = {s: sum(c) / len(c) for s, c in costs.items()}
    mean_rank, n = dict.fromkeys(cost, 0.0), len(cost["gcn"])
    for subject in cost["gcn"]:
        for place, variant in enumerate(sorted(cost, key=lambda v: cost[v][subject]), 1):
            mean_rank[variant] += place / n
    chi2 = 12 * n / (3 * 4) * (sum(r**2 for r in mean_rank.values()) - 3 * 4**2 / 4)
    for row in tables["ranks"]:
        if row["metric"] == "cross_entropy":
            assert row["average_rank"] == pytest.approx(mean_rank[row["variant"]])
            assert row["friedman_p"] == pytest.approx(math.exp(-chi2 / 2))  # chi-squared of two degrees
            assert row["people"] == 24


def test_bars_join_the_widest_runs_that_hold_no_difference():
    rng = np.random.default_rng(1)
    for count in (2, 3, 5, 8):
        for _ in range(20):
            ranked = [{"variant": f"v{i}"} for i in range(count)]
            pairs = [
                {"first": f"v{j}", "second": f"v{i}", "p_holm": rng.choice([0.01, 0.5], p=[0.3, 0.7])}
                for i, j in combinations(range(count), 2)
            ]
            p_of = {(int(r["second"][1:]), int(r["first"][1:])): r["p_holm"] for r in pairs}
            alike = [
                (a, b)
                for a, b in combinations(range(count), 2)
                if all(p_of[i, j] >= 0.05 for i, j in combinations(range(a, b + 1), 2))
            ]
            widest = [(a, b) for a, b in alike if not any((c, d) != (a, b) and c <= a and d >= b for c, d in alike)]
            assert exhibit_pairs.not_different(ranked, pairs) == sorted(widest)


def test_reliability_counts_everybody_once_and_says_what_was_claimed(told):
    tables, rows = told
    for variant in made_trials.SYSTEMS:
        mine = [row for row in tables["reliability"] if row["variant"] == variant]
        picked = naive_pick([r for r in rows if r["variant"] == variant], "validation_cross_entropy", -1)
        assert sum(row["people"] for row in mine) == pytest.approx(24)
        claims = [max(p) for r in picked for p in r["probability"]]
        right = [int(np.argmax(p) == y) for r in picked for p, y in zip(r["probability"], r["label"], strict=True)]
        for row in mine:
            inside = [k for k, claim in enumerate(claims) if row["bin_low"] < claim <= row["bin_high"]]
            assert row["claimed"] == pytest.approx(np.mean([claims[k] for k in inside]))
            assert row["right"] == pytest.approx(np.mean([right[k] for k in inside]))
            assert row["people"] == pytest.approx(len(inside) / 2)


def test_confusion_counts_people_with_seeds_averaged(told):
    tables, rows = told
    picked = naive_pick([r for r in rows if r["variant"] == "crossmodal_gcn"], "validation_cross_entropy", -1)
    label = {s: y for r in picked for s, y in zip(r["subject_id"], r["label"], strict=True)}
    for row in tables["confusion"]:
        seen = [
            one
            for r in picked
            for one in r["by_task"]
            if one["task"] == row["task"]
            and label[one["subject_id"]] == row["actual"]
            and np.argmax(one["probability"]) == row["given"]
        ]
        assert row["people"] == pytest.approx(len(seen) / 2)
    assert {row["variant"] for row in tables["confusion"]} == {"crossmodal_gcn"}
    assert sum(row["people"] for row in tables["confusion"]) == pytest.approx(24 * len(made_trials.TASKS))


def test_balanced_accuracy_by_clip_type_is_scikit_learns_mean_over_seeds(told):
    tables, rows = told
    for row in tables["balanced_accuracy_by_task"]:
        picked = naive_pick([r for r in rows if r["variant"] == row["variant"]], "validation_cross_entropy", -1)
        by_seed = defaultdict(lambda: ([], []))
        for r in picked:
            label = dict(zip(r["subject_id"], r["label"], strict=True))
            given = [(o["subject_id"], o["probability"]) for o in r["by_task"] if o["task"] == row["task"]]
            if row["task"] == "all clips":
                given = list(zip(r["subject_id"], r["probability"], strict=True))
            for subject, p in given:
                by_seed[r["seed"]][0].append(label[subject])
                by_seed[r["seed"]][1].append(int(np.argmax(p)))
        assert row["value"] == pytest.approx(np.mean([balanced_accuracy_score(*pair) for pair in by_seed.values()]))


def test_median_rank_is_of_peoples_mean_rank_over_seeds(told):
    tables, rows = told
    (row,) = (
        r
        for r in tables["retrieval"]
        if (r["variant"], r["direction"], r["metric"]) == ("gcn", "eeg->audio", "median_rank")
    )
    ranks = defaultdict(list)
    for r in naive_pick([r for r in rows if r["variant"] == "gcn"], "validation_mrr", 1):
        for u, subject in enumerate(r["subject_id"]):
            scores = [float(np.dot(r["eeg"][u], voice)) for voice in r["audio"]]
            ranks[subject].append(sum(s >= scores[u] - 1e-9 for s in scores))
    assert row["value"] == pytest.approx(np.median([np.mean(own) for own in ranks.values()]))
    assert row["chance"] == 4.5


def test_sensitivity_at_a_rate_is_of_that_rate_alone(told):
    tables, rows = told
    other = [dict(r) for r in rows]
    for r in other:
        if r["learning_rate"] == 1e-2:
            r["eeg"] = r["eeg"][::-1]
    changed = exhibits.sensitivity(made(other)[0])
    pairs = list(zip(tables["sensitivity"], changed, strict=True))
    assert any(a != b for a, b in pairs)
    assert all(a == b for a, b in pairs if a["learning_rate"] == 1e-3 or a["metric"] == "cross_entropy")


def test_runtime_adds_up_what_the_fits_took(told):
    tables, rows = told
    for row in tables["runtime"]:
        seconds = [r["seconds"] for r in rows if r["variant"] == row["variant"]]
        assert (row["fits"], row["total_s"]) == (len(seconds), pytest.approx(sum(seconds)))


def test_labels_that_nobody_knows_leave_the_classes_out_with_a_sentence():
    rows = made_report.rows_of(made_report.plan())
    for row in rows:
        row |= {"label": [-1] * len(row["label"]), "validation_cross_entropy": None}
        for record in row["history"]:
            record["validation_accuracy"] = None
    tables, left_out = exhibits.tables(made(rows)[0])
    gone = {"classification", "f1", "cross_entropy_by_rate", "reliability", "confusion", "accuracy_per_epoch"}
    assert not gone & tables.keys()
    assert gone <= left_out.keys()
    assert "no test person has a label" in left_out["cross_entropy_by_rate"]
    assert {row["metric"] for row in tables["pairs"]} == {"R@1", "MRR"}
    assert {row["metric"] for row in tables["ranks"]} == {"MRR"}


def test_a_fold_of_one_class_has_no_f1_and_the_report_says_which():
    rows = made_report.rows_of(made_report.plan())
    for row in rows:
        if row["fold"] == 1:
            row["label"] = [0] * len(row["label"])
    tables, left_out = exhibits.tables(made(rows)[0])
    assert {row["fold"] for row in tables["f1"] if row["f1"] is None} == {1}
    assert "fold 1 has test people of one class only" in left_out["f1 of some folds"]
    assert {row["people"] for row in tables["retrieval"] if row["metric"] == "mAP"} == {16}
    assert "8 of 24 have nobody of their class, or nobody of another" in left_out["mAP of some people"]
    assert {row["people"] for row in tables["classification"]} == {24}


def test_people_of_one_class_leave_out_what_needs_two():
    rows = made_report.rows_of(made_report.plan())
    for row in rows:
        row["label"] = [0] * len(row["label"])
    tables, left_out = exhibits.tables(made(rows)[0])
    assert "one class" in left_out["f1"]
    assert "in no fold" in left_out["mAP"]
    assert "one class" in left_out["balanced_accuracy_by_task"]
    assert {row["metric"] for row in tables["pairs"]} == {"R@1", "MRR", "cross_entropy"}
    assert "cross_entropy_by_rate" in tables


def one_a_fold() -> tuple[Plan, list[dict]]:
    """Leave-one-subject-out: eight folds that test one person each, of either class."""
    planned = made_trials.plan_of(folds=8, seeds=1, rates=(1e-2,))
    rows = []
    for one in planned.trials:
        row, at = made_trials.row(one), one.fold
        kept = {key: [row[key][at]] for key in ("subject_id", "label", "eeg", "audio", "probability")}
        spoken = [told for told in row["by_task"] if told["subject_id"] == row["subject_id"][at]]
        rows.append(row | kept | {"by_task": spoken})
    return planned, rows


def test_leaving_one_person_out_tells_classes_and_says_why_nobody_is_found():
    planned, rows = one_a_fold()
    found, _ = made(rows, planned)
    tables, left_out = exhibits.tables(found)
    assert "retrieval" not in tables
    assert "every fold tests one person" in left_out["retrieval"]
    assert "mAP" not in left_out
    assert {row["people"] for row in tables["classification"]} == {8}
    assert {row["metric"] for row in tables["pairs"]} == {"cross_entropy", "balanced_accuracy"}
    said = verdict.verdict(tables)
    assert said.startswith("crossmodal_gcn: whom it finds cannot be told")
    assert "balanced accuracy" in said
    summary = SweepSummary("x", "w", "f", 24, {}, [], found.study.figures, [])
    printed = Console(width=120, record=True, file=io.StringIO())
    printed.print(summary.render())
    assert "crossmodal_gcn" in printed.export_text()


def test_a_fold_that_tests_one_person_adds_nobody_to_retrieval():
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    for row in rows:
        if row["fold"] == 2:
            row |= {key: row[key][:1] for key in ("subject_id", "label", "eeg", "audio", "probability")}
            row["by_task"] = [told for told in row["by_task"] if told["subject_id"] == row["subject_id"][0]]
    tables, _ = exhibits.tables(made(rows, plan)[0])
    assert {row["people"] for row in tables["retrieval"]} == {16}
    assert {row["gallery_smallest"] for row in tables["retrieval"]} == {8}
    people = {row["metric"]: row["people"] for row in tables["pairs"]}
    assert people == {"R@1": 16, "MRR": 16, "cross_entropy": 17, "balanced_accuracy": 17}


def test_samples_that_could_not_be_fitted_stand_apart_from_those_that_were():
    table = [{"system": "gcn", "value": 0.4, "folds": 3, "param.model.gate": True, "error": None}]
    table.append({"system": "gcn", "value": 0.0, "folds": 1, "param.model.gate": False, "error": "train: the loss"})
    tables = exhibits.from_search(table, {})
    assert [row["value"] for row in tables["search"]] == [0.4]
    assert [row["error"] for row in tables["search_failures"]] == ["train: the loss"]


def test_a_cell_that_misses_a_fit_is_marked_and_no_other():
    plan = made_report.plan()
    rows = made_report.rows_of(plan)
    bad = next(r for r in rows if (r["variant"], r["learning_rate"], r["fold"]) == ("gcn", 1e-3, 1))
    bad |= {"error": "train: the loss is nan", "subject_id": None}
    tables, _ = exhibits.tables(made(rows, plan)[0])
    marked = {(r["variant"], r["learning_rate"]) for r in tables["cross_entropy_by_rate"] if not r["complete"]}
    assert marked == {("gcn", 1e-3), ("gcn", None)}
    people = {(r["variant"], r["learning_rate"]): r["people"] for r in tables["cross_entropy_by_rate"]}
    assert (people["gcn", 1e-3], people["gcn", 1e-2]) == (24, 24)  # of one seed, which all folds have, and of two
    assert {r["variant"] for r in tables["retrieval"] if not r["complete"]} == {"gcn"}
    assert {frozenset((r["first"], r["second"])) for r in tables["pairs"] if r["complete"]} == {
        frozenset(("crossmodal_gcn", "ridge"))
    }
    (status,) = (r for r in tables["status"] if r["failed"])
    assert (status["variant"], status["planned"], status["finished"]) == ("gcn", 12, 11)
    assert [r["reason"] for r in tables["failures"]] == ["train: the loss is nan"]
