"""A workspace: a local folder or an object-store URI, with artefacts that appear whole or not at all.

On a local disk an artefact is written beside its place, synced and renamed; an object store's put is atomic already.
A group of files is published by writing its manifest last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mmray.errors import WorkspaceError

_PARTIAL = ".partial-"
_PIECE = 1 << 20  # bytes
_MOST_MOVED = 5 << 30  # bytes; Amazon copies no larger object in one request, and pyarrow makes one


@dataclass(frozen=True)
class Workspace:
    """Files under one root. Paths are relative, with forward slashes."""

    root: str

    @cached_property
    def _place(self) -> tuple[pafs.FileSystem, str]:
        try:
            if is_uri(self.root):
                filesystem, path = pafs.FileSystem.from_uri(self.root)
                return filesystem, path
            return pafs.LocalFileSystem(), str(Path(self.root).expanduser().absolute())
        except (OSError, ValueError, pa.ArrowException) as error:
            raise WorkspaceError(f"workspace {self.root}: not a folder or a known URI: {error}") from error

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow filesystem that `path` is a path of; Ray Train and Ray Data take it as it is."""
        return self._place[0]

    @property
    def is_local(self) -> bool:
        """Whether files can be memory-mapped in place."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def path(self, *parts: str) -> str:
        """Full path inside `filesystem`."""
        return "/".join([self._place[1].rstrip("/"), *parts])

    def address(self, *parts: str) -> str:
        """Where a person finds it: a local path, or a URI without the options behind its question mark."""
        if self.is_local:
            return self.path(*parts)
        return "/".join([self.root.partition("?")[0].rstrip("/"), *parts])

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self._info(self.path(*parts)).type != pafs.FileType.NotFound)

    def modified(self, *parts: str) -> float | None:
        """When a file was written, seconds of the epoch; None where there is none."""
        info = self._info(self.path(*parts))
        return info.mtime.timestamp() if info.mtime is not None else None

    def names(self, *parts: str) -> list[str]:
        """Names directly inside a folder, sorted, without half-written files; empty where there is no folder."""
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True)
        names = (info.base_name for info in self._info(selector))
        return sorted(name for name in names if not name.startswith(_PARTIAL))

    def _info(self, asked: Any) -> Any:
        """What is at a path or behind a selector. Raises WorkspaceError where the store does not answer."""
        try:
            return self.filesystem.get_file_info(asked)
        except OSError as error:
            raise WorkspaceError(
                f"workspace {self.root}: cannot be looked into: {error}; see that it is reachable from this machine, "
                "and that its credentials are set here and on every node"
            ) from error

    def read_bytes(self, *parts: str) -> bytes:
        """A file's bytes. Raises WorkspaceError where there is none."""
        with self._readable(*parts), self.filesystem.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def pieces(self, *parts: str) -> Iterator[bytes]:
        """A large file's bytes, piece by piece. Raises WorkspaceError where there is none."""
        with self._readable(*parts), self.filesystem.open_input_stream(self.path(*parts)) as stream:
            while piece := stream.read(_PIECE):
                yield piece

    def read_json(self, *parts: str) -> Any:
        """A JSON file's content."""
        try:
            return json.loads(self.read_bytes(*parts))
        except ValueError as error:
            raise WorkspaceError(f"workspace {self.root}: {'/'.join(parts)} is not JSON: {error}") from error

    def read_table(self, *parts: str, columns: list[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
        """A Parquet file as a table, of some columns and rows or of all."""
        place = self.path(*parts)
        with self._readable(*parts):
            return pq.read_table(place, filesystem=self.filesystem, columns=columns, filters=rows, partitioning=None)

    @contextmanager
    def _readable(self, *parts: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise WorkspaceError(f"workspace {self.root}: {'/'.join(parts)} is not there") from None
        except (OSError, pa.ArrowException) as error:
            raise WorkspaceError(f"workspace {self.root}: cannot read {'/'.join(parts)}: {error}") from error

    def write_bytes(self, data: bytes, *parts: str) -> None:
        """Publish a file atomically, replacing what was there.

        Raises:
            WorkspaceError: the disk is full, read-only or not ours; nothing half-written is left.
        """
        if self.is_local:
            with self.writing(*parts) as path:
                path.write_bytes(data)
            return
        with self._writable(*parts), self.filesystem.open_output_stream(self.path(*parts)) as stream:
            stream.write(data)

    @contextmanager
    def writing(self, *parts: str) -> Iterator[Path]:
        """A place on the local disk to write a large file at, piece by piece; published when the block ends.

        An exception in the block leaves nothing behind, and what was published before as it was. So does one in the
        upload to an object store, of a file that the store can move.

        Raises:
            WorkspaceError: as `write_bytes`, also where the block raises OSError.
        """
        target = self.path(*parts)
        folder, _, name = target.rpartition("/")
        beside = f"{folder}/{_PARTIAL}{_host()}-{os.getpid()}-{uuid.uuid4().hex}-{name}"
        with self._writable(*parts):
            if self.is_local:
                os.makedirs(folder, exist_ok=True)
                partial = Path(beside)
                try:
                    yield partial
                    with partial.open("rb+") as file:
                        os.fsync(file.fileno())
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
                return
            with tempfile.TemporaryDirectory(prefix="mmray-") as place:
                whole = Path(place) / name
                yield whole
                # a stream that is closed is a file, however much of it was written, and an exception closes it, too
                at = beside if whole.stat().st_size <= _MOST_MOVED else target
                try:
                    with whole.open("rb") as file, self.filesystem.open_output_stream(at) as stream:
                        shutil.copyfileobj(file, stream)
                    if at != target:
                        self.filesystem.move(at, target)
                except BaseException:
                    with suppress(OSError):
                        self.filesystem.delete_file(beside)
                    raise

    @contextmanager
    def _writable(self, *parts: str, what: str = "write") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkspaceError(
                f"workspace {self.root}: cannot {what} {'/'.join(parts)}: {error.strerror or error}; "
                "see that it exists, has room and is yours to write, or choose another --workspace"
            ) from error

    def write_text(self, text: str, *parts: str) -> None:
        """Publish a UTF-8 text file atomically."""
        self.write_bytes(text.encode(), *parts)

    def write_json(self, value: Any, *parts: str) -> None:
        """Publish a JSON file atomically."""
        self.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", *parts)

    def write_table(self, table: pa.Table, *parts: str) -> None:
        """Publish a Parquet file atomically."""
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        self.write_bytes(buffer.getvalue(), *parts)

    def write_csv(self, table: pa.Table, *parts: str) -> None:
        """Publish a table as CSV."""
        buffer = io.BytesIO()
        pacsv.write_csv(table, buffer)
        self.write_bytes(buffer.getvalue(), *parts)

    def delete(self, *parts: str) -> None:
        """Remove a file; nothing happens where there is none. Raises WorkspaceError as `write_bytes`."""
        if self.exists(*parts):
            with self._writable(*parts, what="delete"), suppress(FileNotFoundError):  # another process was faster
                self.filesystem.delete_file(self.path(*parts))

    def delete_tree(self, *parts: str) -> None:
        """Remove a folder with all that is in it; nothing happens where there is none.

        Raises:
            WorkspaceError: as `write_bytes`.
        """
        while self.exists(*parts):
            # another process may take a file of it from under this one, which then goes on with what is left
            with self._writable(*parts, what="delete"), suppress(FileNotFoundError):
                self.filesystem.delete_dir(self.path(*parts))
                return

    @contextmanager
    def tidied(self, *parts: str) -> Iterator[None]:
        """For a stage's block: what killed writers left in its folder goes, theirs of before and theirs of the block.

        Before as well, since a full disk may be full of them.
        """
        self.delete_partials(*parts)
        try:
            yield
        finally:
            self.delete_partials(*parts)

    def delete_partials(self, *parts: str, older_than_s: float = 3600.0) -> None:
        """Remove what a killed writer left in a folder: of this machine's writers at once, else when it is old."""
        if not self.is_local:
            return
        selector = pafs.FileSelector(self.path(*parts), allow_not_found=True, recursive=True)
        for info in self.filesystem.get_file_info(selector):
            if not info.base_name.startswith(_PARTIAL):
                continue
            if _writer_is_gone(info.base_name) or time.time() - info.mtime.timestamp() >= older_than_s:
                Path(info.path).unlink(missing_ok=True)  # its writer may just have published it


def _host() -> str:
    """Names where a process number means a process: this machine, or this container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _writer_is_gone(partial: str) -> bool:
    """Whether a half-written file is one of this machine's processes that has ended; False where that is not known."""
    import psutil

    host, _, rest = partial.removeprefix(_PARTIAL).partition("-")
    pid = rest.partition("-")[0]
    if host != _host() or not pid.isdigit():
        return False
    try:
        return bool(psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def is_uri(text: str) -> bool:
    """Whether a path names an object store (s3://, gs://, file://) and not a local folder."""
    return len(urlparse(text).scheme) > 1
