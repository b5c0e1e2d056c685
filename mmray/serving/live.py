"""The retriever that answers now, exchanged whole when the workspace's pointer moves.

A request takes `retriever` once and asks that object alone, so an answer never mixes two versions; a version that is
deleted meanwhile stays mapped until the last request that holds it is done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mmray.errors import MmrayError, WorkspaceError
from mmray.index import store
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace

logger = logging.getLogger("ray.serve")


class Live:
    """A workspace's published index, and the run that made it.

    Attributes:
        retriever: what answers now.
        refused: why the version pointed at is not the one that answers; None where it is.

    Raises:
        WorkspaceError: as `Retriever.open`.
    """

    def __init__(self, workspace: Workspace, top_k_limit: int = 1000) -> None:
        self._workspace = workspace
        self._top_k_limit = top_k_limit
        self.retriever = Retriever.open(workspace, top_k_limit=top_k_limit)
        self.refused: str | None = None

    def refresh(self) -> bool:
        """Take over the version pointed at, where it is another. One that cannot be opened changes nothing."""
        try:
            version = store.current(self._workspace)
            if version == self.retriever.index.manifest.version:
                self.refused = None
                return False
            opened = Retriever.open(self._workspace, version, self._top_k_limit)
        except MmrayError as error:
            if self.refused != str(error):
                logger.error("index not taken over: %s", error)
            self.refused = str(error)
            return False
        self.retriever, self.refused = opened, None
        return True

    def check(self) -> None:
        """Ask what answers now for each modality's first vector. Whatever it raises, no request could be answered."""
        retriever = self.retriever
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
