"""One query against the index: mmray's ordered, filterable search against bare faiss on the same file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks.harness import Outcome
from mmray.config import Index
from mmray.index import faiss_index

faiss: Any = _faiss  # its own type stubs lack half of its names

WIDTH, K, QUERIES = 64, 10, 20


def run(*, quick: bool) -> Outcome:
    """Time single queries, exact and HNSW, one thread; recall of the HNSW is in the detail."""
    faiss.omp_set_num_threads(1)
    rows = 20_000 if quick else 100_000
    rng = np.random.default_rng(0)
    vector_NE = _unit(rng, rows)
    query_QE = _unit(rng, QUERIES)
    outcome = Outcome("search")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("flat", "hnsw"):
            path = Path(folder) / kind
            settings = Index.model_validate({"kind": kind})
            faiss_index.write(vector_NE, settings, path)
            ours = faiss_index.read(path, settings.hnsw_ef)
            bare = faiss.read_index(str(path))
            if kind == "hnsw":
                bare.hnsw.efSearch = settings.hnsw_ef
            outcome.compare(
                f"{kind} over bare faiss",
                lambda ours=ours: [ours.search(query_QE[q : q + 1], K) for q in range(QUERIES)],  # type: ignore[misc]
                lambda bare=bare: [bare.search(query_QE[q : q + 1], K) for q in range(QUERIES)],  # type: ignore[misc]
                rounds=5 if quick else 25,
                bar=0.8,
            )
            found_QK = ours.search(query_QE, K)[1]
            best_QK = np.argsort(-(query_QE @ vector_NE.T), axis=1)[:, :K]
            recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found_QK, best_QK, strict=True)])
            outcome.detail[f"{kind} recall@{K}"] = round(float(recall), 4)
    outcome.detail["vectors"] = rows
    return outcome


def _unit(rng: np.random.Generator, rows: int) -> np.typing.NDArray[np.float32]:
    x_NE = rng.standard_normal((rows, WIDTH), dtype=np.float32)
    unit: np.typing.NDArray[np.float32] = x_NE / np.linalg.norm(x_NE, axis=1, keepdims=True)
    return unit
