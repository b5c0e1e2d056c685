"""What the systems say of people's classes: F1, cross-entropy by rate, calibration, confusion. People are the unit."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmray.evaluation import classification, statistics
from mmray.evaluation.exhibit_pairs import per_person
from mmray.evaluation.fits import Fits
from mmray.evaluation.trials import Row, tested

BINS = 5  # of a reliability diagram: few, since the people are
ALL_CLIPS = "all clips"
# Table 1 of doi 10.20944/preprints202501.0405.v1 as printed, at _PAPER_RATES; on data that nobody else has
_PAPER_RATES = (1e-2, 1e-3, 1e-4, 1e-5)
_PAPER = {
    "gcn": (0.245, 0.235, 0.255, 0.265),
    "gat": (0.225, 0.215, 0.245, 0.255),
    "graphsage": (0.21, 0.205, 0.23, 0.25),
    "strucgcn": (0.2, 0.19, 0.22, 0.24),
    "mamsa": (0.19, 0.18, 0.21, 0.23),
    "crossmodal_gcn": (0.17, 0.16, 0.19, 0.21),
}


def f1(fits: Fits) -> list[Row]:
    """F1 of each fold and seed over its test people (Figure 2); null where they are of one class.

    As `classification_metrics` defines it: of class 1 for two classes, the macro mean for more.
    """
    rows: list[Row] = []
    for variant in fits.shown:
        for row in fits.picked(variant, "validation_cross_entropy"):
            one = tested(row)
            known_U = one.label_U >= 0
            if known_U.any():
                told = classification.classification_metrics(one.label_U[known_U], one.probability_UC[known_U])
                value = float(told["F1"][0]) if "F1" in told else None
                rows.append({"variant": variant, "fold": one.fold, "seed": one.seed, "f1": value})
    return rows


def cross_entropy_by_rate(fits: Fits) -> list[Row]:
    """Test cross-entropy, nats a person, at each rate and (rate null) at those the inner folds pick (Table 1).

    `paper` is the preprint's figure, where it prints one.
    """
    rows: list[Row] = []
    for variant in fits.shown:
        picked = fits.picked(variant, "validation_cross_entropy")
        for rate, fitted in [*fits.by_rate(variant).items(), (None, picked)]:
            own = per_person(fitted, "cross_entropy")
            if own:
                value, low, high = fits.mean(own)
                rows.append(
                    {"variant": variant, "learning_rate": rate, "value": value, "ci_low": low, "ci_high": high}
                    | {"people": len(own), "complete": fits.complete_at(variant, rate), "paper": printed(variant, rate)}
                )
    return rows


def printed(system: str, rate: float | None) -> float | None:
    """The preprint's cross-entropy of a system at a learning rate, where its Table 1 has one."""
    return dict(zip(_PAPER_RATES, _PAPER.get(system, ()), strict=False)).get(rate or 0.0)


def reliability(fits: Fits) -> list[Row]:
    """Claimed against actual share of right answers, by bins of the largest probability from 1 / classes to 1.

    `people` is in people: a person whose seeds fall into several bins is split among them.
    """
    rows: list[Row] = []
    for variant in fits.shown:
        claimed, right, weight = [], [], []
        fitted = fits.picked(variant, "validation_cross_entropy")
        classes = 2
        for row in fitted:
            one = tested(row)
            known_U = one.label_U >= 0
            p_UC = one.probability_UC[known_U]
            classes = one.probability_UC.shape[1]
            claimed += p_UC.max(1).tolist()
            right += (p_UC.argmax(1) == one.label_U[known_U]).tolist()
            weight += [1 / len({r["seed"] for r in fitted})] * len(p_UC)
        if not claimed or classes < 2:
            continue
        claimed_K, right_K, weight_K = np.array(claimed), np.array(right, dtype=float), np.array(weight)
        edges = np.linspace(1 / classes, 1, BINS + 1)
        bin_K = np.clip(np.searchsorted(edges, claimed_K, side="left") - 1, 0, BINS - 1)
        for b in range(BINS):
            inside_K = bin_K == b
            if inside_K.any():
                total = float(weight_K[inside_K].sum())
                rows.append(
                    {"variant": variant, "bin_low": float(edges[b]), "bin_high": float(edges[b + 1])}
                    | {"claimed": float(np.average(claimed_K[inside_K], weights=weight_K[inside_K]))}
                    | {"right": float(np.average(right_K[inside_K], weights=weight_K[inside_K])), "people": total}
                )
    return rows


def confusion(fits: Fits) -> list[Row]:
    """Of the first system, people of each class by the class they are given, for each clip type.

    Counts are averaged over seeds, so a row sums to the people of that class; a person given class 1 by two of three
    seeds counts two thirds there.
    """
    for variant in fits.shown[:1]:
        told = _by_task(fits, variant)
        labels = fits.labels()
        classes = sorted(
            set(labels.values()) | {guess for given in told.values() for g in given.values() for guess in g}
        )
        if not labels:
            return []
        rows = []
        for task, given in told.items():
            for actual in classes:
                mine = [shares for subject, shares in given.items() if labels[subject] == actual]
                for guess in classes:
                    count = float(sum(shares.get(guess, 0.0) for shares in mine))
                    rows.append({"variant": variant, "task": task, "actual": actual, "given": guess, "people": count})
        return rows
    return []


def balanced_accuracy_by_task(fits: Fits) -> list[Row]:
    """Mean recall of the classes by clip type, from all of a person's EEG and the voice of one type; and from all."""
    labels = fits.labels()
    rows: list[Row] = []
    for variant in fits.shown:
        told = _by_task(fits, variant)
        if not told:
            continue
        told = {ALL_CLIPS: _given(fits, variant), **told}
        for task, given in told.items():
            label_S = np.array([labels[subject] for subject in sorted(given)])
            right_S = np.array([given[subject].get(labels[subject], 0.0) for subject in sorted(given)])
            if len(np.unique(label_S)) < 2:
                continue
            drawn_NS = statistics.resample_subjects(len(label_S), fits.settings.bootstraps, fits.seed)
            interval = statistics.interval(_balanced(right_S[drawn_NS], label_S[drawn_NS]), len(label_S))
            low, high = interval or (None, None)
            rows.append(
                {"variant": variant, "task": task, "value": float(_balanced(right_S[None], label_S[None])[0])}
                | {"ci_low": low, "ci_high": high, "people": len(label_S), "complete": fits.complete(variant)}
            )
    return rows


Given = dict[str, dict[int, float]]  # subject -> class -> share of seeds that give it


def _by_task(fits: Fits, variant: str) -> dict[str, Given]:
    """Task -> what each labelled person is given."""
    labels = fits.labels()
    counts: dict[str, dict[str, Counter[int]]] = defaultdict(lambda: defaultdict(Counter))
    for row in fits.picked(variant, "validation_cross_entropy"):
        for one in row["by_task"] or ():
            if one["subject_id"] in labels:
                counts[one["task"]][one["subject_id"]][int(np.argmax(one["probability"]))] += 1
    return {task: {subject: _shares(c) for subject, c in people.items()} for task, people in sorted(counts.items())}


def _given(fits: Fits, variant: str) -> Given:
    labels = fits.labels()
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row in fits.picked(variant, "validation_cross_entropy"):
        for subject, probability in zip(row["subject_id"], row["probability"], strict=True):
            if subject in labels:
                counts[subject][int(np.argmax(probability))] += 1
    return {subject: _shares(c) for subject, c in counts.items()}


def _shares(counts: Counter[int]) -> dict[int, float]:
    return {guess: count / counts.total() for guess, count in counts.items()}


def _balanced(right_NS: NDArray[Any], label_NS: NDArray[Any]) -> NDArray[np.float64]:
    """Mean over the classes that a resample holds of its share of right answers."""
    recall_NC = []
    for c in np.unique(label_NS):
        held_NS = label_NS == c
        count_N = held_NS.sum(1)
        right_N = (right_NS * held_NS).sum(1)
        recall_NC.append(np.divide(right_N, count_N, out=np.full(len(count_N), np.nan), where=count_N > 0))
    return np.asarray(np.nanmean(recall_NC, axis=0), dtype=np.float64)
