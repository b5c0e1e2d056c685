from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmray.config import Evaluate
from mmray.errors import WorkspaceError
from mmray.evaluation import retrieval
from mmray.evaluation.evaluate import evaluate
from mmray.schema import EMBEDDINGS, metrics_of, metrics_table
from tests.evaluation import made_runs

FEW = Evaluate(bootstraps=200, permutations=199)
FAST = Evaluate(bootstraps=10, permutations=99)


def figures(metrics):
    return {(m.task, m.direction, m.level, m.metric): m for m in metrics}


def naive_rank_metrics(table, query, target, level):
    """Straight from the protocol: loops, lists and dicts."""
    z: dict[tuple[str, str], list] = {}
    for row in table.to_pylist():
        z.setdefault((row["modality"], row["subject_id"]), []).append(np.array(row["z"]))
    subjects = sorted({s for m, s in z if m == query} & {s for m, s in z if m == target})

    def vector(modality, subject):
        mean = sum(v / np.linalg.norm(v) for v in z[modality, subject])
        return mean / np.linalg.norm(mean)

    gallery = [vector(target, s) for s in subjects]
    hits, reciprocal, ranks = [], [], []
    for own, subject in enumerate(subjects):
        queries = [vector(query, subject)] if level == "subject" else z[query, subject]
        found = []
        for q in queries:
            scores = [float(q @ g) for g in gallery]
            found.append(1 + sum(s >= scores[own] for i, s in enumerate(scores) if i != own))
        hits.append(np.mean([r <= 1 for r in found]))
        reciprocal.append(np.mean([1 / r for r in found]))
        ranks.append(np.mean(found))
    return {"R@1": np.mean(hits), "MRR": np.mean(reciprocal), "median_rank": np.median(ranks)}


@pytest.mark.parametrize("level", ["subject", "segment"])
@pytest.mark.parametrize(("query", "target"), [("eeg", "audio"), ("audio", "eeg")])
def test_retrieval_equals_a_naive_reading_of_the_protocol(query, target, level):
    table = made_runs.embeddings(noise=1.5, seed=3)
    found = figures(evaluate(table, made_runs.predictions(), FEW, seed=0))
    for metric, value in naive_rank_metrics(table, query, target, level).items():
        assert found["retrieval", f"{query}->{target}", level, metric].value == pytest.approx(value)


def test_perfect_embeddings_reach_one_with_the_smallest_p():
    found = figures(evaluate(made_runs.embeddings(noise=0.0), made_runs.predictions(), FEW, seed=0))
    for level in ("subject", "segment"):
        metric = found["retrieval", "eeg->audio", level, "R@1"]
        assert (metric.value, metric.p_value) == (1.0, 1 / 200)
        assert metric.ci_low is None  # all alike, which is no interval of width 0


@pytest.mark.parametrize("metric", ["MRR", "median_rank"])
def test_each_perfect_figure_has_the_smallest_p_whichever_way_is_better(metric):
    found = figures(evaluate(made_runs.embeddings(noise=0.0), made_runs.predictions(), FEW, seed=0))
    assert found["retrieval", "eeg->audio", "subject", metric].p_value == 1 / 200


def test_unrelated_embeddings_land_at_chance_with_p_spread_out():
    p, reciprocal = [], []
    for seed in range(40):
        found = figures(
            evaluate(
                made_runs.embeddings(seed=seed), made_runs.predictions(), Evaluate(bootstraps=10, permutations=99), 0
            )
        )
        metric = found["retrieval", "eeg->audio", "segment", "MRR"]
        p.append(metric.p_value)
        reciprocal.append(metric.value)
    assert np.mean(reciprocal) == pytest.approx(retrieval.chance("MRR", 12), abs=0.03)
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) <= 0.05) <= 0.175


def test_every_retrieval_figure_carries_gallery_chance_interval_and_p():
    metrics = [m for m in evaluate(made_runs.embeddings(), made_runs.predictions(), FEW, 0) if m.task == "retrieval"]
    assert len(metrics) == 2 * (2 * 5 + 1)
    assert all(None not in (m.gallery, m.chance, m.ci_low, m.ci_high, m.p_value) for m in metrics if 0 < m.value < 1)


def test_a_subject_without_the_other_modality_is_neither_query_nor_gallery():
    table = made_runs.embeddings(subjects=6)
    lone = np.array([r["subject_id"] == "s000" and r["modality"] == "audio" for r in table.to_pylist()])
    metrics = evaluate(table.filter(pa.array(~lone)), made_runs.predictions(), FEW, 0)
    subject = figures(metrics)["retrieval", "eeg->audio", "subject", "R@1"]
    assert (subject.queries, subject.gallery) == (5, 5)


def test_one_paired_subject_leaves_retrieval_out():
    metrics = evaluate(made_runs.embeddings(subjects=1), made_runs.predictions(), FEW, 0)
    assert {m.task for m in metrics} == {"classification"}


def test_no_embedding_of_the_role_leaves_retrieval_out():
    metrics = evaluate(made_runs.embeddings(role="train"), made_runs.predictions(), FEW, 0)
    assert {m.task for m in metrics} == {"classification"}


def test_training_subjects_change_no_test_figure():
    alone = made_runs.embeddings(noise=1.0)
    with_train = pa.concat_tables([alone, made_runs.embeddings(noise=0.0, seed=9, role="train")])
    assert evaluate(alone, made_runs.predictions(), FEW, 0) == evaluate(with_train, made_runs.predictions(), FEW, 0)


def test_the_same_seed_gives_the_same_figures():
    first, second = (evaluate(made_runs.embeddings(), made_runs.predictions(), FEW, 7) for _ in range(2))
    assert first == second


def test_the_order_of_rows_changes_no_figure():
    table = made_runs.embeddings(noise=1.0)
    shuffled = table.take(np.random.default_rng(0).permutation(table.num_rows))
    for one, other in zip(*(evaluate(t, made_runs.predictions(), FEW, 0) for t in (table, shuffled)), strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.p_value == other.p_value


def test_figures_survive_the_metrics_table():
    metrics = evaluate(made_runs.embeddings(), made_runs.predictions(), FEW, 0)
    assert metrics_of(metrics_table(metrics)) == metrics


def test_a_ceiling_stands_beside_subject_level_figures_alone():
    found = figures(evaluate(made_runs.embeddings(), made_runs.predictions(), FEW, 0, {"eeg->audio": {"R@1": 0.5}}))
    assert found["retrieval", "eeg->audio", "subject", "R@1"].ceiling == 0.5
    assert found["retrieval", "eeg->audio", "segment", "R@1"].ceiling is None
    assert found["retrieval", "audio->eeg", "subject", "R@1"].ceiling is None


def test_a_subjects_own_partner_earns_no_label_precision():
    # identity is perfect, labels mean nothing: mAP stays near its chance
    values, chances = [], []
    for seed in range(20):
        metrics = evaluate(
            made_runs.embeddings(noise=0.0, seed=seed),
            made_runs.predictions(),
            Evaluate(bootstraps=10, permutations=99),
            0,
        )
        metric = figures(metrics)["retrieval", "eeg->audio", "subject", "mAP"]
        values.append(metric.value)
        chances.append(metric.chance)
    assert np.mean(values) == pytest.approx(np.mean(chances), abs=0.03)


@pytest.mark.parametrize("label", [lambda s: 0, lambda s: None, lambda s: s])
def test_labels_that_cannot_rank_leave_map_out(label):
    metrics = evaluate(made_runs.embeddings(label=label), made_runs.predictions(), FEW, 0)
    assert all(m.metric != "mAP" for m in metrics)


def test_unlabelled_subjects_are_left_out_of_classification():
    half = made_runs.predictions(label=lambda s: None if s >= 6 else s % 2)
    found = figures(evaluate(made_runs.embeddings(), half, FEW, 0))
    assert found["classification", "fused", "subject", "accuracy"].queries == 6


def test_classification_without_labels_is_left_out():
    metrics = evaluate(made_runs.embeddings(), made_runs.predictions(label=lambda s: None), FEW, 0)
    assert {m.task for m in metrics} == {"retrieval"}


def test_a_subject_counts_once_however_many_pairings_it_has():
    many = made_runs.predictions(subjects=4, pairings=1)
    again = pa.concat_tables([many, *[many.slice(0, 1)] * 20])
    one, other = (figures(evaluate(made_runs.embeddings(), t, FEW, 0)) for t in (many, again))
    key = ("classification", "fused", "subject", "cross_entropy")
    assert one[key].value == pytest.approx(other[key].value)


def test_clear_classes_are_found_and_tested():
    found = figures(evaluate(made_runs.embeddings(), made_runs.predictions(strength=6.0), FEW, 0))
    metric = found["classification", "fused", "subject", "balanced_accuracy"]
    assert (metric.value, metric.chance) == (1.0, 0.5)
    for name in ("balanced_accuracy", "AUC", "cross_entropy", "Brier"):
        assert found["classification", "fused", "subject", name].p_value < 0.02


def test_a_subjects_probability_is_the_mean_over_its_pairings():
    table = made_runs.predictions(subjects=4, pairings=3)
    rows = table.to_pylist()
    mean = [np.mean([r["probability"][1] for r in rows if r["subject_id"] == f"s{s:03}"]) for s in range(4)]
    expected = -np.mean([np.log(p if s % 2 else 1 - p) for s, p in enumerate(mean)])
    found = figures(evaluate(made_runs.embeddings(), table, FEW, 0))
    assert found["classification", "fused", "subject", "cross_entropy"].value == pytest.approx(expected)


def test_one_class_alone_gives_no_nan():
    metrics = evaluate(made_runs.embeddings(), made_runs.predictions(label=lambda s: 1), FEW, 0)
    assert "AUC" not in {m.metric for m in metrics}
    assert all(np.isfinite(v) for m in metrics for v in (m.value, m.ci_low, m.ci_high) if v is not None)


def test_a_diverged_run_is_named_as_such():
    rows = made_runs.embeddings(subjects=3).to_pylist()
    rows[0]["z"] = [float("nan")] * 16
    with pytest.raises(WorkspaceError, match="1 of 24 rows are not finite"):
        evaluate(pa.Table.from_pylist(rows, schema=EMBEDDINGS), made_runs.predictions(), FEW, 0)


def test_several_pairs_of_a_subject_are_matched_each_to_its_own():
    table = made_runs.embeddings(subjects=8, segments=2, noise=0.0)
    rows = table.to_pylist()
    rng = np.random.default_rng(0)
    shared = {}
    for row in rows:
        trial = row["segment_id"][-1]
        row["pair_id"] = f"{row['subject_id']}-{trial}"
        row["z"] = shared.setdefault(row["pair_id"], rng.normal(size=16).tolist())
    metrics = evaluate(pa.Table.from_pylist(rows, schema=EMBEDDINGS), made_runs.predictions(), FEW, 0)
    metric = figures(metrics)["retrieval", "eeg->audio", "pair", "R@1"]
    assert (metric.value, metric.gallery, metric.p_value) == (1.0, 16, 1 / 200)
