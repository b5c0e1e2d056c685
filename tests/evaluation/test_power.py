"""Power: p is uniform where nothing is shared, shares and crossings are those counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from mmray.evaluation import power, power_page
from mmray.evaluation.pooled import Tested
from mmray.evaluation.power import Fitted

SIZES = (40, 80, 160, 320)


def outcome(shared: float, seed: int, people: int = 12) -> Tested:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(people, 6))
    vectors = {
        modality: shared * common + (1 - shared) * rng.normal(size=common.shape) for modality in ("eeg", "audio")
    }
    unit = {m: v / np.linalg.norm(v, axis=1, keepdims=True) for m, v in vectors.items()}
    return Tested(0, seed, tuple(f"s{u:02d}" for u in range(people)), np.zeros(people, int), unit, np.ones((people, 1)))


def fit(subjects: int, study: int, found: bool, coupling: float = 0.8, **over) -> Fitted:
    told = {"error": None, "r1": 0.1, "mrr": 0.2, "p_retrieval": 0.01 if found else 0.3}
    return Fitted(
        "ridge",
        coupling,
        subjects,
        study,
        **{**told, "balanced_accuracy": 0.6, "p_classification": 0.02, "seconds": 1.0, **over},
    )


def grid(found: dict[int, list[bool]], coupling: float = 0.8) -> list[Fitted]:
    return [fit(n, s, hit, coupling) for n, hits in found.items() for s, hit in enumerate(hits)]


def test_p_is_uniform_where_nothing_is_shared_and_small_where_all_is():
    drawn = [power.retrieval_p(outcome(0.0, seed), 199, seed)[2] for seed in range(200)]
    assert kstest(drawn, "uniform").pvalue > 0.01
    r1, mrr, p_value = power.retrieval_p(outcome(1.0, 0), 199, 0)
    assert (r1, mrr, p_value) == (1.0, 1.0, 1 / 200)


def test_the_figure_of_both_directions_is_the_mean_of_naive_ones():
    one = outcome(0.5, 3)
    score = one.vector_UE["eeg"] @ one.vector_UE["audio"].T
    ranks = [
        [1 + sum(row[j] >= row[i] for j in range(12) if j != i) for i, row in enumerate(s)] for s in (score, score.T)
    ]
    r1, mrr, _ = power.retrieval_p(one, 99, 0)
    assert r1 == pytest.approx(np.mean(np.array(ranks) == 1))
    assert mrr == pytest.approx(np.mean(1 / np.array(ranks)))


def test_a_cell_counts_its_studies_and_leaves_failures_out():
    fits = [fit(40, s, s < 2, r1=0.1 * s) for s in range(4)] + [
        fit(40, 4, False, error="train: nan", r1=None, mrr=None, p_retrieval=None)
    ]
    (cell,) = power.cells(fits, 200, 0)
    assert (cell.studies, cell.failed, cell.found) == (4, 1, 0.5)
    assert cell.r1 == pytest.approx(0.15)
    assert cell.r1_low < cell.r1 < cell.r1_high
    assert cell.found_low < 0.5 < cell.found_high


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.0, 0.2, 0.8, 1.0), 160.0),
        ((0.2, 0.6, 1.0, 1.0), 80 * 2**0.5),
        ((1.0, 1.0, 1.0, 1.0), 40.0),
        ((0.0, 0.2, 0.4, 0.6), None),
        ((0.0, 1.0, 0.6, 1.0), 80.0),  # a dip is levelled: 0.8 at 80 and at 160
    ],
)
def test_the_crossing_is_where_the_curve_reaches_four_fifths(shares, expected):
    assert power.crossing(SIZES, shares) == (None if expected is None else pytest.approx(expected))


@given(st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), min_size=4, max_size=4))
def test_more_power_never_needs_more_people(shares):
    more = [min(1.0, share + 0.2) for share in shares]
    before, after = power.crossing(SIZES, shares), power.crossing(SIZES, more)
    assert before is None or (after is not None and after <= before + 1e-9)


def test_needed_has_an_interval_over_studies_and_says_when_it_is_not_reached():
    some = {
        40: [False] * 5,
        80: [True, False, False, False, False],
        160: [True, True, True, False, True],
        320: [True] * 5,
    }
    (one,) = power.needed(grid(some), 500, 0)
    assert one.subjects == pytest.approx(160)
    assert one.low <= one.subjects
    assert one.high is None or one.high >= one.subjects
    (never,) = power.needed(grid({n: [False] * 5 for n in SIZES}), 100, 0)
    assert (never.subjects, never.low, never.high) == (None, None, None)
    (always,) = power.needed(grid({n: [True] * 5 for n in SIZES}), 100, 0)
    assert (always.subjects, always.low, always.high, always.at_once) == (40.0, None, None, True)
    cells = power.cells(grid({n: [True] * 5 for n in SIZES}), 100, 0)
    said = power_page.sentence(always, cells)
    assert "in 5 of 5 studies with 40 people learnt from already: a power of 48 to 100 % there (exact 95 %)" in said


def test_fits_that_failed_lend_a_size_nothing_and_are_no_power_of_0():
    """Four of five fits failed at 160 people; the one left found its partner, as all with more people did."""
    found = {40: [False] * 5, 80: [False] * 5, 160: [True], 320: [True] * 5}
    (one,) = power.needed(grid(found), 500, 0)
    assert 80 < one.subjects < 160
    assert one.high is not None
    assert one.high < 320
    assert power.crossing((40, 80), (0.0, 0.0), (0, 0)) is None


def test_a_size_weighs_by_its_studies():
    shares = (0.0, 1.0, 0.5, 1.0)
    assert power.crossing(SIZES, shares, (5, 1, 5, 5)) > power.crossing(SIZES, shares, (5, 5, 5, 5)) > 80


def test_false_alarms_are_held_against_what_chance_allows():
    nothing = [fit(n, s, found=False, coupling=0.0) for n in SIZES for s in range(5)]
    assert all(one.as_chance for one in power.false_alarms(nothing))
    leaky = power.false_alarms([fit(n, s, found=True, coupling=0.0) for n in SIZES for s in range(5)])
    assert [(one.subjects, one.studies, one.found) for one in leaky] == [(n, 5, 5) for n in SIZES]
    assert {(one.least, one.most, one.as_chance) for one in leaky} == {(0, 1, False)}


def test_sizes_of_one_study_are_not_counted_as_studies():
    """One unlucky study, found at all of its sizes, is one of five at each and not four of twenty."""
    alarms = power.false_alarms([fit(n, s, found=s == 0, coupling=0.0) for n in SIZES for s in range(5)])
    assert [(one.found, one.studies, one.as_chance) for one in alarms] == [(1, 5, True)] * 4
    (said,) = power_page.alarm_sentences(alarms)
    assert "1 of 5 with 40 people (0 to 1)" in said
    assert said.endswith("within the binomial interval of 5 % (95 %, in brackets) at every size.")


def test_a_size_beyond_chance_is_named_and_no_leak_is_asserted():
    fits = [fit(n, s, found=s < 2 and n == 80, coupling=0.0) for n in SIZES for s in range(5)]
    (said,) = power_page.alarm_sentences(power.false_alarms(fits))
    assert "outside the binomial interval of 5 % (95 %, in brackets) with 80 people." in said
    assert said.endswith("Sizes share people: more studies, not more sizes, tell luck from a leak.")
