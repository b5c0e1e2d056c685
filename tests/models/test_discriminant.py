"""Directions that tell people apart: Fisher's, whatever else differs more; and where modalities agree on them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from mmray.models.discriminant import PRINCIPAL, RIDGE, SHRUNK, canonical, discriminants

PEOPLE, EACH, FEATURES = 40, 12, 50


@pytest.fixture
def people() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixing_FF = torch.randn(FEATURES, FEATURES, generator=generator)
    person_UF = torch.randn(PEOPLE, 1, FEATURES, generator=generator)
    return list(5 + (person_UF + 2 * torch.randn(PEOPLE, EACH, FEATURES, generator=generator)) @ mixing_FF)


def of_one(count: int = EACH) -> list[np.ndarray]:
    """One recording a person."""
    return [np.full(count, f"r{u}") for u in range(PEOPLE)]


def of_three() -> list[np.ndarray]:
    return [np.repeat([f"r{u}-{n}" for n in range(3)], EACH // 3) for u in range(PEOPLE)]


def defined(seen: list[np.ndarray], shrunk: float, count: int) -> np.ndarray:
    """Scores of people's means on the solutions of B a = lambda W a, each in SD, from scipy's own solver."""
    mean_UF = np.stack([x_TF.mean(0) for x_TF in seen])
    principal = PCA(min(PRINCIPAL, len(seen) - 1)).fit(mean_UF)
    score_UR = principal.transform(mean_UF)
    within_RR = np.mean([np.cov((x_TF @ principal.components_.T).T, bias=True) for x_TF in seen], axis=0)
    level = np.trace(within_RR) / len(within_RR)
    within_RR = (1 - shrunk) * within_RR + shrunk * level * np.eye(len(within_RR))
    _, solution_RR = scipy.linalg.eigh(np.cov(score_UR.T), within_RR)
    found_UK = score_UR @ solution_RR[:, ::-1][:, :count]
    return found_UK / found_UK.std(0, ddof=1)


def scores(seen: list[torch.Tensor], recordings: list[np.ndarray], count: int) -> np.ndarray:
    centre_F, axes_FK = discriminants(seen.__getitem__, recordings, count)
    return np.stack([((x_TF.double() - centre_F) @ axes_FK).mean(0).numpy() for x_TF in seen])


def test_they_solve_fishers_problem(people):
    expected_UK = defined([x_TF.double().numpy() for x_TF in people], SHRUNK["segments"], 6)
    np.testing.assert_allclose(np.abs(scores(people, of_one(), 6)), np.abs(expected_UK), atol=1e-6)


def test_where_people_have_several_recordings_these_stand_within_a_person(people):
    means = [x_TF.double().view(3, EACH // 3, -1).mean(1).numpy() for x_TF in people]
    expected_UK = defined(means, SHRUNK["recordings"], 6)
    np.testing.assert_allclose(np.abs(scores(people, of_three(), 6)), np.abs(expected_UK), atol=1e-6)


def test_one_segment_a_person_leaves_the_principal_components(people):
    alone = [x_TF[:1] for x_TF in people]
    expected_UK = PCA(6, whiten=True).fit_transform(torch.cat(alone).double().numpy())
    np.testing.assert_allclose(np.abs(scores(alone, of_one(1), 6)), np.abs(expected_UK), atol=1e-6)


def test_a_microphone_that_varies_more_than_people_do_is_passed_over():
    generator = torch.Generator().manual_seed(0)
    seen = []
    for recordings in of_three():
        x_TF = 0.1 * torch.randn(EACH, 2, generator=generator)
        x_TF[:, 0] += torch.randn((), generator=generator)  # who it is
        x_TF[:, 1] += 5 * torch.randn(3, generator=generator).repeat_interleave(EACH // 3)  # each time another one
        assert len(np.unique(recordings)) == 3
        seen.append(x_TF)
    _, axis_F1 = discriminants(seen.__getitem__, of_three(), 1)
    assert abs(axis_F1[0, 0]) > 20 * abs(axis_F1[1, 0])
    _, blind_F1 = discriminants(lambda person: seen[person].mean(0, keepdim=True), of_one(1), 1)
    assert abs(blind_F1[1, 0]) > abs(blind_F1[0, 0]) / 2  # a principal component takes the microphone


def test_a_person_of_many_segments_counts_once(people):
    often = [people[0].repeat(9, 1), *people[1:]]
    recordings = [np.full(len(x_TF), f"r{u}") for u, x_TF in enumerate(often)]
    np.testing.assert_allclose(scores(often, recordings, 6), scores(people, of_one(), 6), atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_people_leave_zeros(people, count):
    _, axes_FK = discriminants(people.__getitem__, of_one()[:count], 5)
    assert axes_FK[:, : count - 1].abs().sum(0).gt(0).all()
    assert not axes_FK[:, count - 1 :].any()


def solved(one_PK: np.ndarray, other_PK: np.ndarray) -> list[np.ndarray]:
    """Canonical vectors of two tables by the singular values of their whitened covariance, times c^1/2."""
    one_PK, other_PK = one_PK - one_PK.mean(0), other_PK - other_PK.mean(0)
    roots = [
        np.linalg.inv(scipy.linalg.sqrtm(x_PK.T @ x_PK / len(x_PK) + RIDGE * np.eye(x_PK.shape[1])))
        for x_PK in (one_PK, other_PK)
    ]
    u_KK, c_K, vt_KK = np.linalg.svd(roots[0] @ (one_PK.T @ other_PK / len(one_PK)) @ roots[1])
    return [roots[0] @ u_KK * np.sqrt(c_K), roots[1] @ vt_KK.T * np.sqrt(c_K)]


def test_of_two_modalities_they_are_canonical_vectors():
    rng = np.random.default_rng(0)
    shared_P4 = rng.normal(size=(60, 4))
    one_PK, other_PK = (3 + shared_P4 @ rng.normal(size=(4, 4)) + rng.normal(size=(60, 4)) for _ in range(2))
    found = [w.numpy() for w in canonical([torch.from_numpy(one_PK), torch.from_numpy(other_PK)])]
    expected = solved(one_PK, other_PK)
    sign_K = np.sign((found[0] * expected[0]).sum(0))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one * sign_K, other, atol=1e-8)


def test_of_three_modalities_what_all_share_is_the_first_axis():
    rng = np.random.default_rng(0)
    shared_P = rng.normal(size=400)
    scores = []
    for at in range(3):
        score_PK = rng.normal(size=(400, 3))
        score_PK[:, at] = shared_P + 0.3 * rng.normal(size=400)
        scores.append(torch.from_numpy(score_PK))
    weights = canonical(scores)
    seen = np.stack([(score_PK @ w_KK)[:, 0].numpy() for score_PK, w_KK in zip(scores, weights, strict=True)])
    assert (np.corrcoef(seen)[np.triu_indices(3, 1)] > 0.8).all()
    assert all(w_KK[:, 0].norm() > 3 * w_KK[:, 1].norm() for w_KK in weights)


@given(st.integers(2, 12), st.integers(1, 6), st.integers(2, 3))
@settings(max_examples=40, deadline=None)
def test_canonical_weights_are_finite_for_few_pairs_and_dead_features(pairs, width, modalities):
    generator = torch.Generator().manual_seed(pairs)
    scores = [torch.randn(pairs, width, generator=generator, dtype=torch.float64) for _ in range(modalities)]
    scores[0][:, 0] = 0  # of too few people the last directions are 0
    for weight_KK in canonical(scores):
        assert weight_KK.shape == (width, width)
        assert weight_KK.isfinite().all()
    assert not canonical(scores)[0][0].abs().gt(1e-6).any()
