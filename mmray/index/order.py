"""The order of an answer, the same in every kind of index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def by_score_then_row(
    score_QK: NDArray[np.float32], row_QK: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The first k of each query's candidates by falling score, equal scores by rising row."""
    if (score_QK[:, :-1] > score_QK[:, 1:]).all():  # as they mostly come; sorting takes as long as a small search
        return score_QK[:, :k], row_QK[:, :k]
    order_QK = np.lexsort((row_QK, -score_QK), axis=-1)[:, :k]
    return np.take_along_axis(score_QK, order_QK, axis=1), np.take_along_axis(row_QK, order_QK, axis=1)
