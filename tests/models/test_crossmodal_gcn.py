"""The rule that decides whether any result means anything, and the rest of the network's contract."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmray import config
from mmray.models.registry import build
from mmray.models.system import Batch

SHAPES = {"eeg": (12, 5), "audio": (8, 6)}
SETTINGS = config.Model(hidden=16, embedding=8, dropout=0.2)
B = 4


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(SETTINGS, SHAPES, classes=2)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    weight = {}
    for modality, (nodes, _) in SHAPES.items():
        upper = torch.triu(torch.rand(B, nodes, nodes, generator=generator), 1)
        weight[modality] = upper + upper.transpose(1, 2)
    return Batch(
        x={m: torch.randn(B, *shape, generator=generator) for m, shape in SHAPES.items()},
        weight=weight,
        present_BM=torch.ones(B, 2, dtype=torch.bool),
        pair_B=torch.arange(B),
        label_B=torch.tensor([0, 1, 0, -1]),
    )


def with_other_partners(batch: Batch, modality: str) -> Batch:
    """Everything of the other modality replaced; what `modality` holds stays."""
    other = next(m for m in SHAPES if m != modality)
    return replace(
        batch,
        x=batch.x | {other: 50 * torch.randn_like(batch.x[other])},
        weight=batch.weight | {other: torch.zeros_like(batch.weight[other])},
    )


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("modality", list(SHAPES))
def test_partner_swap_leaves_the_lone_embedding_bit_identical(model, batch, modality, training):
    model.train(training)
    torch.manual_seed(2)
    before = model(batch).z[modality]
    swapped = with_other_partners(batch, modality)
    torch.manual_seed(2)
    assert torch.equal(before, model(swapped).z[modality])


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
def test_other_subjects_of_the_batch_leave_an_embedding_bit_identical(model, batch, training):
    model.train(training)
    torch.manual_seed(2)
    before = model(batch).z["eeg"][0]
    x_BND = batch.x["eeg"].clone()
    x_BND[1:] = 50 * torch.randn(B - 1, *SHAPES["eeg"])
    torch.manual_seed(2)
    assert torch.equal(before, model(replace(batch, x=batch.x | {"eeg": x_BND})).z["eeg"][0])


def test_the_fused_vector_does_depend_on_the_partner(model, batch):
    model.eval()
    assert not torch.equal(model(batch).logit_BC, model(with_other_partners(batch, "eeg")).logit_BC)


def test_embed_equals_the_forward_pass(model, batch):
    model.eval()
    embedded = model.embed("audio", batch.x["audio"], batch.weight["audio"])
    assert torch.equal(embedded, model(batch).z["audio"])


def test_embeddings_have_unit_length(model, batch):
    torch.testing.assert_close(model(batch).z["eeg"].norm(dim=-1), torch.ones(B))


def test_no_module_keeps_a_batch_statistic(model):
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)]


def test_every_parameter_gets_a_gradient_in_one_forward_pass(model, batch):
    output = model(batch)
    (output.logit_BC.sum() + sum(z.sum() for z in output.z.values()) + output.logit_scale).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_the_temperature_stops_at_100(model, batch):
    with torch.no_grad():
        model.log_scale.fill_(99.0)
    assert model(batch).logit_scale.item() == 100.0


def test_a_constant_feature_is_centred_and_not_divided(model):
    x_SND = torch.randn(20, *SHAPES["eeg"])
    x_SND[..., 2] = 7.0
    model.fit_scalers({"eeg": x_SND})
    standardised = (x_SND - model.encoders["eeg"].mean_ND) / model.encoders["eeg"].scale_ND
    torch.testing.assert_close(standardised[..., 2], torch.zeros(20, SHAPES["eeg"][0]))


def test_the_scaler_travels_with_the_weights(model):
    model.fit_scalers({"eeg": 3 + torch.randn(20, *SHAPES["eeg"])})
    copy = build(SETTINGS, SHAPES, classes=2)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.encoders["eeg"].mean_ND, model.encoders["eeg"].mean_ND)
