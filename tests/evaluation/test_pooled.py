"""Pooled figures against loops over their definition, and their p where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from mmray import config
from mmray.evaluation import statistics
from mmray.evaluation.paired import values_by_pair
from mmray.evaluation.pooled import Tested, classified, retrieved
from mmray.evaluation.retrieval import unit
from mmray.models.baselines.ridge import shared_space

SETTINGS = config.Evaluate(bootstraps=200, permutations=199)


def made(folds=3, seeds=2, people=7, strength=0.7, seed=0) -> list[Tested]:
    rng = np.random.default_rng(seed)
    found = []
    for fold in range(folds):
        names = tuple(f"f{fold}s{u}" for u in range(people))
        label_U = np.arange(people) % 2
        shared = rng.normal(size=(people, 5))
        for s in range(seeds):
            vector = {m: unit(strength * shared + rng.normal(size=shared.shape)) for m in ("eeg", "audio")}
            claim_U = rng.random(people)
            found.append(Tested(fold, s, names, label_U, vector, np.stack([1 - claim_U, claim_U], 1)))
    return found


def pool(tested, settings, seed, ceilings):
    return [*retrieved(tested, settings, seed, ceilings), *classified(tested, settings, seed)]


def figure(figures, direction, metric):
    return next(f for f in figures if (f.direction, f.metric) == (direction, metric))


@pytest.mark.parametrize(("query", "target"), [("eeg", "audio"), ("audio", "eeg")])
def test_pooled_recall_and_reciprocal_rank_equal_a_loop_over_people_and_seeds(query, target):
    tested = made()
    hits, reciprocal = [], []
    for one in tested:
        for u in range(len(one.subject_U)):
            scores = [float(one.vector_UE[query][u] @ other) for other in one.vector_UE[target]]
            rank = 1 + sum(score >= scores[u] for v, score in enumerate(scores) if v != u)
            hits.append(rank == 1)
            reciprocal.append(1 / rank)
    found = pool(tested, SETTINGS, 0, {})
    assert figure(found, f"{query}->{target}", "R@1").value == pytest.approx(np.mean(hits))
    assert figure(found, f"{query}->{target}", "MRR").value == pytest.approx(np.mean(reciprocal))
    assert figure(found, f"{query}->{target}", "R@1").chance == pytest.approx(1 / 7)
    assert figure(found, f"{query}->{target}", "R@1").subjects == 21


def test_a_fold_of_more_people_weighs_more_in_chance_and_ceiling():
    small, large = (
        made(folds=1, people=4),
        [
            Tested(1, t.seed, tuple(f"x{n}" for n in t.subject_U), t.label_U, t.vector_UE, t.probability_UC)
            for t in made(folds=1, people=8, seed=1)
        ],
    )
    ceilings = {0: {"eeg->audio": {"R@1": 0.9}}, 1: {"eeg->audio": {"R@1": 0.6}}}
    one = figure(pool([*small, *large], SETTINGS, 0, ceilings), "eeg->audio", "R@1")
    assert one.chance == pytest.approx((4 * 0.25 + 8 * 0.125) / 12)
    assert one.ceiling == pytest.approx((4 * 0.9 + 8 * 0.6) / 12)


def test_a_subjects_value_is_its_mean_over_seeds():
    tested = made(folds=1, seeds=3)
    own = figure(pool(tested, SETTINGS, 0, {}), "eeg->audio", "R@1").per_subject
    hits = []
    for one in tested:
        score_UU = one.vector_UE["eeg"] @ one.vector_UE["audio"].T
        hits.append((score_UU.argmax(1) == np.arange(7)).astype(float))
    assert list(own.values()) == pytest.approx(np.mean(hits, 0))


def test_seeds_of_one_fit_do_not_make_a_result_surer():
    """Copies of a fit are no new evidence: interval and p stay as they are."""
    once, thrice = made(seeds=1), []
    for one in once:
        thrice += [Tested(one.fold, s, one.subject_U, one.label_U, one.vector_UE, one.probability_UC) for s in range(3)]
    a, b = (pool(tested, SETTINGS, 0, {}) for tested in (once, thrice))
    for one, other in zip(a, b, strict=True):
        assert (one.ci_low, one.ci_high, one.p_value) == pytest.approx((other.ci_low, other.ci_high, other.p_value))


def test_permutation_p_is_uniform_where_nothing_is_shared():
    p_N = np.array([
        figure(pool(made(folds=2, seeds=2, strength=0.0, seed=s), SETTINGS, s, {}), "eeg->audio", "MRR").p_value
        for s in range(80)
    ])  # fmt: skip
    assert 0 <= (p_N < 0.05).sum() <= 9  # binomial 80 x 0.05: 10 or more comes once in a hundred
    assert 0.38 < p_N.mean() < 0.62


NULL_WORLDS = 240


@pytest.fixture(scope="module")
def null_p():
    """p-values of systems in closed form over worlds in which nothing is shared, each fold's fit made anew.

    Independent vectors a fold would show nothing: what joins folds is that each one's answers taught the others' fits.
    """
    found: dict[str, list[float]] = {"MRR": [], "AUC": [], "cross_entropy": []}
    people, folds = 40, 5
    settings = config.Evaluate(bootstraps=10, permutations=99)
    for world in range(NULL_WORLDS):
        rng = np.random.default_rng(world)
        x_SD, y_SD = rng.normal(size=(2, people, 8))
        label_S = np.arange(people) % 2
        fold_S = rng.permutation(people) % folds
        tested = []
        for fold in range(folds):
            learn_S, test_S = fold_S != fold, fold_S == fold
            weight_DK, weight_EK = shared_space(x_SD[learn_S], y_SD[learn_S], 1.0)
            centre_D, centre_E = x_SD[learn_S].mean(0), y_SD[learn_S].mean(0)
            vector = {
                "eeg": unit((x_SD[test_S] - centre_D) @ weight_DK),
                "audio": unit((y_SD[test_S] - centre_E) @ weight_EK),
            }
            # Fisher's discriminant with an identity for covariance, the gap of the classes' means
            gap_D = x_SD[learn_S & (label_S == 1)].mean(0) - x_SD[learn_S & (label_S == 0)].mean(0)
            claim_U = 1 / (1 + np.exp(-(x_SD[test_S] - centre_D) @ gap_D))
            names = tuple(f"s{u:02d}" for u in np.flatnonzero(test_S))
            probability_UC = np.stack([1 - claim_U, claim_U], 1)
            tested.append(Tested(fold, 0, names, label_S[test_S], vector, probability_UC))
        unlabelled = [replace(one, label_U=np.full(len(one.label_U), -1)) for one in tested]  # without mAP, for time
        figures = [*retrieved(unlabelled, settings, world, {}), *classified(tested, settings, world)]
        for one in figures:
            if one.metric in found and one.direction in ("eeg->audio", "fused"):
                found[one.metric].append(one.p_value)
    return {metric: np.array(values) for metric, values in found.items()}


@pytest.mark.parametrize("metric", ["MRR", "AUC", "cross_entropy"])
def test_refitted_folds_of_nothing_are_significant_no_oftener_than_they_may_be(null_p, metric):
    p_N = null_p[metric]
    assert len(p_N) == NULL_WORLDS
    for level in (0.05, 0.2):
        assert (p_N <= level).sum() <= binom.ppf(0.975, NULL_WORLDS, level)


def test_one_fold_alone_is_not_widened():
    """Its fit never saw its answers, so its permutations are exact."""
    tested = made(folds=1, strength=0.0)
    one = figure(pool(tested, SETTINGS, 0, {}), "eeg->audio", "MRR")
    value_UU = np.mean(
        [values_by_pair(t.vector_UE["eeg"], np.arange(7), t.vector_UE["audio"])["MRR"] for t in tested], 0
    )
    pairing_NU = statistics.permuted_pairings(np.arange(7), SETTINGS.permutations, 0)
    permuted_N = value_UU[np.arange(7), pairing_NU].mean(1)
    assert (one.band_low, one.band_high) == pytest.approx(statistics.middle(permuted_N))
    assert one.p_value == pytest.approx((1 + (permuted_N >= one.value - 1e-12).sum()) / 200)


def test_a_band_stays_within_what_a_figure_can_be():
    for one in pool(made(folds=3, people=3, strength=0.0), SETTINGS, 0, {}):
        if one.band_low is not None:
            assert 0 <= one.band_low <= one.band_high
            assert one.metric in ("cross_entropy", "Brier") or one.band_high <= 1


def named(tested: Tested, fold: int, people: int) -> Tested:
    """The same fit of another fold, of its first people alone."""
    return Tested(
        fold,
        tested.seed,
        tuple(f"f{fold}{name}" for name in tested.subject_U[:people]),
        tested.label_U[:people],
        {m: z_UE[:people] for m, z_UE in tested.vector_UE.items()},
        tested.probability_UC[:people],
    )


def test_a_fold_of_one_person_asks_nothing_and_a_fold_of_nobody_breaks_nothing():
    whole = made(folds=1, seeds=1)[0]
    alone = retrieved([whole], SETTINGS, 0, {})
    for people in (0, 1):
        both = [whole, named(whole, 1, people)]
        assert retrieved(both, SETTINGS, 0, {}) == alone
        accuracy = figure(classified(both, SETTINGS, 0), "fused", "accuracy")
        assert accuracy.subjects == 7 + people


def test_a_person_a_fold_leaves_nothing_to_find_and_classes_to_tell():
    whole = made(folds=1, seeds=1, people=8)[0]
    tested = [named(whole, fold, 1) for fold in range(8)]
    assert retrieved(tested, SETTINGS, 0, {}) == []
    assert {f.metric for f in classified(tested, SETTINGS, 0)} >= {"accuracy", "cross_entropy"}


def test_a_shared_signal_is_found():
    one = figure(pool(made(strength=3.0), SETTINGS, 0, {}), "eeg->audio", "R@1")
    assert one.p_value == pytest.approx(1 / 200)
    assert one.value > one.band_high


def test_same_label_retrieval_leaves_the_own_partner_out():
    """Vectors that know the person alone: the partner is found, people of the same label are not."""
    eye = np.eye(8)
    names = tuple(f"s{u}" for u in range(8))
    tested = [Tested(0, 0, names, np.arange(8) % 2, {"eeg": eye, "audio": eye}, np.full((8, 2), 0.5))]
    found = pool(tested, SETTINGS, 0, {})
    assert figure(found, "eeg->audio", "R@1").value == 1.0
    one = figure(found, "eeg->audio", "mAP")
    assert one.value == pytest.approx(3 / 7)  # all others tie, and three of seven share the label


def test_classification_is_pooled_over_all_people_and_averaged_over_seeds():
    tested = made()
    accuracy = []
    for s in range(2):
        mine = [t for t in tested if t.seed == s]
        accuracy.append(np.mean(np.concatenate([t.probability_UC.argmax(1) == t.label_U for t in mine])))
    found = pool(tested, SETTINGS, 0, {})
    assert figure(found, "fused", "accuracy").value == pytest.approx(np.mean(accuracy))
    cost = np.mean([-np.log(t.probability_UC[np.arange(7), t.label_U]).mean() for t in tested])
    assert figure(found, "fused", "cross_entropy").value == pytest.approx(cost)
