from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from mmray import storage
from mmray.errors import WorkspaceError
from mmray.storage import Workspace, is_uri
from tests.half_written import half_written, leave_half


def test_a_file_reads_back_what_was_written(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path / "Ärzte 1"))
    workspace.write_json({"ü": 1}, "a", "b.json")
    assert workspace.read_json("a", "b.json") == {"ü": 1}
    assert workspace.names("a") == ["b.json"]


def test_a_table_reads_back_equal(tmp_path: Path) -> None:
    table = pa.table({"x": [1, 2], "s": ["a", None]})
    Workspace(str(tmp_path)).write_table(table, "t.parquet")
    assert Workspace(str(tmp_path)).read_table("t.parquet").equals(table)


def test_a_file_uri_and_a_folder_are_the_same_workspace(tmp_path: Path) -> None:
    Workspace(tmp_path.as_uri()).write_bytes(b"1", "f")
    assert Workspace(str(tmp_path)).read_bytes("f") == b"1"


@pytest.mark.parametrize(("text", "expected"), [("s3://b/k", True), ("C:\\data", False), ("a/b", False)])
def test_only_a_scheme_makes_a_uri(text: str, expected: bool) -> None:
    assert is_uri(text) is expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"runs/x\.json is not there"):
        Workspace(str(tmp_path)).read_bytes("runs", "x.json")


def test_an_unknown_scheme_is_a_workspace_error() -> None:
    with pytest.raises(WorkspaceError, match="nope://x"):
        Workspace("nope://x").exists("a")


@pytest.mark.parametrize("content", [b"", b"PAR1 but not really"])
def test_a_damaged_table_is_a_workspace_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"t\.parquet"):
        Workspace(str(tmp_path)).read_table("t.parquet")


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="choose another --workspace"):
        Workspace(str(tmp_path / "file")).write_bytes(b"x", "a", "b")


def test_a_full_disk_leaves_the_old_file_and_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(str(tmp_path))
    workspace.write_bytes(b"old", "f")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        workspace.write_bytes(b"new", "f")
    assert os.listdir(tmp_path) == ["f"]
    assert workspace.read_bytes("f") == b"old"


def workspace_of(root: str, folder: Path) -> Workspace:
    """On the disk, or in pyarrow's own object store in memory, which wants its folders made."""
    workspace = Workspace(root or str(folder))
    if root:
        workspace.filesystem.create_dir("bucket/a", recursive=True)
    return workspace


@pytest.mark.parametrize("root", ["", "mock:///bucket"])
def test_a_large_file_is_read_piece_by_piece_and_a_missing_one_is_named(tmp_path: Path, root: str) -> None:
    workspace = workspace_of(root, tmp_path)
    content = bytes(range(256)) * 40_000
    workspace.write_bytes(content, "f")
    pieces = list(workspace.pieces("f"))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) < len(content) / 5
    with pytest.raises(WorkspaceError, match=r"a/g is not there"):
        list(workspace.pieces("a", "g"))


@pytest.mark.parametrize("root", ["", "mock:///bucket"])
def test_a_file_written_piece_by_piece_appears_once_it_is_whole(tmp_path: Path, root: str) -> None:
    workspace = workspace_of(root, tmp_path)
    with workspace.writing("a", "f") as path, path.open("wb") as file:
        for piece in (b"1", b"23"):
            file.write(piece)
            file.flush()
            assert not workspace.exists("a", "f")
            assert workspace.names("a") == []
    assert workspace.read_bytes("a", "f") == b"123"


@pytest.mark.parametrize("root", ["", "mock:///bucket"])
def test_an_exception_while_writing_leaves_the_old_file_and_no_half(tmp_path: Path, root: str) -> None:
    workspace = workspace_of(root, tmp_path)
    workspace.write_bytes(b"old", "f")
    places = []

    def half(error: BaseException) -> None:
        with workspace.writing("f") as path:
            places.append(path)
            path.write_bytes(b"ne")
            raise error

    for error in (KeyError("in the block"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            half(error)
    with pytest.raises(WorkspaceError, match="No space left"):
        half(OSError(28, "No space left on device"))
    assert workspace.read_bytes("f") == b"old"
    assert not [path for path in places if path.exists()]
    assert os.listdir(tmp_path) == ([] if root else ["f"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error")], ids=["ended", "unreadable"])
def test_an_upload_that_is_cut_short_leaves_the_old_file_and_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    workspace = workspace_of("mock:///bucket", tmp_path)
    workspace.write_bytes(b"old", "a", "f")

    def cut(source: BinaryIO, sink: BinaryIO) -> None:
        sink.write(source.read(1))
        raise error

    monkeypatch.setattr(shutil, "copyfileobj", cut)
    expected = WorkspaceError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), workspace.writing("a", "f") as path:
        path.write_bytes(b"new")
    assert workspace.read_bytes("a", "f") == b"old"
    found = workspace.filesystem.get_file_info(pafs.FileSelector(workspace.path("a")))
    assert [info.base_name for info in found] == ["f"]


class NoLargeMoves:
    """A store that refuses to move, as S3 does above 5 GiB."""

    def __init__(self, store: pafs.FileSystem) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def move(self, source: str, target: str) -> None:
        raise OSError("the copy source is larger than the maximum allowable size")


def test_a_file_too_large_to_be_moved_in_the_store_is_uploaded_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = workspace_of("mock:///bucket", tmp_path)
    refusing = NoLargeMoves(workspace.filesystem)
    monkeypatch.setattr(Workspace, "filesystem", property(lambda self: refusing))
    monkeypatch.setattr(storage, "_MOST_MOVED", 2)
    with workspace.writing("a", "f") as path:
        path.write_bytes(b"123")
    assert workspace.read_bytes("a", "f") == b"123"


WRITER = """
import sys
from mmray.storage import Workspace
workspace = Workspace(sys.argv[1])
print("ready", flush=True)
while True:
    for byte in (b"a", b"b"):
        workspace.write_bytes(byte * 2_000_000, "f")
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    for delay in (0.0, 0.013, 0.031, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        while not (tmp_path / "f").exists():
            pass
        try:
            writer.wait(delay)
        except subprocess.TimeoutExpired:
            writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = Workspace(str(tmp_path)).read_bytes("f")
        assert content in (b"a" * 2_000_000, b"b" * 2_000_000)
    workspace = Workspace(str(tmp_path))
    assert workspace.names() == ["f"]
    workspace.delete_partials()  # too young: they may be another writer's
    workspace.delete_partials(older_than_s=0)
    assert os.listdir(tmp_path) == ["f"]


def test_what_a_killed_writer_of_this_machine_left_is_removed_at_once(tmp_path: Path) -> None:
    leave_half(tmp_path)
    Workspace(str(tmp_path)).delete_partials()
    assert os.listdir(tmp_path) == []


def test_a_tidied_folder_loses_what_killed_writers_left_before_a_block_and_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    leave_half(tmp_path / "mine")
    leave_half(tmp_path / "other")

    def block() -> None:
        with Workspace(str(tmp_path)).tidied("mine"):
            assert not half_written(tmp_path / "mine")
            leave_half(tmp_path / "mine")
            raise ZeroDivisionError  # also where the block fails

    with pytest.raises(ZeroDivisionError):
        block()
    assert not half_written(tmp_path / "mine")
    assert half_written(tmp_path / "other")


def test_what_a_writer_at_work_or_one_elsewhere_has_begun_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(str(tmp_path))
    elsewhere = tmp_path / ".partial-0a0a0a0a-999999999-00-f"
    elsewhere.write_bytes(b"half")
    monkeypatch.setattr(os, "fsync", lambda _: workspace.delete_partials())
    workspace.write_bytes(b"whole", "f")
    assert workspace.read_bytes("f") == b"whole"
    assert elsewhere.exists()


def test_an_address_is_a_path_here_and_a_uri_without_options_there(tmp_path: Path) -> None:
    assert Workspace(str(tmp_path)).address("runs", "a") == f"{tmp_path}/runs/a"
    assert Workspace(f"file://{tmp_path}").address("runs") == f"{tmp_path}/runs"
    store = Workspace("s3://study/ws/?endpoint_override=127.0.0.1:9&scheme=http")
    assert store.address("runs", "a") == "s3://study/ws/runs/a"


def test_what_cannot_be_deleted_says_what_to_do(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    (tmp_path / "a").mkdir()
    workspace.write_bytes(b"x", "f")
    with pytest.raises(WorkspaceError, match=r"cannot delete a: .*is yours to write"):
        workspace.delete("a")
    with pytest.raises(WorkspaceError, match=r"cannot delete f: .*is yours to write"):
        workspace.delete_tree("f")


@pytest.mark.parametrize("delete", [Workspace.delete, Workspace.delete_tree])
def test_what_another_process_deletes_at_the_same_moment_is_gone_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delete: Callable[..., None]
) -> None:
    looks = [True, False]
    monkeypatch.setattr(Workspace, "exists", lambda self, *parts: looks.pop(0))
    delete(Workspace(str(tmp_path)), "gone")


def test_a_tree_of_which_another_process_deletes_a_part_goes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(str(tmp_path))
    workspace.write_bytes(b"x", "tree", "f")
    store, lost = workspace.filesystem, [FileNotFoundError(2, "tree/g")]

    class Raced(NoLargeMoves):
        def delete_dir(self, path: str) -> None:
            if lost:
                raise lost.pop()
            store.delete_dir(path)

    raced = Raced(store)
    monkeypatch.setattr(Workspace, "filesystem", property(lambda self: raced))
    workspace.delete_tree("tree")
    assert os.listdir(tmp_path) == []
