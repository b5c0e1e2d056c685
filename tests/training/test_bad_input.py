"""What a user gets wrong around a fit, through the real command line: one line, its exit code, and what to do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml

from mmray import cli, config
from mmray.models.registry import build
from mmray.schema import metrics_of
from mmray.storage import Workspace
from mmray.training import reference
from mmray.training.checkpoint import MODEL, load_run, save_model
from tests.training.conftest import features_for, generated_tables

PEOPLE = {"subjects": 18, "segments": 2}


def settings_in(root: Path, name: str = "crossmodal_gcn") -> config.Config:
    return config.from_dict(
        {
            "workspace": str(root / "ws"),
            "features": features_for(name),
            "model": {"name": name, "hidden": 8, "embedding": 8, "population_neighbours": 2},
            "train": {"epochs": 1, "batch_size": 6, "passes": 1},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 10, "permutations": 99},
        }
    )


@pytest.fixture
def mmray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a verb with a config; its exit code and what it said on stderr."""

    def run(verb: str, settings: config.Config, *arguments: str) -> tuple[int, str]:
        (tmp_path / "experiment.yaml").write_text(config.to_yaml(settings), encoding="utf-8")
        code = cli.main([verb, "--config", str(tmp_path / "experiment.yaml"), *arguments])
        error = capsys.readouterr().err
        assert "Traceback" not in error
        return code, error

    return run


@pytest.fixture
def study(tmp_path: Path, prepared: Any) -> config.Config:
    """Prepared, and nothing trained yet."""
    settings = settings_in(tmp_path)
    prepared(settings.workspace, settings, **PEOPLE)
    return settings


@pytest.fixture(scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory, prepared: Any) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("trained")
    settings = settings_in(root)
    workspace = prepared(settings.workspace, settings, **PEOPLE)
    from mmray.training import trainer

    return Path(workspace.root), trainer.train(settings).run_id


@pytest.fixture
def trained(tmp_path: Path, _trained: tuple[Path, str]) -> tuple[config.Config, Workspace, str]:
    """A copy of a finished run, to spoil."""
    settings = settings_in(tmp_path)
    shutil.copytree(_trained[0], settings.workspace)
    return settings, Workspace(settings.workspace), _trained[1]


READERS = pytest.mark.parametrize(
    ("verb", "arguments"), [("train", ()), ("index", ()), ("explain", ("--recording", "s000_eeg"))]
)


@READERS
def test_a_run_whose_config_was_edited_is_refused_by_whoever_reads_it(trained, mmray, verb, arguments):
    settings, workspace, run_id = trained
    tree = yaml.safe_load(workspace.read_bytes("runs", run_id, "config.yaml"))
    tree["model"]["population_neighbours"] = 1  # every tensor keeps its shape
    workspace.write_text(yaml.safe_dump(tree), "runs", run_id, "config.yaml")
    code, error = mmray(verb, settings, *arguments)
    assert code == 4
    assert f"runs/{run_id}/config.yaml is not what the weights were fitted with" in error
    assert "model.population_neighbours = 1, was 2. Put back what was there" in error


def test_a_run_whose_config_was_edited_is_not_evaluated_again(trained, mmray):
    settings, workspace, run_id = trained
    text = workspace.read_bytes("runs", run_id, "config.yaml").decode()
    workspace.write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.1", 1), "runs", run_id, "config.yaml")
    code, error = mmray("train", settings, "--set", "evaluate.permutations=199")
    assert (code, "train.learning_rate = 0.1, was 0.001" in error) == (4, True)
    assert workspace.exists("runs", run_id, "run.json"), "figures that were right are gone"


@pytest.mark.parametrize(("verb", "arguments"), [("index", ()), ("explain", ("--recording", "s000_eeg"))])
def test_weights_of_another_architecture_are_refused_by_whoever_reads_them(trained, mmray, verb, arguments):
    settings, workspace, run_id = trained
    run = load_run(workspace, run_id)
    other = build(run.config.model.model_copy(update={"hidden": 12}), run.shapes, run.classes)
    save_model(workspace, other.state_dict(), run.model.reference, run_id, run.config)
    code, error = mmray(verb, settings, *arguments)
    assert code == 4
    assert f"runs/{run_id}/{MODEL} is of another architecture than the run's settings: " in error
    assert "12" in error
    assert "delete the run and train it again" in error


def test_a_finished_checkpoint_of_another_architecture_is_refused(trained, mmray):
    settings, workspace, run_id = trained
    wider = settings.model_copy(update={"model": settings.model.model_copy(update={"hidden": 12})})
    assert mmray("train", wider)[0] == 0
    (other,) = set(workspace.names("runs")) - {run_id}
    shutil.copy(workspace.path("runs", other, "checkpoint.safetensors"), workspace.path("runs", run_id))
    workspace.delete("runs", run_id, MODEL)
    code, error = mmray("train", settings)
    assert (code, f"runs/{run_id}/checkpoint.safetensors is of another architecture" in error) == (4, True)


@pytest.mark.parametrize(("verb", "arguments"), [("index", ()), ("explain", ("--recording", "s000_eeg"))])
def test_a_test_subject_in_the_reference_is_refused_by_name(trained, mmray, verb, arguments):
    settings, workspace, run_id = trained
    subject = workspace.read_json("splits", "default.json")["parts"][0]["test"][0]
    digest = sha256(workspace.read_bytes("runs", run_id, MODEL)).hexdigest()
    fair = reference.read(workspace, run_id, digest)
    leaky = replace(fair, subjects=(*fair.subjects[:-1], subject))
    workspace.write_bytes(reference.to_bytes(leaky, digest), "runs", run_id, reference.FILE)
    code, error = mmray(verb, settings, *arguments)
    assert code == 4
    assert f"subject {subject} is held out for validation or test and stands in the reference set" in error


def test_a_test_subject_who_is_put_among_the_training_subjects_is_named(study, mmray):
    assert mmray("split", study)[0] == 0
    workspace = Workspace(study.workspace)
    split = workspace.read_json("splits", "default.json")
    subject = split["parts"][0]["test"][0]
    split["parts"][0]["train"].append(subject)
    workspace.write_json(split, "splits", "default.json")
    code, error = mmray("train", study)
    assert (code, f"in fold 0, subject {subject} stands twice, which would leak" in error) == (4, True)


@pytest.mark.parametrize(
    ("verb", "setting", "told"),
    [
        ("train", "model.name=graphsaga", "config: model.name: Input should be"),
        ("train", "model.name=graphsaga", "not 'graphsaga'; did you mean 'graphsage'?"),
        ("sweep", "sweep.systems=[gcn, mamas]", "not 'mamas'; did you mean 'mamsa'?"),
        ("train", "train.batch_size=1", "config: train.batch_size: Input should be greater than or equal to 2"),
    ],
)
def test_a_setting_that_no_fit_can_have_is_refused_at_once(study, mmray, verb, setting, told):
    code, error = mmray(verb, study, "--set", setting)
    assert (code, told in error) == (2, True), error


def test_a_misspelt_system_among_a_sweeps_variants_is_answered_with_the_nearest(study, mmray):
    code, error = mmray("sweep", study, "--set", "sweep.variants={mine: {model.name: gatt}}")
    assert (code, "did you mean 'gat'?" in error) == (2, True), error


def test_a_reference_smaller_than_k_is_refused_with_both_numbers(study, mmray):
    code, error = mmray("train", study, "--set", "model.population_neighbours=40")
    found = len(Workspace(study.workspace).read_json("splits", "default.json")["parts"][0]["train"]) - 1
    assert code == 2
    assert f"model.population_neighbours = 40, and a training subject finds {found} other reference samples" in error
    assert "lower it, train on more subjects, or set model.population=false" in error


def test_a_last_batch_of_one_subject_trains_on_finite_numbers(tmp_path, prepared, mmray):
    """Five people in batches of two leave one alone: nobody to be told from, so its retrieval loss is 0."""
    settings = settings_in(tmp_path)
    workspace = prepared(settings.workspace, settings, subjects=12, segments=2)
    code, error = mmray("train", settings, "--set", "train.batch_size=2")
    assert code == 0, error
    (run_id,) = workspace.names("runs")
    people = workspace.read_json("runs", run_id, "run.json")["subjects"]["train"]
    assert people == 5
    history = workspace.read_table("runs", run_id, "history.parquet").to_pylist()
    assert all(np.isfinite([v for name, v in epoch.items() if name != "device"]).all() for epoch in history)


@pytest.mark.parametrize("name", get_args(config.System))
def test_labels_that_are_all_equal_leave_retrieval_whole_and_no_figure_without_a_value(tmp_path, prepared, mmray, name):
    healthy = [row["subject_id"] for row in generated_tables(**PEOPLE)["eeg"].to_pylist() if row["label"] == 0]
    settings = settings_in(tmp_path, name)
    workspace = prepared(settings.workspace, settings, **PEOPLE, flipped=tuple(healthy))
    code, error = mmray("train", settings)
    assert code == 0, error
    (run_id,) = workspace.names("runs")
    assert {row["label"] for row in workspace.read_table("recordings.parquet").to_pylist()} == {1, None}
    metrics = metrics_of(workspace.read_table("runs", run_id, "metrics.parquet"))
    assert np.isfinite([metric.value for metric in metrics]).all()
    assert {metric.task for metric in metrics} == {"retrieval", "classification"}
    assert "AUC" not in {metric.metric for metric in metrics}
