from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import multivariate_normal

from mmray.errors import WorkspaceError
from mmray.recordings.oracle import ceilings, oracle_similarity
from mmray.recordings.synthetic_traits import draw_latents

TRAITS, EFFECT = 3, 1.5


def truth_of(coupling: float, people: int = 20, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(people):
        label = int(index % 3 == 0)
        latents = draw_latents(label, EFFECT, coupling, TRAITS, rng)
        rows.append(
            {"subject_id": f"s{index:02d}", "label": label}
            | {f"eeg_{k}": latents.eeg_K[k] for k in range(TRAITS)}
            | {f"audio_{k}": latents.audio_K[k] for k in range(TRAITS)}
        )
    metadata = {"coupling": str(coupling), "label_effect": str(EFFECT), "traits": str(TRAITS)}
    return pa.Table.from_pylist(rows).replace_schema_metadata(metadata)


def naive_score(truth: pa.Table, coupling: float, eeg_of: str, audio_of: str, gallery: list[str]) -> float:
    """log p(a | e) / p(a), written from the definition with scipy's densities."""
    rows = {row["subject_id"]: row for row in truth.to_pylist()}
    eeg = np.array([rows[eeg_of][f"eeg_{k}"] for k in range(TRAITS)])
    audio = np.array([rows[audio_of][f"audio_{k}"] for k in range(TRAITS)])
    given = multivariate_normal.pdf(audio, coupling * eeg, (1 - coupling**2) * np.eye(TRAITS))
    alone = 0.0
    for subject in gallery:
        side = 0.5 if rows[subject]["label"] == 1 else -0.5
        mean = coupling * side * EFFECT * np.ones(TRAITS) / np.sqrt(TRAITS)
        alone += multivariate_normal.pdf(audio, mean, np.eye(TRAITS)) / len(gallery)
    return float(np.log(given / alone))


def test_scores_match_densities_written_out_in_a_loop() -> None:
    truth = truth_of(0.7)
    subjects = ["s05", "s00", "s11", "s03", "s19"]
    expected = [[naive_score(truth, 0.7, e, a, subjects) for a in subjects] for e in subjects]
    np.testing.assert_allclose(oracle_similarity(truth, subjects), expected, rtol=1e-9)


def test_ceilings_match_a_sorted_list() -> None:
    truth = truth_of(0.7, people=30)
    subjects = truth["subject_id"].to_pylist()
    score_SS = oracle_similarity(truth, subjects)
    ranks = {"eeg->audio": [], "audio->eeg": []}
    for own in range(30):
        ranks["eeg->audio"].append(1 + sum(score_SS[own, j] >= score_SS[own, own] for j in range(30) if j != own))
        ranks["audio->eeg"].append(1 + sum(score_SS[i, own] >= score_SS[own, own] for i in range(30) if i != own))
    for direction, found in ceilings(truth, subjects).items():
        rank = np.array(ranks[direction])
        expected = {f"R@{k}": (rank <= k).mean() for k in (1, 5, 10)} | {"MRR": (1 / rank).mean()}
        assert found == pytest.approx(expected)


def test_two_people_with_the_same_voice_are_not_told_apart() -> None:
    rows = truth_of(0.9, people=2).to_pylist()
    for name in (f"audio_{k}" for k in range(TRAITS)):
        rows[1][name] = rows[0][name]
    twins = pa.Table.from_pylist(rows).replace_schema_metadata(truth_of(0.9).schema.metadata)
    assert ceilings(twins, ["s00", "s01"])["eeg->audio"] == {"R@1": 0.0, "R@5": 1.0, "R@10": 1.0, "MRR": 0.5}


def test_without_coupling_the_ceiling_is_chance() -> None:
    truth = truth_of(0.0, people=20)
    expected = {"R@1": 1 / 20, "R@5": 5 / 20, "R@10": 10 / 20, "MRR": np.mean(1 / np.arange(1, 21))}
    for found in ceilings(truth, truth["subject_id"].to_pylist()).values():
        assert found == pytest.approx(expected)


def test_full_coupling_is_solved_by_the_oracle() -> None:
    truth = truth_of(1.0)
    assert ceilings(truth, truth["subject_id"].to_pylist())["eeg->audio"]["R@1"] == 1.0


def test_the_likelihood_beats_plain_cosine_on_average() -> None:
    oracle, cosine = [], []
    for seed in range(20):
        truth = truth_of(0.7, people=40, seed=seed)
        oracle.append(ceilings(truth, truth["subject_id"].to_pylist())["eeg->audio"]["MRR"])
        eeg_SK = np.stack([truth[f"eeg_{k}"].to_numpy() for k in range(TRAITS)], 1)
        audio_SK = np.stack([truth[f"audio_{k}"].to_numpy() for k in range(TRAITS)], 1)
        score_SS = (eeg_SK @ audio_SK.T) / np.linalg.norm(audio_SK, axis=1)
        cosine.append((1 / (score_SS >= np.diag(score_SS)[:, None]).sum(1)).mean())
    assert np.mean(oracle) > np.mean(cosine)


def test_an_unknown_subject_is_named() -> None:
    with pytest.raises(WorkspaceError, match="s99"):
        oracle_similarity(truth_of(0.5), ["s00", "s99"])


def test_a_table_of_another_kind_is_refused() -> None:
    with pytest.raises(WorkspaceError, match="metadata"):
        ceilings(truth_of(0.5).replace_schema_metadata(None), ["s00"])
