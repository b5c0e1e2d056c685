"""Studies whose people have several pairs: ranks among all of them, and among a person's own."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.config import Evaluate
from mmray.evaluation.evaluate import evaluate
from mmray.evaluation.paired import order_of, paired_vectors
from mmray.evaluation.table import verdict
from mmray.schema import EMBEDDINGS, PREDICTIONS

FEW = Evaluate(bootstraps=100, permutations=199)
NOBODY = pa.Table.from_pylist([], schema=PREDICTIONS)


def windows(counts=(7, 9, 4, 6), of_person=0.0, of_moment=0.0, smooth=1, seed=0):
    """Embeddings of people with some windows each; the modalities share what is the person's, or the moment's."""
    rng = np.random.default_rng(seed)
    rows = []
    for person, count in enumerate(counts):
        person_D = rng.normal(size=12)
        moment_WD = rng.normal(size=(count, 12))
        for modality in ("eeg", "audio"):
            own_WD = rng.normal(size=(count + smooth - 1, 12))
            own_WD = np.stack([own_WD[w : w + smooth].sum(0) for w in range(count)])
            for window, z_D in enumerate(of_person * person_D + of_moment * moment_WD + own_WD):
                rows.append(
                    {
                        "segment_id": f"s{person}-{modality}@{window:08}",
                        "recording_id": f"s{person}-{modality}",
                        "subject_id": f"s{person}",
                        "pair_id": f"s{person}@{window:08}",
                        "modality": modality,
                        "label": None,
                        "role": "test",
                        "z": (z_D / np.linalg.norm(z_D)).astype(np.float32).tolist(),
                    }
                )
    return pa.Table.from_pylist(rows, schema=EMBEDDINGS)


def figures(table, settings=FEW, seed=0):
    return {(m.direction, m.level, m.metric): m for m in evaluate(table, NOBODY, settings, seed)}


def naive_within(table, query, target):
    """From the definition: every window's rank among its own person's, averaged by person and then over people."""
    z = {(r["modality"], r["pair_id"]): np.array(r["z"], dtype=np.float32).astype(float) for r in table.to_pylist()}
    owner = {r["pair_id"]: r["subject_id"] for r in table.to_pylist()}
    hits, reciprocal, hit_chance = [], [], []
    for person in sorted(set(owner.values())):
        own = sorted(pair for pair in owner if owner[pair] == person)
        ranks = []
        for pair in own:
            scores = {other: float(z[query, pair] @ z[target, other]) for other in own}
            ranks.append(sum(score >= scores[pair] for score in scores.values()))
        hits.append(np.mean([rank == 1 for rank in ranks]))
        reciprocal.append(np.mean([1 / rank for rank in ranks]))
        hit_chance.append(1 / len(own))
    return np.mean(hits), np.mean(reciprocal), np.mean(hit_chance)


@pytest.mark.parametrize("seed", range(4))
def test_ranks_among_a_persons_own_agree_with_a_naive_count(seed):
    table = windows(of_moment=0.5, of_person=0.5, seed=seed)
    found = figures(table)
    for query, target in (("eeg", "audio"), ("audio", "eeg")):
        hit, reciprocal, chance = naive_within(table, query, target)
        metric = found[f"{query}->{target}", "within", "R@1"]
        assert (metric.value, metric.chance) == (pytest.approx(hit), pytest.approx(chance))
        assert found[f"{query}->{target}", "within", "MRR"].value == pytest.approx(reciprocal)
        assert (metric.queries, metric.gallery) == (26, round(np.median([7, 9, 4, 6])))


def test_what_only_the_person_shows_is_found_among_all_and_not_among_the_own():
    found = figures(windows(counts=(8,) * 8, of_person=3.0))
    among_all, own = (found["eeg->audio", level, "MRR"] for level in ("pair", "within"))
    assert among_all.p_value == 1 / 200
    assert among_all.value > 2 * among_all.chance
    assert own.p_value > 0.05
    assert own.ci_low < own.chance < own.ci_high


def test_what_only_the_moment_shows_is_found_among_the_own():
    found = figures(windows(of_moment=2.0))
    assert found["eeg->audio", "within", "MRR"].p_value == 1 / 200


def test_p_among_the_own_is_uniform_where_nothing_is_shared_and_neighbours_are_alike():
    settings = Evaluate(bootstraps=10, permutations=99)
    p = [
        figures(windows(counts=(6, 9, 5), of_person=2.0, smooth=3, seed=seed), settings, seed)[
            "eeg->audio", "within", "MRR"
        ].p_value
        for seed in range(300)
    ]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.085  # 95 % of a binomial with 300 draws, and a little
    assert 0.43 < np.mean(np.array(p) <= 0.5) < 0.57


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 99))
def test_a_rotation_of_numbered_trials_keeps_neighbours(count, turn, seed):
    """Every trial meets the one that came so many later, though its number is not padded with zeros."""
    rows = [
        {
            "segment_id": f"s0-{modality}-{trial}",
            "recording_id": f"s0-{modality}-{trial}",
            "subject_id": "s0",
            "pair_id": f"s0-t{trial}",
            "modality": modality,
            "label": None,
            "role": "test",
            "z": [np.cos(trial / 40), np.sin(trial / 40)],
        }
        for trial in np.random.default_rng(seed).permutation(count).tolist()
        for modality in ("eeg", "audio")
    ]
    found_UD = paired_vectors(pa.Table.from_pylist(rows, schema=EMBEDDINGS)).vector_UD["eeg"]
    trial_U = np.rint(40 * np.arctan2(found_UD[:, 1], found_UD[:, 0])).astype(int)
    assert set((np.roll(trial_U, -turn) - trial_U) % count) == {turn % count}


@given(st.lists(st.text("t1٣-@"), min_size=2))
def test_any_names_of_pairs_have_an_order(names):
    assert sorted(sorted(names), key=order_of) == sorted(sorted(names)[::-1], key=order_of)


def test_a_person_with_one_window_has_nothing_to_be_ranked_among():
    found = figures(windows(counts=(5, 1, 6)))
    assert found["eeg->audio", "within", "R@1"].queries == 11
    assert found["eeg->audio", "pair", "R@1"].gallery == 12


def test_windows_of_one_segment_are_told_once():
    assert {level for _, level, _ in figures(windows())} == {"pair", "within"}


def test_the_verdict_tells_of_both_galleries():
    told = verdict(evaluate(windows(of_moment=2.0), NOBODY, FEW, 0))
    assert "in a gallery of 26" in told
    assert "among a person's own 6" in told
