"""Index versions in a workspace: published whole, checked when opened.

index/<version>/ holds vectors-<modality>.faiss, segments-<modality>.safetensors, metadata.parquet and, written last,
manifest.json with their checksums; index/current names the version that readers take.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmray.config import Index
from mmray.errors import WorkspaceError
from mmray.index import faiss_index, segments
from mmray.index.base import METADATA, Manifest, VectorIndex
from mmray.index.segments import SegmentVectors
from mmray.storage import Workspace

_REBUILD = "run `mmray index` again"


@dataclass(frozen=True)
class OpenIndex:
    """A verified version, its vectors mapped into memory.

    Attributes:
        vectors: modality -> its index.
        rows: modality -> metadata, row i belonging to vector i.
        segments: modality -> the segments behind each vector.
    """

    manifest: Manifest
    vectors: dict[str, VectorIndex]
    rows: dict[str, pa.Table]
    segments: dict[str, SegmentVectors]

    @cached_property
    def place(self) -> dict[str, tuple[str, int]]:
        """recording_id -> modality and row."""
        return {
            recording_id: (modality, row)
            for modality, table in self.rows.items()
            for row, recording_id in enumerate(table["recording_id"].to_pylist())
        }

    @cached_property
    def subject_of(self) -> dict[str, str]:
        """Content of an indexed recording -> whose it is."""
        return {
            source: subject
            for table in self.rows.values()
            for source, subject in zip(table["source_sha256"].to_pylist(), table["subject_id"].to_pylist(), strict=True)
        }


def publish(
    workspace: Workspace,
    manifest: Manifest,
    vectors: dict[str, NDArray[np.float32]],
    metadata: pa.Table,
    segment_files: dict[str, Path],
    config: Index,
) -> Manifest:
    """Write a version and point `current` at it. Files first, the manifest after them, the pointer last.

    Args:
        manifest: everything but `files`, which is filled in here.
        vectors: modality -> N x E unit vectors in the metadata's order.
        metadata: schema METADATA.
        segment_files: modality -> file made by segments.create, in the same order.

    Raises:
        WorkspaceError: the workspace cannot be written.
    """
    folder = ("index", manifest.version)
    files: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="mmray-index-") as scratch:
        for modality, vector_NE in vectors.items():
            name = f"vectors-{modality}.faiss"
            faiss_index.write(vector_NE, config, Path(scratch) / name)
            files[name] = _put(workspace, Path(scratch) / name, *folder, name)
    for modality, path in segment_files.items():
        name = f"segments-{modality}.safetensors"
        files[name] = _put(workspace, path, *folder, name)
    workspace.write_table(metadata, *folder, "metadata.parquet")
    files["metadata.parquet"] = hashlib.sha256(workspace.read_bytes(*folder, "metadata.parquet")).hexdigest()
    whole = Manifest(**{**manifest.to_dict(), "files": files})
    workspace.write_json(whole.to_dict(), *folder, "manifest.json")
    point_to(workspace, manifest.version)
    return whole


def _put(workspace: Workspace, source: Path, *parts: str) -> str:
    """Publish a file of any size and return its sha256."""
    with workspace.writing(*parts) as place:
        shutil.copyfile(source, place)
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def point_to(workspace: Workspace, version: str) -> None:
    """Make a published version the one readers take."""
    workspace.write_text(version + "\n", "index", "current")


def current(workspace: Workspace) -> str:
    """The version readers take. Raises WorkspaceError where nothing was published."""
    if not workspace.exists("index", "current"):
        raise WorkspaceError(f"workspace {workspace.root} has no index; run `mmray index` after `mmray train`")
    return workspace.read_bytes("index", "current").decode(errors="replace").strip()


def read_manifest(workspace: Workspace, version: str) -> Manifest:
    """A version's manifest.

    Raises:
        WorkspaceError: there is no such version, or it was never finished.
    """
    if "/" in version or not workspace.exists("index", version, "manifest.json"):
        raise WorkspaceError(f"workspace {workspace.root}: index version {version} is not there whole; {_REBUILD}")
    manifest = Manifest.from_dict(workspace.read_json("index", version, "manifest.json"))
    if manifest.version != version:
        raise WorkspaceError(f"index/{version}: manifest.json is of version {manifest.version}; {_REBUILD}")
    return manifest


def open_index(workspace: Workspace, version: str | None = None) -> OpenIndex:
    """Open a version, the current one by default, after checking every file against the manifest.

    Raises:
        WorkspaceError: there is none, it is half-written, or a file is not what was published.
    """
    version = version or current(workspace)
    manifest = read_manifest(workspace, version)
    folder = Path(workspace.path("index", version)) if workspace.is_local else _cached(workspace, manifest)
    _check(folder, manifest)
    vectors: dict[str, VectorIndex] = {}
    rows: dict[str, pa.Table] = {}
    behind: dict[str, SegmentVectors] = {}
    metadata = Workspace(str(folder)).read_table("metadata.parquet")
    if not metadata.schema.equals(METADATA):
        raise WorkspaceError(f"index/{version}/metadata.parquet is of another mmray; {_REBUILD}")
    for modality, count in manifest.counts.items():
        index = faiss_index.read(folder / f"vectors-{modality}.faiss", manifest.hnsw_ef)
        table = metadata.filter(pc.equal(metadata["modality"], modality)).combine_chunks()
        if not index.size == table.num_rows == count or index.width != manifest.width:
            raise WorkspaceError(
                f"index/{version}: vectors-{modality}.faiss holds {index.size} x {index.width}, metadata.parquet "
                f"{table.num_rows} rows, manifest.json says {count} x {manifest.width}; {_REBUILD}"
            )
        vectors[modality], rows[modality] = index, table
        behind[modality] = segments.read(folder / f"segments-{modality}.safetensors")
        if not np.array_equal(np.diff(behind[modality].first_N1), table["segments"].to_numpy()):
            raise WorkspaceError(
                f"index/{version}: segments-{modality}.safetensors is not of metadata.parquet's rows; {_REBUILD}"
            )
    return OpenIndex(manifest, vectors, rows, behind)


def _check(folder: Path, manifest: Manifest) -> None:
    for name, expected in manifest.files.items():
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WorkspaceError(f"index/{manifest.version}/{name}: {error.strerror}; {_REBUILD}") from error
        if found != expected:
            raise WorkspaceError(
                f"index/{manifest.version}/{name} is damaged: its sha256 is not the one in manifest.json; {_REBUILD}"
            )


def _cached(workspace: Workspace, manifest: Manifest) -> Path:
    """A local copy of an object store's files, named by their content and made once."""
    content = hashlib.sha256("".join(sorted(manifest.files.values())).encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmray" / "index"
    folder = root / f"{manifest.version}-{content}"
    try:
        if folder.is_dir():
            try:
                _check(folder, manifest)
                return folder
            except WorkspaceError:  # the copy rotted, not what it was copied from
                shutil.rmtree(folder, ignore_errors=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=root))
        try:
            for name in manifest.files:
                (partial / name).write_bytes(workspace.read_bytes("index", manifest.version, name))
            if not folder.is_dir():  # another process may have finished first
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WorkspaceError(
            f"index: cannot copy it to {root}: {error.strerror}; free space or set XDG_CACHE_HOME"
        ) from error
    return folder
