"""Every system that embeds learns what is there, and nothing where nothing is."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from mmray import config
from mmray.models.registry import build
from mmray.training import inference, reference
from mmray.training.loop import fit
from tests.embedding import embedded

TRAIN = config.Train(epochs=6, batch_size=16, passes=12, learning_rate=3e-3)
SYSTEMS = pytest.mark.parametrize("name", get_args(config.System))


def unseen_mrr(name, segments, by_subject):
    """Fitted on 40 subjects, asked about 30 others."""

    def made():
        torch.manual_seed(0)
        model = config.Model(name=name, hidden=16, embedding=16)
        return build(model, {m: part.shape for m, part in segments.items()}, classes=2)

    state = fit(made(), by_subject(segments, range(40)), by_subject(segments, range(40, 50)), TRAIN, seed=0)
    model, unseen = made(), by_subject(segments, range(50, 80))
    model.load_state_dict(state.part("best"))
    model.eval()
    if model.neighbours:
        training = by_subject(segments, range(40))
        model.attach(reference.of_tensors(state.part("best_reference"), training, torch.device("cpu")))
    z = {m: embedded(model, part) for m, part in unseen.items()}
    return inference.paired_mrr(z, unseen)


@pytest.mark.parametrize(
    "name", [name for name in get_args(config.System) if name not in ("majority", "logreg", "trf")]
)
def test_unseen_subjects_are_retrieved_where_the_modalities_share_traits(name, generated, by_subject):
    assert unseen_mrr(name, generated(subjects=80, segments=3, noise=0.25), by_subject) > 0.3  # chance 0.13


@SYSTEMS
def test_unseen_subjects_are_at_chance_where_the_modalities_share_nothing(name, generated, by_subject):
    noise = generated(subjects=80, segments=3, noise=0.25, coupled=False)
    found = unseen_mrr(name, noise, by_subject)
    if name in ("majority", "logreg"):  # who embeds nobody finds everybody last
        assert found == pytest.approx(1 / 30)
    assert found < 0.25  # chance 0.13
