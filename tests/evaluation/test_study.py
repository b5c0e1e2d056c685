"""A sweep pooled: failures named and never averaged away, rates picked by validation, figures drawn from the fits."""

from __future__ import annotations

import pytest

from mmray import config
from mmray.errors import WorkspaceError
from mmray.evaluation import study, trials
from mmray.evaluation.comparison import holm
from mmray.storage import Workspace
from tests.evaluation import made_trials

EVALUATE = config.Evaluate(bootstraps=50, permutations=99)


def pooled(plan, rows):
    return study.pool(plan, rows, EVALUATE, 0, None)


@pytest.fixture
def made():
    plan = made_trials.plan_of()
    return plan, [made_trials.row(one) for one in plan.trials]


def test_a_whole_sweep_misses_nothing(made):
    told = pooled(*made)
    assert (told.finished, told.failed, told.missing, told.incomplete) == (36, {}, [], [])
    assert {f.subjects for figures in told.figures.values() for f in figures} == {24}


def test_a_failed_trial_is_named_and_marks_its_variant(made):
    plan, rows = made
    bad = next(row for row in rows if row["variant"] == "gcn")
    bad |= {"error": "train: the loss is nan", "subject_id": None}
    told = pooled(plan, rows)
    assert told.failed == {bad["trial_id"]: "train: the loss is nan"}
    assert (told.incomplete, told.finished) == (["gcn"], 35)


def test_the_first_variant_is_the_plans_first_or_nobody(made):
    plan, rows = made
    assert {c.first for c in pooled(plan, rows).comparisons} == {plan.trials[0].variant}
    others = [row for row in rows if row["variant"] != plan.trials[0].variant]
    told = pooled(plan, others)
    assert len(told.figures) == 2
    assert told.comparisons == []


def test_a_trial_that_never_ran_is_named_and_marks_its_variant(made):
    plan, rows = made
    told = pooled(plan, [row for row in rows if (row["variant"], row["fold"], row["seed"]) != ("ridge", 1, 1)])
    assert told.missing == ["ridge-0.01-1-1", "ridge-0.001-1-1"]
    assert told.incomplete == ["ridge"]
    # fold 1 of it lacks a seed: everybody's figure is of the other seed
    assert {f.subjects for figures in told.figures.values() for f in figures} == {24}


def test_no_fit_more_takes_a_person_away(made):
    """In the plan's order, where seeds vary slowest: people behind the figures never become fewer."""
    _, rows = made
    mine = [row for row in rows if (row["variant"], row["learning_rate"]) == ("gcn", 1e-3)]
    mine.sort(key=lambda row: (row["seed"], row["fold"]))
    people, cells = [], []
    for count in range(1, len(mine) + 1):
        kept = study.whole(mine[:count])
        seeds = {fold: {row["seed"] for row in kept if row["fold"] == fold} for fold in {row["fold"] for row in kept}}
        assert len({frozenset(of_fold) for of_fold in seeds.values()}) == 1  # the same seeds of every fold
        people.append(len({subject for row in kept for subject in row["subject_id"]}))
        cells.append(len(kept))
    assert people == [8, 16, 24, 24, 24, 24]
    assert cells == [1, 2, 3, 3, 3, 6]


def test_the_learning_rate_is_picked_by_validation_and_never_by_test():
    def row(rate, mrr, entropy):
        rows = {"fold": 0, "seed": 0, "learning_rate": rate, "subject_id": ["test"]}
        return rows | {"validation_mrr": mrr, "validation_cross_entropy": entropy}

    rows = [row(1, 0.2, 0.5), row(2, 0.6, 0.9)]
    assert [r["learning_rate"] for r in study.picked(rows, "validation_mrr")] == [2]
    assert [r["learning_rate"] for r in study.picked(rows, "validation_cross_entropy")] == [1]


def test_other_vectors_of_the_test_subjects_change_the_figures(made):
    plan, rows = made
    before = pooled(plan, rows)
    for row in rows:
        row["eeg"] = row["eeg"][::-1]
    assert [f.value for f in pooled(plan, rows).figures["gcn"]] != [f.value for f in before.figures["gcn"]]


def test_holm_of_a_sweep_runs_over_all_its_comparisons(made):
    found = pooled(*made).comparisons
    assert {c.metric for c in found} == {"R@1", "MRR", "cross_entropy"}
    assert [c.p_holm for c in found] == holm([c.p_value for c in found])


def test_a_sweep_reads_back_in_the_plans_order(tmp_path, made):
    plan, rows = made
    workspace = Workspace(str(tmp_path))
    made_trials.write(workspace, plan, rows[::-1])
    assert trials.read_plan(workspace, "made") == plan
    assert trials.newest(workspace) == "made"
    assert trials.read(workspace, plan) == rows


def test_what_is_no_sweep_is_said_with_what_is_there(tmp_path):
    workspace = Workspace(str(tmp_path))
    with pytest.raises(WorkspaceError, match="holds no sweep"):
        trials.newest(workspace)
    made_trials.write(workspace, made_trials.plan_of(), [])
    with pytest.raises(WorkspaceError, match="there: made"):
        trials.read_plan(workspace, "mode")


def test_a_damaged_trial_is_named(tmp_path, made):
    workspace = Workspace(str(tmp_path))
    made_trials.write(workspace, *made)
    workspace.write_bytes(b"PAR1 no", "sweeps", "made", "trials.parquet", "gcn-0.01-0-0.parquet")
    with pytest.raises(WorkspaceError, match=r"gcn-0\.01-0-0"):
        trials.read(workspace, made[0])
