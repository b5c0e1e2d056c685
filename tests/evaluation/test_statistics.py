from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.evaluation import statistics


def mean(value_NU):
    return value_NU.mean(axis=-1)


def test_bootstrap_equals_a_loop_over_resamples():
    value_S = np.random.default_rng(0).normal(size=13)
    index_NS = np.random.default_rng(5).integers(0, 13, size=(200, 13))
    naive = sorted(float(np.mean([value_S[i] for i in row])) for row in index_NS)
    low, high = statistics.bootstrap_subjects(value_S, mean, 200, seed=5)
    # Student's t of 12 degrees of freedom, 2.17881, times sqrt(13 / 12); the normal distribution below minus that
    below = 100 * 0.5 * math.erfc(2.17881 * math.sqrt(13 / 12) / math.sqrt(2))
    assert (low, high) == pytest.approx((np.percentile(naive, below), np.percentile(naive, 100 - below)), abs=1e-5)


@pytest.mark.parametrize("people", [5, 13, 40])
def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says(people):
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(400):
        low, high = statistics.bootstrap_subjects(rng.normal(size=people), mean, 1000, seed=trial)
        covered += low <= 0 <= high
    # plain percentiles hold it in 0.83 of cases with five people
    assert 0.9 <= covered / 400 <= 0.98


def test_undefined_resamples_are_left_out_of_an_interval():
    assert statistics.interval(np.array([np.nan, 1.0, 3.0]), 50) == pytest.approx((1.0, 3.0), abs=0.05)
    assert statistics.interval(np.array([np.nan, np.nan]), 50) is None


def test_where_all_are_alike_or_there_is_one_there_is_no_interval():
    assert statistics.bootstrap_subjects(np.ones(20), mean, 200, seed=0) is None
    assert statistics.bootstrap_subjects(np.array([0.3]), mean, 200, seed=0) is None


def test_pairing_p_equals_a_loop_over_permutations():
    value_UU = np.random.default_rng(1).normal(size=(7, 7))
    subjects = np.tile(np.arange(7), (300, 1))
    drawn = np.random.default_rng(9).permuted(subjects, axis=1)
    observed = np.mean([value_UU[i, i] for i in range(7)])
    reached = sum(np.mean([value_UU[i, order[i]] for i in range(7)]) >= observed for order in drawn)
    assert statistics.permutation_pairing(value_UU, mean, 300, seed=9) == (1 + reached) / 301


def test_a_subjects_pairs_are_permuted_together():
    subject_U = np.array([0, 0, 1, 1, 2, 2])
    for pairing_U in statistics.permuted_pairings(subject_U, 50, seed=0):
        assert sorted(pairing_U) == list(range(6))
        for first in (0, 2, 4):
            assert pairing_U[first] % 2 == 0
            assert pairing_U[first + 1] == pairing_U[first] + 1


def test_subjects_with_unequal_numbers_of_pairs_stay_inside_one_other_subject():
    subject_U = np.array([0, 1, 1, 1, 2, 2])
    for pairing_U in statistics.permuted_pairings(subject_U, 50, seed=0):
        assert len(set(subject_U[pairing_U[1:4]])) == 1


def test_identity_similarity_gives_the_smallest_p():
    assert statistics.permutation_pairing(np.eye(20), mean, 999, seed=0) == 1 / 1000


def test_constant_similarity_gives_p_of_one():
    assert statistics.permutation_pairing(np.full((9, 9), 0.1), mean, 99, seed=0) == 1.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), subjects=st.integers(2, 9), levels=st.integers(1, 4))
def test_pairing_p_lies_in_zero_to_one(seed, subjects, levels):
    value_UU = np.random.default_rng(seed).integers(0, levels, (subjects, subjects)).astype(float)
    assert 0 < statistics.permutation_pairing(value_UU, mean, 50, seed) <= 1


def test_exchangeable_pairs_give_roughly_uniform_p():
    rng = np.random.default_rng(11)
    p = np.array([statistics.permutation_pairing(rng.normal(size=(10, 10)), mean, 99, seed=i) for i in range(400)])
    for threshold in (0.05, 0.25, 0.5, 0.75):
        assert abs((p <= threshold).mean() - threshold) < 3.5 * np.sqrt(threshold * (1 - threshold) / 400)


def test_label_p_equals_a_loop_over_permutations():
    score_S = np.random.default_rng(2).normal(size=12)
    label_S = np.array([0, 1] * 6)

    def gap(label):
        return np.array([score_S[label == 1].mean() - score_S[label == 0].mean()])

    generator = np.random.default_rng(4)
    reached = 0
    for _ in range(200):
        order = generator.permutation(label_S)
        ones = [s for s, y in zip(score_S, order, strict=True) if y]
        zeros = [s for s, y in zip(score_S, order, strict=True) if not y]
        reached += np.mean(ones) - np.mean(zeros) >= gap(label_S)[0] - 1e-12
    assert statistics.permutation_labels(label_S, gap, 200, seed=4)[0] == (1 + reached) / 201


def test_exchangeable_labels_give_roughly_uniform_p():
    rng = np.random.default_rng(12)
    label_S = np.array([0, 1] * 8)
    p = []
    for trial in range(300):
        score_S = rng.normal(size=16)
        p.append(
            statistics.permutation_labels(label_S, lambda y, s=score_S: np.array([s[y == 1].mean()]), 99, trial)[0]
        )
    assert abs((np.array(p) <= 0.25).mean() - 0.25) < 3.5 * np.sqrt(0.25 * 0.75 / 300)
