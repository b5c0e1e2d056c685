"""The files of a run: embeddings of every segment, class probabilities of every subject, metrics and report."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

from mmray import config
from mmray.config import Config
from mmray.evaluation.evaluate import evaluate
from mmray.evaluation.paired import paired_vectors
from mmray.features.table import Segments
from mmray.models.system import System
from mmray.recordings import oracle
from mmray.recordings.splits import Fold
from mmray.schema import EMBEDDINGS, PREDICTIONS, metrics_table
from mmray.storage import Workspace
from mmray.training import batches, inference
from mmray.training.checkpoint import Checkpoint, read_settings, save_model


def write_fitted(
    workspace: Workspace,
    settings: Config,
    run_id: str,
    model: System,
    segments: dict[str, Segments],
    fold: Fold,
    state: Checkpoint,
) -> None:
    """All that a fit leaves; model.safetensors last, so where it stands, the rest does."""
    run = ("runs", run_id)
    workspace.write_table(pa.Table.from_pylist([asdict(record) for record in state.history]), *run, "history.parquet")
    encoded = encoded_by(model, segments)
    workspace.write_table(embeddings_table(model, encoded, segments, fold), *run, "embeddings.parquet")
    workspace.write_table(predictions_table(model, encoded, segments, fold), *run, "predictions.parquet")
    summary = {
        "run_id": run_id,
        "features_digest": config.digest(settings.features),
        "split": settings.split.name,
        "fold": settings.train.fold,
        "subjects": {role: len(subjects) for role, subjects in asdict(fold).items()},
        "shapes": {modality: list(part.shape) for modality, part in segments.items()},
        "classes": model.classifier.out_features,
        "best_epoch": state.best_epoch,
        "fitted_on": {
            "workers": list(dict.fromkeys(record.workers for record in state.history)),
            "device": state.history[-1].device,
            "compiled": settings.train.compile,
        },
    }
    workspace.write_text(config.to_yaml(settings), *run, "config.yaml")
    workspace.write_json(summary, *run, "fitted.json")
    save_model(workspace, state.part("best"), model.reference, run_id, settings)


def is_evaluated(workspace: Workspace, settings: Config, run_id: str) -> bool:
    """Whether the run is finished, and its figures are of these evaluation settings."""
    if not workspace.exists("runs", run_id, "run.json"):
        return False
    return bool(workspace.read_json("runs", run_id, "run.json").get("evaluated") == _evaluation(settings))


def write_evaluation(workspace: Workspace, settings: Config, run_id: str) -> None:
    """Metrics and report of a fitted run; run.json, which makes the run count as finished, comes last.

    Raises:
        WorkspaceError: a file of the run is damaged, or its config.yaml is not what it was fitted with.
    """
    from mmray.evaluation.report import write_report  # brings matplotlib, which a sweep's fits do without

    run = ("runs", run_id)
    fitted_with = read_settings(workspace, run_id)
    workspace.delete(*run, "run.json")  # figures of two evaluations must never count as one
    embeddings = workspace.read_table(*run, "embeddings.parquet")
    predictions = workspace.read_table(*run, "predictions.parquet")
    metrics = evaluate(embeddings, predictions, settings.evaluate, settings.seed, _ceilings(settings, embeddings))
    workspace.write_table(metrics_table(metrics), *run, "metrics.parquet")
    told = fitted_with.model_copy(update={"evaluate": settings.evaluate, "study": settings.study})
    workspace.write_text(config.to_yaml(told), *run, "config.yaml")
    write_report(workspace, run_id)
    summary = workspace.read_json(*run, "fitted.json")
    workspace.write_json({**summary, "evaluated": _evaluation(settings)}, *run, "run.json")


def _evaluation(settings: Config) -> str:
    return config.digest(settings.evaluate, str(_truth(settings) is not None))


def roles(fold: Fold) -> dict[str, str]:
    """Subject -> train, validation or test."""
    parts = {"train": fold.train, "validation": fold.validation, "test": fold.test}
    return {subject: role for role, subjects in parts.items() for subject in subjects}


def encoded_by(model: System, segments: dict[str, Segments]) -> dict[str, Tensor]:
    """Modality -> S x E, what both tables below start from. The model must be in eval mode."""
    device = next(model.parameters()).device
    return {m: inference.encode(model, m, batches.graphs(part, device)) for m, part in segments.items()}


def embeddings_table(model: System, encoded: dict[str, Tensor], segments: dict[str, Segments], fold: Fold) -> pa.Table:
    """Lone embeddings of all segments of the fold's subjects, schema EMBEDDINGS. The model must be in eval mode."""
    role = roles(fold)
    tables = []
    for modality, part in segments.items():
        z_SE = inference.embed(model, modality, part.subject_id_S, encoded[modality])
        columns = {
            "segment_id": part.segment_id_S,
            "recording_id": part.recording_id_S,
            "subject_id": part.subject_id_S,
            "pair_id": part.pair_id_S,
            "modality": np.full(len(part), modality),
            "label": _nullable(part.label_S),
            "role": [role[subject] for subject in part.subject_id_S],
            "z": list(z_SE),
        }
        tables.append(pa.table({name: _array(EMBEDDINGS.field(name), column) for name, column in columns.items()}))
    return pa.concat_tables(tables).cast(EMBEDDINGS)


def predictions_table(model: System, encoded: dict[str, Tensor], segments: dict[str, Segments], fold: Fold) -> pa.Table:
    """Fused class probabilities of the fold's subjects, schema PREDICTIONS. The model must be in eval mode."""
    role = roles(fold)
    label: dict[str, int] = {}
    for part in segments.values():
        for subject, known in zip(part.subject_id_S, part.label_S, strict=True):
            label[str(subject)] = max(int(known), label.get(str(subject), -1))
    subjects = np.array(sorted(label))
    probability_UC = inference.subject_logits(model, encoded, segments, subjects).softmax(-1).cpu().tolist()
    rows = [
        {
            "subject_id": subject,
            "label": None if label[subject] < 0 else label[subject],
            "role": role[subject],
            "probability": probability_C,
        }
        for subject, probability_C in zip(subjects.tolist(), probability_UC, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=PREDICTIONS)


def chosen(segments: dict[str, Segments], subjects: tuple[str, ...]) -> dict[str, Segments]:
    """The segments of some subjects."""
    return {m: part.take(np.isin(part.subject_id_S, list(subjects))) for m, part in segments.items()}


def _ceilings(settings: Config, embeddings: pa.Table) -> dict[str, dict[str, float]]:
    truth = _truth(settings)
    paired = paired_vectors(embeddings.filter(pc.equal(embeddings["role"], "test"))).subject_ids
    if len(paired) < 2 or truth is None:
        return {}
    return oracle.ceilings(truth, paired)


def _truth(settings: Config) -> pa.Table | None:
    """A synthetic study's truth; None of pairs drawn by lot, of which it knows nothing."""
    return None if settings.train.shuffled_pairs is not None else oracle.truth_of(settings.study)


def _nullable(label_S: NDArray[np.int8]) -> list[int | None]:
    return [None if label < 0 else int(label) for label in label_S]


def _array(field: pa.Field, column: Any) -> pa.Array:
    return pa.array(column, type=field.type)
