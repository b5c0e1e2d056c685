"""The reference set holds training subjects alone, however many workers make it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmray import config
from mmray.errors import ConfigError, WorkspaceError
from mmray.features.table import from_table
from mmray.graphs.population import Reference
from mmray.models.registry import build
from mmray.training import batches, reference
from mmray.training.loop import fit
from tests.embedding import embedded
from tests.training.conftest import generated_tables

CPU = torch.device("cpu")


def model_for(segments, **settings):
    torch.manual_seed(0)
    chosen = config.Model(hidden=8, embedding=6, **settings)
    return build(chosen, {m: part.shape for m, part in segments.items()}, classes=2)


def made(segments, each=8, **place):
    return reference.make(
        model_for(segments), segments, {m: batches.graphs(p, CPU) for m, p in segments.items()}, each, **place
    )


@pytest.fixture(scope="module")
def segments(generated):
    return generated(subjects=9, segments=5, lone=2)


@pytest.mark.parametrize(("each", "rows"), [(8, [0, 1, 2, 3, 4]), (3, [0, 2, 4]), (1, [0])])
def test_a_row_is_the_mean_of_a_pairs_segments_spread_evenly(segments, each, rows):
    found, model = made(segments, each), model_for(segments).eval()
    for column, (modality, part) in enumerate(segments.items()):
        graphs = batches.graphs(part, CPU)
        for row in range(len(found.subjects)):
            own_S = np.flatnonzero(part.pair_id_S == f"s{row:03d}")
            assert bool(found.present_RM[row, column]) == bool(len(own_S))
            if len(own_S):
                encoded_SE = model.encode(modality, *graphs.take(torch.as_tensor(own_S[rows])))
                torch.testing.assert_close(found.vector_RME[row, column], encoded_SE.mean(0), atol=1e-5, rtol=1e-5)
            else:
                assert (found.vector_RME[row, column] == 0).all()


def test_it_is_made_in_evaluation_mode_and_leaves_the_model_as_it_was(segments):
    model = model_for(segments).train()
    graphs = {m: batches.graphs(p, CPU) for m, p in segments.items()}
    one, other = (reference.make(model, segments, graphs, 8) for _ in range(2))
    assert model.training
    assert torch.equal(one.vector_RME, other.vector_RME)
    assert not one.vector_RME.requires_grad


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    segments = {m: from_table(t) for m, t in generated_tables(subjects=9, segments=5, lone=2).items()}
    torch.save(made(segments, rank=rank, world=2).tensors(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_make_the_reference_of_one(segments, tmp_path: Path):
    mp.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    expected = made(segments).tensors()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


def test_values_of_held_out_subjects_reach_no_reference(generated, by_subject):
    segments = generated(subjects=24, segments=3)
    wild = {
        m: replace(p, x_SND=np.where((p.subject_id_S >= "s016")[:, None, None], 1e6 * p.x_SND, p.x_SND))
        for m, p in segments.items()
    }
    train = config.Train(epochs=1, passes=1)
    tame, other = (
        fit(model_for(s), by_subject(s, range(16)), by_subject(s, range(16, 24)), train, seed=0)
        for s in (segments, wild)
    )
    assert torch.equal(tame.tensors["reference.vector_RME"], other.tensors["reference.vector_RME"])
    assert len(tame.tensors["reference.subject_R"]) == 16


@pytest.mark.parametrize(("every", "stands"), [(1, [False, False]), (2, [True, False])])
def test_the_reference_is_refreshed_on_its_schedule(generated, by_subject, every, stands):
    segments, seen = generated(subjects=20, segments=2), []
    train = config.Train(epochs=2, passes=1, reference_every=every)
    fit(
        model_for(segments),
        by_subject(segments, range(14)),
        by_subject(segments, range(14, 20)),
        train,
        seed=0,
        on_epoch=lambda state: seen.append(state.tensors["reference.vector_RME"]),
    )
    torch.manual_seed(0)
    model, training = model_for(segments), by_subject(segments, range(14))
    graphs = {m: batches.graphs(p, CPU) for m, p in training.items()}
    model.fit_scalers(
        {m: g.x_SND for m, g in graphs.items()},
        {m: g.subject_id_S for m, g in graphs.items()},
        {m: g.recording_id_S for m, g in graphs.items()},
    )
    model.begin(training)
    before = [reference.make(model, training, graphs, 8).vector_RME, seen[0]]
    assert [torch.equal(one, other) for one, other in zip(before, seen, strict=True)] == stands


def test_fewer_training_subjects_than_neighbours_are_refused(segments):
    graphs = {m: batches.graphs(p, CPU) for m, p in segments.items()}
    enough, short = (model_for(segments, population_neighbours=k) for k in (6, 7))  # 7 have both, one of them asks
    reference.make(enough, segments, graphs, 8)
    with pytest.raises(ConfigError, match=r"model\.population_neighbours = 7, and a training subject finds 6"):
        reference.make(short, segments, graphs, 8)


def test_a_held_out_subject_is_named(segments):
    found = made(segments)
    reference.require_training_subjects(found, ["t1", "t2"], "here")
    with pytest.raises(WorkspaceError, match="here: subject s003 is held out"):
        reference.require_training_subjects(found, ["t1", "s003"], "here")


def test_an_embedded_training_subject_never_hears_of_itself(segments):
    """As indexing and evaluation embed everybody, training subjects too: each under its own name."""
    model, found = model_for(segments, population_neighbours=3).eval(), made(segments)
    torch.nn.init.ones_(model.population.inter_MM)
    torch.nn.init.normal_(model.attention.value_MDD)
    model.attach(found)
    before_SE = embedded(model, segments["eeg"])
    vector_RME = found.vector_RME.clone()
    vector_RME[2, 1] *= -50.0  # what subject s002 sounds like
    model.attach(replace(found, vector_RME=vector_RME))
    changed_S = (embedded(model, segments["eeg"]) != before_SE).any(1)
    assert not changed_S[segments["eeg"].subject_id_S == "s002"].any()
    assert changed_S.any()


def test_equal_references_are_equal_bytes():
    made = Reference(torch.ones(2, 2, 3), torch.ones(2, 2, dtype=torch.bool), torch.arange(2), ("a", "b"))
    assert len({reference.to_bytes(made, "0" * 64) for _ in range(20)}) == 1
