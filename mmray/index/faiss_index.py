"""faiss as a VectorIndex, in four kinds.

- flat: exact.
- hnsw: a navigable small-world graph over the exact vectors (Malkov & Yashunin 2018).
- sq: 8 bits a number; ivfpq: product-quantised codes in cells (Jegou et al. 2011). Both find candidates by small codes
  and compare the best of them by their exact vectors, which lie behind the codes in the same file. The file is mapped:
  of the exact vectors only the pages of candidates are ever read, so what stays in memory is the codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from mmray.config import Index
from mmray.errors import ConfigError, WorkspaceError
from mmray.index.base import no_room
from mmray.index.order import by_score_then_row

faiss: Any = _faiss  # its own type stubs lack half of its names

_CENTROIDS = 256  # of each byte of a product-quantised code
_POINTS = 39  # a centroid is the mean of at least; faiss's own advice
_MOST_POINTS = 64  # and at most: more take time and change little
_CANDIDATES = 100  # re-ranked at least
_CONSTRUCTION = 100  # candidates kept while an HNSW is built
_BREADTH = {"hnsw": "hnsw_ef", "ivfpq": "ivf_probe"}
_WIDER = (64, 128, 256, 512, 1024, 2048)
_RERANK = (20, 80, 320)  # candidates for each match


class FaissIndex:
    """A memory-mapped faiss file. See base.VectorIndex."""

    def __init__(self, index: Any, settings: Index) -> None:
        self._index = index
        self._settings = settings
        self._made: dict[int, Any] = {}  # by k, of which an endpoint allows a thousand
        self._refined = hasattr(index, "refine_index")
        self._exact = not self._refined and not hasattr(index, "hnsw")
        # every kind keeps the vectors themselves in a flat storage, which answers filtered searches exactly
        if self._exact:
            self._flat = index
        else:
            self._flat = faiss.downcast_index(index.refine_index if self._refined else index.storage)

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
            k = min(k, self.size)
            score_QK, row_QK = self._index.search(query_QE, k, params=self._parameters(k))
            if row_QK.min(initial=0) >= 0:
                return by_score_then_row(score_QK, row_QK, k)
            # the cells looked into, or the part of the graph that was reached, hold fewer than k: look at all
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
                return by_score_then_row(score_QK, row_QK, k)
            wanted = min(2 * wanted, rows)

    def _parameters(self, k: int) -> Any:
        """What faiss searches with; kept, because making it takes as long as a search."""
        if k not in self._made:
            self._made[k] = self._make_parameters(k)
        return self._made[k]

    def _make_parameters(self, k: int) -> Any:
        if not self._refined:
            return faiss.SearchParametersHNSW(efSearch=max(self._settings.hnsw_ef or _WIDER[0], k))
        candidates = min(self.size, max((self._settings.rerank or _RERANK[0]) * k, _CANDIDATES))
        inside = {}
        if hasattr(faiss.downcast_index(self._index.base_index), "nprobe"):
            inside = {"base_index_params": faiss.SearchParametersIVF(nprobe=self._settings.ivf_probe or _WIDER[0])}
        return faiss.IndexRefineSearchParameters(k_factor=candidates / k, **inside)


def resolved(settings: Index, counts: dict[str, int], width: int) -> str:
    """The kind that is built for so many vectors.

    Raises:
        ConfigError: they are too few, or of a width, for the kind that is asked for.
    """
    if settings.kind == "auto":
        return "hnsw" if max(counts.values()) >= settings.exact_below else "flat"
    if settings.kind == "ivfpq":
        smallest = min(counts, key=lambda modality: counts[modality])
        needed = _POINTS * max(_CENTROIDS, settings.ivf_lists or 1)
        if counts[smallest] < needed:
            raise ConfigError(
                f"index.kind = ivfpq learns its codes from at least {needed} vectors, and there are "
                f"{counts[smallest]} of {smallest}; set index.kind=auto"
                + (" or lower index.ivf_lists" if (settings.ivf_lists or 1) > _CENTROIDS else "")
            )
        if width % (settings.pq_bytes or 1) or (settings.pq_bytes is None and width % 4):
            raise ConfigError(
                f"index.pq_bytes = {settings.pq_bytes or width / 4:g} does not divide model.embedding = {width}; "
                "set a divisor"
            )
    return settings.kind


def breadths(settings: Index, kind: str) -> list[dict[str, int]]:
    """How widely a kind may be searched, narrow first; one empty choice where the settings say it or nothing varies."""
    name = _BREADTH.get(kind)
    fixed = name is None or getattr(settings, name) is not None
    found: list[dict[str, int]] = [{}] if fixed else [{str(name): wide} for wide in _WIDER]
    if kind in ("sq", "ivfpq") and settings.rerank is None:
        # where every cell is looked into and codes still tell too little, the exact vectors of more candidates decide
        found += [found[-1] | {"rerank": more} for more in _RERANK[1:]]
    return found


def write(vector_NE: NDArray[np.float32], settings: Index, kind: str, path: Path) -> None:
    """Index unit vectors and write the file. Same vectors and settings, same bytes, with one build thread.

    Args:
        kind: as `resolved` says.

    Raises:
        WorkspaceError: the folder has no room for it.
    """
    vector_NE = np.ascontiguousarray(vector_NE, dtype=np.float32)
    # the order of insertion decides an HNSW's links, and the order of sums a centroid
    with _threads(settings.build_threads if kind == "hnsw" else 1):
        index = _made(vector_NE, settings, kind)
        if not index.is_trained:
            index.train(vector_NE)
        index.add(vector_NE)
    if kind in ("sq", "ivfpq"):
        index = faiss.IndexRefineFlat(index, faiss.swig_ptr(vector_NE))
    try:
        faiss.write_index(index, str(path))
        faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)  # of a last page that the disk refused, faiss says nothing
    except RuntimeError as error:
        raise no_room(path, vector_NE.nbytes, "faiss cannot write it") from error


def _made(vector_NE: NDArray[np.float32], settings: Index, kind: str) -> Any:
    size, width = vector_NE.shape
    match kind:
        case "flat":
            return faiss.IndexFlatIP(width)
        case "hnsw":
            graph = faiss.IndexHNSWFlat(width, settings.hnsw_links, faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction = max(_CONSTRUCTION, settings.hnsw_ef or 0)
            return graph
        case "sq":
            return faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    lists = settings.ivf_lists or min(int(4 * math.sqrt(size)), size // _POINTS)
    cells = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFPQ(cells, width, lists, settings.pq_bytes or width // 4, 8, faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp):
        clustering.max_points_per_centroid = _MOST_POINTS
    return index


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def read(path: Path, settings: Index) -> FaissIndex:
    """Map a file into memory; processes on one machine share its pages.

    Args:
        path: written by `write`.
        settings: how widely to search; wider is slower and finds more of the exact answer.

    Raises:
        WorkspaceError: faiss cannot read the file.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise WorkspaceError(f"index: faiss cannot read {path.name}; run `mmray index` again") from error
    return FaissIndex(index, settings)
