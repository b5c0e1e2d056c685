"""Pairs whose both modalities are there: their vectors, and what each earns for every row that could be its match."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from mmray.errors import WorkspaceError
from mmray.evaluation import retrieval
from mmray.schema import MODALITIES, Modality


@dataclass(frozen=True)
class Paired:
    """U pairs whose both modalities are there, ordered by subject and then by `order_of`.

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


def order_of(pair_id: str) -> tuple[tuple[str | int, ...], str]:
    """The key that sorts a person's pairs as they followed each other: digits count as numbers, t2 is before t10.

    A rotation then keeps neighbours, trials that are alike because one came soon after the other.
    """
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", pair_id)), pair_id


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
    pairs = sorted(set.intersection(*held), key=lambda pair: (owner[pair], order_of(pair)))
    subjects = sorted({owner[pair] for pair in pairs})
    position = {pair: index for index, pair in enumerate(pairs)}

    z_ND = matrix(embeddings["z"], "embeddings")
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
    """What each pair's queries earn on average if gallery row u were their match, P x U for every rank metric.

    Args:
        query_QD: queries.
        pair_Q: the pair of each, 0..P-1; every pair has one.
        gallery_UD: gallery.
    """
    gallery = torch.from_numpy(np.asarray(gallery_UD))
    pairs = int(pair_Q.max()) + 1
    values = {metric: np.empty((pairs, len(gallery))) for metric in retrieval.RANK_METRICS}
    for pair in range(pairs):
        rank_QU = retrieval.ranks_of_all(torch.from_numpy(np.asarray(query_QD[pair_Q == pair])), gallery).numpy()
        for metric, value_PU in values.items():
            value_PU[pair] = retrieval.contributions(metric, rank_QU).mean(axis=0)
    return values


def matrix(column: pa.ChunkedArray, table: str) -> NDArray[np.float64]:
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
