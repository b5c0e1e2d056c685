"""What the fits of a sweep say together: pooled figures a variant, failures named, the first against the others."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from mmray import config
from mmray.evaluation import comparison, pooled
from mmray.evaluation.comparison import Comparison
from mmray.evaluation.pooled import Figure
from mmray.evaluation.retrieval_figures import Ceilings
from mmray.evaluation.trials import Plan, Row, tested
from mmray.recordings import oracle


@dataclass(frozen=True)
class Study:
    """A sweep's findings.

    Attributes:
        failed: trial -> why it has no figures.
        missing: planned trials that are not there yet.
        incomplete: variants that miss any fit.
        figures: variant -> pooled figures, each fold and seed at the learning rate that its validation prefers; of
            what `whole` keeps.
        comparisons: the plan's first variant against each other one; none where it has no figures.
    """

    finished: int
    failed: dict[str, str]
    missing: list[str]
    incomplete: list[str]
    figures: dict[str, list[Figure]]
    comparisons: list[Comparison]


def pool(plan: Plan, rows: list[Row], settings: config.Evaluate, seed: int, truth: pa.Table | None) -> Study:
    """Pool the fits that are there; one that is not, or failed, is named and marks its variant.

    Args:
        rows: of schema TRIALS, of this plan.
        settings: how many bootstraps and permutations.
        seed: same seed, same intervals and p-values.
        truth: of a synthetic study, for the oracle's ceiling.
    """
    there = {row["trial_id"]: row for row in rows}
    by_variant: dict[str, list[Row]] = {one.variant: [] for one in plan.trials}
    incomplete = []
    for one in plan.trials:
        row = there.get(one.trial_id)
        if row is not None and row["error"] is None:
            by_variant[one.variant].append(row)
        elif one.variant not in incomplete:
            incomplete.append(one.variant)
    figures: dict[str, list[Figure]] = {}
    for variant, mine in by_variant.items():
        kept = whole(mine)
        if not kept:
            continue
        ceilings = _ceilings(truth, kept)
        retrieving, telling = (
            [tested(row) for row in picked(kept, best)] for best in ("validation_mrr", "validation_cross_entropy")
        )
        figures[variant] = [
            *pooled.retrieved(retrieving, settings, seed, ceilings),
            *pooled.classified(telling, settings, seed),
        ]
    return Study(
        finished=sum(map(len, by_variant.values())),
        failed={i: row["error"] for i, row in there.items() if row["error"] is not None},
        missing=[one.trial_id for one in plan.trials if one.trial_id not in there],
        incomplete=incomplete,
        figures=figures,
        comparisons=_compared(plan.trials[0].variant, figures, settings, seed),
    )


def whole(rows: list[Row]) -> list[Row]:
    """Finished rows of equally many seeds a fold: folds that have all seeds, or seeds that all folds have.

    Whichever is of more people, so that the first fit of another seed takes nobody away; then of more seeds.
    """
    cells = {(row["fold"], row["seed"]) for row in rows}
    folds, seeds = ({cell[i] for cell in cells} for i in (0, 1))
    all_seeds = {fold for fold in folds if all((fold, seed) in cells for seed in seeds)}
    all_folds = {seed for seed in seeds if all((fold, seed) in cells for fold in folds)}
    of_folds = [row for row in rows if row["fold"] in all_seeds]
    of_seeds = [row for row in rows if row["seed"] in all_folds]

    def people(kept: list[Row]) -> int:
        return len({subject for row in kept for subject in row["subject_id"]})

    return max(of_folds, of_seeds, key=lambda kept: (people(kept), len(kept)))


def picked(rows: list[Row], by: str) -> list[Row]:
    """Each fold's and seed's trial at the learning rate that its validation subjects prefer.

    Args:
        by: validation_mrr, the larger the better, or validation_cross_entropy, the smaller.
    """
    sign = 1 if by == "validation_mrr" else -1
    cells: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row["fold"], row["seed"]].append(row)
    return [max(cell, key=lambda row: sign * (row[by] if row[by] is not None else 0.0)) for cell in cells.values()]


def per_subject(figures: list[Figure], metric: str) -> dict[str, float]:
    """Subject -> value, averaged over directions; empty where the figure is no mean over people."""
    columns = [figure.per_subject for figure in figures if figure.metric == metric and figure.per_subject]
    return {s: sum(column[s] for column in columns) / len(columns) for s in (columns[0] if columns else {})}


def _compared(
    first: str, figures: Mapping[str, list[Figure]], settings: config.Evaluate, seed: int
) -> list[Comparison]:
    """One variant against every other one, on R@1 and MRR of both directions and on cross-entropy."""
    if first not in figures:
        return []
    found = []
    for metric in ("R@1", "MRR", "cross_entropy"):
        one = per_subject(figures[first], metric)
        for other in (variant for variant in figures if variant != first):
            two = per_subject(figures[other], metric)
            if one.keys() & two.keys():
                found.append(comparison.compare(first, other, metric, one, two, settings.bootstraps, seed))
    return comparison.corrected(found)


def _ceilings(truth: pa.Table | None, rows: list[Row]) -> dict[int, Ceilings]:
    if truth is None or any(json.loads(row["config"]).get("train.shuffled_pairs") is not None for row in rows):
        return {}  # the truth knows nothing of pairs drawn by lot
    people = {row["fold"]: row["subject_id"] for row in rows if row["subject_id"]}
    return {fold: oracle.ceilings(truth, subjects) for fold, subjects in people.items()}
