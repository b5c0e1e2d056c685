"""The retriever that answers now, exchanged whole when the workspace's pointer moves.

A request takes `retriever` once and asks that object alone, so an answer never mixes two versions; a version that is
deleted meanwhile stays mapped until the last request that holds it is done.
"""

from __future__ import annotations

import logging
import threading

from mmray.errors import MmrayError
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

    def watch(self, every_s: float) -> threading.Event:
        """Refresh in a thread of its own until the returned event is set or the process ends."""
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(every_s):
                self.refresh()

        threading.Thread(target=run, name="takeover", daemon=True).start()
        return stop
