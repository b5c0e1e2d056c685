"""The structural layer against its formula."""

from __future__ import annotations

import numpy as np
import torch

from mmray import config
from mmray.graphs.structural import structural_similarity
from mmray.models.baselines.strucgcn import StrucGCNEncoder, StructuralLayer
from tests.models.baselines.graphs import B, D, N, random_graphs


def naive_normalised(matrix_NN):
    counts = [max(1, sum(value != 0 for value in row)) for row in matrix_NN]
    return np.array(
        [[matrix_NN[i, j] / np.sqrt(counts[i] * counts[j]) for j in range(N)] for i in range(N)], dtype=np.float32
    )


def test_the_layer_equals_its_formula():
    torch.manual_seed(0)
    x_BND, weight_BNN = random_graphs()
    encoder = StrucGCNEncoder(N, D, config.Model(name="strucgcn", self_weight=0.7, structural_weight=1.3))
    layer = StructuralLayer(D, 4)
    found_BNE = layer(x_BND, encoder.graph(weight_BNN))
    for b in range(B):
        similarity_NN = structural_similarity(weight_BNN[b : b + 1].numpy() > 0)[0]
        peers_NN = torch.from_numpy(naive_normalised(0.7 * np.eye(N) + 1.3 * similarity_NN))
        neighbours_NN = torch.from_numpy(naive_normalised(weight_BNN[b].numpy()))
        both_NF = torch.cat([peers_NN @ x_BND[b], neighbours_NN @ x_BND[b]], 1)
        torch.testing.assert_close(found_BNE[b], layer.linear(both_NF), atol=1e-5, rtol=1e-5)


def test_an_encoder_in_evaluation_remembers_no_upload():
    encoder = StrucGCNEncoder(N, D, config.Model(name="strucgcn")).eval()
    encoder(*random_graphs())
    assert not encoder.memo.entries


def test_what_training_met_is_remembered():
    encoder = StrucGCNEncoder(N, D, config.Model(name="strucgcn")).train()
    encoder(*random_graphs())
    assert len(encoder.memo.entries) == B
