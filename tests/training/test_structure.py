"""What a strucgcn reads beside the features is what it would have worked out, and is worked out once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmray import config
from mmray.errors import WorkspaceError
from mmray.features.table import load
from mmray.graphs.structural import structural_similarity
from mmray.storage import Workspace
from mmray.training import structure
from mmray.training.batches import graphs


@pytest.fixture
def study(tmp_path, prepared):
    settings = config.from_dict({"workspace": str(tmp_path), "model": {"name": "strucgcn", "hidden": 8}})
    workspace = prepared(tmp_path, settings, subjects=4, segments=3)
    digest = config.digest(settings.features)
    return settings, {m: load(workspace, digest, m) for m in ("eeg", "audio")}


def recalled(settings, segments):
    return structure.untrained(settings, segments, classes=2)


def test_what_is_recalled_is_what_the_definition_gives(study):
    settings, segments = study
    structure.prepare(settings, segments)
    model = recalled(settings, segments)
    for modality, part in segments.items():
        _, weight_BNN = graphs(part, torch.device("cpu")).take(torch.arange(len(part)))
        edge_BNN = (weight_BNN > 0).numpy()
        assert len(model.memo(modality).entries) == len(part)
        np.testing.assert_array_equal(model.memo(modality).dense(edge_BNN, keep=False), structural_similarity(edge_BNN))


def test_new_segments_are_added_and_old_ones_not_worked_out_again(study, monkeypatch):
    settings, segments = study
    structure.prepare(settings, {m: part.take(np.arange(5)) for m, part in segments.items()})
    worked = []
    work_out = structure.work_out
    monkeypatch.setattr(structure, "work_out", lambda edges: worked.append(len(edges)) or work_out(edges))
    structure.prepare(settings, segments)
    assert worked == [7, 7]
    assert len(recalled(settings, segments).memo("eeg").entries) == 12
    structure.prepare(settings, segments)
    assert worked == [7, 7]


def test_many_graphs_on_a_cluster_give_what_one_process_gives(study, monkeypatch, ray_session):
    settings, segments = study
    structure.prepare(settings, segments)
    path = Workspace(settings.workspace).path(*structure._place(settings, "eeg"))
    here = Workspace(settings.workspace).read_bytes(*structure._place(settings, "eeg"))
    Workspace(settings.workspace).delete(*structure._place(settings, "eeg"))
    monkeypatch.setattr(structure, "FEW", 0)
    structure.prepare(settings, segments)
    assert Workspace(settings.workspace).read_bytes(*structure._place(settings, "eeg")) == here, path


def test_other_systems_leave_no_file(study):
    settings, segments = study
    other = settings.model_copy(update={"model": config.Model(name="gcn")})
    structure.prepare(other, segments)
    assert not Workspace(settings.workspace).exists(*structure._place(settings, "eeg"))


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: b"\xff" * 64])
def test_a_damaged_file_is_refused(study, damage):
    settings, segments = study
    structure.prepare(settings, segments)
    workspace, place = Workspace(settings.workspace), structure._place(settings, "audio")
    workspace.write_bytes(damage(workspace.read_bytes(*place)), *place)
    with pytest.raises(WorkspaceError, match=r"structural-audio\.safetensors is damaged"):
        recalled(settings, segments)
