"""Is one system better than another on the same people? Paired by subject, corrected for how often one asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mmray.evaluation import statistics

FLIPS = 10_000


@dataclass(frozen=True)
class Comparison:
    """A paired difference, first less second, over `subjects` people; p is two-sided, p_holm corrected.

    Interval and p are of these fits on other people: what other fits of the same systems would do, a test over people
    cannot tell, since people of one fold share theirs.
    """

    first: str
    second: str
    metric: str
    difference: float
    ci_low: float | None
    ci_high: float | None
    p_value: float
    p_holm: float
    subjects: int


def compare(
    first: str, second: str, metric: str, one: dict[str, float], other: dict[str, float], bootstraps: int, seed: int
) -> Comparison:
    """The mean difference of two systems over the subjects that both were tested on, its interval and its p.

    Args:
        one, other: subject -> value, seeds and directions averaged.
        bootstraps: of subjects.
        seed: same seed, same interval and p.

    Raises:
        ValueError: they share nobody.
    """
    shared = sorted(one.keys() & other.keys())
    if not shared:
        raise ValueError(f"{first} and {second} were tested on nobody in common")
    difference_S = np.array([one[subject] - other[subject] for subject in shared])
    interval = statistics.bootstrap_subjects(difference_S, lambda value: value.mean(-1), bootstraps, seed)
    low, high = interval or (None, None)
    p_value = sign_flip(difference_S, FLIPS, seed)
    return Comparison(first, second, metric, float(difference_S.mean()), low, high, p_value, p_value, len(shared))


def sign_flip(difference_S: NDArray[np.float64], flips: int, seed: int) -> float:
    """Two-sided p of a mean difference among differences whose signs are drawn anew, a subject at a time.

    Under the null a subject's two values could as well be swapped. (1 + as large) / (1 + flips), as in `statistics`.
    """
    sign_NS = np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(flips, len(difference_S)))
    flipped_N = np.abs(sign_NS @ difference_S)
    return float(statistics.p_values(np.array([abs(difference_S.sum())]), flipped_N[:, None])[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the family-wise error stays below the level, whatever the dependence."""
    p_M = np.asarray(p_values, dtype=np.float64)
    order_M = np.argsort(p_M, kind="stable")
    stepped_M = np.maximum.accumulate(p_M[order_M] * (len(p_M) - np.arange(len(p_M))))
    corrected_M = np.empty_like(stepped_M)
    corrected_M[order_M] = np.minimum(stepped_M, 1.0)
    return [float(p) for p in corrected_M]


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons with p_holm over all of them."""
    p_holm = holm([comparison.p_value for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, p_holm, strict=True)]
