"""One fit of a sweep, in this process and without a file: what it is told, and what is kept of it. No Ray."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmray.config import Config
from mmray.errors import ConfigError, WorkspaceError
from mmray.evaluation.evaluate import paired_vectors
from mmray.evaluation.pooled import Tested
from mmray.features.table import Segments
from mmray.models import registry
from mmray.recordings.splits import Fold
from mmray.schema import MODALITIES
from mmray.training import loop, reference, results, structure

_HISTORY = pa.struct(
    [
        ("epoch", pa.int64()),
        ("loss", pa.float64()),
        ("retrieval_loss", pa.float64()),
        ("classification_loss", pa.float64()),
        ("validation_mrr", pa.float64()),
        ("logit_scale", pa.float64()),
        ("learning_rate", pa.float64()),
    ]
)
_MATRIX = pa.list_(pa.list_(pa.float64()))

# sweeps/<id>/trials.parquet: all that a report needs of a fit, so that it never needs the model again
TRIALS = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("variant", pa.string(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("fold", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("error", pa.string()),  # null: it finished
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("best_epoch", pa.int64()),
        pa.field("validation_mrr", pa.float64()),
        pa.field("validation_cross_entropy", pa.float64()),
        pa.field("history", pa.list_(_HISTORY)),
        # test subjects who have both modalities
        pa.field("subject_id", pa.list_(pa.string())),
        pa.field("label", pa.list_(pa.int64())),  # -1: not known
        pa.field("eeg", _MATRIX),  # one unit vector a subject
        pa.field("audio", _MATRIX),
        pa.field("probability", _MATRIX),
    ]
)


def run(
    settings: Config, segments: dict[str, Segments], fold: Fold, classes: int, *, trial_id: str, variant: str
) -> dict[str, Any]:
    """Fit and test once; a row of TRIALS. A fit that cannot be is a row with its reason, not an end to the sweep.

    Args:
        settings: of this trial; its seed sets weights and batches.
        segments: modality -> segments of all the fold's subjects.
        fold: who trains, validates and tests.
        classes: of the label.
    """
    row: dict[str, Any] = dict.fromkeys(TRIALS.names)
    row |= {"trial_id": trial_id, "variant": variant, "learning_rate": settings.train.learning_rate}
    row |= {"fold": settings.train.fold, "seed": settings.seed}
    began = time.perf_counter()
    try:
        row |= _fitted(settings, segments, fold, classes)
    except (ConfigError, WorkspaceError) as error:
        row["error"] = str(error)
    return row | {"seconds": time.perf_counter() - began}


def _fitted(settings: Config, segments: dict[str, Segments], fold: Fold, classes: int) -> dict[str, Any]:
    torch.manual_seed(settings.seed)
    model = registry.build(settings.model, {m: part.shape for m, part in segments.items()}, classes)
    structure.recall(settings, model)
    training = results.chosen(segments, fold.train)
    state = loop.fit(model, training, results.chosen(segments, fold.validation), settings.train, settings.seed)
    model.load_state_dict(state.part("best"))
    model.eval()
    if model.neighbours:
        attached = reference.of_tensors(state.part("best_reference"), training, torch.device("cpu"))
        reference.require_training_subjects(attached, (*fold.validation, *fold.test), "sweep")
        model.attach(attached)
    told = results.chosen(segments, (*fold.validation, *fold.test))
    embeddings = results.embeddings_table(model, told, fold)
    predictions = {row["subject_id"]: row for row in results.predictions_table(model, told, fold).to_pylist()}
    paired = paired_vectors(embeddings.filter(pc.equal(embeddings["role"], "test")))
    if len(paired.subject_ids) != len(paired.subject_U):
        raise ConfigError("sweep: a subject owns several pair_ids; sweeps compare studies that pair by subject")
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
    }


def _cross_entropy(predictions: list[dict[str, Any]]) -> float | None:
    known = [p["probability"][p["label"]] for p in predictions if p["label"] is not None]
    return float(-np.log(np.clip(known, 1e-15, 1)).mean()) if known else None


def tested(row: dict[str, Any]) -> Tested:
    """A finished row as what the pooled statistics take."""
    return Tested(
        fold=row["fold"],
        seed=row["seed"],
        subject_U=tuple(row["subject_id"]),
        label_U=np.array(row["label"], dtype=np.int64),
        vector_UE={modality: np.array(row[modality]) for modality in MODALITIES},
        probability_UC=np.array(row["probability"]),
    )
