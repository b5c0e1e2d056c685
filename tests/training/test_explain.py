"""Attributions add up, find what is planted, and survive the way through the poolings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmray import config
from mmray.cli import main
from mmray.errors import WorkspaceError
from mmray.features.table import Segments
from mmray.models.registry import build
from mmray.storage import Workspace
from mmray.training.checkpoint import LoadedRun
from mmray.training.explain import explain, explained, integrated_gradients, survival
from mmray.training.loop import fit
from tests.models.systems import SHAPES, SYSTEMS, fresh
from tests.small_run import RUN, make_workspace


def test_attributions_of_a_linear_score_are_weight_times_distance_from_the_baseline():
    x_SND, baseline_ND, weight_ND = torch.randn(3, 5, 4), torch.randn(5, 4), torch.randn(5, 4)
    found = integrated_gradients(lambda x: (x * weight_ND).sum((1, 2)) + 2.0, x_SND, baseline_ND, steps=3)
    expected_SND = weight_ND * (x_SND - baseline_ND)
    np.testing.assert_allclose(found.node_SN, expected_SND.sum(2), atol=1e-5)
    np.testing.assert_allclose(found.node_N, expected_SND.mean(0).sum(1), atol=1e-5)
    np.testing.assert_allclose(found.feature_D, expected_SND.mean(0).sum(0), atol=1e-5)
    assert found.residual == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_attributions_of_a_smooth_score_sum_to_its_rise(seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    net.requires_grad_(False)
    found = integrated_gradients(lambda x: net(x)[:, 0], torch.randn(4, 5, 4), torch.randn(5, 4))
    assert abs(found.residual) < 1e-3
    assert sum(found.node_N) == pytest.approx(found.score - found.baseline, abs=1e-3)


def test_a_constant_score_is_made_up_of_nothing():
    found = integrated_gradients(lambda x: torch.full((len(x),), 0.3), torch.randn(2, 5, 4), torch.zeros(5, 4))
    assert found.node_N == [0.0] * 5
    assert found.residual == 0.0


def test_survivors_are_followed_to_the_nodes_they_were():
    # segment 0: 5 nodes, kept 4 2 0, of these kept positions 2 0, that is nodes 0 and 4; segment 1: 1 2 3, then 2 and 3
    first, second = torch.tensor([[4, 2, 0], [1, 2, 3]]), torch.tensor([[2, 0], [1, 2]])
    assert survival([first, second], 5) == [[0.5, 0.5, 1.0, 0.5, 0.5], [0.5, 0.0, 0.5, 0.5, 0.5]]


def segments_of(modality: str, count: int, seed: int = 0) -> Segments:
    rng = np.random.default_rng(seed)
    nodes, width = SHAPES[modality]
    text = np.array([f"{modality}{n}" for n in range(count)])
    return Segments(
        modality,
        text,
        text,
        np.full(count, "s0"),
        np.full(count, "s0"),
        np.zeros(count, np.int8),
        np.arange(count, dtype=np.float32),
        rng.normal(size=(count, nodes, width)).astype(np.float32),
        np.stack([(np.arange(nodes)[:, None] + [1, 2]) % nodes] * count).astype(np.int16),
        rng.random((count, nodes, 2)).astype(np.float32),
    )


@pytest.mark.parametrize("alone", [False, True], ids=["with a partner", "alone"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_can_be_explained(name, alone):
    run = LoadedRun("r", fresh(name).eval(), config.Config(), SHAPES, 2, 0, "d")
    partners = {} if alone else {"audio": segments_of("audio", 3)}
    found = explained(run, segments_of("eeg", 2), partners)
    assert np.isfinite(found["classification"].node_N).all()
    assert sum(found["probability"]) == pytest.approx(1.0)
    assert (found["retrieval"] is None) == alone
    assert (found["kept"] is None) == (name != "crossmodal_gcn")
    assert (found["attention"] is None) == (name != "crossmodal_gcn")
    if name == "crossmodal_gcn":
        assert [sum(layer) for layer in found["kept"]] == pytest.approx([6.0, 3.0])  # of 12 nodes, half, and half again
        assert set(found["attention"]) == ({"eeg"} if alone else {"eeg", "audio"})


def test_another_partner_changes_the_fused_score_and_not_the_lone_vector():

    run = LoadedRun("r", fresh("clip").eval(), config.Config(), SHAPES, 2, 0, "d")
    own = segments_of("eeg", 2)
    one = explained(run, own, {"audio": segments_of("audio", 3)})["classification"]
    z = [run.model.embed("eeg", torch.tensor(own.x_SND), torch.zeros(2, 12, 12)) for _ in range(2)]
    other = explained(run, own, {"audio": segments_of("audio", 3, seed=1)})["classification"]
    assert torch.equal(*z)
    assert one.score != other.score  # the fused path may hear of the partner


def test_planted_electrodes_are_found(generated, by_subject):
    """Three electrodes alone carry the class; after a fit they move the class score most."""
    made = generated(subjects=60, segments=3, noise=0.1, coupled=False)
    planted, rng = [2, 7, 9], np.random.default_rng(0)
    eeg = made["eeg"]
    x_SND = rng.normal(size=eeg.x_SND.shape).astype(np.float32)
    label_S = np.array([int(s[1:]) % 2 for s in eeg.subject_id_S], dtype=np.int8)
    x_SND[:, planted] += 3.0 * (label_S[:, None, None] - 0.5)
    changed = {
        "eeg": Segments(**{**vars(eeg), "x_SND": x_SND, "label_S": label_S}),
        "audio": Segments(
            **{
                **vars(made["audio"]),
                "label_S": np.array([int(s[1:]) % 2 for s in made["audio"].subject_id_S], np.int8),
            }
        ),
    }
    torch.manual_seed(0)
    shapes = {m: part.shape for m, part in changed.items()}
    model = build(config.Model(hidden=16, embedding=16, population=False), shapes, classes=2)
    train = config.Train(epochs=8, passes=6, learning_rate=3e-3, ema=0.0, retrieval_weight=0.0)
    state = fit(model, by_subject(changed, range(40)), by_subject(changed, range(40, 60)), train, seed=0)
    model.load_state_dict(state.part("best"))
    run = LoadedRun("r", model.eval(), config.Config(), shapes, 2, 0, "d")
    mine = {m: part.take(part.subject_id_S == "s050") for m, part in changed.items()}
    found = explained(run, mine["eeg"], {"audio": mine["audio"]})["classification"]
    assert set(np.argsort(-np.array(found.node_N))[:3]) == set(planted)


def test_explain_leaves_numbers_pictures_and_a_report(tmp_path, monkeypatch, capsys):
    settings = make_workspace(tmp_path)
    workspace = Workspace(settings.workspace)
    written = []
    monkeypatch.setattr("mmray.training.explain.write_report", lambda *given: written.append(given[1]))
    for recording in ("s2-eeg-1", "s2-audio-2"):
        code = main(["explain", "--run", RUN, "--recording", recording, "--workspace", settings.workspace, "--json"])
        told = json.loads(capsys.readouterr().out)
        assert code == 0
        assert told["recording_id"] == recording
        files = workspace.names("runs", RUN, "explain", recording)
        assert set(files) == {
            "explanation.json",
            "features.png",
            "fusion.png",
            "scalp.png" if "eeg" in recording else "spectrogram.png",
        }
        assert all(
            workspace.read_bytes("runs", RUN, "explain", recording, name).startswith(b"\x89PNG")
            for name in files
            if name.endswith(".png")
        )
        assert len(told["nodes"]) == len(told["classification"]["node_N"])
        assert len(told["features"]) == len(told["classification"]["feature_D"])
    assert written == [RUN, RUN]
    parts = workspace.read_table("features", config.digest(settings.features), "parts.parquet")
    lone = parts.filter([not name.startswith("s3-audio") for name in parts["recording_id"].to_pylist()])
    workspace.write_table(lone, "features", config.digest(settings.features), "parts.parquet")
    told = explain(settings, "s3-eeg-1", RUN)  # a person without a voice
    assert told.retrieval is None
    assert set(told.attention) == {"eeg"}
    with pytest.raises(WorkspaceError, match="did you mean 's2-eeg-1'"):
        explain(settings, "s2-eeg-l", RUN)
