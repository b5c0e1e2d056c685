"""The encoder's skip sees what tells the training people apart, and no more of anyone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmray import config
from mmray.models.crossmodal_gcn import GraphEncoder
from mmray.models.discriminant import discriminants
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
    encoder.fit_scaler(x_SND, subject_id_S, subject_id_S)
    return encoder.eval()


def seen_by(encoder: GraphEncoder, x_SND: torch.Tensor) -> torch.Tensor:
    seen_SND = encoder.standardised(x_SND)
    return (seen_SND if encoder.named else moments(seen_SND)).flatten(1)


def components_of(encoder: GraphEncoder, x_SND: torch.Tensor) -> torch.Tensor:
    return (seen_by(encoder, x_SND) - encoder.centre_F) @ encoder.axes_FK


@pytest.mark.parametrize("named", [True, False])
def test_its_directions_are_the_discriminants_of_what_it_sees(of_people, named):
    x_SND, subject_id_S = of_people
    encoder = fitted(x_SND, subject_id_S, named)
    seen = list(seen_by(encoder, x_SND).view(PEOPLE, EACH, -1))
    centre_F, axes_FK = discriminants(seen.__getitem__, list(subject_id_S.reshape(PEOPLE, EACH)), COMPONENTS)
    torch.testing.assert_close(encoder.centre_F, centre_F.float())
    torch.testing.assert_close(encoder.axes_FK, axes_FK.float())


@pytest.mark.parametrize("named", [True, False])
def test_over_the_training_people_each_has_mean_0_and_unit_variance(of_people, named):
    x_SND, subject_id_S = of_people
    encoder = fitted(x_SND, subject_id_S, named)
    found_UK = components_of(encoder, x_SND).view(PEOPLE, EACH, -1).mean(1)
    torch.testing.assert_close(found_UK.mean(0), torch.zeros(COMPONENTS), atol=1e-4, rtol=0)
    torch.testing.assert_close(found_UK.T @ found_UK / (PEOPLE - 1), torch.eye(COMPONENTS), atol=1e-3, rtol=0)


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


def test_in_some_training_batches_the_skip_does_without_the_layers_and_else_they_count_as_often_as_they_did(of_people):
    x_SND, subject_id_S = of_people
    encoder = fitted(x_SND, subject_id_S, named=True)
    torch.nn.init.ones_(encoder.share)
    edges_SNN = torch.ones(len(x_SND), NODES, NODES) - torch.eye(NODES)
    skip_SE = encoder.skip(components_of(encoder, x_SND))
    whole_SE = skip_SE + 2 * (encoder(x_SND, edges_SNN) - skip_SE)  # half of them, at 0.5
    encoder.dropout.p = 0.0
    encoder.head[3].p = 0.0
    encoder.train()
    alone = 0
    for _ in range(40):
        drawn_SE = encoder(x_SND, edges_SNN)
        if torch.allclose(drawn_SE, skip_SE, atol=1e-5):
            alone += 1
        else:
            torch.testing.assert_close(drawn_SE, whole_SE, atol=1e-4, rtol=1e-4)
    assert 8 <= alone <= 32
