"""One worker and two walk the same path: the loss of twenty steps, through the real epochs of a fit, and validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmray import config
from mmray.features.table import Segments, from_table
from mmray.models.registry import build
from mmray.models.system import System
from mmray.training import batches, inference
from mmray.training.loop import Place, fit
from tests.training.conftest import generated_tables

# one batch an epoch, so an epoch's mean loss is a step's; 17 subjects, so that one worker of two has a row of padding
TRAIN = config.Train(epochs=20, passes=1, batch_size=32, segments=2, patience=99, learning_rate=2e-3)


def chosen(segments: dict[str, Segments], subjects: range) -> dict[str, Segments]:
    names = [f"s{u:03d}" for u in subjects]
    return {m: part.take(np.isin(part.subject_id_S, names)) for m, part in segments.items()}


def made() -> tuple[System, dict[str, Segments]]:
    torch.set_num_threads(1)
    segments = {m: from_table(t) for m, t in generated_tables(subjects=24, segments=3, lone=2).items()}
    torch.manual_seed(0)
    sizes = config.Model(hidden=16, embedding=8, dropout=0.0)
    return build(sizes, {m: part.shape for m, part in segments.items()}, classes=2), segments


def losses(place: Place) -> list[float]:
    model, segments = made()
    if place.rank:  # a machine that rounds apart, and finds an axis turned round
        fitted = model.fit_scalers

        def apart(*arguments: Any) -> None:
            fitted(*arguments)
            for encoder in model.encoders.values():
                encoder.axes_FK.neg_()

        model.fit_scalers = apart
    state = fit(model, chosen(segments, range(7, 24)), chosen(segments, range(7)), TRAIN, seed=0, place=place)
    return [record.loss for record in state.history]


def vectors(place: Place) -> list[list[float]]:
    """Of 67 segments, so that one of two workers takes one twice."""
    model, segments = made()
    part = segments["eeg"].take(np.arange(67))
    graphs = batches.graphs(part, place.device)
    rows: list[list[float]] = inference.encode(model.eval(), "eeg", graphs, place.rank, place.world).tolist()
    return rows


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {"losses": losses(Place(rank, 2)), "vectors": vectors(Place(rank, 2))}
    Path(f"{folder}/{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_workers_have_the_loss_curve_of_one_over_twenty_steps(by_two):
    expected = losses(Place())
    assert len(expected) == 20
    assert expected[-1] < 0.5 * expected[0]
    for found in by_two:
        np.testing.assert_allclose(found["losses"], expected, atol=1e-4, rtol=0)


def test_segments_that_two_workers_share_come_back_in_order(by_two):
    expected = vectors(Place())
    assert len(expected) == 67
    for found in by_two:
        np.testing.assert_allclose(found["vectors"], expected, atol=1e-5)
