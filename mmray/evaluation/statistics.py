"""Intervals and p-values whose unit is the person: subjects are resampled, and permutations run between subjects.

Segments of one subject are not independent, so resampling or permuting them would make any result look certain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Statistic = Callable[[NDArray[Any]], NDArray[np.float64]]
_ROUNDING = 1e-12  # a permuted figure this close to the observed one is equal to it; sums differ by their order


def resample_subjects(subjects: int, n: int, seed: int) -> NDArray[np.int64]:
    """`n` samples of the subjects with replacement, as indices of shape n x S."""
    return np.random.default_rng(seed).integers(0, subjects, size=(n, subjects))


def middle(figure_N: NDArray[Any]) -> tuple[float, float] | None:
    """The middle 95 % of permuted figures; undefined ones (NaN) are left out, None where none is left."""
    return _percentiles(figure_N, 2.5)


def interval(figure_N: NDArray[Any], subjects: int) -> tuple[float, float] | None:
    """95 % interval from a figure of N resamples of some subjects; undefined ones (NaN) are left out.

    Percentiles, moved outwards as far as Student's interval of so many is wider than the normal one without n / (n - 1)
    (Hesterberg 2015, doi 10.1080/00031305.2015.1089789): plain ones of five subjects hold the truth in four of five
    cases. None where every resample has the same figure: a width of nothing would be a claim that nobody can make.
    """
    if subjects < 2:
        return None
    reach = np.sqrt(subjects / (subjects - 1)) * special.stdtrit(subjects - 1, 0.975)
    found = _percentiles(figure_N, 100 * float(special.ndtr(-reach)))
    return None if found is None or found[1] - found[0] <= _ROUNDING else found


def _percentiles(figure_N: NDArray[Any], below: float) -> tuple[float, float] | None:
    defined = figure_N[~np.isnan(figure_N)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [below, 100 - below])
    return float(low), float(high)


def bootstrap_subjects(value_S: NDArray[Any], statistic: Statistic, n: int, seed: int) -> tuple[float, float] | None:
    """95 % interval of a figure over subjects, as `interval` makes it.

    For retrieval the query subjects are resampled and the gallery stays.

    Args:
        value_S: one value a subject.
        statistic: from N x S values to N figures, along the last axis.
        n: resamples.
        seed: same seed, same interval.
    """
    return interval(statistic(value_S[resample_subjects(len(value_S), n, seed)]), len(value_S))


def permutation_pairing(
    value_UU: NDArray[Any],
    statistic: Statistic,
    n: int,
    seed: int,
) -> float:
    """One-sided p-value of the true pairing among pairings permuted between subjects, one row each.

    Args:
        value_UU: similarity, or what query u earns when gallery row v is taken for its match; the diagonal is the
            true pairing.
        statistic: from N x U paired values to N figures; larger is better.
        n: permutations.
        seed: same seed, same p.

    Returns:
        (1 + permutations at least as good) / (1 + n), in (0, 1] (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585).
    """
    rows = np.arange(len(value_UU))
    pairing_NU = permuted_pairings(rows, n, seed)
    observed = statistic(value_UU[rows, rows][None])
    return float(p_values(observed, statistic(value_UU[rows, pairing_NU])[:, None])[0])


def permuted_pairings(subject_U: NDArray[np.integer[Any]], n: int, seed: int) -> NDArray[np.int32]:
    """`n` pairings of rows under permuted subjects, shape n x U.

    Args:
        subject_U: subject of each row, 0..S-1 in rising order. A subject's rows move together, its k-th to the k-th of
            another.
    """
    _, start_S, count_S = np.unique(subject_U, return_index=True, return_counts=True)
    within_U = np.arange(len(subject_U)) - start_S[subject_U]
    subjects = np.tile(np.arange(len(start_S)), (n, 1))
    other_NS = np.random.default_rng(seed).permuted(subjects, axis=1)
    pairing_NU = np.empty((n, len(subject_U)), dtype=np.int32)  # the largest table of an evaluation of windows
    for subject in range(len(start_S)):
        own_U = np.flatnonzero(subject_U == subject)
        other_N1 = other_NS[:, subject, None]
        pairing_NU[:, own_U] = start_S[other_N1] + within_U[own_U] % count_S[other_N1]
    return pairing_NU


def permutation_labels(label_S: NDArray[Any], statistic: Statistic, n: int, seed: int) -> NDArray[np.float64]:
    """One-sided p-values of figures that depend on the subjects' labels, the labels permuted between subjects.

    Args:
        label_S: one label a subject.
        statistic: from S labels to M figures; larger is better.
        n: permutations.
        seed: same seed, same p.

    Returns:
        p of each of the M figures, in (0, 1].
    """
    generator = np.random.default_rng(seed)
    permuted_NM = np.stack([statistic(generator.permutation(label_S)) for _ in range(n)])
    return p_values(statistic(label_S), permuted_NM)


def p_values(observed_M: NDArray[Any], permuted_NM: NDArray[Any]) -> NDArray[np.float64]:
    """(1 + #permuted >= observed) / (1 + N) of each figure; rounding differences count as equal."""
    reached_M = (permuted_NM >= observed_M - _ROUNDING * np.maximum(1, np.abs(observed_M))).sum(axis=0)
    return np.asarray((1 + reached_M) / (1 + len(permuted_NM)), dtype=np.float64)
