"""Every stage of a small study: the workspace before it, the command, and what it leaves, to be compared."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from safetensors.numpy import load_file

from mmray import config
from mmray.config import Config, digest
from mmray.errors import MmrayError
from mmray.index import store
from mmray.recordings import catalogue, synthetic
from mmray.storage import Workspace

STAGES = ("recordings", "prepare", "train", "sweep", "index", "serve")
TOLERANCE = 1e-6  # of figures and vectors; rows of features are the same bytes


def settings_of(folder: Path) -> Config:
    """The study's; two training workers, as on a cluster, and fits of some epochs."""
    return config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": 9, "eeg_seconds": 16, "clips": 2, "clip_seconds": 6},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "train": {"epochs": 12, "passes": 2, "num_workers": 2},
            "model": {"population_neighbours": 2},  # few people train
            "sweep": {"systems": ["gcn", "ridge"], "learning_rates": [1e-3], "folds": [0, 1], "seeds": 1},
            "evaluate": {"permutations": 99, "bootstraps": 99},
            "serve": {"request_timeout_s": 10},
        }
    )


def of_stage(settings: Config, stage: str, workspace: str) -> Config:
    """The settings that a stage is run with, in a workspace: a sweep's fits have one process each."""
    over: dict[str, Any] = {"workspace": workspace}
    if stage == "sweep":
        over["train.num_workers"] = 0
    if stage == "recordings":
        over["study.root"] = f"{workspace}/study"  # made by this stage, so beside what it leaves
    return config.laid_over(settings, over)


def make_study(settings: Config) -> None:
    """Recordings of both modalities, one of them cut short, and their catalogue."""
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    recordings = catalogue.load(Workspace(settings.workspace))
    os.truncate(next(recording.path for recording in recordings if recording.modality == "audio"), 4096)
    catalogue.catalogue(settings)


def contents(stage: str, settings: Config) -> dict[str, Any]:
    """What a stage left, by name; what differs from run to run by right (times, counts of a run) is left out."""
    root = Path(settings.workspace)
    return _CONTENTS[stage](root, settings) if root.exists() else {}


def distance(wanted: Any, found: Any) -> float:
    """Largest difference of any number in two trees; infinite where they differ in anything else."""
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        return max((distance(value, found[key]) for key, value in wanted.items()), default=0.0)
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return max((distance(*pair) for pair in zip(wanted, found, strict=True)), default=0.0)
    if isinstance(wanted, float) and isinstance(found, float):
        if math.isnan(wanted) or math.isnan(found):
            return 0.0 if math.isnan(wanted) and math.isnan(found) else math.inf
        return abs(wanted - found)
    return 0.0 if type(wanted) is type(found) and wanted == found else math.inf


def differing(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """Name -> distance of what is not the same within the tolerance."""
    far = {name: distance(wanted.get(name), found.get(name)) for name in wanted.keys() | found.keys()}
    return {name: value for name, value in sorted(far.items()) if value > TOLERANCE}


def lost_and_doubled(wanted: Config, found: Config) -> tuple[int, int]:
    """Rows of the published features that one workspace has and the other has not, and rows that stand there twice."""
    whole, here = (_segments(settings) for settings in (wanted, found))
    return (whole - here).total() + len(here.keys() - whole.keys()), sum(count - 1 for count in here.values())


def _segments(settings: Config) -> Counter[str]:
    folder = Path(settings.workspace, "features", digest(settings.features))
    if not (folder / "parts.parquet").exists():
        return Counter()
    paths = pq.read_table(folder / "parts.parquet")["path"].to_pylist()
    return Counter(
        segment
        for path in paths
        for segment in pq.read_table(folder / path, columns=["segment_id"], partitioning=None)["segment_id"].to_pylist()
    )


def _of_recordings(root: Path, settings: Config) -> dict[str, Any]:
    study = Path(settings.study.root)
    found: dict[str, Any] = {f"study/{p.relative_to(study)}": p.read_bytes() for p in _files(study)}
    if (root / "recordings.parquet").exists():
        rows = pq.read_table(root / "recordings.parquet").to_pylist()
        found["recordings.parquet"] = [{**row, "path": os.path.relpath(row["path"], study)} for row in rows]
    return found


def _of_prepare(root: Path, settings: Config) -> dict[str, Any]:
    folder = root / "features" / digest(settings.features)
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in _files(folder)}
    if "provenance.json" in found:
        found["provenance.json"] = json.loads(found["provenance.json"])
        del found["provenance.json"]["counts"]
    return found


def _of_train(root: Path, settings: Config) -> dict[str, Any]:
    tables = {str(p.relative_to(root)): pq.read_table(p).to_pylist() for p in root.glob("runs/*/*.parquet")}
    return tables | {
        str(p.relative_to(root)): {name: tensor.tolist() for name, tensor in load_file(p).items()}
        for name in ("model", "reference")
        for p in root.glob(f"runs/*/{name}.safetensors")
    }


def _of_sweep(root: Path, settings: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in [*root.glob("sweeps/*/*.parquet/*.parquet"), *root.glob("sweeps/*/figures.parquet")]:
        rows = pq.read_table(path, partitioning=None).to_pylist()
        found[str(path.relative_to(root))] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return found


def _of_index(root: Path, settings: Config) -> dict[str, Any]:
    try:
        there = store.open_index(Workspace(str(root)))
    except MmrayError:
        return {}
    found: dict[str, Any] = {"version": there.manifest.version}
    for modality, rows in there.rows.items():
        ids = rows["recording_id"].to_pylist()
        found[modality] = {one: there.vectors[modality].vector(at).tolist() for at, one in enumerate(ids)}
        found[f"{modality} rows"] = rows.drop_columns(["path"]).to_pylist()
    return found


_CONTENTS: dict[str, Callable[[Path, Config], dict[str, Any]]] = {
    "recordings": _of_recordings,
    "prepare": _of_prepare,
    "train": _of_train,
    "sweep": _of_sweep,
    "index": _of_index,
}


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def partials(root: Path) -> list[str]:
    """Half-written files below a folder."""
    return sorted(path.name for path in root.rglob(".partial-*"))


def copied(before: Path, place: Path) -> None:
    """A workspace as it was before a stage; `place` may be there, and empty."""
    shutil.copytree(before, place, dirs_exist_ok=True)
