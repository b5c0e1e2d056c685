"""What several folds and seeds say together: the person stays the unit, and nobody counts twice.

A subject is tested in one fold and once a seed; seeds are averaged first, since they are draws of the fit and not of
people. Pairings are permuted between the subjects of a fold, by one permutation for all seeds.

Permuting answers while the fits stay as they are is exact for one fold, whose answers its fit never saw. Over several
folds it is not: each fold's answers taught the fits of the others, so that two people speak of one another twice, once
as taught and tested and once the other way round, and by chance they do so with one voice. What a fit learns of its
people one by one, and of their pairs, then varies over draws of the world with at most twice the variance that
permutations show (each pair's term is counted twice instead of once). So deviations from the mean of the permuted
figures are widened by the root of two wherever folds are pooled; Nadeau & Bengio (2003, doi 10.1023/A:1024068626366)
correct the variance of cross-validated figures for the same reason, by 1 + K / (K - 1) for K folds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray import config
from mmray.evaluation import classification, retrieval, statistics
from mmray.evaluation.paired import values_by_pair
from mmray.evaluation.retrieval_figures import Ceilings
from mmray.schema import MODALITIES, Modality

RANKED = ("R@1", "R@5", "R@10", "MRR")
_WIDENED = 2**0.5  # of folds whose fits learned from one another's answers


@dataclass(frozen=True)
class Tested:
    """What one fit made of its fold's test subjects who have both modalities.

    Attributes:
        label_U: class, -1 where it is not known.
        vector_UE: by modality, one unit vector a subject.
        probability_UC: of each class.
    """

    fold: int
    seed: int
    subject_U: tuple[str, ...]
    label_U: NDArray[np.int64]
    vector_UE: dict[Modality, NDArray[np.float64]]
    probability_UC: NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One pooled figure of one system.

    Attributes:
        subjects: people behind it.
        band_low, band_high: 95 % of the same figure under permuted pairings (or labels); inside is chance. With the p,
            None where no chance level is defined, as of calibration.
        per_subject: subject -> value, seeds averaged; empty where the figure is no mean over people.
    """

    task: str
    direction: str
    metric: str
    value: float
    ci_low: float | None
    ci_high: float | None
    chance: float | None
    band_low: float | None
    band_high: float | None
    p_value: float | None
    ceiling: float | None
    subjects: int
    per_subject: dict[str, float]


def retrieved(
    tested: Sequence[Tested], settings: config.Evaluate, seed: int, ceilings: dict[int, Ceilings]
) -> list[Figure]:
    """Every pooled retrieval figure of one system; of folds that test two people or more, since one is always found.

    Args:
        tested: one entry a fold and seed; every fold has the same seeds.
        settings: how many bootstraps and permutations.
        seed: same seed, same intervals and p-values.
        ceilings: fold -> the oracle's figures; empty where there is no truth.
    """
    folds: dict[int, list[Tested]] = defaultdict(list)
    for one in sorted(tested, key=lambda one: one.fold):
        if len(one.subject_U) > 1:
            folds[one.fold].append(one)
    if not folds:
        return []
    figures: list[Figure] = []
    for query, target in permutations(MODALITIES, 2):
        figures += _ranked(folds, query, target, settings, seed, ceilings)
        figures += _same_label(folds, query, target, settings, seed)
    return figures


def _ranked(
    folds: dict[int, list[Tested]],
    query: Modality,
    target: Modality,
    settings: config.Evaluate,
    seed: int,
    ceilings: dict[int, Ceilings],
) -> list[Figure]:
    direction = f"{query}->{target}"
    metrics = retrieval.telling(RANKED, max(len(fits[0].subject_U) for fits in folds.values()))
    own: dict[str, dict[str, float]] = {metric: {} for metric in metrics}
    permuted: dict[str, list[NDArray[np.float64]]] = {metric: [] for metric in metrics}
    for number, fits in enumerate(folds.values()):
        subjects = fits[0].subject_U
        row_U = np.arange(len(subjects))
        pairing_NU = statistics.permuted_pairings(row_U, settings.permutations, seed + number)
        each = [values_by_pair(fit.vector_UE[query], row_U, fit.vector_UE[target]) for fit in fits]
        for metric in metrics:
            value_UU = np.mean([values[metric] for values in each], 0)
            own[metric] |= dict(zip(subjects, np.diagonal(value_UU).tolist(), strict=True))
            permuted[metric].append(value_UU[row_U, pairing_NU])
    weights = [len(fits[0].subject_U) for fits in folds.values()]
    figures = []
    for metric in metrics:
        value_S = _in_order(own[metric])
        interval = statistics.bootstrap_subjects(value_S, lambda v: v.mean(-1), settings.bootstraps, seed)
        chance = float(np.average([retrieval.chance(metric, people) for people in weights], weights=weights))
        permuted_N = _widened(np.concatenate(permuted[metric], 1).mean(1), len(folds))
        tops = [ceilings.get(fold, {}).get(direction, {}).get(metric) for fold in folds]
        ceiling = None
        if None not in tops:
            ceiling = float(np.average(np.array(tops, dtype=float), weights=weights))
        figures.append(
            _figure(
                "retrieval",
                direction,
                metric,
                value_S.mean(),
                interval,
                chance,
                permuted_N,
                ceiling,
                own[metric],
            )
        )
    return figures


def _same_label(
    folds: dict[int, list[Tested]], query: Modality, target: Modality, settings: config.Evaluate, seed: int
) -> list[Figure]:
    """MAP of equal labels among other people of the fold; the own partner is left out, as in `evaluate`.

    Of people who have somebody of their label, and of another, among the test people of their fold.
    """
    own: dict[str, float] = {}
    permuted_NS, chances = [], []
    for number, fits in enumerate(folds.values()):
        known_U = fits[0].label_U >= 0
        label_L = fits[0].label_U[known_U]
        same_L = (label_L[:, None] == label_L).sum(1) - 1
        if len(label_L) < 3 or same_L.max() == 0 or same_L.min() == len(label_L) - 1:
            continue
        orders = []
        for fit in fits:
            score_LL = (fit.vector_UE[query] @ fit.vector_UE[target].T)[np.ix_(known_U, known_U)]
            np.fill_diagonal(score_LL, -np.inf)
            orders.append(retrieval.rank_order(score_LL))
        other_LL = ~np.eye(len(label_L), dtype=bool)

        def precision(label_L: NDArray[Any], orders: Any = orders, other_LL: Any = other_LL) -> NDArray[np.float64]:
            relevant_LL = (label_L[:, None] == label_L) & other_LL
            each = [retrieval.average_precision(order, last, relevant_LL) for order, last in orders]
            return np.asarray(np.mean(each, 0), dtype=np.float64)

        names = np.array(fits[0].subject_U)[known_U].tolist()
        asked_L = same_L > 0
        own |= {n: p for n, p, asked in zip(names, precision(label_L).tolist(), asked_L, strict=True) if asked}
        rng = np.random.default_rng([seed, number])
        permuted_NS.append(np.stack([precision(rng.permutation(label_L)) for _ in range(settings.permutations)]))
        chances += [retrieval.chance_average_precision(int(same), len(label_L) - 1) for same in same_L[asked_L]]
    if not own:
        return []
    value_S = _in_order(own)
    interval = statistics.bootstrap_subjects(value_S, lambda v: v.mean(-1), settings.bootstraps, seed)
    permuted_N = _widened(np.nanmean(np.concatenate(permuted_NS, 1), 1), len(permuted_NS))
    direction = f"{query}->{target}"
    return [
        _figure("retrieval", direction, "mAP", value_S.mean(), interval, float(np.mean(chances)), permuted_N, None, own)
    ]


def classified(tested: Sequence[Tested], settings: config.Evaluate, seed: int) -> list[Figure]:
    """Every pooled classification figure of one system: of each seed over all people, averaged over seeds.

    Args:
        As `retrieved`.
    """
    by_seed: dict[int, list[Tested]] = defaultdict(list)
    there = sorted((fit for fit in tested if fit.subject_U), key=lambda fit: fit.fold)
    if not there:
        return []
    for fit in there:
        by_seed[fit.seed].append(fit)
    folds = len({fit.fold for fit in there})
    first = next(iter(by_seed.values()))
    label_S = np.concatenate([fit.label_U for fit in first])
    name_S = np.concatenate([np.array(fit.subject_U) for fit in first])
    row_L = np.argsort(name_S)  # people in one order everywhere, so that one seed draws the same of them
    row_L = row_L[label_S[row_L] >= 0]
    label_L = label_S[row_L]
    if len(label_L) < 2:
        return []
    names = name_S[row_L].tolist()
    probabilities = [np.concatenate([fit.probability_UC for fit in fits])[row_L] for fits in by_seed.values()]
    drawn_NS = statistics.resample_subjects(len(label_L), settings.bootstraps, seed)
    weight_NS = np.stack([np.bincount(row, minlength=len(label_L)) for row in drawn_NS])

    def figures(label_L: NDArray[Any], weight_NS: NDArray[Any] | None = None) -> dict[str, NDArray[np.float64]]:
        each = [classification.classification_metrics(label_L, p, weight_NS) for p in probabilities]
        return {metric: np.mean([one[metric] for one in each], 0) for metric in each[0]}

    seen, resampled = figures(label_L), figures(label_L, weight_NS)
    rng = np.random.default_rng(seed)
    drawn = [figures(rng.permutation(label_L)) for _ in range(settings.permutations)]
    chance = classification.chance_levels(label_L, probabilities[0].shape[1])
    cost_L = np.mean([classification.cost(p[np.arange(len(label_L)), label_L]) for p in probabilities], 0)
    found = []
    for metric, (value,) in seen.items():
        permuted_N = _widened(np.array([float(one[metric][0]) for one in drawn]), folds)
        sign = -1 if metric in classification.LOWER_IS_BETTER else 1
        own = dict(zip(names, cost_L.tolist(), strict=True)) if metric == "cross_entropy" else {}
        found.append(
            _figure(
                "classification",
                "fused",
                metric,
                value,
                statistics.interval(resampled[metric], len(label_L)),
                chance.get(metric),
                permuted_N,
                None,
                own,
                sign,
                len(label_L),
            )
        )
    return found


def _widened(permuted_N: NDArray[np.float64], folds: int) -> NDArray[np.float64]:
    """Permuted figures as far from their mean as they are where the folds' fits learned from one another's answers."""
    if folds < 2:
        return permuted_N
    centre = np.nanmean(permuted_N)
    return np.asarray(centre + _WIDENED * (permuted_N - centre), dtype=np.float64)


def _possible(metric: str, band: tuple[float, float] | None) -> tuple[float, float] | None:
    """A band within what the figure can be, which a widened one may leave."""
    if band is None:
        return None
    return max(band[0], 0.0), band[1] if metric in ("cross_entropy", "Brier") else min(band[1], 1.0)


def _in_order(own: dict[str, float]) -> NDArray[np.float64]:
    """Values by name of the person, as everywhere, so that one seed draws the same people."""
    return np.array([own[subject] for subject in sorted(own)])


def _figure(
    task: str,
    direction: str,
    metric: str,
    value: float,
    interval: tuple[float, float] | None,
    chance: float | None,
    permuted_N: NDArray[np.float64],
    ceiling: float | None,
    own: dict[str, float],
    sign: int = 1,
    subjects: int | None = None,
) -> Figure:
    band = p_value = None
    if chance is not None:
        band = _possible(metric, statistics.middle(permuted_N))
        p_value = float(statistics.p_values(np.array([sign * value]), sign * permuted_N[:, None])[0])
    band_low, band_high = band or (None, None)
    low, high = interval or (None, None)
    return Figure(
        task,
        direction,
        metric,
        float(value),
        low,
        high,
        chance,
        band_low,
        band_high,
        p_value,
        ceiling,
        len(own) if subjects is None else subjects,
        own,
    )
