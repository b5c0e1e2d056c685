"""How much of the exact answer an index finds, measured before it is published."""

from __future__ import annotations

import numpy as np

from mmray.index.base import VectorIndex

K = 10
_QUERIES = 200
_NOISE = 0.1  # length of what is added to a unit vector, so that a query is near a stored one and not equal to it
_TIE = 1e-6


def measured(index: VectorIndex, seed: int = 0) -> float:
    """Recall@10 against the exact search, which a filter that lets all pass is; queries are stored vectors, perturbed.

    A row as good as the exact tenth counts as found.
    """
    rng = np.random.default_rng(seed)
    row_Q = rng.choice(index.size, min(_QUERIES, index.size), replace=False)
    query_QE = np.stack([index.vector(int(row)) for row in row_Q])
    noise_QE = rng.standard_normal(query_QE.shape, dtype=np.float32)
    query_QE += _NOISE * noise_QE / np.linalg.norm(noise_QE, axis=1, keepdims=True)
    query_QE /= np.linalg.norm(query_QE, axis=1, keepdims=True)
    exact_QK, _ = index.search(query_QE, K, np.ones(index.size, dtype=np.bool_))
    found_QK, _ = index.search(query_QE, K)
    return float((found_QK >= exact_QK[:, -1:] - _TIE).mean())
