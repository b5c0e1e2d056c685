"""How many people are enough? Shares of studies in which retrieval is found, and where their curve crosses 80 %. Pure.

A study is found where p < 0.05; its power at a number of people is the share of studies found there. Studies, not
people, are the unit of every interval here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, binomtest
from sklearn.isotonic import isotonic_regression

from mmray.evaluation import statistics
from mmray.evaluation.paired import values_by_pair
from mmray.evaluation.pooled import Tested

LEVEL = 0.05
WANTED = 0.8


@dataclass(frozen=True)
class Fitted:
    """One fit of one study: what it found among the people that it was tested on.

    Attributes:
        subjects: people learnt from.
        study: number of the study within its coupling.
        r1, mrr: mean of both directions; `p_retrieval` is of MRR.
        balanced_accuracy, p_classification: None where the tested people are of one class.
    """

    system: str
    coupling: float
    subjects: int
    study: int
    error: str | None
    r1: float | None
    mrr: float | None
    p_retrieval: float | None
    balanced_accuracy: float | None
    p_classification: float | None
    seconds: float


@dataclass(frozen=True)
class Cell:
    """All studies of one system, coupling and number of people.

    Attributes:
        r1_low, r1_high: 95 % of the mean under resampled studies; None where studies do not differ.
        found: share with p_retrieval < 0.05; `found_low` and `found_high` its exact 95 % interval.
        told: the same of classification.
    """

    system: str
    coupling: float
    subjects: int
    studies: int
    failed: int
    r1: float
    r1_low: float | None
    r1_high: float | None
    mrr: float
    found: float
    found_low: float
    found_high: float
    told: float | None
    balanced_accuracy: float | None


@dataclass(frozen=True)
class Needed:
    """People at which power reaches 80 %.

    Attributes:
        subjects: None where it is not reached within the sizes looked at.
        low, high: 95 % under resampled studies; None where that end lies beyond the largest size, or `at_once`.
        at_once: it is reached at the smallest size already. Fewer may do, and more may be needed: resampled studies
            that all find something say nothing of those that would not have.
    """

    system: str
    coupling: float
    subjects: float | None
    low: float | None
    high: float | None
    at_once: bool


@dataclass(frozen=True)
class FalseAlarms:
    """Studies of coupling 0 in which something was found at one size, and how many chance allows 95 % of the time.

    Attributes:
        subjects: people learnt from; sizes of one study share people, so only the studies of one size are independent.
    """

    system: str
    subjects: int
    studies: int
    found: int
    least: int
    most: int

    @property
    def as_chance(self) -> bool:
        """Whether the count lies within."""
        return self.least <= self.found <= self.most


def retrieval_p(tested: Tested, permutations: int, seed: int) -> tuple[float, float, float]:
    """R@1 and MRR, mean of both directions, and one p of MRR: both directions move by one permutation of people."""
    queries = np.arange(len(tested.subject_U))
    eeg, audio = tested.vector_UE["eeg"], tested.vector_UE["audio"]
    there, back = values_by_pair(eeg, queries, audio), values_by_pair(audio, queries, eeg)
    both = {metric: (there[metric] + back[metric].T) / 2 for metric in ("R@1", "MRR")}
    p_value = statistics.permutation_pairing(both["MRR"], lambda value_NU: value_NU.mean(-1), permutations, seed)
    r1, mrr = (float(np.diagonal(value_UU).mean()) for value_UU in both.values())
    return r1, mrr, p_value


def cells(fits: Sequence[Fitted], bootstraps: int, seed: int) -> list[Cell]:
    """A row a system, coupling and number of people, in the order of the fits; failed fits are counted and left out."""
    groups: dict[tuple[str, float, int], list[Fitted]] = defaultdict(list)
    for fit in fits:
        groups[fit.system, fit.coupling, fit.subjects].append(fit)
    return [
        _cell(*key, group, bootstraps, seed) for key, group in groups.items() if any(f.error is None for f in group)
    ]


def needed(fits: Sequence[Fitted], bootstraps: int, seed: int) -> list[Needed]:
    """People needed by each system at each coupling above 0, the strongest coupling first."""
    groups: dict[tuple[str, float], list[Fitted]] = defaultdict(list)
    for fit in fits:
        if fit.coupling > 0 and fit.error is None:
            groups[fit.system, fit.coupling].append(fit)
    strongest_first = sorted(groups.items(), key=lambda item: -item[0][1])
    return [_needed(system, coupling, group, bootstraps, seed) for (system, coupling), group in strongest_first]


def false_alarms(fits: Sequence[Fitted]) -> list[FalseAlarms]:
    """How often each system finds something where there is nothing, a row a number of people."""
    groups: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for fit in fits:
        if fit.coupling == 0 and fit.p_retrieval is not None:
            groups[fit.system, fit.subjects].append(fit.p_retrieval < LEVEL)
    rows = []
    for (system, subjects), found in groups.items():
        least, most = binom.interval(0.95, len(found), LEVEL)
        rows.append(FalseAlarms(system, subjects, len(found), sum(found), int(least), int(most)))
    return rows


def crossing(
    subjects: Sequence[int], power: Sequence[float] | NDArray[np.float64], studies: Sequence[int] | None = None
) -> float | None:
    """Where a curve that never falls first reaches 80 %, by a straight line over log people; None where it does not.

    Args:
        subjects: rising.
        studies: behind each share, which weigh it; a size that has none says nothing. None: as many everywhere.
    """
    weight_N = np.ones(len(subjects)) if studies is None else np.asarray(studies, float)
    there_N = weight_N > 0
    subjects = np.asarray(subjects)[there_N].tolist()
    if not subjects:
        return None
    size_N, power_N = np.log(np.asarray(subjects, float)), np.asarray(power, float)[there_N]
    # rounded: the fit leaves a share of 0.8 a little below itself
    rising_N = np.round(isotonic_regression(power_N, sample_weight=weight_N[there_N]), 9)
    reached = np.flatnonzero(rising_N >= WANTED)
    if not len(reached):
        return None
    at = int(reached[0])
    if at == 0:
        return float(subjects[0])
    share = (WANTED - rising_N[at - 1]) / (rising_N[at] - rising_N[at - 1])
    return float(np.exp(size_N[at - 1] + share * (size_N[at] - size_N[at - 1])))


def _cell(system: str, coupling: float, subjects: int, group: list[Fitted], bootstraps: int, seed: int) -> Cell:
    good = [fit for fit in group if fit.error is None]
    r1_S = np.array([fit.r1 for fit in good], dtype=float)
    interval = statistics.bootstrap_subjects(r1_S, lambda value: value.mean(-1), bootstraps, seed)
    low, high = interval or (None, None)
    found = sum(fit.p_retrieval is not None and fit.p_retrieval < LEVEL for fit in good)
    exact = binomtest(found, len(good)).proportion_ci(0.95, "exact")
    told = [fit.p_classification < LEVEL for fit in good if fit.p_classification is not None]
    accuracy = [fit.balanced_accuracy for fit in good if fit.balanced_accuracy is not None]
    return Cell(
        system,
        coupling,
        subjects,
        len(good),
        len(group) - len(good),
        float(r1_S.mean()),
        low,
        high,
        float(np.mean([fit.mrr for fit in good if fit.mrr is not None])),
        found / len(good),
        float(exact.low),
        float(exact.high),
        float(np.mean(told)) if told else None,
        float(np.mean(accuracy)) if accuracy else None,
    )


def _needed(system: str, coupling: float, group: list[Fitted], bootstraps: int, seed: int) -> Needed:
    sizes = sorted({fit.subjects for fit in group})
    found = {(fit.subjects, fit.study): float((fit.p_retrieval or 1.0) < LEVEL) for fit in group}
    studies = sorted({study for _, study in found})
    # a study that misses a size lends it nothing
    table_SN = np.array([[found.get((size, study), np.nan) for size in sizes] for study in studies])

    def reached(table_SN: NDArray[np.float64]) -> float | None:
        there_N = (~np.isnan(table_SN)).sum(0)
        return crossing(sizes, np.nansum(table_SN, axis=0) / np.maximum(there_N, 1), there_N.tolist())

    value = reached(table_SN)
    rng = np.random.default_rng(seed)
    drawn = [reached(table_SN[rng.integers(len(studies), size=len(studies))]) for _ in range(bootstraps)]
    beyond = np.array([np.inf if one is None else one for one in drawn])
    low, high = np.quantile(beyond, [0.025, 0.975], method="nearest")
    return Needed(
        system,
        coupling,
        value,
        float(low) if np.isfinite(low) and value != sizes[0] else None,
        float(high) if np.isfinite(high) and value != sizes[0] else None,
        value == sizes[0],
    )


def as_rows(of: Sequence[Any]) -> list[dict[str, Any]]:
    """Dataclasses as plain rows, for a table."""
    return [asdict(one) for one in of]
