"""A sweep's finished fits with what is pooled from them: what every exhibit is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mmray import config
from mmray.evaluation import statistics, study
from mmray.evaluation.study import Study
from mmray.evaluation.trials import Plan, Row
from mmray.progress import Advance


@dataclass(frozen=True)
class Fits:
    """Rows by variant, and their pooled figures.

    Attributes:
        variants: in the plan's order.
        finished: variant -> rows without error, possibly none.
        ablations: variant -> the system that it changes. Every other variant stands in the comparison of systems; so
            does one whose system is not among the variants.
        study: pooled figures, failures and gaps; its comparisons are empty, `exhibit_pairs` makes them all.
        settings: how many bootstraps and permutations.
    """

    plan: Plan
    variants: list[str]
    finished: dict[str, list[Row]]
    ablations: dict[str, str]
    study: Study
    settings: config.Evaluate
    seed: int

    @property
    def shown(self) -> list[str]:
        """The compared systems that have figures."""
        return [v for v in self.variants if v in self.study.figures and v not in self.ablations]

    def complete(self, variant: str) -> bool:
        """Whether every planned fit of a variant finished."""
        return variant not in self.study.incomplete

    def complete_at(self, variant: str, rate: float | None) -> bool:
        """Whether every planned fit of a variant at one learning rate finished; None: at all of them."""
        if rate is None:
            return self.complete(variant)
        planned: int = sum((one.variant, one.learning_rate) == (variant, rate) for one in self.plan.trials)
        return planned == len([row for row in self.finished[variant] if row["learning_rate"] == rate])

    def rates(self, variant: str) -> set[float]:
        """Learning rates that a variant is planned at."""
        return {one.learning_rate for one in self.plan.trials if one.variant == variant}

    def picked(self, variant: str, by: str) -> list[Row]:
        """One row a fold and seed, at the rate that validation prefers; of what `study.whole` keeps."""
        return study.picked(study.whole(self.finished[variant]), by)

    def by_rate(self, variant: str) -> dict[float, list[Row]]:
        """Learning rate, rising -> its rows, of what `study.whole` keeps there."""
        rates = sorted({row["learning_rate"] for row in self.finished[variant]})
        rows = {rate: [row for row in self.finished[variant] if row["learning_rate"] == rate] for rate in rates}
        return {rate: study.whole(mine) for rate, mine in rows.items()}

    def labels(self) -> dict[str, int]:
        """Class of each test person of a finished fit, where it is known."""
        rows = [row for rows in self.finished.values() for row in rows]
        pairs = (pair for row in rows for pair in zip(row["subject_id"], row["label"], strict=True))
        return {subject: label for subject, label in pairs if label >= 0}

    def mean(self, own: Mapping[str, float]) -> tuple[float, float | None, float | None]:
        """Mean over people with its 95 % bootstrap interval."""
        value_S = np.array([own[subject] for subject in sorted(own)])
        interval = statistics.bootstrap_subjects(value_S, lambda v: v.mean(-1), self.settings.bootstraps, self.seed)
        return float(value_S.mean()), *(interval or (None, None))


def gather(
    plan: Plan, rows: list[Row], settings: config.Evaluate, seed: int, truth: pa.Table | None, advance: Advance
) -> Fits:
    """Pool a sweep's rows a variant at a time.

    Args:
        rows: of schema TRIALS, of this plan; failed ones too.
        settings: how many bootstraps and permutations.
        seed: same seed, same intervals and p-values.
        truth: of a synthetic study, for the oracle's ceiling.
        advance: one step a variant.
    """
    variants = list(dict.fromkeys(one.variant for one in plan.trials))
    system_of = {one.variant: one.system for one in plan.trials}
    parts = []
    for variant in variants:
        mine = Plan(plan.sweep_id, plan.data_sha256, tuple(one for one in plan.trials if one.variant == variant))
        parts.append(study.pool(mine, [row for row in rows if row["variant"] == variant], settings, seed, truth))
        advance(1, variant)
    pooled = Study(
        finished=sum(part.finished for part in parts),
        failed={trial: reason for part in parts for trial, reason in part.failed.items()},
        missing=[trial for part in parts for trial in part.missing],
        incomplete=[variant for part in parts for variant in part.incomplete],
        figures={variant: figures for part in parts for variant, figures in part.figures.items()},
        comparisons=[],
    )
    finished = {v: [row for row in rows if row["variant"] == v and row["error"] is None] for v in variants}
    ablations = {v: s for v, s in system_of.items() if s != v and pooled.figures.keys() >= {v, s}}
    return Fits(plan, variants, finished, ablations, pooled, settings, seed)
