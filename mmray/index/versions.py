"""`mmray index versions`, `publish`, `rollback` and `delete`: which versions there are, and which readers take."""

from __future__ import annotations

from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from mmray.config import Config
from mmray.errors import WorkspaceError
from mmray.index import build, store
from mmray.storage import Workspace


@dataclass(frozen=True)
class Version:
    """One version that is there whole.

    Attributes:
        counts: vectors by modality.
        recall: measured recall@10 by modality.
        created: when, UTC.
    """

    version: str
    run_id: str
    kind: str
    counts: dict[str, int]
    recall: dict[str, float]
    created: str
    current: bool


@dataclass(frozen=True)
class VersionList:
    """What `mmray index versions` tells, oldest first.

    Attributes:
        unreadable: what no reader of this mmray takes, with why.
    """

    versions: list[Version]
    unreadable: dict[str, str] = field(default_factory=dict)

    def render(self) -> Table:
        """As a table for a terminal."""
        shown = Table(box=box.SIMPLE)
        for column in ("", "version", "run", "kind", "vectors", "recall@10", "created"):
            shown.add_column(column)
        for one in self.versions:
            counts = ", ".join(f"{count} {modality}" for modality, count in one.counts.items())
            recall = ", ".join(f"{value:.3f}" for value in one.recall.values())
            mark = "current" if one.current else ""
            shown.add_row(mark, one.version, one.run_id, one.kind, counts, recall, one.created)
        for version, why in self.unreadable.items():
            shown.add_row("unreadable", version, "", "", why, "", "")
        return shown


@dataclass(frozen=True)
class Pointed:
    """What `mmray index publish` and `rollback` tell.

    Attributes:
        before: the version that was current; None where there was none.
    """

    version: str
    run_id: str
    before: str | None

    def render(self) -> str:
        """As a line for a terminal."""
        return f"index {self.version} of run {self.run_id} is current, before it {self.before or 'none'}"


@dataclass(frozen=True)
class Deleted:
    """What `mmray index delete` tells.

    Attributes:
        current: the version that answers; None where there is none.
    """

    version: str
    current: str | None

    def render(self) -> str:
        """As a line for a terminal."""
        return f"index {self.version} is deleted; " + (
            f"{self.current} is current" if self.current else "none is current"
        )


def versions(config: Config) -> VersionList:
    """The versions of a workspace, by when they were made."""
    workspace = Workspace(config.workspace)
    now = store.current(workspace) if workspace.exists("index", "current") else None
    found, unreadable = [], {}
    for name in store.published(workspace):
        try:
            found.append(store.read_manifest(workspace, name))
        except WorkspaceError as error:
            unreadable[name] = str(error)
    return VersionList(
        [
            Version(m.version, m.run_id, m.kind, m.counts, m.recall, m.created, m.version == now)
            for m in sorted(found, key=lambda m: (m.created, m.version))
        ],
        unreadable,
    )


def publish(config: Config, version: str) -> Pointed:
    """Make a version current, once it is opened and found whole.

    Raises:
        WorkspaceError: there is no such version, it is damaged, or its run has other weights by now.
    """
    workspace = Workspace(config.workspace)
    before = store.current(workspace) if workspace.exists("index", "current") else None
    run_id = _require_usable(workspace, version)
    store.point_to(workspace, version)
    return Pointed(version, run_id, before)


def rollback(config: Config) -> Pointed:
    """Make the version current that was published before the current one and is still there.

    Raises:
        WorkspaceError: there is none, or it is damaged.
    """
    workspace = Workspace(config.workspace)
    now, past = store.current(workspace), store.history(workspace)
    if now in past:
        past = past[: len(past) - 1 - past[::-1].index(now)]
    # current may stand there twice, with nothing between the two any more
    while past and (past[-1] == now or not workspace.exists("index", past[-1], "manifest.json")):
        past.pop()
    if not past:
        raise WorkspaceError(
            f"workspace {workspace.root}: no version was published before {now}; see `mmray index versions`"
        )
    run_id = _require_usable(workspace, past[-1])
    workspace.write_text(past[-1] + "\n", "index", "current")
    store.write_history(workspace, past)
    return Pointed(past[-1], run_id, now)


def delete(config: Config, version: str) -> Deleted:
    """Remove a version with its collections in Milvus; one that was never finished, too.

    Raises:
        WorkspaceError: there is no such version, it is current, or it cannot be deleted.
        ResourceError: its Milvus does not answer; nothing is deleted.
    """
    workspace = Workspace(config.workspace)
    now = store.current(workspace) if workspace.exists("index", "current") else None
    if version == now:
        raise WorkspaceError(
            f"workspace {workspace.root}: index version {version} is current, and endpoints answer from it; go back by "
            "`mmray index rollback`, or publish another, and then delete it"
        )
    if version not in set(workspace.names("index")) - {"current", store.HISTORY}:
        raise WorkspaceError(
            f"workspace {workspace.root}: index version {version} is not there; see `mmray index versions`"
        )
    store.delete(workspace, version, config.index)
    past = store.history(workspace)
    if version in past:
        store.write_history(workspace, [one for one in past if one != version])
    return Deleted(version, now)


def _require_usable(workspace: Workspace, version: str) -> str:
    """The run of a version that readers can take."""
    manifest = store.open_index(workspace, version).manifest
    if not build.is_of_its_run(workspace, manifest):
        raise WorkspaceError(
            f"index/{version} was made with other weights than runs/{manifest.run_id} holds now; "
            f"run `mmray index --run {manifest.run_id}`"
        )
    return manifest.run_id
