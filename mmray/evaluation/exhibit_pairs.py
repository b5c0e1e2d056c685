"""Systems against each other on the same people: pairs, ranks and ablations. Seeds are averaged before anything."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from mmray.evaluation import classification, comparison, statistics
from mmray.evaluation.classification import LOWER_IS_BETTER
from mmray.evaluation.fits import Fits
from mmray.evaluation.paired import values_by_pair
from mmray.evaluation.trials import Row, tested
from mmray.schema import Modality

COMPARED = ("R@1", "MRR", "cross_entropy", "balanced_accuracy")
RANKED = ("MRR", "cross_entropy")
LEVEL = 0.05
_DIRECTIONS: dict[str, tuple[Modality, Modality]] = {"eeg->audio": ("eeg", "audio"), "audio->eeg": ("audio", "eeg")}


def per_person(rows: Sequence[Row], metric: str, direction: str | None = None) -> dict[str, float]:
    """Subject -> value, averaged over seeds, and over both directions where none is named.

    Args:
        rows: one a fold and seed.
        metric: of retrieval, where a fold tests two people or more; or cross_entropy or correct (1 or 0), of those
            whose label is known.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        one = tested(row)
        if metric in ("cross_entropy", "correct"):
            for subject, label, p_C in zip(one.subject_U, one.label_U, one.probability_UC, strict=True):
                if label >= 0:
                    right = float(p_C.argmax() == label)
                    found[subject].append(right if metric == "correct" else float(classification.cost(p_C[label])))
            continue
        if len(one.subject_U) < 2:
            continue
        ways = _DIRECTIONS.values() if direction is None else [_DIRECTIONS[direction]]
        own = [
            np.diagonal(values_by_pair(one.vector_UE[a], np.arange(len(one.subject_U)), one.vector_UE[b])[metric])
            for a, b in ways
        ]
        for subject, value in zip(one.subject_U, np.mean(own, 0), strict=True):
            found[subject].append(value)
    return {subject: float(np.mean(values)) for subject, values in found.items()}


def median_rank(fits: Fits, variant: str, direction: str) -> Row:
    """The median over people of their mean rank over seeds, with a 95 % interval; chance is (gallery + 1) / 2."""
    rows = [row for row in fits.picked(variant, "validation_mrr") if len(row["subject_id"]) > 1]
    own = per_person(rows, "median_rank", direction)
    value_S = np.array([own[subject] for subject in sorted(own)])
    interval = statistics.bootstrap_subjects(
        value_S, lambda v: np.median(v, axis=-1), fits.settings.bootstraps, fits.seed
    )
    low, high = interval or (None, None)
    chance_S = [(len(row["subject_id"]) + 1) / 2 for row in rows for _ in row["subject_id"]]
    nothing = dict.fromkeys(("band_low", "band_high", "p", "ceiling", "share_of_ceiling"))
    about = {"variant": variant, "direction": direction, "metric": "median_rank", "people": len(own)}
    figure = {"value": float(np.median(value_S)), "ci_low": low, "ci_high": high, "chance": float(np.median(chance_S))}
    return about | figure | nothing


def values(fits: Fits, variant: str, metric: str) -> dict[str, float]:
    """What each person adds to a variant's figure, at the rates that validation picks; unweighed."""
    by = "validation_mrr" if metric in ("R@1", "MRR") else "validation_cross_entropy"
    return per_person(fits.picked(variant, by), "correct" if metric == "balanced_accuracy" else metric)


def weighed(right: Mapping[str, float], labels: Mapping[str, int]) -> dict[str, float]:
    """Values whose mean is the balanced accuracy: a person weighs n / (C n_c), so each of the C classes counts alike.

    Empty where these people are of one class.
    """
    count = Counter(labels[subject] for subject in right)
    if len(count) < 2:
        return {}
    return {s: value * len(right) / (len(count) * count[labels[s]]) for s, value in right.items()}


def pairs(fits: Fits) -> list[Row]:
    """Every two systems on each metric, first less second, p after Holm over all pairs of that metric."""
    rows = []
    for metric in COMPARED:
        rows += _compared(fits, metric, list(combinations(fits.shown, 2)))
    return rows


def ablation(fits: Fits) -> list[Row]:
    """Every variant less the system that it changes, p after Holm over the ablations of that metric."""
    rows = []
    for metric in COMPARED:
        rows += _compared(fits, metric, list(fits.ablations.items()))
    return rows


def ranks(fits: Fits) -> list[Row]:
    """Average rank of each system over people (1 is best, ties share theirs), and Friedman's test of no difference.

    Demsar 2006 (JMLR 7, pages 1-30) ranks over data sets; here the people are the blocks. Friedman's test takes three
    systems; its p is null below that, and where every person ranks all systems alike.
    """
    rows: list[Row] = []
    for metric in RANKED:
        own = {variant: values(fits, variant, metric) for variant in fits.shown}
        people = sorted(set.intersection(*(set(column) for column in own.values()))) if own else []
        if len(own) < 2 or len(people) < 2:
            continue
        value_SV = np.array([[column[subject] for column in own.values()] for subject in people])
        rank_V = average_ranks(value_SV, lower_is_better=metric in LOWER_IS_BETTER)
        p_value = _friedman(value_SV)
        rows += [
            {"metric": metric, "variant": variant, "average_rank": rank, "people": len(people), "friedman_p": p_value}
            | {"complete": fits.complete(variant)}
            for variant, rank in zip(own, rank_V.tolist(), strict=True)
        ]
    return rows


def average_ranks(value_SV: NDArray[Any], lower_is_better: bool) -> NDArray[np.float64]:
    """Mean over people of each system's rank, 1 the best; equal values share the mean of their ranks."""
    better_SV = value_SV if lower_is_better else -value_SV
    # what differs by the order of a sum is a tie
    return np.asarray(stats.rankdata(np.round(better_SV, 12), axis=1).mean(0), dtype=np.float64)


def not_different(ranked: Sequence[Row], pairs: Sequence[Row]) -> list[tuple[int, int]]:
    """First and last place, by average rank, of each widest run of systems no two of which differ after Holm.

    Args:
        ranked: rows of `ranks` of one metric, by rising average rank.
        pairs: rows of `pairs` of that metric.
    """
    p_of = {frozenset((row["first"], row["second"])): row["p_holm"] for row in pairs}
    runs: list[tuple[int, int]] = []
    for start in range(len(ranked)):
        end = start
        while end + 1 < len(ranked) and all(
            p_of[frozenset((ranked[i]["variant"], ranked[end + 1]["variant"]))] >= LEVEL for i in range(start, end + 1)
        ):
            end += 1
        if end > start and (not runs or end > runs[-1][1]):
            runs.append((start, end))
    return runs


def _compared(fits: Fits, metric: str, asked: list[tuple[str, str]]) -> list[Row]:
    labels = fits.labels()
    own = {variant: values(fits, variant, metric) for variant in {v for pair in asked for v in pair}}
    found = []
    for first, second in asked:
        shared = own[first].keys() & own[second].keys()
        one, other = ({subject: own[system][subject] for subject in shared} for system in (first, second))
        if metric == "balanced_accuracy":
            one, other = weighed(one, labels), weighed(other, labels)
        if one and other:
            found.append(comparison.compare(first, second, metric, one, other, fits.settings.bootstraps, fits.seed))
    return [
        {"metric": metric, "first": c.first, "second": c.second, "difference": c.difference}
        | {"ci_low": c.ci_low, "ci_high": c.ci_high, "p": c.p_value, "p_holm": c.p_holm, "people": c.subjects}
        | {"complete": fits.complete(c.first) and fits.complete(c.second)}
        | {"same_rates": fits.rates(c.first) == fits.rates(c.second)}
        for c in comparison.corrected(found)
    ]


def _friedman(value_SV: NDArray[Any]) -> float | None:
    rounded_SV = np.round(value_SV, 12)
    if value_SV.shape[1] < 3 or (rounded_SV == rounded_SV[:, :1]).all():
        return None
    return float(stats.friedmanchisquare(*rounded_SV.T).pvalue)
