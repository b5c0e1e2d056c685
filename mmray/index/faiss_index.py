"""faiss as a VectorIndex: exact (flat) or a navigable small-world graph (HNSW; Malkov & Yashunin 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from mmray.config import Index
from mmray.errors import WorkspaceError

faiss: Any = _faiss  # its own type stubs lack half of its names


class FaissIndex:
    """A memory-mapped faiss file. See base.VectorIndex."""

    def __init__(self, index: Any, ef: int) -> None:
        self._index = index
        self._exact = not hasattr(index, "hnsw")
        # an HNSW keeps its vectors in a flat storage, which answers filtered searches exactly
        self._flat = index if self._exact else faiss.downcast_index(index.storage)
        self._ef = ef

    @property
    def size(self) -> int:
        """N, the number of vectors."""
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """E, their length."""
        return int(self._index.d)

    def vector(self, row: int) -> NDArray[np.float32]:
        """One stored vector."""
        vector_E: NDArray[np.float32] = self._flat.reconstruct(row)
        return vector_E

    def search(
        self, query_QE: NDArray[np.float32], k: int, allowed_N: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k best rows of each query, best first, equal scores in row order. See VectorIndex.search."""
        query_QE = np.ascontiguousarray(query_QE, dtype=np.float32)
        if not self._exact and allowed_N is None:
            parameters = faiss.SearchParametersHNSW(efSearch=max(self._ef, k))
            score_QK, row_QK = self._index.search(query_QE, min(k, self.size), params=parameters)
            return _by_score_then_row(score_QK, row_QK, k)
        rows = self.size if allowed_N is None else int(allowed_N.sum())
        k = min(k, rows)
        if k == 0:
            empty_Q0 = np.empty((len(query_QE), 0), dtype=np.float32)
            return empty_Q0, empty_Q0.astype(np.int64)
        parameters = None
        if allowed_N is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
            parameters = faiss.SearchParameters(sel=selector)
        # faiss keeps any of the rows that tie at the cut: ask on until the tie ends, then order by row
        wanted = min(k + 1, rows)
        while True:
            score_QK, row_QK = self._flat.search(query_QE, wanted, params=parameters)
            if wanted == rows or bool((score_QK[:, k - 1] > score_QK[:, -1]).all()):
                return _by_score_then_row(score_QK, row_QK, k)
            wanted = min(2 * wanted, rows)


def write(vector_NE: NDArray[np.float32], config: Index, path: Path) -> None:
    """Index unit vectors and write the file. Same vectors and settings, same bytes."""
    width = vector_NE.shape[1]
    if config.kind == "flat":
        index = faiss.IndexFlatIP(width)
    else:
        index = faiss.IndexHNSWFlat(width, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = max(200, config.hnsw_ef)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # the order of insertion decides an HNSW's links
    try:
        index.add(np.ascontiguousarray(vector_NE, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(threads)
    faiss.write_index(index, str(path))


def read(path: Path, ef: int) -> FaissIndex:
    """Map a file into memory; processes on one machine share its pages.

    Args:
        path: written by `write`.
        ef: candidates an HNSW search keeps; more is slower and finds more of the exact answer.

    Raises:
        WorkspaceError: faiss cannot read the file.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise WorkspaceError(f"index: faiss cannot read {path.name}; run `mmray index` again") from error
    return FaissIndex(index, ef)


def _by_score_then_row(
    score_QK: NDArray[np.float32], row_QK: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    order_QK = np.lexsort((row_QK, -score_QK), axis=-1)[:, :k]
    return np.take_along_axis(score_QK, order_QK, axis=1), np.take_along_axis(row_QK, order_QK, axis=1)
