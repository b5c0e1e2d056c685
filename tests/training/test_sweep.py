"""A sweep keeps every fit as it ends, goes on where it was killed, and never averages a failure away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.compute as pc
import pytest

from mmray import config
from mmray.errors import ConfigError
from mmray.evaluation import trials
from mmray.evaluation.evaluate import paired_vectors
from mmray.storage import Workspace
from mmray.training import sweep as sweeps
from mmray.training import trial

SWEEP = {"systems": ["ridge", "majority"], "learning_rates": [1e-3], "seeds": 2}


def settings_in(root, **over):
    tree = {
        "workspace": str(root),
        "model": {"hidden": 8, "embedding": 8},
        "train": {"epochs": 2, "passes": 1},
        "split": {"folds": 2, "validation_fraction": 0.4},
        "evaluate": {"bootstraps": 50, "permutations": 99},
        "cluster": {"num_cpus": 2},
        "sweep": {**SWEEP, **over},
    }
    return config.from_dict(tree)


def rows_of(settings, sweep_id):
    """Every fit but for how long it took."""
    workspace = Workspace(settings.workspace)
    rows = trials.read(workspace, trials.read_plan(workspace, sweep_id))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def swept(tmp_path_factory, prepared, ray_session):
    settings = settings_in(tmp_path_factory.mktemp("sweep") / "ws")
    prepared(settings.workspace, settings, subjects=24, segments=3)
    return settings, sweeps.sweep(settings)


def test_every_subject_is_tested_once_a_seed_by_every_system(swept):
    settings, summary = swept
    rows = rows_of(settings, summary.sweep_id)
    assert len(rows) == 8
    for variant in ("ridge", "majority"):
        for seed in (0, 1):
            mine = [r for r in rows if r["variant"] == variant and r["seed"] == seed]
            assert sorted(s for r in mine for s in r["subject_id"]) == [f"s{u:03d}" for u in range(24)]
    assert summary.failed == {}
    assert {f.subjects for f in summary.figures["ridge"] if f.metric == "R@1"} == {24}


def test_a_sweep_run_again_fits_nothing_and_says_the_same(swept, monkeypatch):
    settings, summary = swept
    monkeypatch.setattr(sweeps, "_fit_all", None)  # would end the sweep
    assert sweeps.sweep(settings) == summary


def test_a_lost_trial_alone_is_fitted_again(swept):
    settings, summary = swept
    folder = Workspace(settings.workspace)
    before = rows_of(settings, summary.sweep_id)
    place = ("sweeps", summary.sweep_id, "trials.parquet")
    names = folder.names(*place)
    kept = {name: folder.read_bytes(*place, name) for name in names[1:]}
    folder.delete(*place, names[0])
    sweeps.sweep(settings)
    assert rows_of(settings, summary.sweep_id) == before
    for name, data in kept.items():
        assert folder.read_bytes(*place, name) == data


def test_a_diverging_fit_is_a_row_with_its_reason(swept):
    settings, _ = swept
    wild = settings.model_copy(
        update={
            "model": config.Model(name="gcn", hidden=8, embedding=8),
            "train": settings.train.model_copy(update={"learning_rate": 1e30}),
        }
    )
    workspace = Workspace(settings.workspace)
    fold = sweeps.splits.load_split(workspace, "default")[0]
    segments = sweeps.trainer.segments_of(workspace, settings, fold)
    row = trial.run(wild, segments, fold, 2, trial_id="t", variant="gcn")
    assert "lower train.learning_rate" in row["error"]
    assert row["subject_id"] is None


def test_a_trial_is_the_run_that_train_makes_of_the_same_settings(swept):
    """Weights of the best epoch included: the fit goes on for epochs after it."""
    settings = settings_in(swept[0].workspace).model_copy(
        update={
            "model": config.Model(name="gcn", hidden=8, embedding=8),
            "train": config.Train(epochs=8, passes=2, learning_rate=0.05, ema=0.0, patience=8),
        }
    )
    workspace = Workspace(settings.workspace)
    fold = sweeps.splits.load_split(workspace, "default")[0]
    row = trial.run(
        settings, sweeps.trainer.segments_of(workspace, settings, fold), fold, 2, trial_id="t", variant="gcn"
    )
    assert row["best_epoch"] < len(row["history"]) - 1
    run_id = sweeps.trainer.train(settings).run_id
    written = workspace.read_table("runs", run_id, "embeddings.parquet")
    paired = paired_vectors(written.filter(pc.equal(written["role"], "test")))
    assert row["subject_id"] == paired.subject_ids
    for modality, vector_UE in paired.vector_UD.items():
        np.testing.assert_allclose(row[modality], vector_UE, atol=1e-6)


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"variants": {"odd": {"model.gaet": False}}}, "did you mean 'gate'"),
        ({"variants": {"ridge": {}}}, "is a system's name"),
        ({"folds": [7]}, "folds 0 to 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_fit(swept, over, message):
    with pytest.raises(ConfigError, match=message):
        sweeps.sweep(settings_in(swept[0].workspace, **over))


def test_a_killed_sweep_goes_on_to_the_same_trials(tmp_path, prepared, swept):
    """SIGKILL the driver in the middle; the same command finishes, and the rows equal an undisturbed sweep's."""
    settings = settings_in(tmp_path / "ws")
    prepared(settings.workspace, settings, subjects=24, segments=3)
    (tmp_path / "c.yaml").write_text(config.to_yaml(settings))
    code = "import sys; from mmray.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "sweep", "--config", str(tmp_path / "c.yaml")]
    driver = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Workspace(settings.workspace)
    give_up = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < give_up:
        if any(folder.names("sweeps", name, "trials.parquet") for name in folder.names("sweeps")):
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    summary = sweeps.sweep(settings)
    assert rows_of(settings, summary.sweep_id) == rows_of(swept[0], swept[1].sweep_id)
