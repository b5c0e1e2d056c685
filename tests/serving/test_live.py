"""Another index is taken over whole, and a broken one is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmray.config import Config, from_dict
from mmray.errors import WorkspaceError
from mmray.index import store
from mmray.index.build import build_index
from mmray.serving import live as lives
from mmray.serving.answer import NothingServedError
from mmray.serving.live import Live
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace


@pytest.fixture
def changing(config: Config, tmp_path: Path) -> Config:
    """A copy of the workspace, with a second index version published last."""
    shutil.copytree(config.workspace, tmp_path / "ws")
    copied = from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")})
    build_index(from_dict({**copied.model_dump(), "index": {"kind": "hnsw"}}))
    return copied


def versions(config: Config) -> tuple[str, str]:
    newest = store.current(Workspace(config.workspace))
    (oldest,) = (name for name in store.published(Workspace(config.workspace)) if name != newest)
    return oldest, newest


def test_the_version_pointed_at_is_taken_over_and_the_old_one_still_answers_whoever_holds_it(changing: Config) -> None:
    workspace = Workspace(changing.workspace)
    old, new = versions(changing)
    store.point_to(workspace, old)
    live = Live(workspace)
    held = live.retriever
    store.point_to(workspace, new)
    assert live.refresh()
    workspace.delete_tree("index", old)
    assert live.retriever.search_recording("s1-eeg-1", "audio", 3).index_version == new
    answer = held.search_recording("s1-eeg-1", "audio", 3)
    assert answer.index_version == old
    assert len(answer.matches) == 3
    assert not live.refresh()


@pytest.mark.parametrize("pointer", ["nowhere", "../etc", ""])
def test_a_pointer_at_nothing_changes_nothing_and_is_told(changing: Config, pointer: str) -> None:
    workspace = Workspace(changing.workspace)
    live = Live(workspace)
    served = live.retriever
    workspace.write_text(pointer, "index", "current")
    assert not live.refresh()
    assert live.retriever is served
    assert live.refused
    store.point_to(workspace, served.index.manifest.version)
    assert not live.refresh()
    assert live.refused is None


def test_a_damaged_version_is_not_taken_over(changing: Config) -> None:
    workspace = Workspace(changing.workspace)
    old, new = versions(changing)
    store.point_to(workspace, old)
    live = Live(workspace)
    damaged = workspace.read_bytes("index", new, "vectors-eeg.faiss")
    workspace.write_bytes(damaged[:-4] + b"abcd", "index", new, "vectors-eeg.faiss")
    store.point_to(workspace, new)
    assert not live.refresh()
    assert live.retriever.index.manifest.version == old
    assert "vectors-eeg.faiss is damaged" in str(live.refused)


def test_a_refused_version_is_tried_again_with_growing_pauses(
    changing: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(changing.workspace)
    old, new = versions(changing)
    store.point_to(workspace, old)
    live = Live(workspace)
    whole = workspace.read_bytes("index", new, "vectors-eeg.faiss")
    workspace.write_bytes(whole[:-4] + b"abcd", "index", new, "vectors-eeg.faiss")
    store.point_to(workspace, new)
    now, tries, opened = [1000.0], [], Retriever.open
    monkeypatch.setattr(lives.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Retriever, "open", lambda *told: tries.append(now[0]) or opened(*told))
    for _ in range(40):
        live.refresh()
        now[0] += 1
    assert [tried - 1000 for tried in tries] == [0, 1, 3, 7, 15, 31]
    workspace.write_bytes(whole, "index", new, "vectors-eeg.faiss")  # mended in place
    now[0] += 60
    assert live.refresh()
    assert live.retriever.index.manifest.version == new


@pytest.mark.parametrize("replaced", [False, True], ids=["nothing is left", "a version that is refused"])
def test_what_is_gone_from_the_workspace_answers_no_more(changing: Config, replaced: bool) -> None:
    """As `mmray index forget` leaves it: of somebody who was to be forgotten nothing may be told."""
    workspace = Workspace(changing.workspace)
    old, new = versions(changing)
    store.point_to(workspace, old)
    live = Live(workspace)
    if replaced:
        damaged = workspace.read_bytes("index", new, "vectors-eeg.faiss")
        workspace.write_bytes(damaged[:-4] + b"abcd", "index", new, "vectors-eeg.faiss")
        store.point_to(workspace, new)
    else:
        workspace.delete("index", "current")
    assert not live.refresh()
    assert live.retriever.index.manifest.version == old  # it is still published
    store.delete(workspace, old, changing.index)
    assert not live.refresh()
    with pytest.raises(NothingServedError):
        _ = live.retriever
    live.check()  # no reason to end the replica: the next index may come
    store.delete(workspace, new, changing.index)
    again = build_index(changing).version
    assert live.refresh()
    assert live.retriever.index.manifest.version == again


def test_a_workspace_that_is_away_takes_nothing_from_what_answers(
    changing: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(Workspace(changing.workspace))

    def away(*_: object) -> bool:
        raise WorkspaceError(f"workspace {changing.workspace}: no route to host")

    monkeypatch.setattr(Workspace, "exists", away)
    assert not live.refresh()
    assert live.retriever.search_recording("s1-eeg-1", "audio", 3).matches
    assert changing.workspace not in str(live.refused)  # every holder of a key is told it
    assert "no route to host" in str(live.refused)
