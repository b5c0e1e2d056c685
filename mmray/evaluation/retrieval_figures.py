"""Every retrieval figure of one fit: gallery, chance, interval and p.

A subject's vector is the normalised mean of its unit segment embeddings, one a modality. The gallery holds every test
subject that has both modalities. Where a study pairs trials or windows, `pair_id` takes the subject's place as what
matches, and subjects stay the unit of resampling and permutation; a second figure then ranks each pair among those of
its own subject alone, where nothing but timing can tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray import config
from mmray.evaluation import retrieval, statistics
from mmray.evaluation.paired import Paired, values_by_pair
from mmray.schema import MODALITIES, Metric

Ceilings = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class _Earned:
    """What S subjects earn, and what they would under N pairings drawn by chance.

    Attributes:
        value_S, permuted_NS: a subject's pairs averaged.
        gallery_S: rows that each subject's queries are ranked among; one entry where they are the same for all.
        queries: how many.
    """

    value_S: NDArray[np.float64]
    permuted_NS: NDArray[np.float64]
    gallery_S: NDArray[np.int64]
    queries: int


def figures(paired: Paired, settings: config.Evaluate, seed: int, ceilings: Ceilings) -> list[Metric]:
    """Ranks of every level in each direction, and mAP of equal labels; nothing with fewer than two subjects.

    Args:
        paired: of the subjects that are reported.
        settings: how many bootstraps and permutations.
        seed: same seed, same intervals and p-values.
        ceilings: direction -> metric -> the oracle's figure at subject level.
    """
    if len(paired.subject_ids) < 2:
        return []
    pairs = len(paired.subject_U)
    several = pairs > len(paired.subject_ids)
    metrics: list[Metric] = []
    pairing_NU = statistics.permuted_pairings(paired.subject_U, settings.permutations, seed)  # one for all figures
    for query, target in permutations(MODALITIES, 2):
        direction = f"{query}->{target}"
        gallery_UD = paired.vector_UD[target]
        whole, ceiling = "pair" if several else "subject", ceilings.get(direction, {})
        levels = {whole: _among_all(paired.vector_UD[query], np.arange(pairs), gallery_UD, paired, pairing_NU)}
        if several:
            levels["within"] = _within(paired.vector_UD[query], gallery_UD, paired, settings, seed)
        if not several or len(paired.z_SD[query]) > pairs:
            levels["segment"] = _among_all(paired.z_SD[query], paired.pair_S[query], gallery_UD, paired, pairing_NU)
        for level, earned in levels.items():
            metrics += [
                _rank_figure(direction, level, metric, of, ceiling if level == "subject" else {}, settings, seed)
                for metric, of in earned.items()
            ]
        if not several:
            score_UU = paired.vector_UD[query] @ gallery_UD.T
            metrics += _label_retrieval(direction, score_UU, paired, settings, seed)
    return metrics


def _among_all(
    query_QD: NDArray[Any],
    pair_Q: NDArray[np.int64],
    gallery_UD: NDArray[Any],
    paired: Paired,
    pairing_NU: NDArray[np.int32],
) -> dict[str, _Earned]:
    """Ranks among the pairs of all subjects; chance pairs them between subjects."""
    found: dict[str, list[tuple[float, NDArray[np.float64]]]] = {metric: [] for metric in retrieval.RANK_METRICS}
    # a subject at a time: the figures of all pairs against all would be the largest table of an evaluation
    for own_P in _pairs_of(paired.subject_U):
        chosen_Q = np.isin(pair_Q, own_P)
        values = values_by_pair(query_QD[chosen_Q], pair_Q[chosen_Q] - own_P[0], gallery_UD)
        row_P = np.arange(len(own_P))
        for metric, value_PU in values.items():
            permuted_NP = value_PU[row_P, pairing_NU[:, own_P]]
            found[metric].append((float(value_PU[row_P, own_P].mean()), permuted_NP.mean(axis=1)))
    gallery_S = np.array([len(gallery_UD)])
    return {metric: _earned(told, gallery_S, len(query_QD)) for metric, told in found.items()}


def _within(
    query_UD: NDArray[Any], gallery_UD: NDArray[Any], paired: Paired, settings: config.Evaluate, seed: int
) -> dict[str, _Earned]:
    """Ranks among the pairs of the own subject; chance rotates them against each other, which keeps their order.

    Neighbouring windows are alike, so that pairs shuffled freely would differ from the true ones by that alone.
    """
    draw = np.random.default_rng(seed)
    found: dict[str, list[tuple[float, NDArray[np.float64]]]] = {metric: [] for metric in retrieval.RANK_METRICS}
    own = [own_P for own_P in _pairs_of(paired.subject_U) if len(own_P) > 1]
    for own_P in own:
        row_P = np.arange(len(own_P))
        turn_N = draw.integers(len(own_P), size=settings.permutations)
        for metric, value_PP in values_by_pair(query_UD[own_P], row_P, gallery_UD[own_P]).items():
            turned_P = np.array([value_PP[row_P, (row_P + turn) % len(own_P)].mean() for turn in row_P])
            found[metric].append((float(turned_P[0]), turned_P[turn_N]))
    gallery_S = np.array([len(own_P) for own_P in own])
    return {metric: _earned(told, gallery_S, int(gallery_S.sum())) for metric, told in found.items()}


def _pairs_of(subject_U: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Each subject's pairs, which stand together."""
    return np.split(np.arange(len(subject_U)), np.flatnonzero(np.diff(subject_U)) + 1)


def _earned(told: list[tuple[float, NDArray[np.float64]]], gallery_S: NDArray[np.int64], queries: int) -> _Earned:
    return _Earned(
        np.array([value for value, _ in told]), np.stack([permuted_N for _, permuted_N in told], 1), gallery_S, queries
    )


def _rank_figure(
    direction: str,
    level: str,
    metric: str,
    earned: _Earned,
    ceiling: Mapping[str, float],
    settings: config.Evaluate,
    seed: int,
) -> Metric:
    """The figure over subjects, its interval and its p."""
    summarise = partial(retrieval.summarise, metric)
    sign = -1 if metric == "median_rank" else 1
    value = summarise(earned.value_S)
    interval = statistics.bootstrap_subjects(earned.value_S, summarise, settings.bootstraps, seed)
    p_1 = statistics.p_values(sign * value[None], sign * summarise(earned.permuted_NS)[:, None])
    chance_S = np.array([retrieval.chance(metric, gallery) for gallery in earned.gallery_S.tolist()])
    return Metric(
        "retrieval",
        direction,
        level,
        metric,
        value=float(value),
        queries=earned.queries,
        gallery=round(float(np.median(earned.gallery_S))),
        chance=float(summarise(chance_S)),
        ceiling=ceiling.get(metric),
        p_value=float(p_1[0]),
        **ends(interval),
    )


def _label_retrieval(
    direction: str,
    score_UU: NDArray[Any],
    paired: Paired,
    settings: config.Evaluate,
    seed: int,
) -> list[Metric]:
    """MAP of equal labels among *other* subjects: the query's own partner would be a hit for its identity alone.

    Of one pair a subject.
    """
    rows = np.flatnonzero(paired.label_U >= 0)
    if len(rows) < 3:
        return []
    label_L, score_LL = paired.label_U[rows], score_UU[np.ix_(rows, rows)]
    np.fill_diagonal(score_LL, -np.inf)
    order, last = retrieval.rank_order(score_LL)
    other_LL = ~np.eye(len(rows), dtype=bool)

    def precision(label_L: NDArray[Any]) -> NDArray[np.float64]:
        return retrieval.average_precision(order, last, (label_L[:, None] == label_L) & other_LL)

    precision_L = precision(label_L)
    same_L = (label_L[:, None] == label_L).sum(axis=1) - 1
    if same_L.max() == 0 or same_L.min() == len(rows) - 1:  # every label differs, or none does
        return []
    answerable = same_L > 0
    interval = statistics.bootstrap_subjects(
        precision_L[answerable], lambda value_NL: value_NL.mean(axis=-1), settings.bootstraps, seed
    )
    p_value = statistics.permutation_labels(
        label_L, lambda label: np.nanmean(precision(label), keepdims=True), settings.permutations, seed
    )
    chance = np.mean([retrieval.chance_average_precision(int(same), len(rows) - 1) for same in same_L[answerable]])
    return [
        Metric(
            "retrieval",
            direction,
            "subject",
            "mAP",
            value=float(precision_L[answerable].mean()),
            queries=int(answerable.sum()),
            gallery=len(rows) - 1,
            chance=float(chance),
            p_value=float(p_value[0]),
            **ends(interval),
        )
    ]


def ends(interval: tuple[float, float] | None) -> dict[str, Any]:
    """Both ends of an interval under the names that Metric gives them."""
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}
