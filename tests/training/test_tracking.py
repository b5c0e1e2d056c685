"""Epochs told to TensorBoard and MLflow are the epochs of the history, from the library's own readers."""

from __future__ import annotations

import sqlite3
import struct
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from mmray import config
from mmray.errors import ConfigError
from mmray.recordings import splits
from mmray.storage import Workspace
from mmray.training import tracking, trainer


def settings_in(root, track: str, **over):
    return config.from_dict(
        {
            "workspace": str(root),
            "model": {"name": "gcn", "hidden": 8, "embedding": 8},
            "train": {"epochs": 3, "passes": 1, "track": track},
            "split": {"folds": 2, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 20, "permutations": 99},
            "cluster": {"num_cpus": 2},
            **over,
        }
    )


def scalars_of(folder) -> dict[str, list[tuple[int, float]]]:
    """Read TensorBoard's event files: records of length, checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_holds_every_epoch(tmp_path, prepared):
    settings = settings_in(tmp_path / "ws", "tensorboard")
    prepared(settings.workspace, settings, subjects=24, segments=3)
    told = trainer.train(settings)
    found = scalars_of(tmp_path / "ws" / "tensorboard" / "runs" / told.run_id)
    for name in ("loss", "validation_mrr", "validation_accuracy", "learning_rate"):
        expected = [(record.epoch, pytest.approx(getattr(record, name))) for record in told.history]
        assert found[name] == expected


def test_mlflow_holds_every_fit_of_a_sweep_with_its_settings(calm):
    with sqlite3.connect(Path(calm[0].workspace, "mlflow.db")) as store:
        rates = store.execute("select value from params where key = 'train.learning_rate' order by value").fetchall()
        epochs = store.execute("select run_uuid, count(*) from metrics where key = 'loss' group by run_uuid").fetchall()
    assert rates == 4 * [("0.001",)] + 8 * [("0.01",)]  # a population's is its highest
    assert [count for _, count in epochs] == 12 * [2]


def test_tracking_is_no_part_of_what_a_run_is(tmp_path, prepared):
    settings = settings_in(tmp_path / "ws", "none")
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3)
    splits.write_split(settings)
    other = settings_in(tmp_path / "ws", "tensorboard")
    assert trainer.run_name(workspace, settings) == trainer.run_name(workspace, other)


@pytest.mark.parametrize("track", ["tensorboard", "mlflow"])
def test_an_object_store_is_refused_before_a_fit(track, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = settings_in("mock://ws", track)
    with (
        pytest.raises(ConfigError, match="writes to a local folder"),
        tracking.tracked(Workspace(settings.workspace), settings, "runs", "r"),
    ):
        pass


def test_mlflow_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    settings = settings_in(tmp_path, "mlflow")
    with (
        pytest.raises(ConfigError, match=r"\[mlflow\]"),
        tracking.tracked(Workspace(str(tmp_path)), settings, "runs", "r"),
    ):
        pass


def test_a_tracker_that_fails_ends_a_run_on_workers_as_it_ends_one_here(tmp_path, prepared, ray_session, monkeypatch):
    def track(record):
        raise ConfigError("the tracker is gone")

    monkeypatch.setattr(tracking, "tracked", lambda *_: nullcontext(track))
    settings = settings_in(tmp_path, "none")
    prepared(settings.workspace, settings, subjects=12, segments=2)
    with pytest.raises(ConfigError, match="the tracker is gone"):
        trainer.train(settings)

    def workers_tell():
        with trainer._epochs_told(track) as queue:
            queue.put("an epoch")
            while not queue.empty():
                time.sleep(0.01)

    with pytest.raises(ConfigError, match="the tracker is gone"):
        workers_tell()
