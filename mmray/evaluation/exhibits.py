"""What a report shows, as tables and nothing else: from a sweep's rows and their pooled figures to plain rows.

Every figure and every table of the page is drawn from what `tables` returns, and from nothing else.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from mmray.evaluation import exhibit_classes, exhibit_pairs
from mmray.evaluation.fits import Fits
from mmray.evaluation.table import of_the_way
from mmray.evaluation.trials import Row

Tables = dict[str, list[Row]]


def tables(fits: Fits) -> tuple[Tables, dict[str, str]]:
    """Every exhibit that the fits allow, and of each other one, why it is not there."""
    found: Tables = {
        "status": status(fits),
        "failures": [{"trial": trial, "reason": reason} for trial, reason in fits.study.failed.items()],
        "retrieval": retrieval(fits),
        "classification": classification(fits),
        "accuracy_per_epoch": accuracy_per_epoch(fits),
        "f1": exhibit_classes.f1(fits),
        "cross_entropy_by_rate": exhibit_classes.cross_entropy_by_rate(fits),
        "pairs": exhibit_pairs.pairs(fits),
        "ranks": exhibit_pairs.ranks(fits),
        "reliability": exhibit_classes.reliability(fits),
        "ablation": exhibit_pairs.ablation(fits),
        "sensitivity": sensitivity(fits),
        "confusion": exhibit_classes.confusion(fits),
        "balanced_accuracy_by_task": exhibit_classes.balanced_accuracy_by_task(fits),
        "runtime": runtime(fits),
    }
    return {name: rows for name, rows in found.items() if rows}, _left_out(fits, found)


def systems(tables: Tables) -> list[str]:
    """The compared systems, in the plan's order."""
    rows = next(tables[name] for name in ("retrieval", "classification", "status") if tables.get(name))
    return list(dict.fromkeys(row["variant"] for row in rows))


def status(fits: Fits) -> list[Row]:
    """Planned, finished, failed and missing fits of each variant."""
    rows = []
    for variant in fits.variants:
        planned = [one.trial_id for one in fits.plan.trials if one.variant == variant]
        failed = sum(trial in fits.study.failed for trial in planned)
        missing = len(set(planned) & set(fits.study.missing))
        finished = len(planned) - failed - missing
        rows.append(
            {"variant": variant, "planned": len(planned), "finished": finished, "failed": failed, "missing": missing}
        )
    return rows


def retrieval(fits: Fits) -> list[Row]:
    """R@k, MRR, median rank and mAP of each system and direction, over people, chance and ceiling beside each.

    The median rank is over people of their mean rank over seeds; it has no p of its own, R@1 and MRR have.
    """
    rows = []
    for variant in fits.shown:
        gallery = [len(row["subject_id"]) for row in fits.picked(variant, "validation_mrr")]
        gallery = [people for people in gallery if people > 1] or [0]
        about = {"gallery_smallest": min(gallery), "gallery_largest": max(gallery), "complete": fits.complete(variant)}
        figures = [f for f in fits.study.figures[variant] if f.task == "retrieval"]
        for direction in dict.fromkeys(f.direction for f in figures):
            for f in figures:
                if f.direction != direction:
                    continue
                rows.append(
                    {"variant": variant, "direction": direction, "metric": f.metric, "value": f.value}
                    | {"ci_low": f.ci_low, "ci_high": f.ci_high, "chance": f.chance}
                    | {"band_low": f.band_low, "band_high": f.band_high, "p": f.p_value, "ceiling": f.ceiling}
                    | {"share_of_ceiling": of_the_way(f.value, f.chance, f.ceiling)}
                    | {"people": f.subjects, **about}
                )
                if f.metric == "MRR":
                    rows.append(exhibit_pairs.median_rank(fits, variant, direction) | about)
    return rows


def classification(fits: Fits) -> list[Row]:
    """Every classification figure of each system, over people, from both modalities of a person."""
    return [
        {"variant": variant, "metric": f.metric, "value": f.value, "ci_low": f.ci_low, "ci_high": f.ci_high}
        | {"chance": f.chance, "band_low": f.band_low, "band_high": f.band_high, "p": f.p_value, "people": f.subjects}
        | {"complete": fits.complete(variant)}
        for variant in fits.shown
        for f in fits.study.figures[variant]
        if f.task == "classification"
    ]


def accuracy_per_epoch(fits: Fits) -> list[Row]:
    """Median and quartiles of validation accuracy over folds x seeds, at each one's picked rate (Figure 1).

    A fit that stopped early keeps its last value; `running` counts those that had not stopped. Systems solved in
    closed form have one epoch, and one row.
    """
    rows: list[Row] = []
    for variant in fits.shown:
        curves = [
            [np.nan if record["validation_accuracy"] is None else record["validation_accuracy"] for record in history]
            for history in (row["history"] for row in fits.picked(variant, "validation_cross_entropy"))
        ]
        for epoch in range(max((len(curve) for curve in curves), default=0)):
            here = np.array([curve[min(epoch, len(curve) - 1)] for curve in curves if curve])
            here = here[np.isfinite(here)]
            if len(here):
                low, median, high = np.percentile(here, [25, 50, 75])
                running = sum(epoch < len(curve) for curve in curves)
                rows.append(
                    {"variant": variant, "epoch": epoch, "median": float(median), "low": float(low)}
                    | {"high": float(high), "fits": len(here), "running": running}
                )
    return rows


def sensitivity(fits: Fits) -> list[Row]:
    """R@1 (mean of directions) and cross-entropy at each learning rate, over people with 95 % intervals."""
    rows: list[Row] = []
    for variant in fits.shown:
        for metric in ("R@1", "cross_entropy"):
            for rate, at_rate in fits.by_rate(variant).items():
                own = exhibit_pairs.per_person(at_rate, metric)
                if own:
                    value, low, high = fits.mean(own)
                    rows.append(
                        {"variant": variant, "metric": metric, "learning_rate": rate, "value": value}
                        | {"ci_low": low, "ci_high": high, "people": len(own)}
                        | {"complete": fits.complete_at(variant, rate)}
                    )
    return rows


def runtime(fits: Fits) -> list[Row]:
    """Wall-clock seconds a finished fit, by variant; they share the machine with whatever else it did."""
    rows = []
    for variant in fits.variants:
        seconds = [row["seconds"] for row in fits.finished[variant]]
        if seconds:
            rows.append(
                {"variant": variant, "fits": len(seconds), "median_s": float(np.median(seconds))}
                | {"shortest_s": min(seconds), "longest_s": max(seconds), "total_s": float(sum(seconds))}
            )
    return rows


def from_search(table: list[Row], importance: dict[str, float] | None) -> Tables:
    """A search's trials that were fitted, and the shares of their variance that each parameter explains, the largest
    first; those that could not be fitted, each with its reason."""
    shares = sorted((importance or {}).items(), key=lambda item: (-item[1], item[0]))
    fitted = [{k: v for k, v in row.items() if k != "error"} for row in table if row["error"] is None]
    failed = [{k: v for k, v in row.items() if k != "value"} for row in table if row["error"] is not None]
    found = {
        "search": fitted,
        "search_failures": failed,
        "search_importance": [{"parameter": p, "share": share} for p, share in shares],
    }
    return {name: rows for name, rows in found.items() if rows}


def _left_out(fits: Fits, found: Tables) -> dict[str, str]:
    """Exhibit -> why it is not there, for those that a reader would miss; part of one is said in the same place."""
    labels = fits.labels()
    classes = len(set(labels.values()))
    reasons: dict[str, Any] = {}
    if not labels:
        said = "no test person has a label, so there is nothing to classify"
    elif classes == 1:
        said = "all test people are of one class, so it is undefined"
    else:
        said = "no fold has two classes among its test people"
    for name in ("classification", "f1", "cross_entropy_by_rate", "reliability"):
        reasons[name] = said
    reasons["retrieval"] = (
        "every fold tests one person, who is found whatever a system does; with fewer split.folds under a new "
        "split.name there is something to find"
    )
    reasons["accuracy_per_epoch"] = "no validation person has a label, so no epoch has an accuracy"
    spoken = any(row["by_task"] for rows in fits.finished.values() for row in rows)
    for name in ("confusion", "balanced_accuracy_by_task"):
        reasons[name] = said if spoken else "no fit kept classes by clip type"
    one = "it takes two systems with finished fits, tested on the same people"
    reasons |= {"pairs": one, "ranks": one + ", and three for Friedman's test"}
    reasons["ablation"] = "every variant of this sweep is a plain system; sweep.variants adds others"
    left = {name: why for name, why in reasons.items() if not found[name]}
    partly = defaultdict(set)
    for row in found["f1"]:
        if row["f1"] is None:
            partly["f1"].add(row["fold"])
    compared = [row for row in found["retrieval"] if row["metric"] == "mAP"]
    if labels and found["retrieval"] and not compared:
        left["mAP"] = "in no fold do test people of one class have both others of it and others of another"
    elif compared and min(row["people"] for row in compared) < len(labels):
        fewest = min(row["people"] for row in compared)
        left["mAP of some people"] = (
            f"{len(labels) - fewest} of {len(labels)} have nobody of their class, or nobody of another, among the test "
            "people of their fold, so they have no mAP"
        )
    if partly["f1"]:
        folds = ", ".join(str(fold) for fold in sorted(partly["f1"]))
        which = f"fold {folds} has" if len(partly["f1"]) == 1 else f"folds {folds} have"
        left["f1 of some folds"] = f"{which} test people of one class only, so F1 is undefined there"
        if all(row["f1"] is None for row in found["f1"]):
            left["f1"] = said
    return left
