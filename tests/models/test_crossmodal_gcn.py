"""Switches and options: each takes out or adds its part and nothing else, and the rule holds with every one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmray.graphs.population import STRANGER
from mmray.models.system import Batch
from tests.models.systems import SHAPES, B, embeddings, fresh, leaks, reference

SWITCHES = ("population", "attention", "gate", "pooling")
OPTIONS = pytest.mark.parametrize(
    "option", [{"learned_adjacency": True}, {"node_encoder": "mlp"}, {"node_encoder": "conv"}], ids=str
)


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_a_partner_leaks_through_no_ablation(batch: Batch, switch, training):
    assert not leaks(fresh("crossmodal_gcn", **{switch: False}), batch, "eeg", training)


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("modality", list(SHAPES))
@OPTIONS
def test_a_partner_leaks_through_no_option(batch: Batch, option, modality, training):
    assert not leaks(fresh("crossmodal_gcn", **option), batch, modality, training)


@OPTIONS
def test_an_option_moves_the_embedding_and_trains_every_parameter(batch: Batch, option):
    model = fresh("crossmodal_gcn", **option)
    assert not torch.equal(*(embeddings(m, batch, "eeg", training=False) for m in (model, fresh("crossmodal_gcn"))))
    output = model(batch)
    (output.logit_BC.sum() + sum(z.sum() for z in output.z.values()) + output.logit_scale).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_a_learned_adjacency_starts_from_the_graph_itself_and_leaves_voices_alone(batch: Batch):
    model, without = fresh("crossmodal_gcn", learned_adjacency=True), fresh("crossmodal_gcn")
    assert set(model.state_dict()) - set(without.state_dict()) == {"encoders.eeg.adjacency.upper_NN"}
    model.load_state_dict(without.state_dict(), strict=False)
    model.encoders["eeg"].adjacency.reset_parameters()
    for modality in SHAPES:
        assert torch.equal(*(embeddings(m, batch, modality, training=False) for m in (model, without)))


def test_a_learned_adjacency_hears_at_its_start_of_edges_and_of_pairs_that_are_none(batch: Batch):
    model = fresh("crossmodal_gcn", learned_adjacency=True)
    model.encoders["eeg"].adjacency.reset_parameters()
    edge_NN = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)).triu(1) > 0.7
    weight_BNN = (edge_NN | edge_NN.T).float().expand(B, -1, -1)
    model.encode("eeg", batch.x["eeg"], weight_BNN).square().sum().backward()
    gradient_NN = model.encoders["eeg"].adjacency.upper_NN.grad
    above_NN = torch.ones(12, 12).triu(1) > 0
    assert (gradient_NN[edge_NN] != 0).any()
    assert (gradient_NN[above_NN & ~edge_NN] != 0).any()
    assert (gradient_NN[~above_NN] == 0).all()


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_ablation_keeps_no_weight_of_its_part(switch):
    part = {"population": "population.", "attention": "attention.", "gate": "gate.", "pooling": ".pools."}[switch]
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
    model = fresh("crossmodal_gcn", attention=False, population=False).eval()
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


@pytest.mark.parametrize("training", [True, False], ids=["train mode", "eval mode"])
@pytest.mark.parametrize("attention", [True, False])
def test_what_the_reference_holds_of_a_subject_never_reaches_that_subject(batch: Batch, training, attention):
    """Message edges lead past the pair that supervision joins, also in training, where the reference knows both."""
    model = fresh("crossmodal_gcn", attention=attention)
    before_BE = embeddings(model, batch, "eeg", training)
    model.attach(reference(partner=-50.0))
    after_BE = embeddings(model, batch, "eeg", training)
    assert torch.equal(before_BE[0], after_BE[0])
    assert not torch.equal(before_BE[1:], after_BE[1:])  # others do hear of subject 0


def test_a_subject_who_is_not_masked_would_hear_of_itself(batch: Batch):
    """The leak that the mask is there for, put in by calling subject 0 a stranger."""
    unmasked = replace(batch, subject_B=torch.full((B,), STRANGER))
    model = fresh("crossmodal_gcn", population_neighbours=2 * B - 1)
    before_BE = embeddings(model, unmasked, "eeg", training=False)
    model.attach(reference(partner=-50.0))
    assert not torch.equal(before_BE[0], embeddings(model, unmasked, "eeg", training=False)[0])


@pytest.mark.parametrize("attention", [True, False])
def test_an_untrained_population_graph_passes_nothing_on_and_hears_at_once_whether_it_should(batch: Batch, attention):
    model = fresh("crossmodal_gcn", attention=attention).eval()
    without = fresh("crossmodal_gcn", attention=attention, population=False).eval()
    for part in (model.population, model.attention):
        if part is not None:
            part.reset_parameters()
    without.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(model(batch).z["eeg"], without(batch).z["eeg"])
    model(batch).z["eeg"].pow(3).sum().backward()
    message = model.attention.value_MDD.grad[1] if attention else model.population.inter_MM.grad[0, 1]
    assert (message != 0).all()


def test_a_map_of_one_is_the_attention_over_both_slots(batch: Batch):
    model = fresh("crossmodal_gcn", population_neighbours=1).eval()
    with torch.no_grad():
        model.population.inter_MM.fill_(1.0)
    held = reference()
    encoded_BE = model.encode("eeg", batch.x["eeg"], batch.weight["eeg"])
    nearest_B = []
    for row, encoded_E in enumerate(encoded_BE):
        likeness_R = torch.cosine_similarity(encoded_E[None], held.vector_RME[:, 0], dim=-1)
        likeness_R[row] = -2
        nearest_B.append(int(likeness_R.argmax()))
    slot_BME = torch.stack([encoded_BE, held.vector_RME[nearest_B, 1]], 1)
    attended_BME, _ = model.attention(slot_BME, torch.ones(B, 2, dtype=torch.bool))
    torch.testing.assert_close(model(batch).z["eeg"], torch.nn.functional.normalize(attended_BME[:, 0], dim=-1))


def test_what_a_query_borrowed_rebuilds_its_embedding(batch: Batch):
    model = fresh("crossmodal_gcn").eval()
    encoded_BE, held = model.encode("eeg", batch.x["eeg"], batch.weight["eeg"]).detach(), model.reference
    told = model.borrowed("eeg", encoded_BE, batch.subject_B)
    assert set(told) == {"audio"}
    row_BK, weight_BK = told["audio"].row_BK, told["audio"].weight_BK
    assert not (held.subject_R[row_BK] == batch.subject_B[:, None]).any()
    torch.testing.assert_close(weight_BK.sum(1), torch.ones(B))
    message_BE = (weight_BK[..., None] * held.vector_RME[row_BK, 1]).sum(1)
    slots = {"eeg": encoded_BE, "audio": message_BE}
    attended_BME, alpha_BMM = model.attention(torch.stack(list(slots.values()), 1), torch.ones(B, 2, dtype=torch.bool))
    alone = torch.tensor([True, False]).expand(B, -1)
    alone_BME, _ = model.attention(torch.stack([encoded_BE, torch.zeros_like(encoded_BE)], 1), alone)
    mixed_BE = alone_BME[:, 0] + 0.7 * (attended_BME[:, 0] - alone_BME[:, 0])
    expected_BE = torch.nn.functional.normalize(mixed_BE, dim=-1)
    torch.testing.assert_close(model.lone("eeg", encoded_BE, batch.subject_B), expected_BE)
    torch.testing.assert_close(told["audio"].share_B, 0.7 * alpha_BMM[:, 0, 1])


def test_nothing_is_borrowed_without_a_population_graph_and_no_share_is_told_without_attention(batch: Batch):
    encoded_BE = torch.randn(B, 8)
    assert fresh("crossmodal_gcn", population=False).borrowed("eeg", encoded_BE, batch.subject_B) == {}
    told = fresh("crossmodal_gcn", attention=False).borrowed("eeg", encoded_BE, batch.subject_B)
    assert told["audio"].share_B is None
