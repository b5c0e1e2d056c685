"""A run's embeddings and predictions to every reported figure, with gallery, chance, interval and p beside each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmray import config
from mmray.evaluation import classification, statistics
from mmray.evaluation.paired import matrix, paired_vectors
from mmray.evaluation.retrieval_figures import Ceilings, ends, figures
from mmray.schema import Metric


def evaluate(
    embeddings: pa.Table,
    predictions: pa.Table,
    config: config.Evaluate,
    seed: int,
    ceilings: Ceilings | None = None,
    role: str = "test",
) -> list[Metric]:
    """Every figure of one role's subjects.

    Args:
        embeddings: schema EMBEDDINGS.
        predictions: schema PREDICTIONS.
        config: how many bootstraps and permutations.
        seed: same seed, same intervals and p-values.
        ceilings: direction -> metric -> the oracle's figure at subject level.
        role: train, validation or test.

    Returns:
        Retrieval in each direction per subject and per segment, mAP of equal labels, and classification. With fewer
        than two paired (or labelled) subjects that block is left out.

    Raises:
        WorkspaceError: an embedding or a probability is not finite, or rows differ in width.
    """
    chosen = embeddings.filter(pc.equal(embeddings["role"], role))
    predicted = predictions.filter(pc.equal(predictions["role"], role))
    return [
        *figures(paired_vectors(chosen), config, seed, ceilings or {}),
        *_classification(predicted, config, seed),
    ]


def _classification(predictions: pa.Table, settings: config.Evaluate, seed: int) -> list[Metric]:
    labelled = predictions.filter(pc.is_valid(predictions["label"]))
    subject_R = np.array(labelled["subject_id"].to_pylist(), dtype=np.str_)
    subjects, first_S, index_R = np.unique(subject_R, return_index=True, return_inverse=True)
    if len(subjects) < 2:
        return []
    label_S = labelled["label"].to_numpy()[first_S].astype(np.int64)
    row_RC = matrix(labelled["probability"], "predictions")
    probability_SC = np.zeros((len(subjects), row_RC.shape[1]))
    np.add.at(probability_SC, index_R, row_RC)
    probability_SC /= np.bincount(index_R)[:, None]

    figures = classification.classification_metrics(label_S, probability_SC)
    sign_M = np.array([-1 if name in classification.LOWER_IS_BETTER else 1 for name in figures])

    def better(label_S: NDArray[Any]) -> NDArray[np.float64]:
        permuted = classification.classification_metrics(label_S, probability_SC)
        return np.asarray(sign_M * np.array([permuted[name][0] for name in figures]))

    p_M = statistics.permutation_labels(label_S, better, settings.permutations, seed)
    drawn_NS = statistics.resample_subjects(len(subjects), settings.bootstraps, seed)
    weight_NS = np.stack([np.bincount(row, minlength=len(subjects)) for row in drawn_NS])
    resampled = classification.classification_metrics(label_S, probability_SC, weight_NS)
    chance = classification.chance_levels(label_S, probability_SC.shape[1])
    return [
        Metric(
            "classification",
            "fused",
            "subject",
            name,
            value=float(value_N[0]),
            queries=len(subjects),
            chance=chance.get(name),
            # calibration has no better and worse pairing of people with labels to test
            p_value=float(p) if name in chance else None,
            **ends(statistics.interval(resampled[name], len(subjects))),
        )
        for (name, value_N), p in zip(figures.items(), p_M, strict=True)
    ]
