"""The fusion against a loop over its formulas, with one modality and with two."""

from __future__ import annotations

import math

import pytest
import torch

from tests.models.systems import SHAPES, fresh


def attend(layer, query_QE, key_KE):
    query, key, value = layer.query(query_QE), layer.key(key_KE), layer.value(key_KE)
    return torch.softmax(query @ key.T / math.sqrt(query.shape[-1]), -1) @ value


def naive(model, tokens):
    """Picked vectors and the fused one, of one sample; tokens: modality -> T x E, absent ones left out."""
    summaries = [tokens[m].mean(0) if m in tokens else torch.zeros(8) for m in SHAPES]
    gates = dict(zip(SHAPES, torch.sigmoid(model.gate(torch.cat(summaries))).split(8), strict=True))
    gated = {m: gates[m] * t for m, t in tokens.items()}
    commons = []
    for m in tokens:
        others = [gated[j] for j in tokens if j != m] or [gated[m]]
        commons.append(attend(model.common, gated[m], torch.cat(others)))
    common = sum(commons) / len(commons)
    picked, levels = {}, []
    for m, first in zip(SHAPES, model.first, strict=True):
        if m not in tokens:
            levels.append(torch.zeros(8))
            continue
        refined = model.norm(tokens[m] + attend(model.refine, tokens[m], common))
        picked[m] = attend(model.pick, model.query_E[None], refined)[0]
        levels.append(torch.relu(first(torch.cat([picked[m], common.mean(0)]))))
    return picked, model.fusion(torch.cat(levels))


@pytest.mark.parametrize("present", [(True, True), (True, False), (False, True)])
def test_the_fused_vector_equals_a_loop_over_the_formulas(present):
    model = fresh("mamsa").eval()
    encoded = {m: torch.randn(2, 4 * 8) for m in SHAPES}
    fused_BE, _, _ = model.fuse(encoded, torch.tensor([present, present]))
    for b in range(2):
        tokens = {m: encoded[m][b].view(4, 8) for m, here in zip(SHAPES, present, strict=True) if here}
        torch.testing.assert_close(fused_BE[b], naive(model, tokens)[1], atol=1e-5, rtol=1e-5)


def test_a_lone_embedding_is_what_the_class_query_picks_without_a_partner():
    model = fresh("mamsa").eval()
    x_BND, weight_BNN = torch.randn(1, *SHAPES["eeg"]), torch.zeros(1, 12, 12)
    tokens = {"eeg": model.encode("eeg", x_BND, weight_BNN)[0].view(4, 8)}
    expected_E = torch.nn.functional.normalize(naive(model, tokens)[0]["eeg"], dim=0)
    torch.testing.assert_close(model.embed("eeg", x_BND, weight_BNN)[0], expected_E, atol=1e-5, rtol=1e-5)
