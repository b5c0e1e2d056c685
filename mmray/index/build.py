"""From a finished run and its prepared features to a published index, on Ray Data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import mmray
from mmray import cluster, keeper, placement, progress
from mmray import config as configuration
from mmray.config import Config
from mmray.errors import ConfigError, ResourceError, WorkspaceError
from mmray.features import table as features
from mmray.index import faiss_index, store
from mmray.index import segments as segment_file
from mmray.index.base import METADATA, Manifest
from mmray.index.embed import mean_vector, segment_vectors
from mmray.index.segments import SegmentVectors
from mmray.placement import Want
from mmray.storage import Workspace
from mmray.training.checkpoint import LoadedRun, fingerprint, load_run, newest_run

_BLOCK = 8  # recordings at least: a worker process takes seconds to start, a recording a fraction of one


@dataclass(frozen=True)
class IndexSummary:
    """What `mmray index` published.

    Attributes:
        counts: vectors by modality.
        recall: measured recall@10 by modality.
        reused: vectors taken from the version before, because what they were made from is the same.
        built: False where this very version was there already.
    """

    version: str
    run_id: str
    kind: str
    width: int
    counts: dict[str, int]
    recall: dict[str, float]
    roles: dict[str, int]
    reused: int
    built: bool

    def render(self) -> str:
        """As lines for a terminal."""
        held = ", ".join(f"{count} {modality}" for modality, count in self.counts.items())
        roles = ", ".join(f"{count} {role}" for role, count in self.roles.items())
        found = ", ".join(f"{value:.3f} {modality}" for modality, value in self.recall.items())
        return (
            f"index {self.version} ({'published' if self.built else 'already published'}), run {self.run_id}\n"
            f"{held} recordings, {self.reused} of them reused, {self.width} numbers each, {self.kind}; recall@10 "
            f"{found}; by their part in the run: {roles}\n"
            "next: mmray search RECORDING_ID_OR_FILE --target audio, or mmray serve"
        )


def build_index(config: Config, run_id: str | None = None) -> IndexSummary:
    """Embed every prepared recording with a run's model and publish the vectors.

    Recordings that the current version holds, made by the same run from the same part, are not embedded again.

    Args:
        run_id: the run; None takes the newest finished one.

    Raises:
        WorkspaceError: there is no such run, its features are missing, or the workspace cannot be written.
        ConfigError: the run matches windows, or the index finds too little.
        ResourceError: Ray cannot start.
    """
    workspace = Workspace(config.workspace)
    run = load_run(workspace, run_id or newest_run(workspace))
    if run.config.features.pairing == "window":
        raise ConfigError(
            f"index: run {run.run_id} matches windows, and an index holds one vector a recording, the mean of them "
            "all, which tells nothing of when; train one with features.pairing=recording"
        )
    return publish_rows(config, run, _metadata(workspace, run, _parts(workspace, run)))


def publish_rows(config: Config, run: LoadedRun, metadata: pa.Table) -> IndexSummary:
    """Publish an index of these recordings: their vectors from the current version where it has them, else embedded.

    Raises:
        As `build_index`.
    """
    workspace = Workspace(config.workspace)
    counts = dict(sorted(Counter(metadata["modality"].to_pylist()).items()))
    width = run.config.model.embedding
    manifest = Manifest(
        version="",
        run_id=run.run_id,
        model=fingerprint(workspace, run.run_id),
        features=run.features_digest,
        kind=faiss_index.resolved(config.index, counts, width),
        settings=config.index.model_dump(mode="json"),
        width=width,
        counts=counts,
        breadth={},
        recall={},
        files={},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        created_by=f"mmray {mmray.__version__}",
    )
    content = hashlib.sha256(json.dumps(metadata.to_pylist()).encode()).hexdigest()
    made_of = (manifest.run_id, manifest.model, manifest.features, manifest.kind, manifest.created_by)
    # where the collections are is hardware to the settings, but a version is to be found whole where its manifest says
    at = config.index.milvus_uri or "" if config.index.backend == "milvus" else ""
    manifest = replace(manifest, version=configuration.digest(config.index, *made_of, at, content))
    there = _published(workspace, manifest.version)
    reused = metadata.num_rows
    with workspace.tidied("index"):
        if there is None:
            with keeper.scratch("mmray-index-") as scratch:
                vectors, segment_files, reused = _gather(config, run, manifest, metadata, Path(scratch))
                manifest = store.publish(workspace, manifest, vectors, metadata, segment_files)
        else:
            manifest = there
            store.point_to(workspace, manifest.version)
    roles = dict(sorted(Counter(metadata["role"].to_pylist()).items()))
    return IndexSummary(
        manifest.version, run.run_id, manifest.kind, width, counts, manifest.recall, roles, reused, there is None
    )


def is_of_its_run(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether the run that made a version still embeds as it did."""
    run_id = manifest.run_id
    return workspace.exists("runs", run_id, "run.json") and fingerprint(workspace, run_id) == manifest.model


def _published(workspace: Workspace, version: str) -> Manifest | None:
    try:
        return store.open_index(workspace, version).manifest
    except (WorkspaceError, ResourceError):
        return None  # not there, or damaged: building it again repairs it


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


def _gather(
    config: Config, run: LoadedRun, manifest: Manifest, metadata: pa.Table, scratch: Path
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Path], int]:
    """The vectors of the recordings and the files of their segments, by modality, and how many were there already."""
    vectors: dict[str, NDArray[np.float32]] = {}
    files: dict[str, Path] = {}
    before = _reusable(Workspace(config.workspace), manifest)
    known = {} if before is None else {_made_from(row): row for t in before.rows.values() for row in t.to_pylist()}
    missing: list[dict[str, Any]] = []
    behind: dict[str, SegmentVectors] = {}
    place: dict[str, tuple[str, int]] = {}
    for modality in manifest.counts:
        rows = metadata.filter(pc.equal(metadata["modality"], modality))
        vectors[modality] = np.empty((rows.num_rows, manifest.width), dtype=np.float32)
        files[modality] = scratch / f"{modality}.safetensors"
        behind[modality] = segment_file.create(files[modality], rows["segments"].to_numpy(), manifest.width)
        for at, row in enumerate(rows.to_pylist()):
            place[row["recording_id"]] = (modality, at)
            if before is None or _made_from(row) not in known:
                missing.append({"recording_id": row["recording_id"], "part": row["part"]})
                continue
            _, old = before.place[row["recording_id"]]
            vectors[modality][at] = before.vectors[modality].vector(old)
            segment_file.fill(
                behind[modality],
                at,
                before.segments[modality].vectors(old).tobytes(),
                before.segments[modality].start_s(old).tobytes(),
            )
    for row in _embedded(config, run, manifest.model, missing) if missing else ():
        modality, at = place[row["recording_id"]]
        vectors[modality][at] = row["vector"]
        segment_file.fill(behind[modality], at, row["z"], row["start_s"])
    return vectors, files, metadata.num_rows - len(missing)


def _reusable(workspace: Workspace, manifest: Manifest) -> store.OpenIndex | None:
    """The current version, where the same model, features and software made it."""
    try:
        before = store.open_index(workspace)
    except (WorkspaceError, ResourceError):
        return None
    names = ("run_id", "model", "features", "width", "created_by")
    return before if all(getattr(before.manifest, n) == getattr(manifest, n) for n in names) else None


def _made_from(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a vector depends on besides the model; the subject, since nobody is their own neighbour."""
    return tuple(row[name] for name in ("recording_id", "subject_id", "modality", "part", "source_sha256", "segments"))


def _embedded(config: Config, run: LoadedRun, model: str, items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Recordings with their vectors, as they come; one Ray Data row each.

    Args:
        model: the run's fingerprint.
        items: recording_id and part of each.
    """
    root, run_id, cpus = Workspace(config.workspace).root, run.run_id, config.cluster.task_cpus
    folder = ("features", run.features_digest)

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        cluster.limit_threads(cpus)
        told = {"recording_id": row["recording_id"], "vector": [], "z": b"", "start_s": b"", "error": ""}
        try:
            segments = features.from_table(Workspace(root).read_table(*folder, row["part"]))
        except WorkspaceError as error:  # a raised one would reach the driver wrapped in Ray's own
            return told | {"error": str(error)}
        z_SE = segment_vectors(_run(root, run_id, model).model, segments)
        half_SE, start_s_S = z_SE.astype("<f2"), segments.start_s_S.astype("<f4")
        return told | {"vector": mean_vector(z_SE), "z": half_SE.tobytes(), "start_s": start_s_S.tobytes()}

    with cluster.session(config.cluster):
        want = cluster.task_want(config.cluster, Want(cpus=cpus))
        cluster.require_room(config.cluster, "index", want, setting="cluster.task_cpus")
        slots = max(1, int(cluster.logical_cpus() / cpus))
        blocks = max(1, min(len(items) // _BLOCK, 4 * slots))
        data = cluster.data().from_items(items, override_num_blocks=blocks)
        data = data.map(embed, num_cpus=cpus, **placement.options(want.where))
        with progress.bar("index", len(items)) as advance:
            for row in data.iter_rows():
                if row["error"]:
                    raise WorkspaceError(f"{row['error']}; run `mmray prepare` again")
                yield row
                advance()


@lru_cache(maxsize=2)
def _run(root: str, run_id: str, model: str) -> LoadedRun:
    """The run, loaded once a worker process; anew where it embeds otherwise by now, as after somebody was forgotten."""
    return load_run(Workspace(root), run_id)
