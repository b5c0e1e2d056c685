"""From a finished run and its prepared features to a published index, on Ray Data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import closing
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

_ROWS = 4096  # of metadata as Python objects at a time
# what a vector depends on besides its recording and the model; the subject, since nobody is their own neighbour
_MADE_FROM = ("subject_id", "part", "source_sha256", "segments")
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
    metadata = metadata.combine_chunks()  # equal rows are equal bytes, whatever they were put together from
    counts = _counted(metadata["modality"])
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
    made_of = (manifest.run_id, manifest.model, manifest.features, manifest.kind, manifest.created_by)
    # where the collections are is hardware to the settings, but a version is to be found whole where its manifest says
    at = config.index.milvus_uri or "" if config.index.backend == "milvus" else ""
    manifest = replace(manifest, version=configuration.digest(config.index, *made_of, at, _content(metadata)))
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
    return IndexSummary(
        version=manifest.version,
        run_id=run.run_id,
        kind=manifest.kind,
        width=width,
        counts=counts,
        recall=manifest.recall,
        roles=_counted(metadata["role"]),
        reused=reused,
        built=there is None,
    )


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands there, by value."""
    return dict(sorted((one["values"], one["counts"]) for one in pc.value_counts(values).to_pylist()))


def _content(metadata: pa.Table) -> str:
    """Digest of the rows, some at a time: a row takes as much memory in Python as ten in Arrow."""
    digest = hashlib.sha256()
    for start in range(0, metadata.num_rows, _ROWS):
        digest.update(json.dumps(metadata.slice(start, _ROWS).to_pylist()).encode())
    return digest.hexdigest()


def is_of_its_run(workspace: Workspace, manifest: Manifest) -> bool:
    """Whether the run that made a version still embeds as it did."""
    run_id = manifest.run_id
    return workspace.exists("runs", run_id, "run.json") and fingerprint(workspace, run_id) == manifest.model


def _published(workspace: Workspace, version: str) -> Manifest | None:
    try:
        return store.open_index(workspace, version).manifest
    except (WorkspaceError, ResourceError):
        return None  # not there, or damaged: building it again repairs it


def _parts(workspace: Workspace, run: LoadedRun) -> pa.Table:
    """Rows of parts.parquet that hold segments of a modality of the run, by recording_id."""
    folder = ("features", run.features_digest)
    if not workspace.exists(*folder, "parts.parquet"):
        raise WorkspaceError(
            f"workspace {workspace.root}: features/{run.features_digest}, which run {run.run_id} was fitted on, is not "
            f"there; run `mmray prepare` with runs/{run.run_id}/config.yaml"
        )
    parts = workspace.read_table(*folder, "parts.parquet")
    of_the_run = pc.is_in(parts["modality"], value_set=pa.array(run.shapes, pa.string()))
    kept = parts.filter(pc.and_(of_the_run, pc.greater(parts["segments"], 0)))
    if not kept.num_rows:
        raise WorkspaceError(f"features/{run.features_digest} holds no segments; see its quarantine.parquet")
    return kept.sort_by("recording_id")


def _metadata(workspace: Workspace, run: LoadedRun, parts: pa.Table) -> pa.Table:
    """The rows of prepared recordings, each with its content and the part its subject played in the run."""
    known = workspace.read_table("recordings.parquet")
    at = _places(parts["recording_id"], known["recording_id"])
    missing = parts["recording_id"].filter(pc.is_null(at))
    if len(missing):
        raise WorkspaceError(
            f"workspace {workspace.root}: {len(missing)} prepared recordings are not in recordings.parquet "
            f"({missing[0]}, ...); run `mmray recordings` and `mmray prepare` again"
        )
    rows = known.take(at)
    played = workspace.read_table("runs", run.run_id, "embeddings.parquet", columns=["subject_id", "role"])
    columns = {name: rows[name] for name in rows.column_names} | {
        "source_sha256": parts["source_sha256"],
        "segments": parts["segments"],
        "part": parts["path"],
        "role": pc.fill_null(played["role"].take(_places(rows["subject_id"], played["subject_id"])), "unseen"),
        "study": pa.repeat(run.config.study.kind, rows.num_rows),
    }
    return pa.table({name: columns[name] for name in METADATA.names}).cast(METADATA)


def _places(ids: pa.ChunkedArray, held: pa.ChunkedArray) -> pa.ChunkedArray:
    """Where each id stands first among others; null where it does not."""
    return pc.index_in(ids, value_set=held.combine_chunks())


def _gather(
    config: Config, run: LoadedRun, manifest: Manifest, metadata: pa.Table, scratch: Path
) -> tuple[dict[str, NDArray[np.float32]], dict[str, Path], int]:
    """The vectors of the recordings and the files of their segments, by modality, and how many were there already."""
    vectors: dict[str, NDArray[np.float32]] = {}
    files: dict[str, Path] = {}
    before = _reusable(Workspace(config.workspace), manifest)
    missing: list[pa.Table] = []
    behind: dict[str, SegmentVectors] = {}
    for modality in manifest.counts:
        rows = metadata.filter(pc.equal(metadata["modality"], modality))
        vectors[modality] = np.empty((rows.num_rows, manifest.width), dtype=np.float32)
        files[modality] = scratch / f"{modality}.safetensors"
        behind[modality] = segment_file.create(files[modality], rows["segments"].to_numpy(), manifest.width)
        old_N = _stored(before, modality, rows)
        new_M = np.flatnonzero(old_N < 0)
        missing.append(
            rows.select(["modality", "part"]).append_column("row", pa.array(np.arange(rows.num_rows))).take(new_M)
        )
        if before is None:
            continue
        for row in np.flatnonzero(old_N >= 0).tolist():
            old = int(old_N[row])
            vectors[modality][row] = before.vectors[modality].vector(old)
            segment_file.fill(
                behind[modality],
                row,
                before.segments[modality].vectors(old).tobytes(),
                before.segments[modality].start_s(old).tobytes(),
            )
    items = pa.concat_tables(missing)
    if items.num_rows:
        with closing(_embedded(config, run, manifest.model, items)) as told:
            for one in told:
                vectors[one["modality"]][one["row"]] = one["vector"]
                segment_file.fill(behind[one["modality"]], one["row"], one["z"], one["start_s"])
    return vectors, files, metadata.num_rows - items.num_rows


def _reusable(workspace: Workspace, manifest: Manifest) -> store.OpenIndex | None:
    """The current version, where the same model, features and software made it."""
    try:
        before = store.open_index(workspace)
    except (WorkspaceError, ResourceError):
        return None
    names = ("run_id", "model", "features", "width", "created_by")
    return before if all(getattr(before.manifest, n) == getattr(manifest, n) for n in names) else None


def _stored(before: store.OpenIndex | None, modality: str, rows: pa.Table) -> NDArray[np.int64]:
    """Which vector of the version before was made from the same as each of these rows; -1: none."""
    if before is None or modality not in before.rows:
        return np.full(rows.num_rows, -1)
    held = before.rows[modality]
    at = _places(rows["recording_id"], held["recording_id"])
    then, same = held.take(at), pc.is_valid(at)
    for name in _MADE_FROM:
        same = pc.and_(same, pc.fill_null(pc.equal(then[name], rows[name]), False))
    stored_N: NDArray[np.int64] = pc.if_else(same, at, -1).to_numpy().astype(np.int64)
    return stored_N


def _embedded(config: Config, run: LoadedRun, model: str, items: pa.Table) -> Generator[dict[str, Any]]:
    """Recordings with their vectors, as they come; one Ray Data row each.

    Args:
        model: the run's fingerprint.
        items: modality, part and row, the number among its modality's, of each.
    """
    root, run_id, cpus = Workspace(config.workspace).root, run.run_id, config.cluster.task_cpus
    folder = ("features", run.features_digest)

    def embed(row: dict[str, Any]) -> dict[str, Any]:
        cluster.limit_threads(cpus)
        told = {"modality": row["modality"], "row": row["row"], "vector": [], "z": b"", "start_s": b"", "error": ""}
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
        blocks = max(1, min(items.num_rows // _BLOCK, 4 * slots))
        data = cluster.data().from_arrow(items, override_num_blocks=blocks)
        data = data.map(embed, num_cpus=cpus, **placement.options(want.where))
        with progress.bar("index", items.num_rows) as advance, cluster.rows(data) as rows:
            for row in rows:
                if row["error"]:
                    raise WorkspaceError(f"{row['error']}; run `mmray prepare` again")
                yield row
                advance()


@lru_cache(maxsize=2)
def _run(root: str, run_id: str, model: str) -> LoadedRun:
    """The run, loaded once a worker process; anew where it embeds otherwise by now, as after somebody was forgotten."""
    return load_run(Workspace(root), run_id)
