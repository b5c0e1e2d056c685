"""One worker and two walk the same path: the loss of twenty steps, through the real epochs of a fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmray import config
from mmray.features.table import Segments, from_table
from mmray.models.registry import build
from mmray.training.loop import Place, fit
from tests.training.conftest import generated_tables

# one batch an epoch, so an epoch's mean loss is a step's; 17 subjects, so that one worker of two has a row of padding
TRAIN = config.Train(epochs=20, passes=1, batch_size=32, segments=2, patience=99, learning_rate=2e-3)


def chosen(segments: dict[str, Segments], subjects: range) -> dict[str, Segments]:
    names = [f"s{u:03d}" for u in subjects]
    return {m: part.take(np.isin(part.subject_id_S, names)) for m, part in segments.items()}


def losses(place: Place) -> list[float]:
    torch.set_num_threads(1)
    segments = {m: from_table(t) for m, t in generated_tables(subjects=24, segments=3, lone=2).items()}
    torch.manual_seed(0)
    sizes = config.Model(hidden=16, embedding=8, dropout=0.0)
    model = build(sizes, {m: part.shape for m, part in segments.items()}, classes=2)
    state = fit(model, chosen(segments, range(7, 24)), chosen(segments, range(7)), TRAIN, seed=0, place=place)
    return [record.loss for record in state.history]


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    Path(f"{folder}/{rank}.json").write_text(json.dumps(losses(Place(rank, 2))))
    dist.destroy_process_group()


def test_two_workers_have_the_loss_curve_of_one_over_twenty_steps(tmp_path: Path):
    mp.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    expected = losses(Place())
    assert len(expected) == 20
    assert expected[-1] < 0.5 * expected[0]
    for rank in range(2):
        np.testing.assert_allclose(json.loads((tmp_path / f"{rank}.json").read_text()), expected, atol=1e-4, rtol=0)
