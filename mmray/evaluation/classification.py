"""Classification figures of subjects, written over weights so that a bootstrap is one matrix product a figure.

A weight counts how often a subject was drawn; all ones gives the plain figure. scikit-learn is the oracle in the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

METRICS = ("accuracy", "balanced_accuracy", "F1", "AUC", "cross_entropy", "Brier", "ECE")
LOWER_IS_BETTER = frozenset({"cross_entropy", "Brier", "ECE"})
_SMALLEST = 1e-15  # a probability of zero costs this, not infinity


def classification_metrics(
    label_S: NDArray[np.integer[Any]], probability_SC: NDArray[Any], weight_NS: NDArray[Any] | None = None
) -> dict[str, NDArray[np.float64]]:
    """Every figure of METRICS, once for each row of weights.

    F1 is that of class 1 for two classes and the macro mean for more; AUC likewise, one class against the rest. Brier
    is (p - y)^2 for two classes and summed over classes for more. ECE takes ten equal bins of the largest probability
    (Guo et al. 2017). Balanced accuracy, F1 and AUC are left out where all subjects are of one class.

    Args:
        label_S: class of each subject, 0..C-1; subjects without a label are the caller's to drop.
        probability_SC: class probabilities, rows summing to one.
        weight_NS: draws of each subject; None means one each.

    Returns:
        Arrays of shape N. AUC is NaN in a resample that lacks a class; F1 is in one where no class it scores is held
        or given.

    Raises:
        ValueError: a label is not a column of the probabilities.
    """
    classes = probability_SC.shape[1]
    if len(label_S) == 0 or label_S.min() < 0 or label_S.max() >= classes:
        raise ValueError(f"labels must be one or more numbers in 0..{classes - 1}")
    weight_NS = np.ones((1, len(label_S))) if weight_NS is None else np.asarray(weight_NS, dtype=np.float64)
    total_N = weight_NS.sum(axis=1)
    guess_S = probability_SC.argmax(axis=1)
    own_S = probability_SC[np.arange(len(label_S)), label_S]
    target_SC = np.eye(classes)[label_S]
    error_S = ((probability_SC - target_SC) ** 2).sum(axis=1) / (2 if classes == 2 else 1)

    figures = {"accuracy": weight_NS @ (guess_S == label_S) / total_N}
    if len(np.unique(label_S)) > 1:
        figures["balanced_accuracy"] = _balanced_accuracy(label_S, guess_S, weight_NS)
        figures["F1"] = _f1(label_S, guess_S, classes, weight_NS)
        scored = (1,) if classes == 2 else tuple(np.unique(label_S))
        figures["AUC"] = np.mean([_auc(label_S == c, probability_SC[:, c], weight_NS) for c in scored], axis=0)
    figures["cross_entropy"] = weight_NS @ cost(own_S) / total_N
    figures["Brier"] = weight_NS @ error_S / total_N
    figures["ECE"] = _calibration_error(guess_S == label_S, probability_SC.max(axis=1), weight_NS)
    return figures


def cost(probability_S: NDArray[Any]) -> NDArray[np.float64]:
    """What each person adds to the cross-entropy, in nats, from the probability of the class that he is of."""
    return np.asarray(-np.log(np.clip(probability_S, _SMALLEST, 1)), dtype=np.float64)


def chance_levels(label_S: NDArray[np.integer[Any]], classes: int) -> dict[str, float]:
    """What the best constant answer earns on these labels, knowing their shares; ECE has none.

    Accuracy: the majority class. Balanced accuracy: one over the classes present. F1: for two classes always class 1,
    2q / (1 + q) at share q; for more, always the majority. AUC: 0.5. Cross-entropy and Brier: the shares as
    probabilities.
    """
    share_C = np.bincount(label_S, minlength=classes) / len(label_S)
    present = share_C[share_C > 0]
    most = float(share_C.max())
    gini = float(1 - (share_C**2).sum())
    return {
        "accuracy": most,
        "balanced_accuracy": 1 / len(present),
        "F1": float(2 * share_C[1] / (1 + share_C[1])) if classes == 2 else 2 * most / (1 + most) / len(present),
        "AUC": 0.5,
        "cross_entropy": float(-(present * np.log(present)).sum()),
        "Brier": gini / 2 if classes == 2 else gini,
    }


def _balanced_accuracy(label_S: NDArray[Any], guess_S: NDArray[Any], weight_NS: NDArray[Any]) -> NDArray[np.float64]:
    """Mean recall over the classes that a resample holds."""
    recalls = []
    for c in np.unique(label_S):
        held_N = weight_NS @ (label_S == c)
        right_N = weight_NS @ ((label_S == c) & (guess_S == c))
        recalls.append(np.divide(right_N, held_N, out=np.full(len(held_N), np.nan), where=held_N > 0))
    return np.asarray(np.nanmean(recalls, axis=0))


def _f1(label_S: NDArray[Any], guess_S: NDArray[Any], classes: int, weight_NS: NDArray[Any]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN); a class that nobody in a resample has or is given does not enter the macro mean."""
    scored = (1,) if classes == 2 else tuple(np.union1d(label_S, guess_S))
    scores = []
    for c in scored:
        both_N = weight_NS @ ((label_S == c) & (guess_S == c))
        either_N = weight_NS @ ((label_S == c).astype(int) + (guess_S == c))
        scores.append(np.divide(2 * both_N, either_N, out=np.full(len(either_N), np.nan), where=either_N > 0))
    return np.asarray(scores[0] if len(scores) == 1 else np.nanmean(scores, axis=0))  # of several, one is held


def _auc(positive_S: NDArray[np.bool_], score_S: NDArray[Any], weight_NS: NDArray[Any]) -> NDArray[np.float64]:
    """Mann-Whitney: the weighted share of positive-negative pairs in order, a tie counting half."""
    above_PQ = np.sign(score_S[positive_S][:, None] - score_S[~positive_S]) / 2 + 0.5
    positive_NP, negative_NQ = weight_NS[:, positive_S], weight_NS[:, ~positive_S]
    ordered_N = ((positive_NP @ above_PQ) * negative_NQ).sum(axis=1)
    pairs_N = positive_NP.sum(axis=1) * negative_NQ.sum(axis=1)
    return np.asarray(np.divide(ordered_N, pairs_N, out=np.full(len(pairs_N), np.nan), where=pairs_N > 0))


def _calibration_error(
    correct_S: NDArray[np.bool_], confidence_S: NDArray[Any], weight_NS: NDArray[Any], bins: int = 10
) -> NDArray[np.float64]:
    """Sum over bins of |correct - confidence|, each bin weighted by its share; bins are (low, high]."""
    bin_S = np.clip(np.ceil(confidence_S * bins).astype(int) - 1, 0, bins - 1)
    gap_SB = (correct_S - confidence_S)[:, None] * np.eye(bins)[bin_S]
    return np.asarray(np.abs(weight_NS @ gap_SB).sum(axis=1) / weight_NS.sum(axis=1))
