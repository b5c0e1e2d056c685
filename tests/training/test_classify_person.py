"""One person's class probabilities, by whichever of their modalities are there."""

from __future__ import annotations

import pytest
import torch

from mmray.training.inference import classify_person
from tests.models.systems import SHAPES, SYSTEMS, fresh


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("held", [("eeg",), ("audio",), ("eeg", "audio")])
def test_a_person_is_the_fused_mean_of_their_segments(name: str, held: tuple[str, ...]) -> None:
    model = fresh(name).eval()
    generator = torch.Generator().manual_seed(0)
    encoded = {}
    for modality, (nodes, width) in SHAPES.items():
        weight_SNN = torch.zeros(3, nodes, nodes)
        with torch.no_grad():
            encoded[modality] = model.encode(modality, torch.randn(3, nodes, width, generator=generator), weight_SNN)
    probability_C, share = classify_person(model, {m: encoded[m] for m in held})
    slots = {m: encoded[m].mean(0, keepdim=True) * (m in held) for m in model.modalities}
    present_1M = torch.tensor([[m in held for m in model.modalities]])
    with torch.no_grad():
        fused_1E, _, _ = model.fuse(slots, present_1M)
        expected_C = model.classify(fused_1E).softmax(-1)[0]
    torch.testing.assert_close(torch.tensor(probability_C), expected_C)
    if share is not None:
        assert set(share) == set(held)
        assert sum(share.values()) == pytest.approx(1)
