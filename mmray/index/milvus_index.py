"""Milvus as a VectorIndex: for indexes beyond one node. A collection a version and modality; the extra `milvus`.

The exact vectors lie in the workspace, too: from them an index is built again, and a filter that no expression can hold
is answered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.config import Index
from mmray.errors import ConfigError, ResourceError, WorkspaceError
from mmray.index.faiss_index import FaissIndex
from mmray.index.order import by_score_then_row

TOKEN = "MMRAY_MILVUS_TOKEN"  # nosec B105 # where it is, not what it is
_BATCH = 1000  # rows a message
_MOST_ROWS = 16_384  # that Milvus answers
_MOST_LISTED = 10_000  # rows in a filter's expression


class MilvusIndex:
    """A loaded collection. See base.VectorIndex."""

    def __init__(self, settings: Index, name: str, kind: str, exact: FaissIndex) -> None:
        self._settings, self._name, self._kind, self._exact = settings, name, kind, exact

    @property
    def size(self) -> int:
        """N, the number of vectors."""
        return self._exact.size

    @property
    def width(self) -> int:
        """E, their length."""
        return self._exact.width

    def vector(self, row: int) -> NDArray[np.float32]:
        """One stored vector."""
        return self._exact.vector(row)

    def search(
        self, query_QE: NDArray[np.float32], k: int, allowed_N: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best rows of each query, best first, equal scores in row order. See VectorIndex.search."""
        rows = self.size if allowed_N is None else int(allowed_N.sum())
        k = min(k, rows)
        expression = "" if allowed_N is None else _expression(allowed_N)
        if k == 0 or k >= _MOST_ROWS or expression is None or (expression and self._kind != "flat"):
            return self._exact.search(query_QE, k, np.ones(self.size, np.bool_) if allowed_N is None else allowed_N)
        # rows that tie at the cut may be any: ask on until the tie ends, then order by row
        wanted = min(k + (self._kind == "flat"), rows)
        while True:
            score_QK, row_QK = self._ask(query_QE, wanted, expression)
            tied = self._kind == "flat" and bool((score_QK[:, k - 1] == score_QK[:, -1]).any())
            if not tied or wanted in (k, rows, _MOST_ROWS):
                return by_score_then_row(score_QK, row_QK, k)
            wanted = min(2 * wanted, rows, _MOST_ROWS)

    def _ask(
        self, query_QE: NDArray[np.float32], wanted: int, expression: str
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        parameters = {"ef": max(self._settings.hnsw_ef or 64, wanted)} if self._kind == "hnsw" else {}
        with _told(self._settings):
            found = _client(self._settings).search(
                self._name,
                data=np.asarray(query_QE, dtype=np.float32).tolist(),
                limit=wanted,
                filter=expression,
                output_fields=["row"],
                search_params={"metric_type": "IP", "params": parameters},
            )
        if any(len(hits) < wanted for hits in found):
            raise WorkspaceError(f"index: Milvus collection {self._name} lost rows; run `mmray index` again")
        score_QK = np.array([[hit["distance"] for hit in hits] for hits in found], dtype=np.float32)
        return score_QK, np.array([[hit["row"] for hit in hits] for hits in found], dtype=np.int64)


def collection(version: str, modality: str) -> str:
    """Its name; Milvus takes letters, digits and underscores."""
    return f"mmray_{version}_{modality}"


def write(vector_NE: NDArray[np.float32], settings: Index, kind: str, name: str) -> None:
    """Make a collection of unit vectors, in place of one of this name.

    Raises:
        ConfigError: pymilvus is not installed.
        ResourceError: no Milvus answers, or it refuses.
    """
    with _told(settings):
        from pymilvus import DataType, MilvusClient

        client = _client(settings)
        client.drop_collection(name)
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vector_NE.shape[1])
        index = client.prepare_index_params()
        parameters = {"M": settings.hnsw_links, "efConstruction": 200} if kind == "hnsw" else {}
        index.add_index("vector", index_type=kind.upper(), metric_type="IP", params=parameters)
        client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
        for start in range(0, len(vector_NE), _BATCH):
            rows = vector_NE[start : start + _BATCH].tolist()
            client.insert(name, [{"row": start + at, "vector": vector} for at, vector in enumerate(rows)])
        client.flush(name)
        client.load_collection(name)


def read(settings: Index, kind: str, name: str, exact: FaissIndex) -> MilvusIndex:
    """Open a collection that `write` made.

    Args:
        settings: where Milvus is, and how widely to search.
        exact: the same vectors in the workspace.

    Raises:
        WorkspaceError: it is not there, or does not hold as many rows.
        As `write`.
    """
    with _told(settings):
        client = _client(settings)
        held = int(client.get_collection_stats(name)["row_count"]) if client.has_collection(name) else 0
        if held == exact.size:
            client.load_collection(name)
    if held != exact.size:
        raise WorkspaceError(
            f"index: Milvus collection {name} holds {held} of {exact.size} rows; run `mmray index` again"
        )
    return MilvusIndex(settings, name, kind, exact)


def drop(settings: Index, name: str) -> None:
    """Remove a collection; nothing happens where there is none. Raises as `write`."""
    with _told(settings):
        _client(settings).drop_collection(name)


@contextmanager
def _told(settings: Index) -> Iterator[None]:
    """Milvus's errors as ours."""
    try:
        import pymilvus
    except ImportError:
        raise ConfigError("index.backend = milvus needs pymilvus: pip install 'mmray[milvus]'") from None
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it prints what it raises
    try:
        yield
    except (pymilvus.MilvusException, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ResourceError(
            f"index: Milvus at {settings.milvus_uri} cannot do it: {reason}; see index.milvus_uri and {TOKEN}"
        ) from error


def _client(settings: Index) -> Any:
    return _connected(str(settings.milvus_uri), os.environ.get(TOKEN, ""))


@lru_cache(maxsize=4)
def _connected(uri: str, token: str) -> Any:
    from pymilvus import MilvusClient

    return MilvusClient(uri=uri, token=token)


def _expression(allowed_N: NDArray[np.bool_]) -> str | None:
    """A filter as Milvus reads it, by the rows that pass or those that do not; None where both are too many."""
    few = allowed_N if allowed_N.sum() <= len(allowed_N) / 2 else ~allowed_N
    listed = np.flatnonzero(few).tolist()
    if len(listed) > _MOST_LISTED:
        return None
    if few is allowed_N:
        return f"row in {listed}"
    return f"row not in {listed}" if listed else "row >= 0"
