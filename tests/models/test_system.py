"""The rule that decides whether any result means anything, and the rest of the contract, for every system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mmray.models.system import Batch
from tests.models.systems import SHAPES, SYSTEMS, TRAINED, B, embeddings, fresh, leaks, with_other_partners

MODES = pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])


ALL_TRAINED = pytest.mark.parametrize("model", TRAINED, indirect=True)


@pytest.fixture(params=SYSTEMS)
def model(request):
    return fresh(request.param)


@MODES
@pytest.mark.parametrize("modality", list(SHAPES))
def test_partner_swap_leaves_the_lone_embedding_bit_identical(model, batch, modality, training):
    assert not leaks(model, batch, modality, training)


@MODES
@pytest.mark.parametrize("modality", list(SHAPES))
def test_a_partner_added_to_the_embedding_is_found(model, batch, modality, training, monkeypatch):
    forward, other = model.forward, next(m for m in SHAPES if m != modality)

    def leaking(given: Batch):
        output = forward(given)
        partner_B1 = given.x[other].mean((1, 2))[:, None]
        return replace(output, z={m: normalize(z_BE + 1e-3 * partner_B1, dim=-1) for m, z_BE in output.z.items()})

    monkeypatch.setattr(model, "forward", leaking)
    assert leaks(model, batch, modality, training)


@MODES
@ALL_TRAINED
@pytest.mark.parametrize("modality", list(SHAPES))
def test_a_leak_put_in_is_found(model, batch, modality, training, monkeypatch):
    forward = model.forward

    def leaking(given: Batch):
        output = forward(given)
        fused_BE, _, _ = model.fuse({m: model.encode(m, given.x[m], given.weight[m]) for m in SHAPES}, given.present_BM)
        return replace(output, z={m: normalize(z_BE + 1e-3 * fused_BE, dim=-1) for m, z_BE in output.z.items()})

    monkeypatch.setattr(model, "forward", leaking)
    assert leaks(model, batch, modality, training)


@MODES
def test_other_subjects_of_the_batch_leave_an_embedding_bit_identical(model, batch, training):
    x_BND = batch.x["eeg"].clone()
    x_BND[1:] = 50 * torch.randn(B - 1, *SHAPES["eeg"])
    others = replace(batch, x=batch.x | {"eeg": x_BND})
    assert torch.equal(*(embeddings(model, given, "eeg", training)[0] for given in (batch, others)))


@pytest.mark.parametrize("model", [name for name in SYSTEMS if name != "majority"], indirect=True)
def test_the_fused_vector_does_depend_on_the_partner(model, batch):
    model.eval()
    assert not torch.equal(model(batch).logit_BC, model(with_other_partners(batch, "eeg")).logit_BC)


def test_embed_equals_the_forward_pass(model, batch):
    model.eval()
    embedded = model.embed("audio", batch.x["audio"], batch.weight["audio"], batch.subject_B)
    assert torch.equal(embedded, model(batch).z["audio"])


def test_embeddings_have_unit_length(model, batch):
    torch.testing.assert_close(model(batch).z["eeg"].norm(dim=-1), torch.ones(B))


def test_no_module_keeps_a_batch_statistic(model):
    assert not [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)]


@ALL_TRAINED
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
    names = {"eeg": np.arange(len(x_SND)).astype(str)}
    model.fit_scalers({"eeg": x_SND}, names, names)
    standardised = (x_SND - model.encoders["eeg"].mean_ND) / model.encoders["eeg"].scale_ND
    torch.testing.assert_close(standardised[..., 2], torch.zeros(20, SHAPES["eeg"][0]))


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_scaler_travels_with_the_weights(name):
    model, copy = fresh(name), fresh(name)
    names = {"eeg": np.arange(20).astype(str)}
    model.fit_scalers({"eeg": 3 + torch.randn(20, *SHAPES["eeg"])}, names, names)
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.encoders["eeg"].mean_ND, model.encoders["eeg"].mean_ND)


@pytest.mark.parametrize("lone", [[True, False], [False, True], [False, False]])
def test_what_stands_in_an_absent_slot_reaches_no_class_score(model, lone):
    model.eval()
    encoded = {
        m: torch.randn(B, model.encode(m, torch.zeros(1, *s), torch.zeros(1, s[0], s[0])).shape[1])
        for m, s in SHAPES.items()
    }
    absent = {m: encoded[m] if here else 9 * torch.randn_like(encoded[m]) for m, here in zip(SHAPES, lone, strict=True)}
    present_BM = torch.tensor([lone]).expand(B, -1)
    one, other = (model.classify(model.fuse(given, present_BM)[0]) for given in (encoded, absent))
    assert torch.isfinite(one).all()
    assert torch.equal(one, other)


@ALL_TRAINED
def test_a_batch_that_lacks_modalities_trains_every_parameter_finitely(model, batch):
    present_BM = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.bool)
    rows = {m: present_BM[:, i, None, None] for i, m in enumerate(SHAPES)}
    gaps = replace(
        batch,
        x={m: x * rows[m] for m, x in batch.x.items()},
        weight={m: w * rows[m] for m, w in batch.weight.items()},
        present_BM=present_BM,
    )
    output = model(gaps)
    (output.logit_BC.sum() + sum(z.sum() for z in output.z.values()) + output.logit_scale).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@ALL_TRAINED
def test_half_precision_trains_and_embeds_in_unit_length(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    (output.logit_BC.float().sum() + sum(z.sum() for z in output.z.values())).backward()
    for z_BE in output.z.values():
        assert z_BE.dtype == torch.float32
        torch.testing.assert_close(z_BE.norm(dim=-1), torch.ones(B))


def test_a_sample_of_several_segments_is_the_mean_of_their_vectors(model, batch):
    model.eval()
    several = replace(batch, pair_B=batch.pair_B[:2], present_BM=batch.present_BM[:2], subject_B=batch.subject_B[:2])
    several = replace(several, label_B=batch.label_B[:2], segments=2)
    encoded = {m: model.encode(m, batch.x[m], batch.weight[m]) for m in SHAPES}
    mean = {m: torch.stack([encoded_BE[:2].mean(0), encoded_BE[2:].mean(0)]) for m, encoded_BE in encoded.items()}
    expected_BC = model.classify(model.fuse(mean, several.present_BM)[0])
    torch.testing.assert_close(model(several).logit_BC, expected_BC)
