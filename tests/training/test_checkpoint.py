"""Run files: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save as save_tensors

from mmray import config
from mmray.errors import WorkspaceError
from mmray.graphs.population import Reference
from mmray.models.registry import build
from mmray.models.system import Batch
from mmray.storage import Workspace
from mmray.training import reference as references
from mmray.training.checkpoint import (
    MODEL,
    Checkpoint,
    EpochRecord,
    fingerprint,
    load_run,
    read_checkpoint,
    save_model,
    write_checkpoint,
)
from tests.training.conftest import features_for

SHAPES = {"eeg": (6, 3), "audio": (5, 4)}
SETTINGS = config.from_dict({"model": {"hidden": 8, "embedding": 6}})


def reference(*others: str) -> Reference:
    subjects = tuple(sorted(("s0", "s1", "s2", "s3", "s4", "s5", *others)))
    rows = len(subjects)
    generator = torch.Generator().manual_seed(0)
    vector_RME = torch.randn(rows, 2, 6, generator=generator)
    return Reference(vector_RME, torch.ones(rows, 2, dtype=torch.bool), torch.arange(rows), subjects)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(str(tmp_path))


@pytest.fixture
def run(workspace):
    model = build(SETTINGS.model, SHAPES, classes=3)
    workspace.write_text(config.to_yaml(SETTINGS), "runs", "r", "config.yaml")
    save_model(workspace, model.state_dict(), reference(), "r", SETTINGS)
    columns = {"subject_id": ["s0", "s1", "t0", "v0"], "role": ["train", "train", "test", "validation"]}
    workspace.write_table(pa.table(columns), "runs", "r", "embeddings.parquet")
    summary = {"shapes": {m: list(shape) for m, shape in SHAPES.items()}, "classes": 3, "fold": 1}
    workspace.write_json(summary, "runs", "r", "run.json")
    return model


def test_a_checkpoint_is_read_back_whole(workspace):
    record = EpochRecord(0, 0.1 + 0.2, 1.0, 2.0, 0.5, None, 0.6, 14.3, 1e-3)
    written = Checkpoint({"model.a": torch.rand(3)}, [{"lr": 1 / 3}], {"last_epoch": 1}, [record], 0, 0.5, 2, True)
    write_checkpoint(workspace, written, "c")
    found = read_checkpoint(workspace, "c")
    assert torch.equal(found.tensors.pop("model.a"), written.tensors.pop("model.a"))
    assert found == written


def test_no_checkpoint_is_none(workspace):
    assert read_checkpoint(workspace, "c") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\xff" * 64])
def test_a_damaged_checkpoint_is_refused(workspace, damage):
    write_checkpoint(workspace, Checkpoint({"model.a": torch.rand(3)}, [], {}), "c")
    workspace.write_bytes(damage(workspace.read_bytes("c")), "c")
    with pytest.raises(WorkspaceError, match="c is damaged"):
        read_checkpoint(workspace, "c")


def test_a_loaded_run_embeds_as_the_saved_model_did(workspace, run):
    loaded = load_run(workspace, "r")
    x_BND, weight_BNN = torch.randn(2, *SHAPES["eeg"]), torch.zeros(2, 6, 6)
    run.attach(reference())
    assert torch.equal(loaded.model.embed("eeg", x_BND, weight_BNN), run.eval().embed("eeg", x_BND, weight_BNN))
    assert (loaded.shapes, loaded.classes) == (SHAPES, 3)


def test_the_weights_say_which_features_they_were_fitted_on(workspace, run):
    summary = workspace.read_json("runs", "r", "run.json")
    workspace.write_json(summary | {"features_digest": "another"}, "runs", "r", "run.json")
    assert load_run(workspace, "r").features_digest == config.digest(SETTINGS.features)


@pytest.mark.parametrize("name", get_args(config.System))
def test_a_run_of_every_system_embeds_and_classifies_as_before(workspace, run, name):
    settings = config.from_dict({"features": features_for(name), "model": {"name": name, "hidden": 8, "embedding": 6}})
    torch.manual_seed(0)
    model = build(settings.model, SHAPES, classes=3).eval()
    names = {m: np.arange(9).astype(str) for m in SHAPES}
    model.fit_scalers({m: torch.randn(9, *shape) for m, shape in SHAPES.items()}, names, names)
    workspace.write_text(config.to_yaml(settings), "runs", "r", "config.yaml")
    if model.neighbours:
        model.attach(reference())
        torch.nn.init.ones_(model.population.inter_MM)
    save_model(workspace, model.state_dict(), model.reference, "r", settings)
    x = {m: torch.randn(2, *shape) for m, shape in SHAPES.items()}
    weight = {m: torch.ones(2, nodes, nodes) - torch.eye(nodes) for m, (nodes, _) in SHAPES.items()}
    present_BM, none_B = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    batch = Batch(x, weight, present_BM, none_B, none_B, none_B - 1)
    expected, found = model(batch), load_run(workspace, "r").model(batch)
    assert torch.equal(found.logit_BC, expected.logit_BC)
    assert all(torch.equal(found.z[m], expected.z[m]) for m in SHAPES)


@pytest.mark.parametrize("name", [name for name in get_args(config.System) if name != "gcn"])
def test_weights_of_another_system_are_refused(workspace, run, name):
    settings = config.from_dict({"features": features_for(name), "model": {"name": name, "hidden": 8, "embedding": 6}})
    other = build(config.Model(name="gcn", hidden=8, embedding=6), SHAPES, 3).state_dict()
    workspace.write_text(config.to_yaml(settings), "runs", "r", "config.yaml")
    save_model(workspace, other, None, "r", settings)
    with pytest.raises(WorkspaceError, match="another architecture"):
        load_run(workspace, "r")


def test_weights_of_another_architecture_are_refused_with_the_tensors_that_do_not_fit(workspace, run):
    tensors = run.state_dict()
    tensors["stray"] = tensors.pop("log_scale")
    tensors["classifier.bias"] = torch.zeros(5)
    save_model(workspace, tensors, None, "r", SETTINGS)
    told = (
        r"runs/r/model\.safetensors is of another architecture .*: log_scale is missing; stray has no place in it; "
        r"classifier\.bias is 5, not 3\. Put the run's own file back"
    )
    with pytest.raises(WorkspaceError, match=told):
        load_run(workspace, "r")


def test_shapes_that_no_network_has_are_refused(workspace, run):
    summary = workspace.read_json("runs", "r", "run.json")
    workspace.write_json(summary | {"shapes": {"eeg": [-1, 3], "audio": [5, 4]}}, "runs", "r", "run.json")
    with pytest.raises(WorkspaceError, match=r"runs/r/run\.json is damaged"):
        load_run(workspace, "r")


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        ({"model": {"hidden": 16, "embedding": 6}}, r"model\.hidden = 16, was 8"),
        (
            {"model": {"hidden": 8, "embedding": 6, "population_neighbours": 2}},
            r"model\.population_neighbours = 2, was 5",
        ),
        ({"features": {"eeg": {"lowpass_hz": 40.0}}}, r"features\.eeg\.lowpass_hz = 40\.0, was 45\.0; model\.hidden"),
        ({"seed": 3, "model": {"hidden": 8, "embedding": 6}}, r"seed = 3, was 0"),
    ],
)
def test_a_config_edited_after_the_fit_is_refused_with_its_fields(workspace, run, edited, told):
    """Such as `population_neighbours`, which leaves every tensor's shape as it was and changes every answer."""
    workspace.write_text(config.to_yaml(config.from_dict(edited)), "runs", "r", "config.yaml")
    with pytest.raises(
        WorkspaceError, match=rf"runs/r/config\.yaml is not what the weights were fitted with: .*{told}"
    ):
        load_run(workspace, "r")


def test_the_weights_of_another_run_of_the_same_architecture_are_refused(workspace, run):
    save_model(workspace, run.state_dict(), reference(), "other", SETTINGS.model_copy(update={"seed": 4}))
    workspace.write_bytes(workspace.read_bytes("runs", "other", MODEL), "runs", "r", MODEL)
    with pytest.raises(WorkspaceError, match=r"runs/r/config\.yaml is not .* seed = 0, was 4"):
        load_run(workspace, "r")


def test_what_no_fit_depends_on_may_change_in_a_config(workspace, run):
    tree = {"evaluate": {"bootstraps": 10}, "serve": {"port": 9}, "train": {"num_workers": 2}, "workspace": "/moved"}
    workspace.write_text(config.to_yaml(config.from_dict(SETTINGS.model_dump() | tree)), "runs", "r", "config.yaml")
    assert load_run(workspace, "r").config.serve.port == 9


def test_weights_that_name_no_settings_are_refused(workspace, run):
    workspace.write_bytes(save_tensors(run.state_dict()), "runs", "r", MODEL)
    with pytest.raises(WorkspaceError, match=r"model\.safetensors does not say which settings"):
        load_run(workspace, "r")


def test_truncated_weights_are_refused(workspace, run):
    workspace.write_bytes(workspace.read_bytes("runs", "r", MODEL)[:-50], "runs", "r", MODEL)
    with pytest.raises(WorkspaceError, match=r"model\.safetensors is damaged"):
        load_run(workspace, "r")


def test_pickled_weights_are_refused(workspace, run, tmp_path):
    torch.save(run.state_dict(), tmp_path / "runs" / "r" / "model.safetensors")
    with pytest.raises(WorkspaceError, match=r"model\.safetensors is damaged"):
        load_run(workspace, "r")


@pytest.mark.parametrize("text", ["model: {hiden: 3}", "a: [", "[]", "seed: 2024-99-99"])
def test_a_damaged_config_is_refused(workspace, run, text):
    workspace.write_text(text, "runs", "r", "config.yaml")
    with pytest.raises(WorkspaceError, match=r"runs/r/(config\.yaml|run\.json) is damaged"):
        load_run(workspace, "r")


def test_a_run_summary_without_its_fields_is_refused(workspace, run):
    workspace.write_text(json.dumps({"classes": 3}), "runs", "r", "run.json")
    with pytest.raises(WorkspaceError, match=r"runs/r/(config\.yaml|run\.json) is damaged"):
        load_run(workspace, "r")


def test_an_unknown_run_is_refused_with_those_that_exist(workspace, run):
    with pytest.raises(WorkspaceError, match=r"runs/other is not a finished run; finished: r$"):
        load_run(workspace, "other")


@pytest.mark.parametrize("held_out", ["t0", "v0"])
def test_a_held_out_subject_in_the_reference_is_refused_by_name(workspace, run, held_out):
    save_model(workspace, run.state_dict(), reference(held_out), "r", SETTINGS)
    with pytest.raises(WorkspaceError, match=f"subject {held_out} is held out"):
        load_run(workspace, "r")


def test_a_missing_reference_is_refused(workspace, run):
    workspace.delete("runs", "r", references.FILE)
    with pytest.raises(WorkspaceError, match=r"reference\.safetensors is missing"):
        load_run(workspace, "r")


def test_a_reference_that_other_weights_encoded_is_refused(workspace, run):
    encoded_before = workspace.read_bytes("runs", "r", references.FILE)
    torch.nn.init.ones_(run.classifier.bias)
    save_model(workspace, run.state_dict(), reference(), "r", SETTINGS)
    workspace.write_bytes(encoded_before, "runs", "r", references.FILE)
    with pytest.raises(WorkspaceError, match="encoded by other weights"):
        load_run(workspace, "r")


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\xff" * 64])
def test_a_damaged_reference_is_refused(workspace, run, damage):
    workspace.write_bytes(damage(workspace.read_bytes("runs", "r", references.FILE)), "runs", "r", references.FILE)
    with pytest.raises(WorkspaceError, match=r"reference\.safetensors is damaged"):
        load_run(workspace, "r")


def test_another_reference_is_another_fingerprint(workspace, run):
    before = fingerprint(workspace, "r")
    save_model(workspace, run.state_dict(), reference("s6"), "r", SETTINGS)
    assert fingerprint(workspace, "r") != before
