"""The controls that are solved for: what they know, what they must not, and where they stop knowing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mmray import config
from mmray.models.baselines import ridge
from mmray.models.registry import build
from mmray.training import batches, inference
from mmray.training.loop import fit
from tests.embedding import embedded
from tests.models.systems import SOLVED

EMBEDDING = 8
NAMES = pytest.mark.parametrize("name", SOLVED)


def fitted(name, training, validation, classes=2):
    def made():
        torch.manual_seed(0)
        model = config.Model(name=name, embedding=EMBEDDING)
        return build(model, {m: part.shape for m, part in training.items()}, classes)

    state = fit(made(), training, validation, config.Train(), seed=0)
    model = made()
    model.load_state_dict(state.part("best"))
    return model.eval(), state


def both(model, segments):
    return {m: embedded(model, part) for m, part in segments.items()}


def probabilities(model, segments, subject):
    graphs = {m: batches.graphs(part, torch.device("cpu")) for m, part in segments.items()}
    encoded = {m: inference.encode(model, m, graphs[m]) for m in graphs}
    return inference.subject_logits(model, encoded, segments, np.array([subject])).softmax(-1).numpy()


@pytest.fixture(scope="module")
def study(generated, by_subject):
    """Training and validation subjects; the last four of training have no voice."""
    segments = generated(subjects=40, segments=3, noise=0.25, lone=4)
    return by_subject(segments, [*range(10, 40)]), by_subject(segments, range(10))


def labels(segments):
    known = {}
    for part in segments.values():
        known |= dict(zip(part.subject_id_S.tolist(), part.label_S.tolist(), strict=True))
    return known


@NAMES
def test_a_solution_is_one_finished_record(study, name):
    told = []
    training, validation = study
    model = build(config.Model(name=name), {m: part.shape for m, part in training.items()}, 2)
    state = fit(model, training, validation, config.Train(), seed=0, on_epoch=told.append)
    assert told == [state]
    assert state.finished
    assert len(state.history) == 1
    assert np.isfinite([state.history[0].loss, state.history[0].validation_mrr]).all()


@NAMES
def test_a_finished_solution_is_not_solved_again(study, name):
    _, state = fitted(name, *study)
    training, _ = study
    model = build(config.Model(name=name, embedding=EMBEDDING), {m: p.shape for m, p in training.items()}, 2)
    told = []
    assert fit(model, *study, config.Train(), seed=0, start=state, on_epoch=told.append) is state
    assert not told


def test_majority_gives_the_share_of_each_class_among_labelled_training_subjects(study):
    model, _ = fitted("majority", *study, classes=3)
    known = [label for label in labels(study[0]).values() if label >= 0]
    share_C = np.bincount(known, minlength=3) / len(known)
    assert 0 < share_C[0] < 1
    for subject in ("s000", "s039"):  # unseen, and without voice
        everyone = {m: part for m, part in (study[1] if subject == "s000" else study[0]).items()}
        for row_C in probabilities(model, everyone, subject):
            np.testing.assert_allclose(row_C, share_C, atol=1e-6)


@pytest.mark.parametrize("name", ["majority", "logreg"])
def test_one_vector_for_everyone_ranks_every_match_last(study, name):
    model, state = fitted(name, *study)
    z = both(model, study[1])
    assert np.array_equal(np.unique(np.concatenate(list(z.values())), axis=0), np.eye(1, EMBEDDING))
    assert state.best_mrr == pytest.approx(1 / 10)  # ten validation subjects


def moments(part, training_part):
    """Handcrafted features from their definition, in numpy, S x 2D."""
    deviation_ND = training_part.x_SND.astype(float).std(0)
    h_SND = (part.x_SND - training_part.x_SND.astype(float).mean(0)) / deviation_ND
    return np.concatenate([h_SND.mean(1), h_SND.std(1)], 1)


def test_logreg_predicts_as_scikit_learn_does(study):
    training, validation = study
    model, _ = fitted("logreg", *study)
    known = labels(training)
    rows, targets = [], []
    for subject in sorted(name for name, label in known.items() if label >= 0):
        row = []
        flags = []
        for part in training.values():
            mine = part.subject_id_S == subject
            width = 2 * part.shape[1]
            row.append(moments(part, part)[mine].mean(0) if mine.any() else np.zeros(width))
            flags.append(float(mine.any()))
        rows.append(np.concatenate([*row, flags]))
        targets.append(known[subject])
    oracle = LogisticRegression(tol=1e-8, max_iter=10_000).fit(rows, targets)
    asked = "s003"
    at = {m: moments(part, training[m])[part.subject_id_S == asked] for m, part in validation.items()}
    features = np.concatenate([at["eeg"].mean(0), at["audio"].mean(0), np.ones(2)])[None]
    np.testing.assert_allclose(probabilities(model, validation, asked), oracle.predict_proba(features), atol=1e-5)


def test_logreg_of_three_classes_gives_an_unseen_class_nothing(study):
    model, _ = fitted("logreg", *study, classes=3)
    two, _ = fitted("logreg", *study)
    three_P = probabilities(model, study[1], "s003")
    np.testing.assert_allclose(three_P[:, :2], probabilities(two, study[1], "s003"), atol=1e-6)
    assert (three_P[:, 2] < 1e-6).all()


@pytest.mark.parametrize("name", ["logreg", "ridge"])
@pytest.mark.parametrize("label", [-1, 1])
def test_labels_all_equal_or_all_unknown_give_their_shares(study, name, label):
    training = {m: part.take(np.isin(part.label_S, [label])) for m, part in study[0].items()}
    model, _ = fitted(name, training, study[1])
    expected_C = [0.5, 0.5] if label < 0 else [0.0, 1.0]
    np.testing.assert_allclose(probabilities(model, study[1], "s003"), [expected_C], atol=1e-6)


def test_ridge_classifies_unseen_subjects_above_chance(study):
    model, _ = fitted("ridge", *study)
    known = {name: label for name, label in labels(study[1]).items() if label >= 0}
    right = [probabilities(model, study[1], s).mean(0).argmax() == label for s, label in known.items()]
    assert np.mean(right) > 0.7


def test_without_a_ridge_one_target_is_correlated_as_by_least_squares():
    rng = np.random.default_rng(0)
    x_PF, y_PG = rng.normal(size=(50, 4)), rng.normal(size=(50, 1))
    weight_FK, weight_GK = ridge.shared_space(x_PF, y_PG, 0.0)
    design = np.column_stack([x_PF, np.ones(50)])
    fit_P = design @ np.linalg.lstsq(design, y_PG[:, 0], rcond=None)[0]
    found = np.corrcoef(x_PF @ weight_FK[:, 0], y_PG @ weight_GK[:, 0])[0, 1]
    assert found == pytest.approx(np.corrcoef(fit_P, y_PG[:, 0])[0, 1])


def test_two_pairs_leave_a_ridge_one_axis(study, by_subject):
    training = by_subject(study[0], range(10, 12))
    model, _ = fitted("ridge", training, study[1])
    z_SE = both(model, study[1])["eeg"]
    assert not z_SE[:, 1:].any()
    np.testing.assert_allclose(np.abs(z_SE[:, 0]), 1, atol=1e-6)


@NAMES
def test_validation_subjects_reach_nothing_but_the_strength_of_a_ridge(study, name, monkeypatch):
    monkeypatch.setattr(ridge, "STRENGTHS", (1.0,))
    training, validation = study
    _, state = fitted(name, training, validation)
    wild = {
        m: replace(part, x_SND=1e6 * part.x_SND, label_S=np.where(part.label_S < 0, -1, 1 - part.label_S))
        for m, part in validation.items()
    }
    _, again = fitted(name, training, wild)
    moved = [key for key, tensor in state.part("best").items() if not torch.equal(tensor, again.part("best")[key])]
    assert not moved


def test_a_ridge_keeps_the_strength_of_the_best_validation_mrr(generated, by_subject, monkeypatch):
    segments = generated(subjects=50, segments=2, noise=1.0)  # the best lies inside the grid
    training, validation = by_subject(segments, range(20)), by_subject(segments, range(20, 50))
    _, state = fitted("ridge", training, validation)
    alone = []
    for strength in ridge.STRENGTHS:
        with monkeypatch.context() as one:
            one.setattr(ridge, "STRENGTHS", (strength,))
            alone.append(fitted("ridge", training, validation)[1].best_mrr)
    assert len(set(alone)) > 1
    assert state.best_mrr == max(alone)
