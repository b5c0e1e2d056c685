"""The retriever that answers now, exchanged whole when the workspace's pointer moves.

A request takes `retriever` once and asks that object alone, so an answer never mixes two versions; a version that is
deleted meanwhile stays mapped until the last request that holds it is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mmray.errors import MmrayError, WorkspaceError
from mmray.index import store
from mmray.serving.answer import NothingServedError
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace

logger = logging.getLogger("ray.serve")

_LONGEST_PAUSE_S = 300.0  # between tries of a version that was refused: each reads its files whole


class Live:
    """A workspace's published index, and the run that made it.

    Attributes:
        refused: why the version pointed at is not the one that answers, without the workspace's place; else None.

    Raises:
        WorkspaceError: as `Retriever.open`.
    """

    def __init__(self, workspace: Workspace, top_k_limit: int = 1000) -> None:
        self._workspace = workspace
        self._top_k_limit = top_k_limit
        self.serving: Retriever | None = Retriever.open(workspace, top_k_limit=top_k_limit)
        self.refused: str | None = None
        self._again: tuple[str, float, float] = ("", 0.0, 0.0)  # a version that was refused, when to try, after what

    @property
    def retriever(self) -> Retriever:
        """What answers now. Raises NothingServedError where nothing may."""
        serving = self.serving
        if serving is None:
            raise NothingServedError(
                "nothing is served: the workspace has no index; it is taken over once there is one"
            )
        return serving

    def refresh(self) -> bool:
        """Take over the version pointed at, where it is another. One that cannot be opened changes nothing.

        What answers stops where its own version is gone from the workspace, for somebody in it was to be forgotten.
        """
        version = ""
        try:
            version = store.current(self._workspace)
            if self.serving is not None and version == self.serving.index.manifest.version:
                self.refused = None
                return False
            if version == self._again[0] and time.monotonic() < self._again[1]:
                self._drop_what_is_gone()
                return False
            opened = Retriever.open(self._workspace, version, self._top_k_limit)
        except MmrayError as error:
            self._refuse(version, str(error))
            self._drop_what_is_gone()
            return False
        self.serving, self.refused = opened, None
        return True

    def _refuse(self, version: str, reason: str) -> None:
        root = self._workspace.root
        told = reason.replace(f"workspace {root}", "the workspace").replace(root, "the workspace")
        if self.refused != told:
            logger.error("index not taken over: %s", reason)
        self.refused = told
        pause_s = min(2 * self._again[2], _LONGEST_PAUSE_S) if version == self._again[0] else 1.0
        self._again = (version, time.monotonic() + pause_s, pause_s)

    def _drop_what_is_gone(self) -> None:
        """Also where no answer can be had, it stays: a store that is away says nothing of what is in it."""
        serving = self.serving
        if serving is None:
            return
        try:
            gone = not self._workspace.exists("index", serving.index.manifest.version, "manifest.json")
        except (MmrayError, OSError):
            return
        if gone:
            logger.error("index %s is gone from the workspace and answers no more", serving.index.manifest.version)
            self.serving = None

    def check(self) -> None:
        """Ask what answers now for each modality's first vector. Whatever it raises, no request could be answered."""
        retriever = self.serving
        if retriever is None:  # another replica could not open it either
            return
        for modality, vectors in retriever.index.vectors.items():
            if vectors.size and not retriever.search_vector(vectors.vector(0), modality, 1).matches:
                raise WorkspaceError(f"index/{retriever.index.manifest.version}: {modality} finds nothing")


def watch(every_s: float, *steps: Callable[[], object]) -> threading.Event:
    """Take the steps in turn, in a thread of its own, until the returned event is set or the process ends.

    A step that fails is logged by its kind and does not end the thread: what it would have renewed stays as it was.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(every_s):
            for step in steps:
                try:
                    step()
                except Exception as error:
                    logger.error("%s: %s", getattr(step, "__qualname__", "step"), type(error).__name__)

    threading.Thread(target=run, name="takeover", daemon=True).start()
    return stop
