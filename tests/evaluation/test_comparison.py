"""Paired tests against exact enumeration, and Holm's correction against a case worked by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.evaluation.comparison import compare, corrected, holm, sign_flip


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=7))
def test_sign_flips_approach_the_exact_test(differences):
    difference_S = np.array(differences, dtype=float)
    every = [abs(np.dot(signs, difference_S)) for signs in itertools.product((-1, 1), repeat=len(differences))]
    exact = np.mean(np.array(every) >= abs(difference_S.sum()) - 1e-9)
    assert sign_flip(difference_S, 4000, seed=0) == pytest.approx(exact, abs=0.04)


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.5: x4, x3, x2, x1, never falling
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_never_lowers_a_p_nor_changes_their_order(p_values):
    found = holm(p_values)
    assert all(after >= before for before, after in zip(p_values, found, strict=True))
    assert all(found[i] <= found[j] for i in range(len(found)) for j in range(len(found)) if p_values[i] < p_values[j])


def test_only_people_whom_both_were_tested_on_count():
    one, other = {"a": 1.0, "b": 0.5, "c": 9.0}, {"a": 0.0, "b": 0.5, "d": 9.0}
    found = compare("x", "y", "R@1", one, other, 100, 0)
    assert (found.difference, found.subjects) == (0.5, 2)
    with pytest.raises(ValueError, match="nobody in common"):
        compare("x", "y", "R@1", {"a": 1.0}, {"b": 1.0}, 100, 0)


def test_a_constant_advantage_over_thirty_people_is_significant_and_none_is_not():
    better = {f"s{u}": 0.6 for u in range(30)}
    worse = {f"s{u}": 0.4 for u in range(30)}
    assert compare("x", "y", "R@1", better, worse, 100, 0).p_value < 0.001
    assert compare("x", "y", "R@1", better, better, 100, 0).p_value == 1.0


def test_correction_counts_every_comparison_made():
    better, worse = {f"s{u}": float(u % 3) for u in range(12)}, {f"s{u}": 0.4 for u in range(12)}
    one = compare("x", "y", "R@1", better, worse, 100, 0)
    assert [c.p_holm for c in corrected([one, one, one])] == pytest.approx([min(1, 3 * one.p_value)] * 3)
