"""One worker and two walk the same path: the loss of twenty steps, through the real epochs of a fit, and validation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmray import config
from mmray.features.table import Segments, from_table
from mmray.models.baselines import ridge
from mmray.models.registry import build
from mmray.models.system import System
from mmray.storage import Workspace
from mmray.training import batches, inference, loop
from mmray.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mmray.training.loop import Place, fit
from tests.training.conftest import generated_tables

# one batch an epoch, so an epoch's mean loss is a step's; at 1e-2 a step would magnify how one rounds. 17 subjects, so
# that one worker of two has a row of padding
TRAIN = config.Train(epochs=20, passes=1, batch_size=32, segments=2, patience=99, learning_rate=6e-3)


def chosen(segments: dict[str, Segments], subjects: range) -> dict[str, Segments]:
    names = [f"s{u:03d}" for u in subjects]
    return {m: part.take(np.isin(part.subject_id_S, names)) for m, part in segments.items()}


def made() -> tuple[System, dict[str, Segments]]:
    torch.set_num_threads(1)
    segments = {m: from_table(t) for m, t in generated_tables(subjects=24, segments=3, lone=2).items()}
    torch.manual_seed(0)
    sizes = config.Model(hidden=16, embedding=8, dropout=0.0, stochastic_depth=0.0)
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


def solved(place: Place) -> list[float]:
    """A control in closed form, whose axes come out turned round on a machine that rounds apart."""
    _, segments = made()
    model = build(config.Model(name="ridge", embedding=8), {m: part.shape for m, part in segments.items()}, classes=2)
    if place.rank:
        one_machine = ridge.shared_space

        def apart(*arguments: Any) -> Any:
            return tuple(
                weight_FK * np.resize([-1.0, 1.0], weight_FK.shape[1]) for weight_FK in one_machine(*arguments)
            )

        ridge.shared_space = apart
    state = fit(model, chosen(segments, range(7, 24)), chosen(segments, range(7)), TRAIN, seed=0, place=place)
    return [state.history[0].validation_mrr, state.best_mrr]


def stopped_and_resumed(place: Place) -> dict[str, list[float]]:
    """Losses of two epochs of three batches: unbroken, and from the first batch of the second, on as many workers."""
    loop.POLL_S, loop._POLLS_A_SAVE = 0.0, 1
    train = TRAIN.model_copy(update={"epochs": 2, "passes": 3})
    saved: list[Checkpoint] = []

    def run(start: Checkpoint | None) -> list[float]:
        model, segments = made()
        data = chosen(segments, range(7, 24)), chosen(segments, range(7))
        state = fit(model, *data, train, seed=0, start=start, place=place, noticed=lambda: True, on_notice=saved.append)
        return [record.loss for record in state.history]

    unbroken = run(None)
    stopped = saved[3]
    assert (len(stopped.history), stopped.step) == (1, 1)
    write_checkpoint(Workspace(os.getcwd()), stopped, f"stopped-{place.world}-{place.rank}")
    return {"unbroken": unbroken, "resumed": run(stopped)}


def vectors(place: Place) -> list[list[float]]:
    """Of 67 segments, so that one of two workers takes one twice."""
    model, segments = made()
    part = segments["eeg"].take(np.arange(67))
    graphs = batches.graphs(part, place.device)
    rows: list[list[float]] = inference.encode(model.eval(), "eeg", graphs, place.rank, place.world).tolist()
    return rows


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    os.chdir(folder)
    place = Place(rank, 2)
    found = {"losses": losses(place), "vectors": vectors(place), "solved": solved(place), **stopped_and_resumed(place)}
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
    assert expected[-1] < 0.6 * expected[0]
    for found in by_two:
        np.testing.assert_allclose(found["losses"], expected, atol=1e-4, rtol=0)


def test_two_workers_validate_one_solution_of_a_control_in_closed_form(by_two):
    expected = solved(Place())
    assert expected[0] > 0.5
    for found in by_two:
        np.testing.assert_allclose(found["solved"], expected, atol=1e-6)


def test_segments_that_two_workers_share_come_back_in_order(by_two):
    expected = vectors(Place())
    assert len(expected) == 67
    for found in by_two:
        np.testing.assert_allclose(found["vectors"], expected, atol=1e-5)


def test_two_workers_stopped_inside_an_epoch_go_on_as_if_they_had_not(by_two):
    assert [found["resumed"] for found in by_two] == [found["unbroken"] for found in by_two]


def test_one_worker_goes_on_inside_the_epoch_of_two(by_two, tmp_path_factory):
    """The loss of the epoch is the mean over all of its batches, whoever did them."""
    folder = next(tmp_path_factory.getbasetemp().glob("workers*"))
    start = read_checkpoint(Workspace(str(folder)), "stopped-2-0")
    model, segments = made()
    data = chosen(segments, range(7, 24)), chosen(segments, range(7))
    state = fit(model, *data, TRAIN.model_copy(update={"epochs": 2, "passes": 3}), seed=0, start=start)
    np.testing.assert_allclose([record.loss for record in state.history], by_two[0]["unbroken"], atol=1e-4, rtol=0)
    assert [record.workers for record in state.history] == [2, 1]
