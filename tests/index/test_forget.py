from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load as load_arrays

from mmray import config as configuration
from mmray import schema
from mmray.cli import main
from mmray.config import Config, from_dict
from mmray.errors import RecordingError, WorkspaceError
from mmray.evaluation import trials
from mmray.index import build, forget, store
from mmray.index.build import build_index
from mmray.recordings import splits
from mmray.recordings.found import UNPLACED
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from mmray.training import checkpoint
from mmray.training.checkpoint import Checkpoint, load_run, write_checkpoint
from tests.evaluation import made_trials
from tests.small_run import FOLD, RUN, SUBJECTS, built_once, make_run

ASKS_ONE = "run-asks-one"  # its reference set is large enough without one person


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Config:
    """A workspace with one of everything that a stage writes, all naming every subject."""
    config, _ = built_once(tmp_path_factory)
    root = tmp_path_factory.mktemp("forget") / "ws"
    shutil.copytree(config.workspace, root)
    config = from_dict({**config.model_dump(), "workspace": str(root)})
    workspace = Workspace(str(root))
    make_run(configuration.laid_over(config, {"model.population_neighbours": 1}), ASKS_ONE, seed=1)
    plant(workspace, config)
    build_index(from_dict({**config.model_dump(), "index": {"kind": "hnsw"}}), RUN)
    build_index(config, ASKS_ONE)
    return config


def plant(workspace: Workspace, config: Config) -> None:
    recordings = workspace.read_table("recordings.parquet").to_pylist()
    folder = ("features", configuration.digest(config.features))
    parts = {row["recording_id"]: row for row in workspace.read_table(*folder, "parts.parquet").to_pylist()}
    refused = [{**r, "reason": f"{r['path']}: silent"} for r in recordings[:6]]
    refused.append({**recordings[0], "reason": "the same bytes belong to subjects s1, s2, s5, s6; keep the right one"})
    workspace.write_table(pa.Table.from_pylist(refused, schema=schema.QUARANTINE), *folder, "quarantine.parquet")
    decided = [
        {**r, "duration_s": 1.0, "sampling_rate_hz": 250.0, "segments": 1, "kept": 1, "lost": None} for r in recordings
    ]
    workspace.write_table(pa.Table.from_pylist(decided, schema=schema.DECISIONS), *folder, "quality.parquet")
    workspace.write_json({"recordings_sha256": "0" * 64}, *folder, "provenance.json")
    for row in recordings:  # a part of the preparation before, and a picture in the report
        old = f"{row['recording_id']}-{'0' * 12}.parquet"
        table = workspace.read_table(*folder, parts[row["recording_id"]]["path"])
        workspace.write_table(table, *folder, row["modality"], old)
        workspace.write_text(row["recording_id"], *folder, "report", "figures", f"worst-{row['recording_id']}.png")
    workspace.write_bytes(b"s1 s2 s3 s4 s5 s6", *folder, "structural-eeg.safetensors")
    left = [{"path": f"/study/{s}/notes.txt", "reason": "no reader"} for s in SUBJECTS]
    workspace.write_table(pa.Table.from_pylist(left, schema=UNPLACED), "unplaced.parquet")
    splits.write_split(configuration.laid_over(config, {"split.folds": 3}))
    for run in (RUN, ASKS_ONE):
        embeddings = workspace.read_table("runs", run, "embeddings.parquet")
        role = {
            s: r
            for r, who in (("train", FOLD.train), ("validation", FOLD.validation), ("test", FOLD.test))
            for s in who
        }
        rows = [{"subject_id": s, "label": 0, "role": r, "probability": [0.5, 0.5]} for s, r in role.items()]
        workspace.write_table(pa.Table.from_pylist(rows, schema=schema.PREDICTIONS), "runs", run, "predictions.parquet")
        history = [{"epoch": 0, "loss": 1.0, "retrieval_loss": 1.0, "classification_loss": 0.0, "validation_mrr": 0.1}]
        workspace.write_table(pa.Table.from_pylist(history), "runs", run, "history.parquet")
        metrics = [schema.Metric("retrieval", "eeg->audio", "subject", "R@1", 0.1, 1, chance=0.1, p_value=0.5)]
        workspace.write_table(schema.metrics_table(metrics), "runs", run, "metrics.parquet")
        workspace.write_text("fitted on s1, s2, s3; tested on s5", "runs", run, "report.html")
        workspace.write_text("s1 s2 s3 s5", "runs", run, "figures", "embedding.svg")
        model = load_run(workspace, run).model
        held = {f"reference.{name}": tensor for name, tensor in model.reference.tensors().items()}
        write_checkpoint(workspace, Checkpoint(held, [], {}, finished=True), "runs", run, "checkpoint.safetensors")
        for recording in set(embeddings["recording_id"].to_pylist()):
            workspace.write_json({"recording_id": recording}, "runs", run, "explain", recording, "explanation.json")
    plan = made_trials.Plan("sweep-a", "0" * 64, (made_trials.Planned("gcn-a", "gcn", "gcn", 0.001, 0, 0),))
    trials.write_plan(workspace, plan)
    row = made_trials.row(plan.trials[0], subjects=6)
    row |= {"subject_id": list(SUBJECTS), "error": "s2-eeg-1, s5-eeg-1 and s6-eeg-1 have no partner"}
    row["by_task"] = [{"task": "rest", "subject_id": s, "probability": [0.5, 0.5]} for s in SUBJECTS]
    trials.write(workspace, "sweep-a", row)
    figures = {"gcn": [{"metric": "R@1", "per_subject": dict.fromkeys(SUBJECTS, 0.5)}]}
    told = {"figures": figures, "failed": {"gcn-a": "subject s2, subject s5 and subject s6"}, "comparisons": []}
    workspace.write_json(told, "sweeps", "sweep-a", "summary.json")
    workspace.write_text(" ".join(SUBJECTS), "sweeps", "sweep-a", "report", "report.html")


@pytest.fixture
def config(whole: Config, tmp_path: Path) -> Config:
    shutil.copytree(whole.workspace, tmp_path / "ws")
    return from_dict({**whole.model_dump(), "workspace": str(tmp_path / "ws")})


def vectors_of(workspace: Workspace, subject: str) -> np.ndarray:
    """Every vector of somebody in any artefact, before they are forgotten."""
    found = []
    for version in store.published(workspace):
        opened = store.open_index(workspace, version)
        for modality, rows in opened.rows.items():
            for row, who in enumerate(rows["subject_id"].to_pylist()):
                if who == subject:
                    found += [
                        opened.vectors[modality].vector(row),
                        *opened.segments[modality].vectors(row).astype("f4"),
                    ]
    for run in workspace.names("runs"):
        rows = workspace.read_table("runs", run, "embeddings.parquet").to_pylist()
        found += [np.float32(row["z"]) for row in rows if row["subject_id"] == subject]
        held = load_run(workspace, run).model.reference
        if subject in held.subjects:
            own = held.vector_RME[held.subject_R == held.subjects.index(subject)]
            found += list(own.reshape(-1, own.shape[-1]).numpy())
    for row in workspace.read_table("sweeps", "sweep-a", "trials.parquet", "gcn-a.parquet").to_pylist():
        assert SUBJECTS.index(subject) < len(row["eeg"])
    return np.array(found)


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


def floats(value: object) -> Iterator[np.ndarray]:
    """Every row of numbers in a decoded value."""
    if isinstance(value, list) and value and all(isinstance(v, float) for v in value):
        yield np.float32(value)
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from floats(inner)


def traces(root: Path, subject: str, vectors: np.ndarray) -> list[str]:
    """Where somebody is still found: ids in names, bytes and decoded text, and rows equal to their vectors."""
    word = re.compile(rf"(?<![A-Za-z0-9]){subject}(?![A-Za-z0-9])")
    found = []
    for path in sorted(root.rglob("*")):
        place = str(path.relative_to(root))
        if word.search(place):
            found.append(f"{place}: name")
        if path.is_dir():
            continue
        data = path.read_bytes()
        if f"{subject}-eeg".encode() in data or f"{subject}-audio".encode() in data:
            found.append(f"{place}: bytes")
        text: list[str] = []
        rows: list[np.ndarray] = []
        if path.suffix == ".parquet":
            decoded = pq.read_table(path)
            text = [*strings(decoded.to_pylist()), str(decoded.schema.metadata)]
            rows = list(floats(decoded.to_pylist()))
        elif path.suffix == ".safetensors" and not path.name.startswith("structural"):
            text = [data[8 : 8 + int.from_bytes(data[:8], "little")].decode()]
            arrays = [a for a in load_arrays(data).values() if a.ndim > 1 and a.dtype.kind == "f"]
            rows = [row for a in arrays for row in a.astype("f4").reshape(-1, a.shape[-1])]
        elif path.suffix != ".faiss":
            text = [data.decode()]
        found += [f"{place}: text" for t in text if word.search(t)]
        for row in rows:
            if len(vectors) and row.shape == vectors[0].shape and (np.abs(vectors - row) < 1e-6).all(1).any():
                found.append(f"{place}: vector")
        for vector in vectors:
            if vector.tobytes() in data or vector.astype("<f2").tobytes() in data:
                found.append(f"{place}: vector bytes")
    return sorted(set(found))


@pytest.mark.parametrize("subject", ["s2", "s5", "s6"])
def test_nothing_of_a_forgotten_person_is_left_in_any_byte_of_the_workspace(config: Config, subject: str) -> None:
    workspace = Workspace(config.workspace)
    vectors = vectors_of(workspace, subject)
    before = traces(Path(config.workspace), subject, vectors)
    kinds = {t.split("/")[0] for t in before}
    assert {"features", "index", "sweeps", "splits", "recordings.parquet: text"} <= kinds  # the search can find
    assert ("runs" in kinds) == (subject != "s6")
    assert any(t.endswith(": vector") for t in before)
    summary = forget.forget(config, subject)
    assert traces(Path(config.workspace), subject, vectors) == []
    assert summary.recordings == 3
    assert [Path(path).name for path in summary.sources] == [
        f"{subject}-{r}" for r in ("audio-1.wav", "audio-2.wav", "eeg-1.mat")
    ]
    assert all(Path(path).exists() for path in summary.sources)  # the study is not ours


def test_everybody_else_stays_and_is_found_by_the_new_version(config: Config) -> None:
    workspace = Workspace(config.workspace)
    old = Retriever.open(workspace)
    summary = forget.forget(config, "s5")
    new = Retriever.open(workspace)
    assert new.index.manifest.version == summary.version == store.current(workspace) != old.index.manifest.version
    for modality, rows in new.index.rows.items():
        others = [r for r in old.index.rows[modality].to_pylist() if r["subject_id"] != "s5"]
        assert rows.to_pylist() == others
        for row, told in enumerate(others):
            _, before = old.index.place[told["recording_id"]]
            np.testing.assert_array_equal(
                new.index.vectors[modality].vector(row), old.index.vectors[modality].vector(before)
            )
            np.testing.assert_array_equal(
                new.index.segments[modality].vectors(row), old.index.segments[modality].vectors(before)
            )
    assert [m.subject_id for m in new.search_recording("s1-eeg-1", "audio").matches]
    assert sorted(set(workspace.read_table("recordings.parquet")["subject_id"].to_pylist())) == [
        "s1",
        "s2",
        "s3",
        "s4",
        "s6",
    ]
    assert {s for f in splits.load_split(workspace, "default") for s in f.test} == {"s1", "s2", "s3", "s4", "s6"}
    (trial,) = workspace.read_table("sweeps", "sweep-a", "trials.parquet", "gcn-a.parquet").to_pylist()
    assert trial["subject_id"] == ["s1", "s2", "s3", "s4", "s6"]
    assert {len(trial[c]) for c in ("label", "eeg", "audio", "probability", "by_task")} == {5}
    quarantine = workspace.read_table("features", configuration.digest(config.features), "quarantine.parquet")
    assert "silent" in quarantine["reason"][0].as_py()
    assert workspace.exists("runs", RUN, "report.html")  # made again of those who stay
    assert not summary.fitted
    assert build_index(config, ASKS_ONE).version == summary.version  # as from scratch


def test_of_a_stored_index_nothing_is_embedded_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_embedded", lambda *_: pytest.fail("embedded"))
    assert forget.forget(config, "s6").published


def test_samples_of_somebody_fitted_on_leave_the_reference_set_and_the_run_embeds_without_them(config: Config) -> None:
    workspace = Workspace(config.workspace)
    before = load_run(workspace, ASKS_ONE).model.reference
    old = store.open_index(workspace)
    summary = forget.forget(config, "s2")
    assert summary.fitted == [ASKS_ONE]
    assert "NOT forgotten: the weights of run-asks-one" in summary.render()
    held = load_run(workspace, ASKS_ONE).model.reference
    assert held.subjects == ("s1", "s3")
    kept = torch.tensor([before.subjects[c] != "s2" for c in before.subject_R.tolist()])
    torch.testing.assert_close(held.vector_RME, before.vector_RME[kept], rtol=0, atol=0)
    assert [held.subjects[c] for c in held.subject_R.tolist()] == ["s1", "s3"]
    new = Retriever.open(workspace).index
    assert new.manifest.model == checkpoint.fingerprint(workspace, ASKS_ONE) != old.manifest.model
    (_, row), (_, other) = new.place["s1-eeg-1"], old.place["s1-eeg-1"]
    assert not np.array_equal(new.vectors["eeg"].vector(row), old.vectors["eeg"].vector(other))  # s2 was its neighbour


def test_a_run_that_could_ask_nobody_any_more_is_removed_with_its_versions(config: Config) -> None:
    summary = forget.forget(config, "s2")
    assert summary.removed_runs == [RUN]
    workspace = Workspace(config.workspace)
    assert workspace.names("runs") == [ASKS_ONE]
    assert {store.read_manifest(workspace, v).run_id for v in store.published(workspace)} == {ASKS_ONE}


def test_an_index_of_the_forgotten_alone_leaves_none(config: Config) -> None:
    for subject in SUBJECTS:
        summary = forget.forget(config, subject)
    assert summary.version is None
    assert store.published(Workspace(config.workspace)) == []
    assert "no index is left" in summary.render()


class KilledError(Exception):
    pass


@pytest.mark.parametrize("subject", ["s2", "s5"])
def test_killed_after_any_change_and_run_again_it_finishes(
    config: Config, monkeypatch: pytest.MonkeyPatch, subject: str, tmp_path: Path
) -> None:
    vectors = vectors_of(Workspace(config.workspace), subject)
    left = 0

    def dying(name: str) -> None:
        real = getattr(Workspace, name)

        def change(self: Workspace, *arguments: object, **named: object) -> object:
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            return real(self, *arguments, **named)

        monkeypatch.setattr(Workspace, name, change)

    for survived in range(0, 400, 7):
        root = tmp_path / f"killed-{survived}"
        shutil.copytree(config.workspace, root)
        one = from_dict({**config.model_dump(), "workspace": str(root)})
        left = survived
        for name in ("write_bytes", "writing", "delete", "delete_tree"):
            dying(name)
        try:
            forget.forget(one, subject)
            monkeypatch.undo()
            break
        except KilledError:
            monkeypatch.undo()
        assert traces(root, subject, vectors)
        summary = forget.forget(one, subject)
        assert traces(root, subject, vectors) == []
        assert summary.recordings == 3
        assert len(summary.sources) == 3
        assert summary.fitted == ([ASKS_ONE] if subject == "s2" else [])
        assert summary.removed_runs == ([RUN] if subject == "s2" else [])
        Retriever.open(Workspace(str(root)))
        shutil.rmtree(root)
    assert survived > 20


@pytest.mark.parametrize("subject", ["s", "s22", "", "../runs", "runs/run-a", "s2-eeg-1", "a\0b", "\udcff", "*", "S2"])
def test_a_person_whom_the_workspace_does_not_know_changes_nothing(config: Config, subject: str) -> None:
    root = Path(config.workspace)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(RecordingError, match="holds nothing of subject"):
        forget.forget(config, subject)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert RecordingError.exit_code == 3


def test_the_command_tells_what_it_did_as_json(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "forget", "s6", "--workspace", config.workspace, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["subject"], told["recordings"], told["published"]) == ("s6", 3, True)
    assert len(told["removed_versions"]) == 3
    assert main(["index", "forget", "s6", "--workspace", config.workspace]) == 3


def test_a_damaged_file_is_told_before_anything_changes(config: Config) -> None:
    workspace = Workspace(config.workspace)
    Path(workspace.path("runs", RUN, "embeddings.parquet")).write_bytes(b"rot")
    version = store.current(workspace)
    with pytest.raises(WorkspaceError, match=r"embeddings\.parquet"):
        forget.forget(config, "s5")
    assert store.current(workspace) == version
    assert "s5" in workspace.read_table("recordings.parquet")["subject_id"].to_pylist()
