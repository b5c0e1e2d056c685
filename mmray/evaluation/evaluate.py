"""A run's embeddings and predictions to every reported figure, with gallery, chance, interval and p beside each.

Retrieval: a subject's vector is the normalised mean of its unit segment embeddings, one a modality. The gallery holds
every test subject that has both modalities. Where a study pairs trials, `pair_id` takes the subject's place as what
matches, and subjects stay the unit of resampling and permutation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from mmray import config
from mmray.errors import WorkspaceError
from mmray.evaluation import classification, retrieval, statistics
from mmray.schema import MODALITIES, Metric, Modality

Ceilings = Mapping[str, Mapping[str, float]]


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
        *_retrieval(chosen, config, seed, ceilings or {}),
        *_classification(predicted, config, seed),
    ]


@dataclass(frozen=True)
class Paired:
    """U pairs whose both modalities are there, ordered by subject.

    Attributes:
        subject_U: subject of each pair, 0..S-1.
        label_U: class, -1 where it is not known.
        vector_UD: by modality, one unit vector a pair.
        z_SD: by modality, its segments' embeddings, and `pair_S` the pair of each.
    """

    subject_ids: list[str]
    subject_U: NDArray[np.int64]
    label_U: NDArray[np.int64]
    vector_UD: dict[Modality, NDArray[np.float64]]
    z_SD: dict[Modality, NDArray[np.float64]]
    pair_S: dict[Modality, NDArray[np.int64]]


def paired_vectors(embeddings: pa.Table) -> Paired:
    """The pairs of a table of schema EMBEDDINGS that hold both modalities, and their vectors.

    Raises:
        WorkspaceError: an embedding is not finite, or rows differ in width.
    """
    owner: dict[str, str] = {}
    label: dict[str, int] = {}
    rows = embeddings.select(["pair_id", "subject_id", "label"]).to_pylist()
    for row in rows:
        owner.setdefault(row["pair_id"], row["subject_id"])
        if row["label"] is not None:
            label.setdefault(row["pair_id"], row["label"])
    pair_of_row = np.array([row["pair_id"] for row in rows], dtype=np.str_)
    modality_of_row = np.array(embeddings["modality"].to_pylist(), dtype=np.str_)
    held = [set(pair_of_row[modality_of_row == modality].tolist()) for modality in MODALITIES]
    pairs = sorted(set.intersection(*held), key=lambda pair: (owner[pair], pair))
    subjects = sorted({owner[pair] for pair in pairs})
    position = {pair: index for index, pair in enumerate(pairs)}

    z_ND = _matrix(embeddings["z"], "embeddings")
    pair_N = np.array([position.get(pair, -1) for pair in pair_of_row.tolist()], dtype=np.int64)
    z_SD: dict[Modality, NDArray[np.float64]] = {}
    pair_S: dict[Modality, NDArray[np.int64]] = {}
    vector_UD: dict[Modality, NDArray[np.float64]] = {}
    for modality in MODALITIES:
        rows_S = np.flatnonzero((modality_of_row == modality) & (pair_N >= 0))
        z_SD[modality], pair_S[modality] = retrieval.unit(z_ND[rows_S]), pair_N[rows_S]
        vector_UD[modality] = retrieval.group_vectors(z_SD[modality], pair_S[modality], len(pairs))
    return Paired(
        subject_ids=subjects,
        subject_U=np.array([subjects.index(owner[pair]) for pair in pairs], dtype=np.int64),
        label_U=np.array([label.get(pair, -1) for pair in pairs], dtype=np.int64),
        vector_UD=vector_UD,
        z_SD=z_SD,
        pair_S=pair_S,
    )


def values_by_pair(
    query_QD: NDArray[Any], pair_Q: NDArray[np.integer[Any]], gallery_UD: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """What each pair's queries earn on average if gallery row v were their match, U x U for every rank metric."""
    gallery = torch.from_numpy(np.asarray(gallery_UD))
    pairs = len(gallery_UD)
    values = {metric: np.empty((pairs, pairs)) for metric in retrieval.RANK_METRICS}
    for pair in range(pairs):
        rank_QU = retrieval.ranks_of_all(torch.from_numpy(np.asarray(query_QD[pair_Q == pair])), gallery).numpy()
        for metric, value_UU in values.items():
            value_UU[pair] = retrieval.contributions(metric, rank_QU).mean(axis=0)
    return values


def _retrieval(embeddings: pa.Table, settings: config.Evaluate, seed: int, ceilings: Ceilings) -> list[Metric]:
    paired = paired_vectors(embeddings)
    if len(paired.subject_ids) < 2:
        return []
    pairs = len(paired.subject_U)
    metrics: list[Metric] = []
    for query, target in permutations(MODALITIES, 2):
        direction = f"{query}->{target}"
        gallery_UD = paired.vector_UD[target]
        levels = {
            "subject": (paired.vector_UD[query], np.arange(pairs)),
            "segment": (paired.z_SD[query], paired.pair_S[query]),
        }
        for level, (query_QD, pair_Q) in levels.items():
            ceiling = ceilings.get(direction, {}) if level == "subject" else {}
            for metric, value_UU in values_by_pair(query_QD, pair_Q, gallery_UD).items():
                figure = _rank_figure(metric, value_UU, paired.subject_U, settings, seed)
                metrics.append(
                    Metric(
                        "retrieval",
                        direction,
                        level,
                        metric,
                        queries=len(query_QD),
                        gallery=pairs,
                        chance=retrieval.chance(metric, pairs),
                        ceiling=ceiling.get(metric),
                        **figure,
                    )
                )
        score_UU = paired.vector_UD[query] @ gallery_UD.T
        metrics += _label_retrieval(direction, score_UU, paired, settings, seed, ceilings.get(direction, {}))
    return metrics


def _rank_figure(
    metric: str, value_UU: NDArray[Any], subject_U: NDArray[np.int64], settings: config.Evaluate, seed: int
) -> dict[str, Any]:
    """The figure over subjects (a subject's pairs averaged first), its interval and its p."""
    summarise = partial(retrieval.summarise, metric)
    sign = -1 if metric == "median_rank" else 1
    value_S = _subject_means(np.diagonal(value_UU)[None], subject_U)[0]
    interval = statistics.bootstrap_subjects(value_S, summarise, settings.bootstraps, seed)
    p_value = statistics.permutation_pairing(
        value_UU,
        lambda value_NU: sign * summarise(_subject_means(value_NU, subject_U)),
        settings.permutations,
        seed,
        subject_U,
    )
    return {"value": float(summarise(value_S)), **_ends(interval), "p_value": p_value}


def _subject_means(value_NU: NDArray[Any], subject_U: NDArray[np.int64]) -> NDArray[np.float64]:
    count_S = np.bincount(subject_U)
    if len(count_S) == len(subject_U):
        return np.asarray(value_NU, dtype=np.float64)
    mean_NS: NDArray[np.float64] = value_NU @ np.eye(len(count_S))[subject_U] / count_S
    return mean_NS


def _label_retrieval(
    direction: str,
    score_UU: NDArray[Any],
    paired: Paired,
    settings: config.Evaluate,
    seed: int,
    ceiling: Mapping[str, float],
) -> list[Metric]:
    """MAP of equal labels among *other* subjects: the query's own partner would be a hit for its identity alone."""
    rows = np.flatnonzero(paired.label_U >= 0)
    one_pair_a_subject = len(paired.subject_ids) == len(paired.subject_U)
    if len(rows) < 3 or not one_pair_a_subject:
        return []
    label_L, score_LL = paired.label_U[rows], score_UU[np.ix_(rows, rows)]
    np.fill_diagonal(score_LL, -np.inf)
    order, last = retrieval.rank_order(score_LL)
    other_LL = ~np.eye(len(rows), dtype=bool)

    def precision(label_L: NDArray[Any]) -> NDArray[np.float64]:
        return retrieval.average_precision(order, last, (label_L[:, None] == label_L) & other_LL)

    precision_L = precision(label_L)
    same_L = (label_L[:, None] == label_L).sum(axis=1) - 1
    if same_L.max() == 0 or same_L.min() == len(rows) - 1:  # every label differs, or none does
        return []
    answerable = same_L > 0
    interval = statistics.bootstrap_subjects(
        precision_L[answerable], lambda value_NL: value_NL.mean(axis=-1), settings.bootstraps, seed
    )
    p_value = statistics.permutation_labels(
        label_L, lambda label: np.nanmean(precision(label), keepdims=True), settings.permutations, seed
    )
    chance = np.mean([retrieval.chance_average_precision(int(same), len(rows) - 1) for same in same_L[answerable]])
    return [
        Metric(
            "retrieval",
            direction,
            "subject",
            "mAP",
            value=float(precision_L[answerable].mean()),
            queries=int(answerable.sum()),
            gallery=len(rows) - 1,
            chance=float(chance),
            ceiling=ceiling.get("mAP"),
            p_value=float(p_value[0]),
            **_ends(interval),
        )
    ]


def _classification(predictions: pa.Table, settings: config.Evaluate, seed: int) -> list[Metric]:
    labelled = predictions.filter(pc.is_valid(predictions["label"]))
    subject_R = np.array(labelled["subject_id"].to_pylist(), dtype=np.str_)
    subjects, first_S, index_R = np.unique(subject_R, return_index=True, return_inverse=True)
    if len(subjects) < 2:
        return []
    label_S = labelled["label"].to_numpy()[first_S].astype(np.int64)
    row_RC = _matrix(labelled["probability"], "predictions")
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
            **_ends(statistics.interval(resampled[name])),
        )
        for (name, value_N), p in zip(figures.items(), p_M, strict=True)
    ]


def _ends(interval: tuple[float, float] | None) -> dict[str, Any]:
    low, high = interval or (None, None)
    return {"ci_low": low, "ci_high": high}


def _matrix(column: pa.ChunkedArray, table: str) -> NDArray[np.float64]:
    """A column of equally long lists as rows."""
    if len(column) == 0:
        return np.zeros((0, 1))
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) > 1:
        raise WorkspaceError(f"{table}: rows of {column.type} differ in width ({widths}); train the run again")
    values = np.asarray(pc.list_flatten(column), dtype=np.float64).reshape(len(column), -1)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=1).sum())
        raise WorkspaceError(
            f"{table}: {bad} of {len(values)} rows are not finite, so training diverged; lower train.learning_rate"
        )
    return values
