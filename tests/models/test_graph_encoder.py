"""The encoder's skip sees the training people's principal components, and no more of anyone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mmray import config
from mmray.models.crossmodal_gcn import GraphEncoder
from mmray.models.layers import moments

NODES, WIDTH, PEOPLE, EACH, COMPONENTS = 6, 4, 30, 5, 3


@pytest.fixture
def of_people() -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    person_U = 3 * torch.randn(PEOPLE, 1, NODES, WIDTH, generator=generator)
    x_SND = (person_U + torch.randn(PEOPLE, EACH, NODES, WIDTH, generator=generator)).flatten(0, 1)
    return x_SND, np.repeat([f"p{u:02d}" for u in range(PEOPLE)], EACH)


def fitted(x_SND: torch.Tensor, subject_id_S: np.ndarray, named: bool, components: int = COMPONENTS) -> GraphEncoder:
    torch.manual_seed(0)
    encoder = GraphEncoder(NODES, WIDTH, config.Model(hidden=8, embedding=6, components=components), named)
    encoder.fit_scaler(x_SND, subject_id_S)
    return encoder.eval()


def components_of(encoder: GraphEncoder, x_SND: torch.Tensor) -> torch.Tensor:
    seen_SF = encoder.standardised(x_SND)
    seen_SF = seen_SF.flatten(1) if encoder.named else moments(seen_SF).flatten(1)
    return (seen_SF - encoder.centre_F) @ encoder.axes_FK


@pytest.mark.parametrize("named", [True, False])
def test_it_is_a_whitened_pca_of_the_peoples_means(of_people, named):
    x_SND, subject_id_S = of_people
    encoder = fitted(x_SND, subject_id_S, named)
    seen_SF = encoder.standardised(x_SND)
    seen_SF = seen_SF.flatten(1) if named else moments(seen_SF).flatten(1)
    mean_UF = seen_SF.view(PEOPLE, EACH, -1).mean(1).numpy()
    expected_UK = PCA(COMPONENTS, whiten=True).fit_transform(mean_UF)
    found_UK = components_of(encoder, x_SND).view(PEOPLE, EACH, -1).mean(1).numpy()
    np.testing.assert_allclose(np.abs(found_UK), np.abs(expected_UK), atol=1e-4)


def test_a_person_of_many_segments_counts_once(of_people):
    x_SND, subject_id_S = of_people
    x_SND = torch.cat([x_SND, -x_SND])  # people and their mirror images: mean 0 however often both are counted
    subject_id_S = np.concatenate([subject_id_S, np.char.add("m", subject_id_S)])
    twice = np.flatnonzero(np.char.endswith(subject_id_S, "p00"))
    before = fitted(x_SND, subject_id_S, named=True)
    after = fitted(
        torch.cat([x_SND, *[x_SND[twice]] * 9]), np.concatenate([subject_id_S, *[subject_id_S[twice]] * 9]), named=True
    )
    # the scaler does count segments; undone, the axes are those of the same people
    for encoder in (before, after):
        mean_UF = encoder.standardised(x_SND).flatten(1).view(2 * PEOPLE, EACH, -1).mean(1).numpy()
        found_UK = components_of(encoder, x_SND).view(2 * PEOPLE, EACH, -1).mean(1).numpy()
        expected_UK = PCA(COMPONENTS, whiten=True).fit_transform(mean_UF)
        np.testing.assert_allclose(np.abs(found_UK), np.abs(expected_UK), atol=1e-4)


def test_with_fewer_people_than_components_the_last_are_0(of_people):
    x_SND, subject_id_S = of_people
    encoder = fitted(x_SND[: 3 * EACH], subject_id_S[: 3 * EACH], named=True, components=5)
    assert encoder.axes_FK[:, :2].abs().sum(0).min() > 0
    assert not encoder.axes_FK[:, 2:].any()


def test_the_same_people_give_the_same_axes_in_any_order(of_people):
    x_SND, subject_id_S = of_people
    order = np.random.default_rng(0).permutation(len(subject_id_S))
    one, other = fitted(x_SND, subject_id_S, named=True), fitted(x_SND[order], subject_id_S[order], named=True)
    torch.testing.assert_close(one.axes_FK, other.axes_FK, atol=1e-5, rtol=1e-4)


def test_the_axes_travel_with_the_weights(of_people):
    encoder = fitted(*of_people, named=True)
    copy = GraphEncoder(NODES, WIDTH, config.Model(hidden=8, embedding=6, components=COMPONENTS), named=True)
    copy.load_state_dict(encoder.state_dict())
    assert torch.equal(copy.axes_FK, encoder.axes_FK)
    assert torch.equal(copy.centre_F, encoder.centre_F)
