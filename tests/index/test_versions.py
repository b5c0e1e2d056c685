from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmray.cli import main
from mmray.config import Config, from_dict
from mmray.errors import WorkspaceError
from mmray.index import store, versions
from mmray.index.build import IndexSummary, build_index
from mmray.storage import Workspace
from tests.small_run import RUN, built_once


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None, tmp_path: Path) -> Config:
    config, _ = built_once(tmp_path_factory)
    shutil.copytree(config.workspace, tmp_path / "ws")
    return from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")})


def another(config: Config, **index: object) -> IndexSummary:
    return build_index(from_dict({**config.model_dump(), "index": index}))


def test_every_version_is_listed_and_one_is_current(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.current(Workspace(config.workspace))
    second = another(config, kind="hnsw")
    assert main(["index", "versions", "--workspace", config.workspace, "--json"]) == 0
    told = {one["version"]: one for one in json.loads(capsys.readouterr().out)["versions"]}
    assert told.keys() == {first, second.version}
    assert {v: one["current"] for v, one in told.items()} == {first: False, second.version: True}
    assert (told[first]["kind"], told[second.version]["kind"]) == ("flat", "hnsw")
    assert told[first]["counts"] == {"audio": 12, "eeg": 6}
    assert told[first]["recall"] == {"audio": 1.0, "eeg": 1.0}
    assert told[first]["run_id"] == RUN
    assert told[first]["created"] <= told[second.version]["created"]


def test_rollback_goes_back_version_by_version_and_then_refuses(config: Config) -> None:
    workspace = Workspace(config.workspace)
    made = [store.current(workspace), another(config, kind="hnsw").version, another(config, kind="sq").version]
    for before, after in ((made[2], made[1]), (made[1], made[0])):
        told = versions.rollback(config)
        assert (told.before, told.version) == (before, after)
        assert store.current(workspace) == after
    with pytest.raises(WorkspaceError, match="no version was published before"):
        versions.rollback(config)
    assert store.current(workspace) == made[0]


def test_rollback_after_publishing_an_old_version_goes_back_to_what_answered_before(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first, second = store.current(workspace), another(config, kind="hnsw").version
    assert versions.publish(config, first).before == second
    assert versions.rollback(config).version == second


def test_rollback_passes_over_versions_that_are_gone(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first, second, _ = (
        store.current(workspace),
        another(config, kind="hnsw").version,
        another(config, kind="sq").version,
    )
    store.delete(workspace, second, config.index)
    assert versions.rollback(config).version == first


def test_rollback_never_goes_back_to_what_is_current(config: Config) -> None:
    """A, B, A again, and B is gone: before A there was nothing else."""
    workspace = Workspace(config.workspace)
    first, second = store.current(workspace), another(config, kind="hnsw").version
    versions.publish(config, first)
    store.delete(workspace, second, config.index)
    store.write_history(workspace, [v for v in store.history(workspace) if v != second])  # as `forget` does
    with pytest.raises(WorkspaceError, match="no version was published before"):
        versions.rollback(config)


def test_a_version_of_another_mmray_is_named_among_the_others(config: Config) -> None:
    workspace = Workspace(config.workspace)
    second = another(config, kind="hnsw").version
    manifest = workspace.read_json("index", second, "manifest.json")
    workspace.write_json({**manifest, "from": "tomorrow"}, "index", second, "manifest.json")
    told = versions.versions(config)
    assert [one.version for one in told.versions] != []
    assert list(told.unreadable) == [second]


def test_a_deleted_version_is_gone_and_no_rollback_goes_there(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(config.workspace)
    first, second, third = (
        store.current(workspace),
        another(config, kind="hnsw").version,
        another(config, kind="sq").version,
    )
    assert main(["index", "delete", second, "--workspace", config.workspace, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"version": second, "current": third}
    assert store.published(workspace) == sorted([first, third])
    assert not workspace.exists("index", second)
    assert store.history(workspace) == [first, third]
    assert versions.rollback(config).version == first


def test_the_current_version_is_not_deleted_and_the_error_says_what_to_do_first(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(config.workspace)
    first, second = store.current(workspace), another(config, kind="hnsw").version
    assert main(["index", "delete", second, "--workspace", config.workspace]) == 4
    assert "mmray index rollback" in capsys.readouterr().err
    versions.publish(config, first)
    assert versions.delete(config, second).current == first


def test_what_a_killed_build_left_of_a_version_can_be_deleted(config: Config) -> None:
    workspace = Workspace(config.workspace)
    second = another(config, kind="hnsw").version
    versions.rollback(config)
    Path(workspace.path("index", second, "manifest.json")).unlink()
    versions.delete(config, second)
    assert not workspace.exists("index", second)


@pytest.mark.parametrize("version", ["nothing", "../runs", "", ".", "current", "history.json"])
def test_deleting_what_is_no_version_is_refused_and_removes_nothing(config: Config, version: str) -> None:
    before = sorted(Path(config.workspace).rglob("*"))
    with pytest.raises(WorkspaceError, match="mmray index versions"):
        versions.delete(config, version)
    assert sorted(Path(config.workspace).rglob("*")) == before


@pytest.mark.parametrize("written", ["current", "history.json"])
def test_a_publisher_killed_between_pointer_and_history_loses_no_version(
    config: Config, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    workspace = Workspace(config.workspace)
    first = store.current(workspace)
    second = another(config, kind="hnsw").version
    versions.rollback(config)
    real = Workspace.write_bytes

    def write_bytes(self: Workspace, data: bytes, *parts: str) -> None:
        if parts[-1] == written:
            raise KeyboardInterrupt
        real(self, data, *parts)

    monkeypatch.setattr(Workspace, "write_bytes", write_bytes)
    with pytest.raises(KeyboardInterrupt):
        store.point_to(workspace, second)
    monkeypatch.undo()
    third = another(config, kind="sq").version
    assert versions.rollback(config).before == third
    assert store.current(workspace) == (first if written == "current" else second)


@pytest.mark.parametrize("version", ["nothing", "../runs", "", "."])
def test_publishing_what_is_no_version_is_refused(config: Config, version: str) -> None:
    before = store.current(Workspace(config.workspace))
    with pytest.raises(WorkspaceError):
        versions.publish(config, version)
    assert store.current(Workspace(config.workspace)) == before


def test_a_damaged_version_is_not_published(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first, second = store.current(workspace), another(config, kind="hnsw").version
    Path(workspace.path("index", first, "vectors-eeg.faiss")).write_bytes(b"rot")
    with pytest.raises(WorkspaceError, match="damaged"):
        versions.publish(config, first)
    with pytest.raises(WorkspaceError, match="damaged"):
        versions.rollback(config)
    assert store.current(workspace) == second


def test_a_version_whose_run_has_other_weights_now_is_not_published(config: Config) -> None:
    workspace = Workspace(config.workspace)
    first = store.current(workspace)
    another(config, kind="hnsw")
    weights = Path(workspace.path("runs", RUN, "model.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(WorkspaceError, match=f"other weights.*mmray index --run {RUN}"):
        versions.publish(config, first)


def test_options_before_a_verb_of_the_group_are_refused_and_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "--workspace", "somewhere", "versions"]) == 2
    assert "write options after versions" in capsys.readouterr().err
