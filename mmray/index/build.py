"""From a finished run and its prepared features to a published index, on Ray Data."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import mmray
from mmray import cluster, progress
from mmray import config as configuration
from mmray.config import Config
from mmray.errors import ConfigError, WorkspaceError
from mmray.features import table as features
from mmray.index import segments as segment_file
from mmray.index import store
from mmray.index.base import METADATA, Manifest
from mmray.index.embed import mean_vector, segment_vectors
from mmray.index.segments import SegmentVectors
from mmray.storage import Workspace
from mmray.training.checkpoint import LoadedRun, fingerprint, load_run, newest_run

_BLOCK = 8  # recordings at least: a worker process takes seconds to start, a recording a fraction of one


@dataclass(frozen=True)
class IndexSummary:
    """What `mmray index` published.

    Attributes:
        counts: vectors by modality.
        built: False where this very version was there already.
    """

    version: str
    run_id: str
    kind: str
    width: int
    counts: dict[str, int]
    roles: dict[str, int]
    built: bool

    def render(self) -> str:
        """As lines for a terminal."""
        held = ", ".join(f"{count} {modality}" for modality, count in self.counts.items())
        roles = ", ".join(f"{count} {role}" for role, count in self.roles.items())
        return (
            f"index {self.version} ({'published' if self.built else 'already published'}), run {self.run_id}\n"
            f"{held} recordings, {self.width} numbers each, {self.kind}; by their part in the run: {roles}\n"
            "next: mmray search RECORDING_ID_OR_FILE --target audio, or mmray serve"
        )


def build_index(config: Config, run_id: str | None = None) -> IndexSummary:
    """Embed every prepared recording with a run's model and publish the vectors.

    Args:
        run_id: the run; None takes the newest finished one.

    Raises:
        WorkspaceError: there is no such run, its features are missing, or the workspace cannot be written.
        ConfigError: the run matches windows.
        ResourceError: Ray cannot start.
    """
    workspace = Workspace(config.workspace)
    run = load_run(workspace, run_id or newest_run(workspace))
    if run.config.features.pairing == "window":
        raise ConfigError(
            f"index: run {run.run_id} matches windows, and an index holds one vector a recording, the mean of them "
            "all, which tells nothing of when; train one with features.pairing=recording"
        )
    model = fingerprint(workspace, run.run_id)
    parts = _parts(workspace, run)
    metadata = _metadata(workspace, run, parts)
    counts = dict(sorted(Counter(metadata["modality"].to_pylist()).items()))
    content = hashlib.sha256(json.dumps([parts, metadata.to_pylist()]).encode()).hexdigest()
    manifest = Manifest(
        version=configuration.digest(config.index, run.run_id, model, run.features_digest, content),
        run_id=run.run_id,
        model=model,
        features=run.features_digest,
        kind=config.index.kind,
        hnsw_ef=config.index.hnsw_ef,
        width=run.config.model.embedding,
        counts=counts,
        files={},
        created_by=f"mmray {mmray.__version__}",
    )
    built = not _is_published(workspace, manifest.version)
    if built:
        with tempfile.TemporaryDirectory(prefix="mmray-index-") as scratch:
            vectors, segment_files = _embed(config, run, metadata, Path(scratch))
            store.publish(workspace, manifest, vectors, metadata, segment_files, config.index)
    else:
        store.point_to(workspace, manifest.version)
    roles = dict(sorted(Counter(metadata["role"].to_pylist()).items()))
    return IndexSummary(manifest.version, run.run_id, config.index.kind, manifest.width, counts, roles, built)


def _is_published(workspace: Workspace, version: str) -> bool:
    if not workspace.exists("index", version, "manifest.json"):
        return False
    try:
        store.open_index(workspace, version)
    except WorkspaceError:
        return False  # damaged: building it again repairs it
    return True


def _parts(workspace: Workspace, run: LoadedRun) -> list[dict[str, Any]]:
    folder = ("features", run.features_digest)
    if not workspace.exists(*folder, "parts.parquet"):
        raise WorkspaceError(
            f"workspace {workspace.root}: features/{run.features_digest}, which run {run.run_id} was fitted on, is not "
            f"there; run `mmray prepare` with runs/{run.run_id}/config.yaml"
        )
    rows: list[dict[str, Any]] = workspace.read_table(*folder, "parts.parquet").to_pylist()
    kept = [row for row in rows if row["segments"] > 0 and row["modality"] in run.shapes]
    if not kept:
        raise WorkspaceError(f"features/{run.features_digest} holds no segments; see its quarantine.parquet")
    return sorted(kept, key=lambda row: str(row["recording_id"]))


def _metadata(workspace: Workspace, run: LoadedRun, parts: list[dict[str, Any]]) -> pa.Table:
    """The rows of prepared recordings, each with its content and the part its subject played in the run."""
    known = {row["recording_id"]: row for row in workspace.read_table("recordings.parquet").to_pylist()}
    missing = [part["recording_id"] for part in parts if part["recording_id"] not in known]
    if missing:
        raise WorkspaceError(
            f"workspace {workspace.root}: {len(missing)} prepared recordings are not in recordings.parquet "
            f"({missing[0]}, ...); run `mmray recordings` and `mmray prepare` again"
        )
    played = workspace.read_table("runs", run.run_id, "embeddings.parquet", columns=["subject_id", "role"])
    role = dict(zip(played["subject_id"].to_pylist(), played["role"].to_pylist(), strict=True))
    rows = []
    for part in parts:
        row = known[part["recording_id"]]
        made_from = {"source_sha256": part["source_sha256"], "segments": part["segments"], "part": part["path"]}
        rows.append({**row, **made_from, "role": role.get(row["subject_id"], "unseen"), "study": run.config.study.kind})
    return pa.Table.from_pylist(rows, schema=METADATA)


def _embed(
    config: Config, run: LoadedRun, metadata: pa.Table, scratch: Path
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Path]]:
    """The vectors of the recordings and the files of their segments, by modality; one Ray Data row a recording."""
    workspace = Workspace(config.workspace)
    root, run_id, cpus = workspace.root, run.run_id, config.cluster.task_cpus
    folder = ("features", run.features_digest)

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        cluster.limit_threads(cpus)
        told = {"recording_id": row["recording_id"], "vector": [], "z": b"", "start_s": b"", "error": ""}
        try:
            segments = features.from_table(Workspace(root).read_table(*folder, row["part"]))
        except WorkspaceError as error:  # a raised one would reach the driver wrapped in Ray's own
            return told | {"error": str(error)}
        z_SE = segment_vectors(_run(root, run_id).model, segments)
        half_SE, start_s_S = z_SE.astype("<f2"), segments.start_s_S.astype("<f4")
        return told | {"vector": mean_vector(z_SE), "z": half_SE.tobytes(), "start_s": start_s_S.tobytes()}

    width = run.config.model.embedding
    vectors: dict[str, NDArray[np.float32]] = {}
    files: dict[str, Path] = {}
    behind: dict[str, SegmentVectors] = {}
    place: dict[str, tuple[str, int]] = {}
    for modality in sorted(set(metadata["modality"].to_pylist())):
        rows = metadata.filter(pc.equal(metadata["modality"], modality))
        vectors[modality] = np.empty((rows.num_rows, width), dtype=np.float32)
        files[modality] = scratch / f"{modality}.safetensors"
        behind[modality] = segment_file.create(files[modality], rows["segments"].to_numpy(), width)
        place |= {name: (modality, row) for row, name in enumerate(rows["recording_id"].to_pylist())}
    items = metadata.select(["recording_id", "part"]).to_pylist()
    with cluster.session(config.cluster):
        cluster.require_room("index", cpus=cpus, setting="cluster.task_cpus")
        slots = max(1, int(cluster.logical_cpus() / cpus))
        blocks = max(1, min(len(items) // _BLOCK, 4 * slots))
        data = cluster.data().from_items(items, override_num_blocks=blocks).map(embed, num_cpus=cpus)
        with progress.bar("index", len(items)) as advance:
            for row in data.iter_rows():
                if row["error"]:
                    raise WorkspaceError(f"{row['error']}; run `mmray prepare` again")
                modality, at = place[row["recording_id"]]
                vectors[modality][at] = row["vector"]
                segment_file.fill(behind[modality], at, row["z"], row["start_s"])
                advance()
    return vectors, files


@lru_cache(maxsize=2)
def _run(root: str, run_id: str) -> LoadedRun:
    """The run, loaded once a worker process."""
    return load_run(Workspace(root), run_id)
