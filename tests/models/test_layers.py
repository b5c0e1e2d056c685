"""Dense layers against PyG's sparse ones and against loops written from the equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_geometric.nn import GCNConv, SAGPooling
from torch_geometric.utils import dense_to_sparse

from mmray.graphs.adjacency import normalise_adjacency
from mmray.models.layers import (
    CrossModalAttention,
    DenseGCNLayer,
    FeatureGate,
    LearnedAdjacency,
    TopKPool,
    moments,
    readout,
)

B, N, D, E = 3, 15, 5, 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def random_graphs(binary: bool = False):
    upper_BNN = torch.triu((torch.rand(B, N, N) < 0.4) * torch.rand(B, N, N), 1)
    weight_BNN = upper_BNN + upper_BNN.transpose(1, 2)
    return torch.randn(B, N, D), (weight_BNN > 0).float() if binary else weight_BNN


def test_dense_gcn_equals_sparse_gcn():
    x_BND, weight_BNN = random_graphs()
    dense, sparse = DenseGCNLayer(D, E), GCNConv(D, E)
    torch.nn.init.normal_(dense.bias_E)
    sparse.lin.weight.data, sparse.bias.data = dense.weight_DE.data.T, dense.bias_E.data
    expected_BNE = torch.stack([sparse(x, *dense_to_sparse(w)) for x, w in zip(x_BND, weight_BNN, strict=True)])
    torch.testing.assert_close(dense(x_BND, normalise_adjacency(weight_BNN)), expected_BNE, atol=1e-5, rtol=1e-5)


def test_a_learned_adjacency_adds_one_weight_a_pair_and_stays_what_eq_1_takes():
    layer = LearnedAdjacency(N)
    torch.nn.init.normal_(layer.upper_NN)
    _, weight_BNN = random_graphs()
    learned = layer.upper_NN.detach()
    for found_NN, given_NN in zip(layer(weight_BNN).detach(), weight_BNN, strict=True):
        for i in range(N):
            for j in range(N):
                own = 0.0 if i == j else float(learned[min(i, j), max(i, j)])
                assert float(found_NN[i, j]) == pytest.approx(max(float(given_NN[i, j]) + own, 0.0), abs=1e-6)
    assert torch.isfinite(normalise_adjacency(layer(weight_BNN))).all()


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_topk_pool_equals_sparse_sagpool(ratio):
    x_BND, weight_BNN = random_graphs(binary=True)  # PyG leaves edge weights out of the score
    dense, sparse = TopKPool(D, ratio), SAGPooling(D, ratio, GNN=GCNConv)
    sparse.gnn.lin.weight.data, sparse.gnn.bias.data = dense.score.weight_DE.data.T, dense.score.bias_E.data
    sparse.select.weight.data.fill_(1.0)
    x_BKD, weight_BKK = dense(x_BND, weight_BNN, normalise_adjacency(weight_BNN))
    for b in range(B):
        edge_index, weight = dense_to_sparse(weight_BNN[b])
        expected_KD, kept_edges, kept_weight, _, _, _ = sparse(x_BND[b], edge_index, weight)
        expected_KK = torch.zeros(len(expected_KD), len(expected_KD))
        expected_KK[kept_edges[0], kept_edges[1]] = kept_weight
        torch.testing.assert_close(x_BKD[b], expected_KD, atol=1e-5, rtol=1e-5)
        assert torch.equal(weight_BKK[b], expected_KK)


def test_pooling_at_ratio_one_keeps_every_node():
    assert TopKPool(D, 1.0).kept(N) == N


def test_readout_is_mean_beside_max():
    x_BND, _ = random_graphs()
    expected_BR = torch.stack([torch.cat([x_ND.mean(0), x_ND.max(0).values]) for x_ND in x_BND])
    torch.testing.assert_close(readout(x_BND), expected_BR)


def attentive(modalities: int) -> CrossModalAttention:
    """As after training: at the start the values are 0."""
    layer = CrossModalAttention(modalities, E)
    torch.nn.init.normal_(layer.value_MDD)
    return layer


def naive_attention(layer, z_MD, present_M):
    modalities, width = z_MD.shape
    rows = []
    for i in range(modalities):
        scores = {
            j: (z_MD[i] @ layer.compatibility_MMDD[i, j] @ z_MD[j]).item() / math.sqrt(width)
            for j in range(modalities)
            if present_M[j]
        }
        total = sum(math.exp(score) for score in scores.values())
        message_D = sum(math.exp(score) / total * (layer.value_MDD[j] @ z_MD[j]) for j, score in scores.items())
        rows.append(layer.norm(z_MD[i] + message_D))
    return torch.stack(rows)


@pytest.mark.parametrize("present", [(True, True, True), (True, False, True), (False, True, False)])
def test_attention_equals_a_loop_over_equations_2_to_4(present):
    layer = attentive(3).double()
    z_BMD = torch.randn(2, 3, E, dtype=torch.float64)
    present_BM = torch.tensor([present, present])
    out_BMD, alpha_BMM = layer(z_BMD, present_BM)
    here = [m for m in range(3) if present[m]]
    for b in range(2):
        torch.testing.assert_close(
            out_BMD[b, here], naive_attention(layer, z_BMD[b], present)[here], atol=1e-6, rtol=1e-6
        )
    torch.testing.assert_close(alpha_BMM.sum(-1), present_BM.float())


def test_an_absent_modality_reaches_no_other():
    layer = attentive(2)
    present_BM = torch.tensor([[True, False]])
    one, _ = layer(torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]]]), present_BM)
    other, _ = layer(torch.tensor([[[1.0, 2, 3, 4], [9, -9, 99, 9]]]), present_BM)
    assert torch.equal(one[:, 0], other[:, 0])


def test_before_anything_is_learned_vectors_pass_as_they_are():
    """What two modalities agree on at the start stands in both, whatever the seed."""
    z_BMD = torch.randn(5, 2, E)
    out_BMD, alpha_BMM = CrossModalAttention(2, E)(z_BMD, torch.ones(5, 2, dtype=torch.bool))
    torch.testing.assert_close(out_BMD, torch.nn.functional.layer_norm(z_BMD, (E,)))
    assert (alpha_BMM > 0).all()


def test_a_sample_without_any_modality_stays_finite():
    out_BMD, alpha_BMM = attentive(2)(torch.randn(1, 2, E), torch.zeros(1, 2, dtype=torch.bool))
    assert torch.isfinite(out_BMD).all()
    assert (alpha_BMM == 0).all()


def test_the_gate_of_two_is_a_sigmoid():
    gate = FeatureGate(2, E)
    z_BMD = torch.randn(B, 2, E)
    fused_BD, _ = gate(z_BMD, torch.ones(B, 2, dtype=torch.bool))
    logit_BMD = gate.linear(z_BMD.flatten(1)).view(B, 2, E)
    g_BD = torch.sigmoid(logit_BMD[:, 0] - logit_BMD[:, 1])
    torch.testing.assert_close(fused_BD, g_BD * z_BMD[:, 0] + (1 - g_BD) * z_BMD[:, 1])


def test_a_lone_modality_passes_the_gate_unchanged():
    z_BMD = torch.randn(B, 2, E)
    fused_BD, _ = FeatureGate(2, E)(z_BMD, torch.tensor([[False, True]]).expand(B, -1))
    assert torch.equal(fused_BD, z_BMD[:, 1])


def test_moments_are_those_of_numpy_and_differentiable_where_nothing_varies():
    x_BND = torch.randn(3, 7, 5)
    x_BND[:, :, 2] = 4.0
    x_BND.requires_grad_()
    expected = [x_BND.detach().numpy().mean(1), x_BND.detach().numpy().std(1)]
    found_BXD = moments(x_BND)
    torch.testing.assert_close(found_BXD[:, :2], torch.tensor(np.stack(expected, 1)), atol=1e-5, rtol=1e-5)
    assert torch.equal(found_BXD[:, 2], x_BND.amax(1))
    assert torch.equal(found_BXD[:, 3], x_BND.amin(1))
    found_BXD.sum().backward()
    assert torch.isfinite(x_BND.grad).all()
