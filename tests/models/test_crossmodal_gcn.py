"""The ablation switches: each takes out its part and nothing else, and the rule holds without it."""

from __future__ import annotations

import pytest
import torch

from mmray.models.system import Batch
from tests.models.systems import SHAPES, fresh, leaks

SWITCHES = ("attention", "gate", "pooling")


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_partner_leaks_through_no_ablation(batch: Batch, switch, training):
    assert not leaks(fresh("crossmodal_gcn", **{switch: False}), batch, "eeg", training)


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_ablation_keeps_no_weight_of_its_part(switch):
    part = {"attention": "attention.", "gate": "gate.", "pooling": ".pools."}[switch]
    whole, less = (set(fresh("crossmodal_gcn", **{switch: on}).state_dict()) for on in (True, False))
    assert whole - less == {name for name in whole if part in name}
    assert less < whole


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_ablation_trains_every_parameter(batch: Batch, switch):
    model = fresh("crossmodal_gcn", **{switch: False})
    output = model(batch)
    (output.logit_BC.sum() + sum(z.sum() for z in output.z.values()) + output.logit_scale).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_without_attention_vectors_pass_to_the_embedding_unchanged(batch: Batch):
    model = fresh("crossmodal_gcn", attention=False).eval()
    encoded_BE = model.encode("eeg", batch.x["eeg"], batch.weight["eeg"])
    assert torch.equal(model(batch).z["eeg"], torch.nn.functional.normalize(encoded_BE, dim=-1))
    assert model(batch).alpha_BMM is None


def test_without_the_gate_the_mean_of_what_is_there_is_classified():
    model = fresh("crossmodal_gcn", gate=False, attention=False)
    encoded = {m: torch.randn(2, 8) for m in SHAPES}
    fused_BE, _, gate_BME = model.fuse(encoded, torch.tensor([[True, True], [False, True]]))
    expected_BE = torch.stack([(encoded["eeg"][0] + encoded["audio"][0]) / 2, encoded["audio"][1]])
    torch.testing.assert_close(fused_BE, expected_BE)
    assert gate_BME is None


def test_without_pooling_every_node_reaches_the_last_readout():
    encoder = fresh("crossmodal_gcn", pooling=False).eval().encoders["eeg"]
    torch.nn.init.zeros_(encoder.skip.weight)
    x_BND = torch.randn(1, *SHAPES["eeg"], requires_grad=True)
    encoder(x_BND, torch.zeros(1, 12, 12)).square().sum().backward()
    assert (x_BND.grad.abs().sum(-1) > 0).all()
