"""Cross-modal retrieval: ranks over the whole gallery, their summaries, and the exact chance level of each.

A query's match is one gallery row. Ties count against the query, so a constant embedding scores at the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RANK_METRICS = ("R@1", "R@5", "R@10", "MRR", "median_rank")
# cosines closer than this are a tie: equal float32 rows differ by a few ulp after a blocked matrix product
TIE = 1e-6


def ranks_of_matches(query_QD: Tensor, gallery_GD: Tensor, match_Q: Tensor, chunk: int = 4096) -> Tensor:
    """Rank (1 = best) of each query's match by inner product (cosine of unit rows); a tie counts against the query.

    Args:
        query_QD: queries.
        gallery_GD: gallery.
        match_Q: int64, the gallery row that answers each query.
        chunk: queries scored at once; bounds memory to chunk x G and changes no rank.

    Returns:
        int64 ranks in 1..G, of shape Q. A query or match that holds NaN ranks last.
    """
    ranks = [match_Q.new_zeros(0)]
    for start in range(0, len(query_QD), chunk):
        score_CG = query_QD[start : start + chunk] @ gallery_GD.T
        own_C1 = score_CG.gather(1, match_Q[start : start + chunk, None])
        ranks.append((~(score_CG < own_C1 - TIE)).sum(1))
    return torch.cat(ranks)


def ranks_of_all(query_QD: Tensor, gallery_GD: Tensor) -> Tensor:
    """Rank that every gallery row would have as each query's match, shape Q x G; what a permuted pairing looks up.

    Column g equals `ranks_of_matches` with g as the match of every query. Values must be finite.
    """
    score_QG = query_QD @ gallery_GD.T
    below_QG = torch.searchsorted(score_QG.sort(dim=1).values, score_QG - TIE)
    return score_QG.shape[1] - below_QG


def retrieval_metrics(ranks: Tensor | NDArray[Any], gallery: int) -> dict[str, float]:
    """R@1, R@5, R@10, mean reciprocal rank and median rank of a set of ranks.

    Args:
        ranks: 1 = best, at most `gallery`.
        gallery: rows searched.

    Raises:
        ValueError: there is no rank, or one lies outside 1..gallery.
    """
    rank_Q = np.asarray(ranks, dtype=np.float64)
    if rank_Q.size == 0 or rank_Q.min() < 1 or rank_Q.max() > gallery:
        raise ValueError(f"ranks must be one or more numbers in 1..{gallery}")
    return {metric: float(summarise(metric, contributions(metric, rank_Q))) for metric in RANK_METRICS}


def telling(metrics: Sequence[str], gallery: int) -> list[str]:
    """Those of the metrics that can fail in a gallery: R@k among k rows is 1, whoever is asked."""
    return [metric for metric in metrics if not metric.startswith("R@") or _cutoff(metric) < gallery]


def contributions(metric: str, rank_NQ: NDArray[Any]) -> NDArray[np.float64]:
    """What each query adds to a figure: a hit, a reciprocal rank, or for the median the rank itself."""
    rank_NQ = np.asarray(rank_NQ, dtype=np.float64)
    if metric == "MRR":
        return 1.0 / rank_NQ
    if metric == "median_rank":
        return rank_NQ
    return (rank_NQ <= _cutoff(metric)).astype(np.float64)


def summarise(metric: str, value_NQ: NDArray[Any]) -> NDArray[np.float64]:
    """Contributions to figure over the last axis: the median for ranks, the mean for all else."""
    reduce = np.median if metric == "median_rank" else np.mean
    return np.asarray(reduce(value_NQ, axis=-1), dtype=np.float64)


def rank_order(score_QG: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gallery rows by falling score, and for each place the last place of its block of equal scores.

    Relevance can change (a permutation of labels) while this stays.
    """
    order_QG = np.argsort(-score_QG, axis=1, kind="stable")
    sorted_QG = np.take_along_axis(score_QG, order_QG, axis=1)
    ends_QG = np.ones(score_QG.shape, dtype=bool)
    ends_QG[:, :-1] = sorted_QG[:, :-1] - sorted_QG[:, 1:] > TIE
    place_QG = np.where(ends_QG, np.arange(score_QG.shape[1]), score_QG.shape[1])
    return order_QG, np.minimum.accumulate(place_QG[:, ::-1], axis=1)[:, ::-1]


def average_precision(
    order_QG: NDArray[np.int64], last_QG: NDArray[np.int64], relevant_QG: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Average precision of each query over the whole gallery; NaN where nothing is relevant.

    The mean, over the relevant rows, of precision at that row's score (Manning et al. 2008, section 8.4). Rows of
    equal score are taken together, as scikit-learn does: ties earn what a block of them holds, never a lucky order.
    """
    hit_QG = np.take_along_axis(relevant_QG, order_QG, axis=1)
    found_QG = np.take_along_axis(hit_QG.cumsum(axis=1), last_QG, axis=1)
    total_Q = hit_QG.sum(axis=1)
    precise_Q = (hit_QG * found_QG / (last_QG + 1)).sum(axis=1)
    return np.asarray(np.divide(precise_Q, total_Q, out=np.full(len(total_Q), np.nan), where=total_Q > 0))


def mean_average_precision(score_QG: NDArray[Any], relevant_QG: NDArray[np.bool_]) -> float:
    """MAP over the queries for which something is relevant.

    Args:
        score_QG: similarity of each query to each gallery row; -inf takes a row out of a query's gallery.
        relevant_QG: which rows share the query's label.

    Raises:
        ValueError: no query has a relevant row.
    """
    precision_Q = average_precision(*rank_order(score_QG), relevant_QG)
    if np.isnan(precision_Q).all():
        raise ValueError("no query has a relevant row in the gallery")
    return float(np.nanmean(precision_Q))


def chance(metric: str, gallery: int) -> float:
    """Exact expected value under a uniformly random ranking without ties.

    R@k = min(k, G) / G; MRR = H_G / G with the harmonic number H_G; median rank (G + 1) / 2.
    """
    if gallery < 1:
        raise ValueError("a gallery holds at least one row")
    if metric == "MRR":
        return float((1.0 / np.arange(1, gallery + 1)).sum() / gallery)
    if metric == "median_rank":
        return (gallery + 1) / 2
    return min(_cutoff(metric), gallery) / gallery


def chance_average_precision(relevant: int, gallery: int) -> float:
    """Exact expected average precision of a uniformly random ranking of `relevant` among `gallery` rows.

    The row at rank i is relevant with probability R/G, and then (i - 1)(R - 1)/(G - 1) relevant rows stand before it
    on average, so E[AP] = (1/G) sum_i (1/i) (1 + (i - 1)(R - 1)/(G - 1)).
    """
    if not 1 <= relevant <= gallery:
        raise ValueError(f"between 1 and {gallery} rows must be relevant")
    rank_G = np.arange(1, gallery + 1, dtype=np.float64)
    return float(((1 + (rank_G - 1) * (relevant - 1) / max(gallery - 1, 1)) / rank_G).mean())


def unit(x_ND: NDArray[Any]) -> NDArray[np.float64]:
    """Rows at length one; a zero row stays zero."""
    x_ND = np.asarray(x_ND, dtype=np.float64)
    length_N1 = np.linalg.norm(x_ND, axis=-1, keepdims=True)
    return np.asarray(np.divide(x_ND, length_N1, out=np.zeros_like(x_ND), where=length_N1 > 0))


def group_vectors(z_SD: NDArray[Any], group_S: NDArray[np.integer[Any]], groups: int) -> NDArray[np.float64]:
    """Normalised mean of each group's unit embeddings: a subject's vector from its segments.

    Args:
        z_SD: segment embeddings, any length.
        group_S: group of each segment, in 0..groups-1.
        groups: U.

    Returns:
        Unit rows, shape U x D; zero where a group has no segment.
    """
    total_UD = np.zeros((groups, z_SD.shape[1]))
    np.add.at(total_UD, group_S, unit(z_SD))
    return unit(total_UD)


def _cutoff(metric: str) -> int:
    name, _, cutoff = metric.partition("@")
    if name != "R" or not cutoff.isdigit():
        raise ValueError(f"{metric} is not a retrieval metric; known: {', '.join(RANK_METRICS)}")
    return int(cutoff)
