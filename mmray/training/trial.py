"""One fit of a sweep, in this process and without a file: what it is told, and what is kept of it. No Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmray import config
from mmray.config import Config
from mmray.errors import ConfigError
from mmray.evaluation import classification
from mmray.evaluation.paired import paired_vectors
from mmray.evaluation.trials import TRIALS, Row
from mmray.features.table import Segments
from mmray.models.system import System
from mmray.recordings.splits import Fold
from mmray.schema import MODALITIES
from mmray.training import loop, reference, results, structure
from mmray.training.checkpoint import Checkpoint

Fit = Callable[[System, dict[str, Segments], dict[str, Segments]], Checkpoint]


def run(
    settings: Config,
    segments: dict[str, Segments],
    fold: Fold,
    classes: int,
    *,
    trial_id: str,
    variant: str,
    fit: Fit | None = None,
) -> Row:
    """Fit and test once; a row of TRIALS. A fit that cannot be is a row with its reason, not an end to the sweep.

    A workspace that fails, as a full disk does, says nothing of the fit, and no row may say that it was tried.

    Args:
        settings: of this trial; its seed sets weights and batches.
        segments: modality -> segments of all the fold's subjects.
        fold: who trains, validates and tests.
        classes: of the label.
        fit: another way to fit than `loop.fit` in this process.

    Raises:
        WorkspaceError: what a fit reads is not there, or it cannot write.
    """
    row: Row = dict.fromkeys(TRIALS.names)
    row |= {"trial_id": trial_id, "variant": variant, "system": settings.model.name}
    row |= {"learning_rate": settings.train.learning_rate, "fold": settings.train.fold, "seed": settings.seed}
    row |= {"config": json.dumps(config.fitting(settings))}
    began = time.perf_counter()
    try:
        row |= _tested(*best_of(settings, segments, fold, classes, fit), segments, fold)
    except ConfigError as error:
        row["error"] = str(error)
    return row | {"seconds": time.perf_counter() - began}


def require_of_a_fit(name: str, where: str) -> None:
    """Refuse a setting that the fits of one sweep cannot differ in.

    Raises:
        ConfigError: it is of the data, which all fits share, or the grid itself sets it.
    """
    if not name.startswith(("model.", "train.")) or name == "train.fold":
        raise ConfigError(
            f"config: {where} sets {name}, and fits of one sweep differ in model.* and train.* alone, train.fold "
            "excepted: they share data and folds; give it a config and a sweep of its own, and compare the two reports"
        )


def best_of(
    settings: Config,
    segments: dict[str, Segments],
    fold: Fold,
    classes: int,
    fit: Fit | None = None,
) -> tuple[System, Checkpoint]:
    """The model at the weights that its validation subjects prefer, in eval mode. Test subjects take no part.

    Raises:
        ConfigError: the settings or the people allow no fit; see `loop.fit`.
        WorkspaceError: as `run`.
    """
    model = structure.untrained(settings, segments, classes)
    training, validation = results.chosen(segments, fold.train), results.chosen(segments, fold.validation)
    if fit is None:
        fitted = loop.fit(model, training, validation, settings.train, settings.seed)
    else:
        fitted = fit(model, training, validation)
    model.load_state_dict(fitted.part("best"))
    if model.neighbours:
        attached = reference.of_tensors(fitted.part("best_reference"), training, torch.device("cpu"))
        reference.require_training_subjects(attached, (*fold.validation, *fold.test), "sweep")
        model.attach(attached)
    return model.cpu().eval(), fitted


def _tested(model: System, state: Checkpoint, segments: dict[str, Segments], fold: Fold) -> Row:
    told = results.chosen(segments, (*fold.validation, *fold.test))
    encoded = results.encoded_by(model, told)
    embeddings = results.embeddings_table(model, encoded, told, fold)
    predictions = {row["subject_id"]: row for row in results.predictions_table(model, encoded, told, fold).to_pylist()}
    paired = paired_vectors(embeddings.filter(pc.equal(embeddings["role"], "test")))
    best = state.history[state.best_epoch]
    return {
        "best_epoch": state.best_epoch,
        "validation_mrr": best.validation_mrr,
        "validation_cross_entropy": _cross_entropy([p for p in predictions.values() if p["role"] == "validation"]),
        "history": [asdict(record) for record in state.history],
        "subject_id": paired.subject_ids,
        "label": paired.label_U.tolist(),
        **{modality: paired.vector_UD[modality].tolist() for modality in MODALITIES},
        "probability": [predictions[subject]["probability"] for subject in paired.subject_ids],
        "by_task": _by_task(model, encoded, told, fold, paired.subject_ids),
    }


def _by_task(
    model: System, encoded: dict[str, Tensor], told: dict[str, Segments], fold: Fold, subjects: list[str]
) -> list[dict[str, Any]]:
    """Class probabilities from all of a person's EEG and the voice of one task at a time."""
    found = []
    for task in np.unique(told["audio"].task_S).tolist():
        spoken_S = told["audio"].task_S == task
        one = {**told, "audio": told["audio"].take(spoken_S)}
        vectors = {**encoded, "audio": encoded["audio"][torch.as_tensor(spoken_S)]}
        speakers = set(one["audio"].subject_id_S.tolist()) & set(subjects)
        found += [
            {"task": task, "subject_id": row["subject_id"], "probability": row["probability"]}
            for row in results.predictions_table(model, vectors, one, fold).to_pylist()
            if row["subject_id"] in speakers
        ]
    return found


def _cross_entropy(predictions: list[dict[str, Any]]) -> float | None:
    known = [p["probability"][p["label"]] for p in predictions if p["label"] is not None]
    return float(classification.cost(np.array(known)).mean()) if known else None
