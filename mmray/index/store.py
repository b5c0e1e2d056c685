"""Index versions in a workspace: published whole, checked when opened.

index/<version>/ holds vectors-<modality>.faiss, segments-<modality>.safetensors, metadata.parquet and, written last,
manifest.json with their checksums; index/current names the version that readers take, and index/history.json those that
it named before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmray import keeper
from mmray.config import Index, from_dict
from mmray.errors import ConfigError, WorkspaceError
from mmray.index import faiss_index, milvus_index, recall, segments
from mmray.index.base import METADATA, Manifest, VectorIndex
from mmray.index.segments import SegmentVectors
from mmray.schema import MODALITIES
from mmray.storage import Workspace

HISTORY = "history.json"
_PARTIAL = ".partial-"
_UNUSED_S = 7 * 86400.0  # then a copy of an object store's index is deleted; a reader keeps what it has mapped
_REBUILD = "run `mmray index` again"
_MOST_HISTORY = 100
_ENOUGH = 0.99  # of the exact ten; wider searches cost time
_RAISE = {
    "hnsw": "index.hnsw_ef or index.hnsw_links",
    "sq": "index.rerank",
    "ivfpq": "index.ivf_probe, index.rerank or index.pq_bytes",
}


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
) -> Manifest:
    """Write a version and point `current` at it. Files first, the manifest after them, the pointer last.

    Args:
        manifest: everything but `files`, `breadth` and `recall`, which are filled in here.
        vectors: modality -> N x E unit vectors in the metadata's order.
        metadata: schema METADATA.
        segment_files: modality -> file made by segments.create, in the same order.

    Returns:
        The manifest as it was written.

    Raises:
        ConfigError: the index finds less than index.min_recall of the exact answers; nothing is published.
        WorkspaceError: a file cannot be written; what was current stays current.
    """
    folder = ("index", manifest.version)
    settings = settings_of(manifest)
    files: dict[str, str] = {}
    with keeper.scratch("mmray-index-") as scratch:
        places = {modality: Path(scratch) / f"vectors-{modality}.faiss" for modality in vectors}
        for modality, vector_NE in vectors.items():
            if settings.backend == "milvus":
                faiss_index.write(vector_NE, settings, "flat", places[modality])
                name = milvus_index.collection(manifest.version, modality)
                milvus_index.write(vector_NE, settings, manifest.kind, name)
            else:
                faiss_index.write(vector_NE, settings, manifest.kind, places[modality])
        breadth, measured = _measured(manifest, settings, places)
        try:
            _require_recall(manifest.kind, settings, measured)
        except ConfigError:
            _drop_collections(settings, manifest.version, vectors)
            raise
        for place in places.values():
            files[place.name] = _put(workspace, place, *folder, place.name)
    for modality, path in segment_files.items():
        name = f"segments-{modality}.safetensors"
        files[name] = _put(workspace, path, *folder, name)
    workspace.write_table(metadata, *folder, "metadata.parquet")
    files["metadata.parquet"] = hashlib.sha256(workspace.read_bytes(*folder, "metadata.parquet")).hexdigest()
    whole = replace(manifest, files=files, breadth=breadth, recall=measured)
    workspace.write_json(whole.to_dict(), *folder, "manifest.json")
    point_to(workspace, manifest.version)
    return whole


def _measured(manifest: Manifest, settings: Index, places: dict[str, Path]) -> tuple[dict[str, int], dict[str, float]]:
    """The narrowest search that finds enough in every modality, else the widest, and what it finds."""
    if manifest.kind == "flat":
        return {}, dict.fromkeys(places, 1.0)
    for breadth in faiss_index.breadths(settings, manifest.kind):
        wide = settings.model_copy(update=breadth)
        found = {m: _open(manifest, wide, m, place) for m, place in places.items()}
        measured = {m: recall.measured(index) for m, index in found.items()}
        if min(measured.values()) >= _ENOUGH:
            break
    return breadth, measured


def _open(manifest: Manifest, settings: Index, modality: str, place: Path) -> VectorIndex:
    index = faiss_index.read(place, settings)
    if settings.backend == "faiss":
        return index
    return milvus_index.read(settings, manifest.kind, milvus_index.collection(manifest.version, modality), index)


def _require_recall(kind: str, settings: Index, measured: dict[str, float]) -> None:
    modality = min(measured, key=lambda m: measured[m])
    if measured[modality] < settings.min_recall:
        raise ConfigError(
            f"index: {kind} finds {measured[modality]:.3f} of the ten best {modality} recordings, and index.min_recall "
            f"is {settings.min_recall}: nothing was published; raise {_RAISE[kind]}, or set index.kind=flat"
        )


def _put(workspace: Workspace, source: Path, *parts: str) -> str:
    """Publish a file of any size and return its sha256."""
    with workspace.writing(*parts) as place:
        shutil.copyfile(source, place)
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def point_to(workspace: Workspace, version: str) -> None:
    """Make a published version the one readers take, and note it in the history."""
    before = _pointed_at(workspace)
    past = history(workspace)
    if before and past[-1:] != [before]:  # a writer was killed between the pointer and the history
        past.append(before)
    workspace.write_text(version + "\n", "index", "current")
    if past[-1:] != [version]:
        write_history(workspace, [*past, version])


def history(workspace: Workspace) -> list[str]:
    """The versions that were published, the newest last.

    Raises:
        WorkspaceError: the file is damaged.
    """
    if not workspace.exists("index", HISTORY):
        return []
    past = workspace.read_json("index", HISTORY)
    if not isinstance(past, list) or not all(isinstance(version, str) for version in past):
        raise WorkspaceError(f"workspace {workspace.root}: index/{HISTORY} is damaged; delete it")
    return past


def write_history(workspace: Workspace, past: list[str]) -> None:
    """Replace the history."""
    workspace.write_json(past[-_MOST_HISTORY:], "index", HISTORY)


def current(workspace: Workspace) -> str:
    """The version readers take. Raises WorkspaceError where nothing was published."""
    version = _pointed_at(workspace)
    if not version:
        raise WorkspaceError(f"workspace {workspace.root} has no index; run `mmray index` after `mmray train`")
    return version


def _pointed_at(workspace: Workspace) -> str:
    if not workspace.exists("index", "current"):
        return ""
    return workspace.read_bytes("index", "current").decode(errors="replace").strip()


def published(workspace: Workspace) -> list[str]:
    """The versions that are there whole."""
    return [name for name in workspace.names("index") if workspace.exists("index", name, "manifest.json")]


def read_manifest(workspace: Workspace, version: str) -> Manifest:
    """A version's manifest.

    Raises:
        WorkspaceError: there is no such version, or it was never finished.
    """
    if version in ("", ".", "..") or "/" in version or not workspace.exists("index", version, "manifest.json"):
        raise WorkspaceError(f"workspace {workspace.root}: index version {version} is not there whole; {_REBUILD}")
    manifest = Manifest.from_dict(workspace.read_json("index", version, "manifest.json"))
    if manifest.version != version:
        raise WorkspaceError(f"index/{version}: manifest.json is of version {manifest.version}; {_REBUILD}")
    return manifest


def settings_of(manifest: Manifest) -> Index:
    """What a version was asked to be. Raises WorkspaceError where another mmray asked for it."""
    try:
        return from_dict({"index": manifest.settings}).index
    except ConfigError as error:
        raise WorkspaceError(f"index/{manifest.version}: manifest.json: {error}; {_REBUILD}") from error


def open_index(workspace: Workspace, version: str | None = None) -> OpenIndex:
    """Open a version, the current one by default, after checking every file against the manifest.

    Raises:
        WorkspaceError: there is none, it is half-written, or a file is not what was published.
    """
    version = current(workspace) if version is None else version
    manifest = read_manifest(workspace, version)
    settings = settings_of(manifest).model_copy(update=manifest.breadth)
    folder = Path(workspace.path("index", version)) if workspace.is_local else _cached(workspace, manifest)
    _check(folder, manifest)
    vectors: dict[str, VectorIndex] = {}
    rows: dict[str, pa.Table] = {}
    behind: dict[str, SegmentVectors] = {}
    metadata = Workspace(str(folder)).read_table("metadata.parquet")
    if not metadata.schema.equals(METADATA):
        raise WorkspaceError(f"index/{version}/metadata.parquet is of another mmray; {_REBUILD}")
    for modality, count in manifest.counts.items():
        index = _open(manifest, settings, modality, folder / f"vectors-{modality}.faiss")
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


def delete(workspace: Workspace, version: str, asked: Index) -> None:
    """Remove a version with its collections, and this machine's copy of it.

    Args:
        asked: where collections of a version may be that was never finished.
    """
    settings = asked
    if workspace.exists("index", version, "manifest.json"):
        with suppress(WorkspaceError):  # of another mmray
            settings = settings_of(read_manifest(workspace, version))
    _drop_collections(settings, version, MODALITIES)
    workspace.delete("index", version, "manifest.json")  # first, so that half of it is never opened
    workspace.delete_tree("index", version)
    # what a killed process had begun to fetch may be of this version; who fetches now begins again
    for copy in (*_cache().glob(f"{version}-*"), *_cache().glob(f"{_PARTIAL}*")):
        shutil.rmtree(copy, ignore_errors=True)


def _drop_collections(settings: Index, version: str, modalities: Iterable[str]) -> None:
    if settings.backend == "milvus":
        for modality in modalities:
            milvus_index.drop(settings, milvus_index.collection(version, modality))


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


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmray" / "index"


def _cached(workspace: Workspace, manifest: Manifest) -> Path:
    """A local copy of an object store's files, named by their content and made once; those long unused make room."""
    content = hashlib.sha256("".join(sorted(manifest.files.values())).encode()).hexdigest()[:16]
    root = _cache()
    folder = root / f"{manifest.version}-{content}"
    try:
        if folder.is_dir():
            try:
                _check(folder, manifest)
                os.utime(folder)
                return folder
            except WorkspaceError:  # the copy rotted, not what it was copied from
                shutil.rmtree(folder, ignore_errors=True)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for copy in root.iterdir():
            with suppress(FileNotFoundError):  # another process tidies as well, or has just finished its copy
                if time.time() - copy.stat().st_mtime > _UNUSED_S:
                    shutil.rmtree(copy, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=root))
        try:
            for name in manifest.files:
                with (partial / name).open("wb") as file:
                    file.writelines(workspace.pieces("index", manifest.version, name))
            if not folder.is_dir():  # another process may have finished first
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise WorkspaceError(
            f"index: cannot copy it to {root}: {error.strerror}; free space or set XDG_CACHE_HOME"
        ) from error
    return folder
