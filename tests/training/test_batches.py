"""Edge weights made dense once are those made batch by batch."""

from __future__ import annotations

import pytest
import torch

from mmray.training import batches
from mmray.training.sampling import sampler

CPU = torch.device("cpu")


@pytest.fixture
def graphs(generated, monkeypatch):
    monkeypatch.setattr(batches, "_CHUNK", 7)
    return {m: batches.graphs(part, CPU) for m, part in generated(subjects=5, segments=4, lone=2).items()}


def test_dense_once_takes_what_dense_by_batch_takes(graphs):
    for of in graphs.values():
        row_B = torch.randint(len(of.x_SND), (11,), generator=torch.Generator().manual_seed(0))
        once, by_batch = batches.dense(of), of
        assert once.weight_SNN is not None
        for left, right in zip(once.take(row_B), by_batch.take(row_B), strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_more_than_the_limit_stays_sparse(graphs, monkeypatch):
    monkeypatch.setattr(batches, "DENSE_BYTES", 10)
    assert all(batches.dense(of).weight_SNN is None for of in graphs.values())


def test_rows_of_an_absent_modality_are_zeros_and_the_graphs_stay_as_they_were(generated):
    segments = generated(subjects=5, segments=4, lone=2)
    graphs = {m: batches.dense(batches.graphs(part, CPU)) for m, part in segments.items()}
    before = {m: (of.x_SND.clone(), of.weight_SNN.clone()) for m, of in graphs.items()}
    for draw in sampler(segments).batches(5, 1, 1, seed=0, epoch=0):
        batch = batches.batch(graphs, draw)
        assert not batch.x["audio"][~batch.present_BM[:, 1]].any()
        assert not batch.weight["audio"][~batch.present_BM[:, 1]].any()
        assert batch.x["audio"][batch.present_BM[:, 1]].abs().sum() > 0
    for m, (x_SND, weight_SNN) in before.items():
        assert torch.equal(graphs[m].x_SND, x_SND)
        assert torch.equal(graphs[m].weight_SNN, weight_SNN)
