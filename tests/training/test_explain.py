"""Every system can be explained; what is planted is found; a partner moves only what it may; the files are there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

from mmray import config
from mmray.cli import main
from mmray.config import Config
from mmray.errors import RecordingError, WorkspaceError
from mmray.evaluation import explain_plots
from mmray.features.table import Segments
from mmray.graphs import structural_memo
from mmray.models.registry import build
from mmray.schema import METRICS, PREDICTIONS, QUARANTINE
from mmray.storage import Workspace
from mmray.training.checkpoint import LoadedRun
from mmray.training.explain import explain, explained
from mmray.training.loop import fit
from tests.embedding import embedded
from tests.models.systems import SHAPES, SYSTEMS, fresh
from tests.small_run import RUN, make_workspace

CPU = torch.device("cpu")


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
        np.full(count, "rest"),
        np.zeros(count, np.int8),
        np.arange(count, dtype=np.float32),
        rng.normal(size=(count, nodes, width)).astype(np.float32),
        np.stack([(np.arange(nodes)[:, None] + [1, 2]) % nodes] * count).astype(np.int16),
        rng.random((count, nodes, 2)).astype(np.float32),
    )


def run_of(model, **settings) -> LoadedRun:
    return LoadedRun("r", model.eval(), config.Config(**settings), SHAPES, 2, "d")


@pytest.mark.parametrize("alone", [False, True], ids=["with a partner", "alone"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_can_be_explained(name, alone):
    run = run_of(fresh(name))
    partners = {} if alone else {"audio": segments_of("audio", 3)}
    found = explained(run, segments_of("eeg", 2), partners)
    assert np.isfinite(found["classification"].node_N).all()
    assert sum(found["probability"]) == pytest.approx(1.0)
    assert (found["retrieval"] is None) == alone
    assert (found["pooling"] is None) == (name != "crossmodal_gcn")
    assert (found["attention"] is None) == (name != "crossmodal_gcn")
    if name == "crossmodal_gcn":
        assert [sum(layer.kept_N) for layer in found["pooling"]] == pytest.approx(
            [6.0, 3.0]
        )  # of 12 nodes, half, and half again
        assert set(found["attention"]) == ({"eeg"} if alone else {"eeg", "audio"})


@pytest.mark.parametrize("name", SYSTEMS)
def test_another_partner_moves_the_target_of_a_match_and_not_the_lone_vector(name):
    model = fresh(name).eval()
    own = segments_of("eeg", 2)
    scores = []
    for seed in (0, 1):
        partner = segments_of("audio", 3, seed=seed)
        # both vectors by themselves, as the index and the endpoint make them
        z_SE, other_SE = (embedded(model, p) for p in (own, partner))
        other_E = other_SE.mean(0)
        expected = float((z_SE @ other_E / np.linalg.norm(other_E)).mean())
        found = explained(run_of(model), own, {"audio": partner})
        assert found["retrieval"].score == pytest.approx(expected, abs=1e-5)
        scores.append(found["classification"].score)
    if name not in ("majority", "ridge"):  # one knows nobody, the other was not solved
        assert scores[0] != scores[1]  # the fused path may hear of the partner


def test_the_path_begins_at_the_mean_of_the_training_segments():
    model = fresh("clip").eval()
    model.encoders["eeg"].mean_ND.normal_()
    found = explained(run_of(model), segments_of("eeg", 2), {})
    mean_1ND = model.encoders["eeg"].mean_ND[None]
    own_1E = model.encode("eeg", mean_1ND, torch.zeros(1, 12, 12))
    slots = {"eeg": own_1E, "audio": torch.zeros_like(own_1E)}
    score_C = model.classify(model.fuse(slots, torch.tensor([[True, False]]))[0])[0]
    assert found["classification"].baseline == pytest.approx(float(score_C[np.argmax(found["probability"])]), abs=1e-5)


def test_spread_is_over_segments_and_shares_sum_to_one():
    torch.manual_seed(1)
    found = explained(run_of(fresh("crossmodal_gcn")), segments_of("eeg", 5), {"audio": segments_of("audio", 3)})
    assert found["attention"]["eeg"]["eeg"].mean + found["attention"]["eeg"]["audio"].mean == pytest.approx(1.0)
    assert found["attention"]["eeg"]["audio"].sd > 0
    assert found["attention"]["eeg"]["audio"].sd == pytest.approx(found["attention"]["eeg"]["eeg"].sd, abs=1e-6)
    np.testing.assert_allclose(np.array(found["gate_E"]["eeg"]) + found["gate_E"]["audio"], 1.0, atol=1e-6)
    assert np.mean(found["gate_E"]["eeg"]) == pytest.approx(found["gate"]["eeg"].mean, abs=1e-6)
    one = explained(run_of(fresh("crossmodal_gcn")), segments_of("eeg", 1), {"audio": segments_of("audio", 3)})
    assert one["attention"]["eeg"]["audio"].sd == 0.0


def test_a_structural_matrix_is_worked_out_once_and_not_at_each_step(monkeypatch):
    worked_out = []

    def count(edge_BNN):
        worked_out.append(len(edge_BNN))
        return genuine(edge_BNN)

    genuine = structural_memo.structural_similarity
    monkeypatch.setattr(structural_memo, "structural_similarity", count)
    explained(run_of(fresh("strucgcn")), segments_of("eeg", 2), {})
    assert sum(worked_out) <= 4


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
    train = config.Train(epochs=8, batch_size=16, passes=6, learning_rate=3e-3, ema=0.0, retrieval_weight=0.0)
    state = fit(model, by_subject(changed, range(40)), by_subject(changed, range(40, 60)), train, seed=0)
    model.load_state_dict(state.part("best"))
    run = LoadedRun("r", model.eval(), config.Config(), shapes, 2, "d")
    mine = {m: part.take(part.subject_id_S == "s050") for m, part in changed.items()}
    found = explained(run, mine["eeg"], {"audio": mine["audio"]})["classification"]
    assert set(np.argsort(-np.array(found.node_N))[:3]) == set(planted)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Config, Workspace]:
    """The small run with what the report reads beside."""
    settings = make_workspace(tmp_path)
    workspace = Workspace(settings.workspace)
    history = pa.table({"epoch": [0], "loss": [1.0], "validation_mrr": [0.5]})
    workspace.write_table(history, "runs", RUN, "history.parquet")
    workspace.write_table(METRICS.empty_table(), "runs", RUN, "metrics.parquet")
    workspace.write_table(PREDICTIONS.empty_table(), "runs", RUN, "predictions.parquet")
    return settings, workspace


def test_explain_leaves_numbers_pictures_a_page_and_a_part_of_the_report(small, capsys):
    settings, workspace = small
    for recording in ("s2-eeg-1", "s5-audio-2"):
        assert main(["explain", "--recording", recording, "--workspace", settings.workspace, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["recording_id"], told["run_id"]) == (recording, RUN)
        assert told["role"] == ("train" if "s2" in recording else "test")
        folder = Path(workspace.path("runs", RUN, "explain", recording))
        drawing = "scalp.png" if "eeg" in recording else "spectrogram.png"
        assert {file.name for file in folder.iterdir()} == {
            "explanation.json", "explain.html", "features.png", "fusion.png", drawing
        }  # fmt: skip
        for picture in folder.glob("*.png"):
            pixels = np.asarray(Image.open(picture).convert("L"))
            assert pixels.std() > 5  # something is on it
        assert json.loads((folder / "explanation.json").read_text()) == told
        assert len(told["nodes"]) == len(told["classification"]["node_N"])
        assert len(told["features"]) == len(told["classification"]["feature_D"])
        page = (folder / "explain.html").read_text()
        assert page.count("data:image/png;base64,") == 3
        assert not re.search(r"https?:|<script|<link|@import|src=\"(?!data:)|url\(", page)
        assert "Attention is not explanation" in page
        assert told["nodes"][int(np.argmax(np.abs(told["classification"]["node_N"])))] in page
    report = Path(workspace.path("runs", RUN, "report.html")).read_text()
    assert report.count("data:image/png;base64,") == 6
    for recording in ("s2-eeg-1", "s5-audio-2"):
        (link,) = re.findall(rf'href="([^"]*{recording}[^"]*)"', report)
        assert Path(workspace.path("runs", RUN), link).is_file()


def test_a_terminal_gets_the_ten_nodes_that_count_most_and_the_residual(small, capsys):
    settings, _ = small
    assert main(["explain", "--run", RUN, "--recording", "s1-audio-1", "--workspace", settings.workspace]) == 0
    out = capsys.readouterr().out
    for part in (
        "attention eeg>eeg 0.",
        "eeg>audio 0.",
        "gate eeg 0.",
        "is not attributed",
        "explain.html",
        "class score",
        "SD",
    ):
        assert part in out
    assert len(re.findall(r"^ +\d\.\d\d s ", out, re.MULTILINE)) == 8  # all frames there are


def test_a_gone_sound_file_leaves_the_node_features_in_the_spectrograms_place(small):
    settings, workspace = small
    explain(settings, "s1-audio-1", RUN)
    for file in Path(workspace.root).parent.glob("study/s1-audio-1*"):
        file.unlink()
    explain(settings, "s1-audio-1", RUN)
    files = workspace.names("runs", RUN, "explain", "s1-audio-1")
    assert "nodes.png" in files
    assert "spectrogram.png" not in files


def only(workspace: Workspace, settings: Config, modality: str, subject: str) -> None:
    """Forget the subject's other recordings."""
    folder = ("features", config.digest(settings.features), "parts.parquet")
    parts = workspace.read_table(*folder)
    dropped = [
        i for i in parts["recording_id"].to_pylist() if i.startswith(subject) and f"-{modality}-" not in i
    ]  # fmt: skip
    workspace.write_table(parts.filter(pc.invert(pc.is_in(parts["recording_id"], pa.array(dropped)))), *folder)


@pytest.mark.parametrize(("modality", "recording"), [("eeg", "s6-eeg-1"), ("audio", "s6-audio-1")])
def test_a_person_of_one_modality_is_explained_without_a_match(small, modality, recording):
    settings, workspace = small
    only(workspace, settings, modality, "s6")
    found = explain(settings, recording, RUN)
    assert found.retrieval is None
    assert found.role == "unseen"
    assert found.attention[modality][modality].mean == pytest.approx(1.0)
    assert sum(found.gate_E[modality]) == pytest.approx(len(found.gate_E[modality]))


def test_what_cannot_be_explained_says_why(small):
    settings, workspace = small
    with pytest.raises(WorkspaceError, match="did you mean 's2-eeg-1'"):
        explain(settings, "s2-eeg-l", RUN)
    only(workspace, settings, "eeg", "s3")
    row = {"recording_id": "s3-audio-1", "subject_id": "s3", "modality": "audio", "path": "p", "reason": "it hums"}
    digest = config.digest(settings.features)
    workspace.write_table(pa.Table.from_pylist([row], schema=QUARANTINE), "features", digest, "quarantine.parquet")
    with pytest.raises(RecordingError, match="s3-audio-1 was quarantined: it hums"):
        explain(settings, "s3-audio-1", RUN)
    with pytest.raises(WorkspaceError, match=f"finished: {RUN}"):
        explain(settings, "s2-eeg-1", "run-z")


def test_a_run_that_knows_only_the_other_modality_says_so(small, monkeypatch):
    settings, _ = small
    import mmray.training.explain as module

    whole = module.load_run(Workspace(settings.workspace), RUN)
    monkeypatch.setattr(module, "load_run", lambda *given: replace(whole, shapes={"audio": whole.shapes["audio"]}))
    with pytest.raises(WorkspaceError, match="s2-eeg-1 is eeg, and run run-a knows only audio"):
        explain(settings, "s2-eeg-1", RUN)


def test_electrodes_stand_where_they_are_on_the_head():
    names = ("Fp1", "Fp2", "T7", "T8", "Oz", "Cz", "Fpz", "C3")
    place = dict(
        zip(names, explain_plots.scalp_places(config.EEG(montage="standard_1020", channels=names)), strict=True)
    )
    assert place["Fpz"][1] > 0.7
    assert place["Oz"][1] < -0.7
    assert place["T8"][0] > 0.7
    assert place["T7"][0] < -0.7
    assert np.abs(place["Cz"]).max() < 0.25
    assert place["T7"][0] < place["C3"][0] < place["Cz"][0]
    for ring in ("Fpz", "T7", "T8", "Oz"):  # the ring of the 10-20 system lies about on the equator
        assert np.linalg.norm(place[ring]) == pytest.approx(1.0, abs=0.25)
