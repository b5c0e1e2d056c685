from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from mmray.evaluation import classification, statistics


def draw(seed, subjects, classes):
    rng = np.random.default_rng(seed)
    label_S = rng.integers(0, classes, subjects)
    label_S[:classes] = np.arange(classes)
    probability_SC = np.round(rng.dirichlet(np.ones(classes), subjects), 1) + 0.01  # ties
    return label_S, probability_SC / probability_SC.sum(axis=1, keepdims=True)


def by_scikit_learn(label_S, probability_SC):
    classes = probability_SC.shape[1]
    guess_S = probability_SC.argmax(axis=1)
    if classes == 2:
        auc, f1 = sk.roc_auc_score(label_S, probability_SC[:, 1]), sk.f1_score(label_S, guess_S, zero_division=0)
    else:
        auc = sk.roc_auc_score(label_S, probability_SC, multi_class="ovr", labels=range(classes))
        f1 = sk.f1_score(label_S, guess_S, average="macro", zero_division=0)
    return {
        "accuracy": sk.accuracy_score(label_S, guess_S),
        "balanced_accuracy": sk.balanced_accuracy_score(label_S, guess_S),
        "F1": f1,
        "AUC": auc,
        "cross_entropy": sk.log_loss(label_S, probability_SC, labels=range(classes)),
        "Brier": sk.brier_score_loss(
            label_S, probability_SC if classes > 2 else probability_SC[:, 1], labels=list(range(classes))
        ),
    }


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 4))
def test_figures_equal_scikit_learns(seed, classes):
    label_S, probability_SC = draw(seed, 14, classes)
    found = classification.classification_metrics(label_S, probability_SC)
    expected = by_scikit_learn(label_S, probability_SC)
    assert {name: value[0] for name, value in found.items() if name != "ECE"} == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_weight_counts_as_that_many_copies_of_the_subject(seed):
    label_S, probability_SC = draw(seed, 12, 2)
    weight_S = np.random.default_rng(seed).integers(0, 3, 12)
    weight_S[:2] = 1
    weighted = classification.classification_metrics(label_S, probability_SC, weight_S[None])
    row_R = np.repeat(np.arange(12), weight_S)
    copied = classification.classification_metrics(label_S[row_R], probability_SC[row_R])
    assert {k: v[0] for k, v in weighted.items()} == pytest.approx({k: v[0] for k, v in copied.items()})


def test_calibration_error_of_hand_counted_bins():
    probability_SC = np.array([[0.05, 0.95], [0.05, 0.95], [0.35, 0.65], [0.65, 0.35]])
    label_S = np.array([1, 0, 1, 1])
    # (0.9, 1]: half right at 0.95; (0.6, 0.7]: half right at 0.65
    expected = 0.5 * abs(0.5 - 0.95) + 0.5 * abs(0.5 - 0.65)
    assert classification.classification_metrics(label_S, probability_SC)["ECE"][0] == pytest.approx(expected)


def test_one_class_alone_has_no_auc_and_no_nan():
    found = classification.classification_metrics(np.ones(3, dtype=int), np.array([[0.2, 0.8]] * 3))
    assert set(found) == {"accuracy", "cross_entropy", "Brier", "ECE"}
    assert all(np.isfinite(value).all() for value in found.values())


def test_a_class_that_a_resample_lacks_does_not_enter_its_macro_f1():
    label_S, guess_S = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 2])
    (found,) = classification.classification_metrics(label_S, np.eye(3)[guess_S], np.array([[1, 1, 1, 1, 0, 0]]))["F1"]
    assert found == pytest.approx(sk.f1_score(label_S[:4], guess_S[:4], average="macro"))


@pytest.mark.filterwarnings("error")
def test_resamples_without_the_class_of_f1_do_not_pull_it_to_zero():
    """One of eight is of class 1, so a third of the resamples hold nobody of it; all eight are told right."""
    label_S = np.array([1] + [0] * 7)
    weight_NS = np.stack([np.bincount(row, minlength=8) for row in statistics.resample_subjects(8, 200, 0)])
    f1_N = classification.classification_metrics(label_S, np.eye(2)[label_S], weight_NS)["F1"]
    np.testing.assert_array_equal(np.isnan(f1_N), weight_NS[:, 0] == 0)
    assert statistics.middle(f1_N) == (1.0, 1.0)
    assert statistics.interval(f1_N, 8) is None


def test_a_label_without_a_probability_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.1"):
        classification.classification_metrics(np.array([0, 2]), np.full((2, 2), 0.5))


@pytest.mark.parametrize("label", [[0, 0, 0, 1, 1], [0, 1, 2, 2, 2]])
def test_chance_is_what_the_best_constant_answer_earns(label):
    label_S = np.array(label)
    classes = len(set(label))
    share_C = np.bincount(label_S) / len(label_S)
    shares = by_scikit_learn(label_S, np.tile(share_C, (len(label_S), 1)))
    # for two classes F1 counts class 1, so the best constant answer for it is class 1
    answer = 1 if classes == 2 else int(share_C.argmax())
    guess_S = np.full(len(label_S), answer)
    shares["F1"] = sk.f1_score(label_S, guess_S, average="binary" if classes == 2 else "macro", zero_division=0)
    assert classification.chance_levels(label_S, classes) == pytest.approx(shares)
