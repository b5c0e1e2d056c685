"""A small workspace with a finished run of random weights: what indexing and serving start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.io
import soundfile
import torch

from mmray import config as configuration
from mmray.config import Config
from mmray.features import table
from mmray.features.extract import extract, shape
from mmray.index.build import IndexSummary, build_index
from mmray.models import registry
from mmray.recordings.splits import Fold
from mmray.schema import MODALITIES, PARTS, Metric, Recording, metrics_table, recordings_table
from mmray.storage import Workspace
from mmray.training import batches, reference
from mmray.training.checkpoint import save_model
from mmray.training.results import chosen, embeddings_table, encoded_by

SUBJECTS = ("s1", "s2", "s3", "s4", "s5", "s6")
FOLD = Fold(train=SUBJECTS[:3], validation=SUBJECTS[3:4], test=SUBJECTS[4:5])  # nobody told the run of s6
RUN = "run-a"
METRICS = [
    Metric("retrieval", "eeg->audio", "subject", "R@1", 0.4, 20, 0.2, 0.6, chance=0.05, p_value=0.001, gallery=20),
    Metric("retrieval", "eeg->audio", "segment", "R@1", 0.3, 900, 0.2, 0.4, chance=0.05, p_value=0.001, gallery=20),
    Metric("retrieval", "audio->eeg", "subject", "R@1", 0.1, 20, 0.0, 0.2, chance=0.05, p_value=0.2, gallery=20),
    Metric("classification", "fused", "subject", "balanced_accuracy", 0.6, 20, 0.4, 0.8, chance=0.5, p_value=0.1),
]


def make_config(workspace: Path) -> Config:
    return configuration.from_dict(
        {
            "workspace": str(workspace),
            "features": {
                "eeg": {"montage": "GSN-HydroCel-129", "segment_s": 1.0, "neighbours": 4},
                "audio": {"segment_s": 0.5, "nodes": 8, "neighbours": 3, "trim_db": None},
            },
            "model": {"hidden": 8, "embedding": 16, "layers": 1, "population_neighbours": 2},
        }
    )


def write_voice(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time_T = np.arange(16000 * 2) / 16000
    tone_T = sum(np.sin(2 * np.pi * (90 + 15 * seed) * k * time_T) / k for k in range(1, 12))
    soundfile.write(path, 0.1 * tone_T + 0.01 * rng.normal(size=len(time_T)), 16000)


def write_eeg(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data_CT = np.cumsum(rng.normal(size=(129, 1000)), axis=1)
    data_CT = 20 * (data_CT - data_CT.mean(1, keepdims=True)) / data_CT.std(1, keepdims=True)
    data_CT[128] = 0
    scipy.io.savemat(path, {"any_name": data_CT, "samplingRate": [[250.0]]})


def recordings(folder: Path) -> list[Recording]:
    found = []
    for number, subject in enumerate(SUBJECTS):
        for modality, session in (("eeg", "1"), ("audio", "1"), ("audio", "2")):
            path = folder / f"{subject}-{modality}-{session}{'.mat' if modality == 'eeg' else '.wav'}"
            seed = 10 * number + int(session)
            (write_eeg if modality == "eeg" else write_voice)(path, seed)
            found.append(
                Recording(
                    recording_id=f"{subject}-{modality}-{session}",
                    subject_id=subject,
                    pair_id=subject,
                    modality=modality,
                    session=session,
                    task="rest" if modality == "eeg" else ("interview" if session == "1" else "reading"),
                    label=number % 2,
                    label_name=("HC", "MDD")[number % 2],
                    path=str(path),
                    reader="modma-mat" if modality == "eeg" else "soundfile",
                    size_bytes=path.stat().st_size,
                    age=30.0 + number,
                )
            )
    return found


def make_workspace(root: Path) -> Config:
    """recordings.parquet, features and runs/run-a, made from files under root/study."""
    (root / "study").mkdir()
    config = make_config(root / "ws")
    workspace = Workspace(config.workspace)
    found = recordings(root / "study")
    workspace.write_table(recordings_table(found), "recordings.parquet")
    digest = configuration.digest(config.features)
    parts = []
    for recording in found:
        rows = extract(recording, config.features)
        path = f"{recording.modality}/{recording.recording_id}.parquet"
        workspace.write_table(rows, "features", digest, path)
        parts.append(
            {
                "recording_id": recording.recording_id,
                "modality": recording.modality,
                "path": path,
                "segments": rows.num_rows,
                "source_sha256": rows["source_sha256"][0].as_py(),
            }
        )
    workspace.write_table(pa.Table.from_pylist(parts, schema=PARTS), "features", digest, "parts.parquet")
    make_run(config, RUN, seed=0)
    return config


def make_run(config: Config, run_id: str, seed: int) -> None:
    workspace = Workspace(config.workspace)
    digest = configuration.digest(config.features)
    shapes = {modality: shape(modality, config.features) for modality in MODALITIES}
    torch.manual_seed(seed)
    model = registry.build(config.model, shapes, classes=2).eval()
    known = [subject for part in (FOLD.train, FOLD.validation, FOLD.test) for subject in part]
    segments = {modality: table.load(workspace, digest, modality, known) for modality in MODALITIES}
    model.fit_scalers(
        {m: torch.tensor(s.x_SND) for m, s in segments.items()},
        {m: s.subject_id_S for m, s in segments.items()},
        {m: s.recording_id_S for m, s in segments.items()},
    )
    training = chosen(segments, FOLD.train)
    graphs = {m: batches.graphs(part, torch.device("cpu")) for m, part in training.items()}
    model.attach(reference.make(model, training, graphs, config.train.reference_segments))
    torch.nn.init.constant_(model.population.inter_MM, 0.5)  # as after training: messages count, and say something
    torch.nn.init.normal_(model.attention.value_MDD, std=0.1)
    workspace.write_text(configuration.to_yaml(config), "runs", run_id, "config.yaml")
    workspace.write_table(
        embeddings_table(model, encoded_by(model, segments), segments, FOLD), "runs", run_id, "embeddings.parquet"
    )
    save_model(workspace, model.state_dict(), model.reference, run_id, config)
    workspace.write_table(metrics_table(METRICS), "runs", run_id, "metrics.parquet")
    summary = {"run_id": run_id, "features_digest": digest, "fold": 0, "shapes": shapes, "classes": 2}
    workspace.write_json(summary, "runs", run_id, "run.json")


_built: list[tuple[Config, IndexSummary]] = []


def built_once(factory: pytest.TempPathFactory) -> tuple[Config, IndexSummary]:
    """The workspace with its index, made once a test session; needs ray_session. Copy it before changing it."""
    if not _built:
        config = make_workspace(factory.mktemp("small-run"))
        _built.append((config, build_index(config)))
    return _built[0]
