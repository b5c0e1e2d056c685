"""A generated study at feature level: subjects with latent traits that both modalities show through noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from mmray import config
from mmray.features.table import Segments, from_table
from mmray.recordings import catalogue
from mmray.schema import PARTS, QUALITY, Recording, features_schema, recordings_table
from mmray.storage import Workspace
from mmray.training import sweep as sweeps
from tests.training.made_sweeps import CALM, settings_in

SHAPES = {"eeg": (12, 5), "audio": (8, 6)}
NEIGHBOURS = 3
TRAITS = 6


def features_for(name: str) -> dict[str, Any]:
    """Features that a system takes: one asks for windows of samples, the others for nothing."""
    if name != "trf":
        return {}
    return {"pairing": "window", "eeg": {"families": ["waveform"]}, "audio": {"trim_db": None}}


def generated_tables(
    subjects: int = 24,
    segments: int = 6,
    noise: float = 0.5,
    seed: int = 0,
    lone: int = 0,
    coupled: bool = True,
    scaled: dict[str, float] | None = None,
    flipped: tuple[str, ...] = (),
) -> dict[str, pa.Table]:
    """Features tables; the last `lone` subjects have EEG alone. Uncoupled, the two modalities share nothing.

    Args:
        scaled: subject -> factor of all their values.
        flipped: subjects with the other label than they would have.
    """
    rng = np.random.default_rng(seed)
    latent_UT = rng.normal(size=(subjects, TRAITS))
    tables = {}
    for modality, (nodes, width) in SHAPES.items():
        places = nodes if modality == "eeg" else 1  # a frame of a voice is nowhere in particular
        pattern_TND = rng.normal(size=(TRAITS, places, width)) / np.sqrt(TRAITS)
        shown_UT = latent_UT if coupled else rng.normal(size=latent_UT.shape)
        rows = []
        for u in range(subjects if modality == "eeg" else subjects - lone):
            for s in range(segments):
                factor = (scaled or {}).get(f"s{u:03d}", 1.0)
                label = int(latent_UT[u, 0] > 0) ^ (f"s{u:03d}" in flipped)
                x_ND = np.tensordot(shown_UT[u], pattern_TND, 1) + noise * rng.normal(size=(nodes, width))
                neighbour_NK = np.argsort(rng.random((nodes, nodes)) + 9 * np.eye(nodes), 1)[:, :NEIGHBOURS]
                rows.append(_row(modality, u, s, label, factor * x_ND, neighbour_NK, rng))
        schema = features_schema(modality, nodes, width, NEIGHBOURS)
        columns = {name: [row[name] for row in rows] for name in schema.names}
        arrays = [_column(schema.field(name), columns[name]) for name in schema.names]
        tables[modality] = pa.Table.from_arrays(arrays, schema=schema)
    return tables


def _row(modality: str, u: int, s: int, label: int, x: Any, neighbour: Any, rng: Any) -> dict[str, Any]:
    recording = f"s{u:03d}_{modality}"
    return {
        "segment_id": f"{recording}@{4000 * s:08d}",
        "recording_id": recording,
        "subject_id": f"s{u:03d}",
        "pair_id": f"s{u:03d}",
        "modality": modality,
        "session": "1",
        "task": "rest",
        "label": None if u % 7 == 6 else label,
        "start_s": 4.0 * s,
        "duration_s": 4.0,
        "x": x.astype(np.float32),
        "neighbour": neighbour.astype(np.int16),
        "weight": rng.random(neighbour.shape).astype(np.float32),
        "source_sha256": "0" * 64,
        **dict.fromkeys(QUALITY[modality], 0.0),
    }


def _column(field: pa.Field, values: list[Any]) -> pa.Array:
    if isinstance(field.type, pa.FixedShapeTensorType):
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(values)).cast(field.type)
    return pa.array(values, type=field.type)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # small models; and rounding follows the number of threads


@pytest.fixture(scope="session")
def generated() -> Callable[..., dict[str, Segments]]:
    def make(**settings: Any) -> dict[str, Segments]:
        return {modality: from_table(table) for modality, table in generated_tables(**settings).items()}

    return make


def write_prepared(root: Any, settings: config.Config, **generator: Any) -> Workspace:
    """Write a generated study into a workspace as `mmray prepare` would leave it."""
    workspace = Workspace(str(root))
    folder = ("features", config.digest(settings.features))
    parts, recordings = [], []
    for modality, table in generated_tables(**generator).items():
        for recording_id in table["recording_id"].unique().to_pylist():
            rows = table.filter(pa.compute.equal(table["recording_id"], recording_id))
            path = f"{modality}/{recording_id}.parquet"
            workspace.write_table(rows, *folder, *path.split("/"))
            parts.append((recording_id, modality, path, rows.num_rows, "0" * 64))
            first = rows.slice(0, 1).to_pylist()[0]
            recordings.append(
                Recording(
                    recording_id=recording_id,
                    subject_id=first["subject_id"],
                    pair_id=first["pair_id"],
                    modality=modality,
                    session="1",
                    task="rest",
                    label=first["label"],
                    label_name=None if first["label"] is None else ("HC", "MDD")[first["label"]],
                    path=f"/nowhere/{recording_id}",
                    reader="mat",
                    size_bytes=1,
                )
            )
    columns = [pa.array(column, type=field.type) for column, field in zip(zip(*parts, strict=True), PARTS, strict=True)]
    workspace.write_json({"recordings_sha256": catalogue.fingerprint(recordings)}, *folder, "provenance.json")
    workspace.write_table(pa.Table.from_arrays(columns, schema=PARTS), *folder, "parts.parquet")
    workspace.write_table(recordings_table(recordings), "recordings.parquet")
    return workspace


@pytest.fixture(scope="session")
def prepared() -> Callable[..., Workspace]:
    return write_prepared


@pytest.fixture(scope="session")
def calm(
    tmp_path_factory: pytest.TempPathFactory, prepared: Callable[..., Workspace], ray_session: None
) -> tuple[config.Config, sweeps.SweepSummary]:
    """A sweep that nothing disturbs, told to MLflow: its settings and summary."""
    plain = settings_in(tmp_path_factory.mktemp("calm") / "ws", **CALM)
    settings = config.laid_over(plain, {"train.track": "mlflow"})
    prepared(settings.workspace, settings, subjects=24, segments=3)
    return settings, sweeps.sweep(settings)


@pytest.fixture(scope="session")
def by_subject() -> Callable[[dict[str, Segments], range], dict[str, Segments]]:
    def choose(segments: dict[str, Segments], subjects: range) -> dict[str, Segments]:
        names = [f"s{u:03d}" for u in subjects]
        return {m: part.take(np.isin(part.subject_id_S, names)) for m, part in segments.items()}

    return choose
