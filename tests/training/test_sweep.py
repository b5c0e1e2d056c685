"""A sweep keeps every fit as it ends, goes on where it was killed, and never averages a failure away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest

from mmray import config
from mmray.cli import main
from mmray.errors import ConfigError, WorkspaceError
from mmray.evaluation import compare, trials
from mmray.evaluation.paired import paired_vectors
from mmray.recordings import catalogue, splits
from mmray.schema import recordings_table
from mmray.storage import Workspace
from mmray.training import sweep as sweeps
from mmray.training import trainer, trial
from tests.half_written import half_written, leave_half
from tests.training.made_sweeps import CALM, rows_of, settings_in


@pytest.fixture(scope="module")
def swept(tmp_path_factory, prepared, ray_session):
    settings = settings_in(tmp_path_factory.mktemp("sweep") / "ws")
    prepared(settings.workspace, settings, subjects=24, segments=3)
    return settings, sweeps.sweep(settings)


def copied(swept, root, **over):
    """A copy of the sweep's workspace to change, and settings of one there."""
    shutil.copytree(swept[0].workspace, root)
    return settings_in(root, **over)


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


def test_a_lost_trial_alone_is_fitted_again_by_a_resumption_in_the_workspace_of_its_config(swept, tmp_path, capsys):
    settings, summary = swept
    (tmp_path / "c.yaml").write_text(config.to_yaml(settings))
    config_file = ["--config", str(tmp_path / "c.yaml")]
    folder = Workspace(settings.workspace)
    before = rows_of(settings, summary.sweep_id)
    place = ("sweeps", summary.sweep_id, "trials.parquet")
    names = folder.names(*place)
    kept = {name: folder.read_bytes(*place, name) for name in names[1:]}
    folder.delete(*place, names[0])
    assert main(["sweep", "--resume", *config_file]) == 0
    assert rows_of(settings, summary.sweep_id) == before
    for name, data in kept.items():
        assert folder.read_bytes(*place, name) == data
    assert main(["sweep", *config_file]) == 0
    assert main(["sweep", "--resume", *config_file, "--set", "seed=1"]) == 2
    assert "name its workspace by --workspace or by the --config" in capsys.readouterr().err


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


def test_a_failed_fit_ends_the_command_with_a_code_and_is_tried_again_by_the_next(tmp_path, prepared, ray_session):
    settings = settings_in(tmp_path / "ws", systems=["gcn"], seeds=1, learning_rates=[1e30])
    prepared(settings.workspace, settings, subjects=24, segments=3)
    summary = sweeps.sweep(settings)
    assert (summary.finished, len(summary.failed), summary.exit_code) == (0, 2, 2)
    workspace = Workspace(settings.workspace)
    place = ("sweeps", summary.sweep_id, "trials.parquet")
    name = workspace.names(*place)[0]
    row = workspace.read_table(*place, name).to_pylist()[0]
    trials.write(workspace, summary.sweep_id, row | {"error": "another reason"})
    assert set(sweeps.sweep(settings).failed.values()) == set(summary.failed.values())
    with pytest.raises(WorkspaceError, match=r"mmray sweep --resume --workspace .* goes on with it"):
        compare.compare(settings)


def test_a_seed_or_a_system_more_fits_only_what_is_new(swept, tmp_path, monkeypatch):
    settings, before = swept
    more = copied(swept, tmp_path / "ws", seeds=3)
    fitted = []
    as_it_is = sweeps._fit_all
    monkeypatch.setattr(sweeps, "_fit_all", lambda *told: fitted.append(told[3]) or as_it_is(*told))
    after = sweeps.sweep(more)
    assert [spec.settings.seed for spec in fitted[0]] == [2] * 4
    assert (before.finished, after.finished) == (8, 12)
    old, new = rows_of(settings, before.sweep_id), rows_of(more, after.sweep_id)
    assert [row for row in new if row["seed"] < 2] == old
    less = settings_in(tmp_path / "ws", systems=["ridge"], seeds=1)
    assert sweeps.sweep(less).finished == 2
    assert len(fitted) == 1


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
        ({"variants": {"ridge": {}}}, "'ridge' is taken"),
        ({"folds": [7]}, "folds 0 to 1"),
        ({"variants": {"odd": {"features.eeg.neighbours": 4}}}, "'odd' sets features.eeg.neighbours, and fits of one"),
        ({"variants": {"odd": {"train.fold": 1}}}, "'odd' sets train.fold"),
        ({"variants": {"odd": {"seed": 1}}}, "'odd' sets seed"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_fit(swept, over, message):
    with pytest.raises(ConfigError, match=message):
        sweeps.sweep(settings_in(swept[0].workspace, **over))


def started(*arguments: str) -> subprocess.Popen:
    code = "import sys; from mmray.cli import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, "sweep", *arguments],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def fits_there(settings) -> dict[str, bytes]:
    workspace = Workspace(settings.workspace)
    return {
        name: workspace.read_bytes("sweeps", sweep_id, "trials.parquet", name)
        for sweep_id in workspace.names("sweeps")
        for name in workspace.names("sweeps", sweep_id, "trials.parquet")
    }


def wait_for(settings, driver, count: int) -> dict[str, bytes]:
    give_up = time.monotonic() + 120
    while driver.poll() is None and time.monotonic() < give_up:
        if len(there := fits_there(settings)) >= count:
            return there
        time.sleep(0.02)
    raise AssertionError(f"the sweep ended before {count} fits were there: {driver.stderr.read().decode()}")


def fitting_processes(driver) -> list[psutil.Process]:
    """Processes of Tune's that fit, children of the driver's Ray."""
    return [p for p in psutil.Process(driver.pid).children(recursive=True) if "ImplicitFunc" in " ".join(p.cmdline())]


def test_a_killed_sweep_resumes_and_outlives_a_killed_fit(calm, tmp_path, prepared):
    """SIGKILL the driver, resume, then SIGKILL a fit: no finished fit runs again; rows as if undisturbed."""
    undisturbed, expected = calm
    settings = settings_in(tmp_path / "ws", **CALM)
    prepared(settings.workspace, settings, subjects=24, segments=3)
    (tmp_path / "c.yaml").write_text(config.to_yaml(settings))

    driver = started("--config", str(tmp_path / "c.yaml"))
    wait_for(settings, driver, 1)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    kept = fits_there(settings)
    assert len(kept) < 12, "all was over before the kill: nothing would be tested"
    [rows] = Path(settings.workspace, "sweeps").glob("*/trials.parquet")
    leave_half(rows)

    driver = started("--resume", "--workspace", settings.workspace)
    wait_for(settings, driver, len(kept) + 1)
    end = time.monotonic() + 60
    while not (victims := fitting_processes(driver)):  # between two fits there is none
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(victims[0].pid, signal.SIGKILL)
    _, told = driver.communicate(timeout=180)
    assert driver.returncode == 0, told.decode()

    after = fits_there(settings)
    assert {name: after[name] for name in kept} == kept
    assert not half_written(settings.workspace)
    assert rows_of(settings, expected.sweep_id) == rows_of(undisturbed, expected.sweep_id)


def test_resume_without_a_sweep_or_on_other_data_says_what_to_do(swept, tmp_path):
    with pytest.raises(WorkspaceError, match="run `mmray sweep` first"):
        sweeps.resume(str(tmp_path / "empty"))
    settings = copied(swept, tmp_path / "ws")
    workspace = Workspace(settings.workspace)
    split = workspace.read_bytes("splits", "default.json")
    workspace.write_bytes(split + b"\n", "splits", "default.json")
    with pytest.raises(WorkspaceError, match="planned on other features, another split"):
        sweeps.resume(settings.workspace)


def test_a_fit_of_two_workers_is_the_fit_of_one(tmp_path, prepared, ray_session):
    """Its Train group stands inside the trial; without dropout both walk one path."""
    tree = settings_in(tmp_path / "ws", systems=["gcn"], seeds=1, folds=[0]).model_dump()
    tree["model"] |= {"dropout": 0.0, "stochastic_depth": 0.0}
    settings = config.from_dict(tree)
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3)
    splits.write_split(settings)
    fold = splits.load_split(workspace, settings.split.name)[0]
    _, [spec] = sweeps.grid(workspace, settings)
    segments = trainer.segments_of(workspace, settings, fold)
    alone = trial.run(spec.settings, segments, fold, 2, trial_id=spec.trial_id, variant=spec.variant)
    tree["train"] |= {"num_workers": 2}
    shared = rows_of(settings, sweeps.sweep(config.from_dict(tree)).sweep_id)[0]
    assert shared["error"] is None
    np.testing.assert_allclose(shared["probability"], alone["probability"], atol=1e-4)
    assert shared["trial_id"] == alone["trial_id"]


def test_a_search_draws_from_its_space_and_says_what_matters(swept):
    settings = settings_in(swept[0].workspace)
    asked = config.Search(
        samples=6,
        system="gcn",
        space={"train.learning_rate": config.Range(low=1e-6, high=1e-1, log=True), "train.passes": (1, 2)},
    )
    settings = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"search": asked})})
    summary = sweeps.sweep(settings)
    assert summary.sweep_id == swept[1].sweep_id  # the grid is what it was
    workspace, place = Workspace(settings.workspace), ("sweeps", summary.sweep_id)
    rows = workspace.read_table(*place, "search.parquet").to_pylist()
    assert len(rows) == 6
    assert all(1e-6 <= row["param.train.learning_rate"] <= 1e-1 and row["param.train.passes"] in (1, 2) for row in rows)
    assert all(0 < row["value"] <= 1 and 1 <= row["folds"] <= 2 and row["error"] is None for row in rows)
    shares = workspace.read_json(*place, "importance.json")
    assert shares.keys() == asked.space.keys()
    assert sum(shares.values()) == pytest.approx(1) or not any(shares.values())
    before = workspace.read_bytes(*place, "search.parquet")
    sweeps.sweep(settings)
    assert workspace.read_bytes(*place, "search.parquet") == before


def test_a_search_over_a_setting_that_does_not_exist_is_refused(swept):
    asked = config.Search(samples=2, space={"train.learning_rat": (0.1, 0.2)})
    settings = settings_in(swept[0].workspace)
    settings = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"search": asked})})
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        sweeps.sweep(settings)


def test_a_search_over_the_data_s_settings_is_refused(swept):
    asked = config.Search(samples=2, space={"features.eeg.neighbours": (4, 8)})
    settings = settings_in(swept[0].workspace)
    settings = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"search": asked})})
    with pytest.raises(ConfigError, match=r"sweep\.search\.space sets features"):
        sweeps.sweep(settings)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"model.layers": config.Range(low=1, high=4)}, r"model\.layers"),
        ({"model.dropout": config.Range(low=0.1, high=1.5)}, r"model\.dropout"),
        ({"train.schedule": ("constant", "cosin")}, "did you mean 'cosine'"),
    ],
)
def test_every_value_that_a_search_may_draw_is_looked_at_before_any_fit(swept, monkeypatch, space, message):
    asked = config.Search(samples=2, space=space)
    settings = settings_in(swept[0].workspace)
    settings = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"search": asked})})
    monkeypatch.setattr(sweeps.search.tuning, "run", lambda *told, **how: pytest.fail("a fit was begun"))
    with pytest.raises(ConfigError, match=message):
        sweeps.sweep(settings)


def test_a_search_of_which_nothing_can_be_fitted_says_why(swept):
    """More neighbours than there are people to borrow from, which no look at the settings alone can tell."""
    asked = config.Search(samples=2, space={"model.population_neighbours": (500, 600)})
    settings = settings_in(swept[0].workspace)
    settings = settings.model_copy(update={"sweep": settings.sweep.model_copy(update={"search": asked})})
    with pytest.raises(ConfigError, match=r"none of 2 samples could be fitted \(.*population_neighbours"):
        sweeps.sweep(settings)


def test_a_fold_that_tests_nobody_of_both_modalities_is_refused_before_any_fit(tmp_path, prepared, monkeypatch):
    settings = settings_in(tmp_path / "ws", seeds=1)
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3)
    splits.write_split(settings)
    gone = set(splits.load_split(workspace, settings.split.name)[1].test)
    as_it_is = trainer.recorded

    def without(*told):
        segments = as_it_is(*told)
        return segments | {"eeg": segments["eeg"].take(~np.isin(segments["eeg"].subject_id_S, list(gone)))}

    monkeypatch.setattr(trainer, "recorded", without)
    monkeypatch.setattr(sweeps.tuning, "run", lambda *told, **how: pytest.fail("a fit was begun"))
    with pytest.raises(ConfigError, match=r"nobody whom fold 1 tests has segments of .*sweep\.folds"):
        sweeps.sweep(settings)


def test_a_variant_with_a_learning_rate_of_its_own_is_planned_once(swept):
    settings = settings_in(swept[0].workspace, variants={"slow": {"train.learning_rate": 1e-5}})
    plan, specs = sweeps.grid(Workspace(settings.workspace), settings)
    slow = [one for one in plan.trials if one.variant == "slow"]
    assert len(slow) == len({(one.fold, one.seed) for one in slow}) > 0
    assert [spec.trial_id for spec in specs] == [one.trial_id for one in plan.trials]


def test_a_study_that_pairs_trials_is_refused_before_any_fit(tmp_path, prepared):
    settings = settings_in(str(tmp_path / "ws"))
    prepared(settings.workspace, settings, subjects=8, segments=2)
    workspace = Workspace(settings.workspace)
    recordings = [replace(r, pair_id=r.recording_id) for r in catalogue.load(workspace)]
    workspace.write_table(recordings_table(recordings), "recordings.parquet")
    with pytest.raises(ConfigError, match="pairs trials or windows"):
        sweeps.sweep(settings)
    assert not workspace.exists("sweeps")


def test_a_workspace_that_fails_a_fit_leaves_no_row_that_says_it_was_tried(tmp_path, prepared, ray_session):
    settings = settings_in(tmp_path / "ws", seeds=1)
    workspace = prepared(settings.workspace, settings, subjects=24, segments=3)
    splits.write_split(settings)
    fold = splits.load_split(workspace, settings.split.name)[0]
    segments = trainer.segments_of(workspace, settings, fold)

    def full(*_):
        raise WorkspaceError("No space left on device")

    with pytest.raises(WorkspaceError, match="No space left"):
        trial.run(settings, segments, fold, 2, trial_id="t", variant="gcn", fit=full)
