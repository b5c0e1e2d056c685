"""`mmray train` whole: what it leaves, and that no kill changes it. Real Ray, real SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import psutil
import pyarrow as pa
import pytest

from mmray import config
from mmray.errors import ConfigError, ResourceError, WorkspaceError
from mmray.features.table import load
from mmray.recordings import splits
from mmray.schema import EMBEDDINGS, METRICS, PARTS, PREDICTIONS, recordings_of, recordings_table
from mmray.storage import Workspace
from mmray.training import tracking, trainer
from mmray.training.checkpoint import load_run, read_checkpoint, write_checkpoint
from tests.embedding import embedded
from tests.half_written import half_written, leave_half
from tests.training.conftest import features_for

EPOCHS = 25
MARK = 12345.0


def settings_in(root: Path, **train) -> config.Config:
    return config.from_dict(
        {
            "workspace": str(root),
            "model": {"hidden": 8, "embedding": 8},
            "train": {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "passes": 1, **train},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 20, "permutations": 99},
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared):
    """An undisturbed run in this process."""
    settings = settings_in(tmp_path_factory.mktemp("here"))
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3, lone=3)
    return settings, workspace, trainer.train(settings)


@pytest.mark.parametrize("name", get_args(config.System))
def test_every_system_trains_to_a_run_that_embeds_as_it_did(tmp_path, prepared, name):
    settings = settings_in(tmp_path, epochs=1)
    settings = config.from_dict(
        settings.model_dump(exclude={"model", "features"})
        | {"model": {"name": name, "hidden": 8, "embedding": 8}, "features": features_for(name)}
    )
    workspace = prepared(settings.workspace, settings, subjects=15, segments=2, lone=1)
    run_id = trainer.train(settings).run_id
    assert run_id.startswith(f"{name}-")
    written = workspace.read_table("runs", run_id, "embeddings.parquet")
    segments = load(workspace, config.digest(settings.features), "eeg")
    z_SE = embedded(load_run(workspace, run_id).model, segments)
    kept = dict(zip(written["segment_id"].to_pylist(), written["z"].to_pylist(), strict=True))
    np.testing.assert_allclose(z_SE, [kept[i] for i in segments.segment_id_S], atol=1e-6)
    assert workspace.exists("features", config.digest(settings.features), "structural-eeg.safetensors") == (
        name == "strucgcn"
    )


@pytest.fixture(scope="module")
def on_two_workers(tmp_path_factory, prepared, ray_session):
    """The weights of an undisturbed run on two workers, and the epochs that its tracker had been told when it ended."""
    settings = settings_in(tmp_path_factory.mktemp("there"), num_workers=2)
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3, lone=3)
    told: list[int] = []
    over = threading.Event()
    as_it_is = trainer._watched

    def track(record) -> None:
        if record.epoch == EPOCHS - 5:  # the workers get ahead
            over.wait(120)
        told.append(record.epoch)

    def watched(*asked) -> None:
        try:
            as_it_is(*asked)
        finally:
            over.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "tracked", lambda *_: nullcontext(track))
        patch.setattr(trainer, "_watched", watched)
        run_id = trainer.train(settings).run_id
    return weights(workspace, run_id), list(told)


def weights(workspace: Workspace, run_id: str) -> bytes:
    return workspace.read_bytes("runs", run_id, "model.safetensors")


def wait_for_epoch(workspace: Workspace, run_id: str, epoch: int) -> None:
    while True:
        state = read_checkpoint(workspace, "runs", run_id, trainer.CHECKPOINT)
        if state is not None and len(state.history) >= epoch:
            assert not state.finished, "the run ended before it could be killed; raise EPOCHS"
            return
        time.sleep(0.02)


def test_a_run_leaves_its_tables(run):
    _, workspace, summary = run
    schemas = {"embeddings": EMBEDDINGS, "predictions": PREDICTIONS, "metrics": METRICS}
    found = {name: workspace.read_table("runs", summary.run_id, f"{name}.parquet").schema for name in schemas}
    assert found == schemas


def test_every_segment_is_embedded_at_unit_length(run):
    _, workspace, summary = run
    table = workspace.read_table("runs", summary.run_id, "embeddings.parquet")
    z_SE = np.stack(table["z"].to_pylist())
    assert len(table) == 24 * 3 + 21 * 3
    np.testing.assert_allclose(np.linalg.norm(z_SE, axis=1), 1, atol=1e-5)


def test_a_subject_without_voice_is_classified_by_its_eeg(run):
    _, workspace, summary = run
    table = workspace.read_table("runs", summary.run_id, "predictions.parquet")
    assert {"s021", "s022", "s023"} <= set(table["subject_id"].to_pylist())


def test_test_subjects_are_retrieved_above_chance(run):
    _, _, summary = run
    found = [m for m in summary.metrics if (m.level, m.metric) == ("subject", "MRR")]
    assert len(found) == 2
    assert all(metric.value > metric.chance for metric in found)


def test_a_finished_run_is_not_fitted_again(run):
    settings, workspace, summary = run
    written = workspace.filesystem.get_file_info(workspace.path("runs", summary.run_id, trainer.CHECKPOINT)).mtime_ns
    again = trainer.train(settings)
    assert (again.trained, again.metrics) == (False, summary.metrics)
    assert (
        workspace.filesystem.get_file_info(workspace.path("runs", summary.run_id, trainer.CHECKPOINT)).mtime_ns
        == written
    )


def test_other_resampling_settings_evaluate_the_same_weights_again(run):
    settings, workspace, summary = run
    other = settings.model_copy(update={"evaluate": config.Evaluate(bootstraps=30, permutations=100)})
    before = weights(workspace, summary.run_id)
    again = trainer.train(other)
    assert again.run_id == summary.run_id
    assert again.metrics != summary.metrics
    assert weights(workspace, summary.run_id) == before


def test_a_loaded_run_makes_the_stored_embeddings(run):
    _, workspace, summary = run
    loaded = load_run(workspace, summary.run_id)
    part = load(workspace, loaded.features_digest, "eeg")
    table = workspace.read_table("runs", summary.run_id, "embeddings.parquet")
    stored = np.stack(table.filter(pa.compute.equal(table["modality"], "eeg"))["z"].to_pylist())
    np.testing.assert_array_equal(embedded(loaded.model, part), stored)


def test_the_run_id_follows_what_the_parts_were_made_from(run, tmp_path, prepared):
    settings, _, summary = run
    other = settings.model_copy(update={"workspace": str(tmp_path)})
    workspace = prepared(other.workspace, other, subjects=24, segments=3, lone=3)
    folder = ("features", config.digest(settings.features))
    parts = workspace.read_table(*folder, "parts.parquet").to_pylist()
    splits.write_split(other)
    assert trainer.run_name(workspace, other) == summary.run_id
    parts[0]["path"] = "eeg/relabelled.parquet"
    workspace.write_table(pa.Table.from_pylist(parts, schema=PARTS), *folder, "parts.parquet")
    assert trainer.run_name(workspace, other) != summary.run_id


def test_recordings_that_changed_after_the_preparation_are_refused(run, tmp_path, prepared):
    settings = run[0].model_copy(update={"workspace": str(tmp_path)})
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3, lone=3)
    relabelled = [replace(row, label=0) for row in recordings_of(workspace.read_table("recordings.parquet"))]
    workspace.write_table(recordings_table(relabelled), "recordings.parquet")
    with pytest.raises(WorkspaceError, match="prepared from another recordings"):
        trainer.train(settings)


def test_the_run_id_follows_the_seed_and_not_the_number_of_workers(run):
    settings, workspace, summary = run
    two = settings.model_copy(update={"train": settings.train.model_copy(update={"num_workers": 2})})
    assert trainer.run_name(workspace, two) == summary.run_id
    assert trainer.run_name(workspace, settings.model_copy(update={"seed": 1})) != summary.run_id


def test_an_unknown_fold_is_refused(run):
    settings, _, _ = run
    with pytest.raises(ConfigError, match=r"train.fold = 7, and split 'default' has 3 folds"):
        trainer.train(settings.model_copy(update={"train": settings.train.model_copy(update={"fold": 7})}))


def test_features_that_were_not_prepared_are_named(run):
    settings, _, _ = run
    other = settings.model_copy(update={"features": config.Features(audio=config.Audio(nodes=64))})
    with pytest.raises(WorkspaceError, match=r"is not in workspace .*; run `mmray prepare`"):
        trainer.train(other)


def test_a_group_that_can_never_fit_is_refused_before_it_starts(tmp_path, prepared, ray_session):
    settings = settings_in(tmp_path, num_workers=99)
    prepared(settings.workspace, settings, subjects=12)
    with pytest.raises(
        ResourceError, match=r"train: 99 x \(0.5 CPUs\) must run at once, and the nodes that are up hold \d+"
    ):
        trainer.train(settings)


DRIVER = """
import sys
from mmray import config
from mmray.training import trainer
trainer.train(config.load(sys.argv[1]))
"""


def kill_driver_after_two_epochs(settings: config.Config, workspace: Workspace, run_id: str, folder: Path) -> None:
    """Kill, and mark the checkpoint's first epoch: a run that begins again loses the mark."""
    (folder / "config.yaml").write_text(config.to_yaml(settings))
    with open(folder / "driver.log", "wb") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder / "config.yaml")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        waiting = threading.Thread(target=wait_for_epoch, args=(workspace, run_id, 2), daemon=True)
        waiting.start()
        while waiting.is_alive():
            assert driver.poll() is None, (folder / "driver.log").read_text()
            waiting.join(0.1)
    finally:
        orphans = psutil.Process(driver.pid).children(recursive=True)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    _, alive = psutil.wait_procs(orphans, timeout=60)  # a worker may finish the epoch it was in
    assert not alive
    state = read_checkpoint(workspace, "runs", run_id, trainer.CHECKPOINT)
    history = [replace(state.history[0], loss=MARK), *state.history[1:]]
    write_checkpoint(workspace, replace(state, history=history), "runs", run_id, trainer.CHECKPOINT)


def test_a_killed_driver_run_again_ends_with_the_same_weights(run, tmp_path, prepared):
    _, undisturbed, summary = run
    settings = settings_in(tmp_path / "ws")
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3, lone=3)
    kill_driver_after_two_epochs(settings, workspace, summary.run_id, tmp_path)
    leave_half(Path(settings.workspace, "runs", summary.run_id))
    again = trainer.train(settings)
    assert not half_written(settings.workspace)
    assert weights(workspace, again.run_id) == weights(undisturbed, summary.run_id)
    assert again.history[0].loss == MARK


def test_epochs_that_workers_were_ahead_with_are_told_once_each_before_the_run_ends(on_two_workers):
    assert on_two_workers[1] == list(range(EPOCHS))


def test_a_killed_driver_of_two_workers_and_then_a_killed_worker_leave_the_weights_the_same(
    on_two_workers, run, tmp_path, prepared
):
    settings = settings_in(tmp_path / "ws", num_workers=2)
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3, lone=3)
    run_id = run[2].run_id
    kill_driver_after_two_epochs(settings, workspace, run_id, tmp_path)
    begun = len(read_checkpoint(workspace, "runs", run_id, trainer.CHECKPOINT).history)
    killed = []

    def kill_one() -> None:
        wait_for_epoch(workspace, run_id, begun + 2)
        ours = psutil.Process().children(recursive=True)
        workers = [process for process in ours if "RayTrainWorker" in " ".join(process.cmdline())]
        workers[-1].kill()
        killed.append(workers[-1].pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    again = trainer.train(settings)
    assert killed
    assert weights(workspace, again.run_id) == on_two_workers[0]
    assert again.history[0].loss == MARK
