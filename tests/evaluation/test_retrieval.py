from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from mmray.evaluation import retrieval


def naive_rank(query, gallery, match):
    scores = [float(np.dot(query, row)) for row in gallery]
    return 1 + sum(s >= scores[match] for i, s in enumerate(scores) if i != match)


def tied_vectors(seed, queries=20, gallery=30):
    rng = np.random.default_rng(seed)
    query_QD = rng.integers(-2, 3, (queries, 4)).astype(np.float32)
    gallery_GD = rng.integers(-2, 3, (gallery, 4)).astype(np.float32)
    return query_QD, gallery_GD, rng.integers(0, gallery, queries)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunked_ranks_match_a_naive_count(chunk):
    query_QD, gallery_GD, match_Q = tied_vectors(0)
    ranks = retrieval.ranks_of_matches(*map(torch.from_numpy, (query_QD, gallery_GD, match_Q)), chunk=chunk)
    assert ranks.tolist() == [naive_rank(q, gallery_GD, m) for q, m in zip(query_QD, match_Q, strict=True)]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gallery=st.integers(1, 12))
def test_every_column_of_ranks_of_all_matches_a_naive_count(seed, gallery):
    query_QD, gallery_GD, _ = tied_vectors(seed, queries=5, gallery=gallery)
    rank_QG = retrieval.ranks_of_all(torch.from_numpy(query_QD), torch.from_numpy(gallery_GD))
    naive = [[naive_rank(query, gallery_GD, match) for match in range(gallery)] for query in query_QD]
    assert rank_QG.tolist() == naive


@pytest.mark.parametrize("rows", [3, 17, 200])
def test_a_constant_embedding_ranks_every_match_last(rows):
    row_D = torch.nn.functional.normalize(torch.randn(37, generator=torch.Generator().manual_seed(0)), dim=0)
    same_RD = row_D.repeat(rows, 1)
    ranks = retrieval.ranks_of_matches(same_RD, same_RD, torch.arange(rows), chunk=5)
    assert set(ranks.tolist()) == {rows}


def test_a_match_that_is_nan_ranks_last():
    gallery_GD = torch.eye(4)
    gallery_GD[2] = float("nan")
    assert retrieval.ranks_of_matches(torch.eye(4)[[2]], gallery_GD, torch.tensor([2])).tolist() == [4]


def test_no_query_gives_no_rank():
    empty = torch.zeros(0, 3)
    assert retrieval.ranks_of_matches(empty, torch.eye(3), torch.zeros(0, dtype=torch.long)).shape == (0,)


def test_metrics_of_hand_counted_ranks():
    metrics = retrieval.retrieval_metrics([1, 2, 5, 10, 12], gallery=12)
    expected = {
        "R@1": 0.2,
        "R@5": 0.6,
        "R@10": 0.8,
        "median_rank": 5.0,
        "MRR": (1 + 1 / 2 + 1 / 5 + 1 / 10 + 1 / 12) / 5,
    }
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("ranks", [[], [0], [4]])
def test_ranks_outside_the_gallery_are_refused(ranks):
    with pytest.raises(ValueError, match=r"1\.\.3"):
        retrieval.retrieval_metrics(ranks, gallery=3)


@pytest.mark.parametrize("metric", retrieval.RANK_METRICS)
@pytest.mark.parametrize("gallery", [2, 11, 60])
def test_chance_agrees_with_random_rankings(metric, gallery):
    ranks = np.random.default_rng(1).integers(1, gallery + 1, 200_000)
    simulated = retrieval.retrieval_metrics(ranks, gallery)[metric]
    tolerance = 0.01 * gallery if metric == "median_rank" else 0.005
    # the median of an even gallery jumps between its two middle ranks
    slack = 0.5 if metric == "median_rank" and gallery % 2 == 0 else 0
    assert retrieval.chance(metric, gallery) == pytest.approx(simulated, abs=tolerance + slack)


@pytest.mark.parametrize(("relevant", "gallery"), [(1, 1), (1, 9), (4, 9), (9, 9)])
def test_chance_of_average_precision_agrees_with_random_rankings(relevant, gallery):
    rng = np.random.default_rng(2)
    scores = rng.random((20_000, gallery))
    wanted = np.arange(gallery) < relevant
    simulated = retrieval.mean_average_precision(scores, np.tile(wanted, (len(scores), 1)))
    assert retrieval.chance_average_precision(relevant, gallery) == pytest.approx(simulated, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_average_precision_with_ties_equals_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    score_QG = rng.integers(0, 4, (6, 15)).astype(float)
    relevant_QG = rng.random((6, 15)) < 0.4
    relevant_QG[:, 0] = True
    found = retrieval.average_precision(*retrieval.rank_order(score_QG), relevant_QG)
    naive = [average_precision_score(r, s) for r, s in zip(relevant_QG, score_QG, strict=True)]
    assert found == pytest.approx(naive)


def test_average_precision_does_not_see_the_order_of_tied_rows():
    tied = np.zeros((1, 4))
    first, last = np.array([[True, False, False, False]]), np.array([[False, False, False, True]])
    assert retrieval.mean_average_precision(tied, first) == retrieval.mean_average_precision(tied, last) == 0.25


def test_a_row_scored_minus_infinity_is_out_of_the_gallery():
    score = np.array([[-np.inf, 0.2, 0.9]])
    assert retrieval.mean_average_precision(score, np.array([[False, True, False]])) == 0.5


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_group_vectors_equal_a_loop_over_groups(seed):
    rng = np.random.default_rng(seed)
    z_SD, group_S = rng.normal(size=(12, 3)) * rng.uniform(0.1, 9, (12, 1)), rng.integers(0, 4, 12)
    for group, vector_D in enumerate(retrieval.group_vectors(z_SD, group_S, 4)):
        rows = [z / np.sqrt(z @ z) for z, g in zip(z_SD, group_S, strict=True) if g == group]
        mean_D = np.mean(rows, axis=0) if rows else np.zeros(3)
        length = np.sqrt(mean_D @ mean_D)
        assert vector_D == pytest.approx(mean_D / length if length else mean_D)


def test_a_metric_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="R@one"):
        retrieval.chance("R@one", 5)
