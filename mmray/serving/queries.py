"""What a query is: one recording, stored or in a file, and what a run makes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmray.errors import RecordingError
from mmray.features.extract import extract
from mmray.features.table import Segments, from_table
from mmray.schema import MODALITIES, Modality
from mmray.serving.answer import Neighbour, QueryError
from mmray.serving.sniff import recording_of, without_folder
from mmray.storage import Workspace
from mmray.training import batches, inference
from mmray.training.checkpoint import LoadedRun


@dataclass(frozen=True)
class Query:
    """One recording that is asked with.

    Attributes:
        name: what the answer calls it.
        vector_E: unit length.
        row: of the index, in its own modality; None where it is a file.
        seen: whether the run was fitted on its subject; None where nobody knows whose it is.
        segments: of a file; a stored recording's are read where they are needed.
    """

    name: str
    modality: str
    vector_E: NDArray[np.float32]
    row: int | None
    seen: bool | None
    segments: Segments | None = None


class Told(NamedTuple):
    """Which reference samples filled a lone recording's other slots, and each slot's share in its vector."""

    neighbours: list[Neighbour]
    shares: dict[str, float] | None


@dataclass(frozen=True)
class Sample:
    """A row of the run's reference set, as a person would name it."""

    name: str
    subject_id: str


def of_file(path: Path, name: str, run: LoadedRun) -> tuple[Segments, str]:
    """A file's segments by the functions that preparation uses, and the sha256 of its content.

    Raises:
        RecordingError: the file cannot be read, or yields no segment; the message holds no folder.
        QueryError: the run knows nothing of its modality.
    """
    try:
        with recording_of(path, run.config.study.kind) as recording:
            if recording.modality not in run.shapes:
                raise QueryError(f"run {run.run_id} was not trained on {recording.modality}")
            try:
                rows = extract(recording, run.config.features)
                return from_table(rows), rows["source_sha256"][0].as_py()
            except RecordingError as error:
                raise RecordingError(without_folder(str(error), Path(recording.path), name)) from error
    except RecordingError as error:
        raise RecordingError(without_folder(str(error), path, name)) from error


def encoded(run: LoadedRun, segments: Segments) -> Tensor:
    """Vectors before attention, S x E."""
    return inference.encode(run.model, segments.modality, batches.graphs(segments, torch.device("cpu")))


def joined(queries: Sequence[Query]) -> NDArray[np.float32]:
    """Mean of the queries' unit vectors, made unit length again."""
    if len(queries) == 1:
        return queries[0].vector_E
    mean_E = np.mean([query.vector_E for query in queries], axis=0)
    norm = float(np.linalg.norm(mean_E))
    if norm < 1e-6:
        raise QueryError("the recordings' vectors cancel out, so together they have no direction to compare")
    unit_E: NDArray[np.float32] = (mean_E / norm).astype(np.float32)
    return unit_E


def modalities(queries: Sequence[Query]) -> str:
    """As eeg, audio or eeg+audio."""
    held = {query.modality for query in queries}
    return "+".join(modality for modality in MODALITIES if modality in held)


def named(queries: Sequence[Query]) -> str:
    """As an answer calls them."""
    return ", ".join(query.name for query in queries)


def samples(workspace: Workspace, run: LoadedRun, rows: dict[str, pa.Table]) -> dict[str, list[Sample]]:
    """How to name each row of a run's reference, by the modality it answers with.

    Rows are the training samples in order of pair_id; one that has a single recording in the index is called by it.
    """
    reference = run.model.reference
    if reference is None:
        return {}
    played = workspace.read_table("runs", run.run_id, "embeddings.parquet", columns=["pair_id", "role"])
    pairs = sorted(set(played.filter(pc.equal(played["role"], "train"))["pair_id"].to_pylist()))
    subjects = [reference.subjects[code] for code in reference.subject_R.tolist()]
    if len(pairs) != len(subjects):  # a run of another mmray: people are all that is known
        pairs = subjects
    named = {}
    for modality in run.shapes:
        held: dict[str, list[str]] = defaultdict(list)
        if modality in rows:
            table = rows[modality].filter(pc.is_in(rows[modality]["pair_id"], pa.array(pairs)))
            for pair, recording in zip(table["pair_id"].to_pylist(), table["recording_id"].to_pylist(), strict=True):
                held[pair].append(recording)
        alone = {pair: names[0] for pair, names in held.items() if len(names) == 1}
        named[modality] = [Sample(alone.get(p, p), s) for p, s in zip(pairs, subjects, strict=True)]
    return named


def borrowed(run: LoadedRun, segments: Segments, named: dict[str, list[Sample]]) -> Told:
    """What a lone recording took from the population graph, as the mean over its segments.

    Args:
        named: of `samples`.
    """
    model, own = run.model, segments.modality
    if model.reference is None:
        return Told([], None)
    code_S = model.reference.codes(segments.subject_id_S.tolist())
    found: list[Neighbour] = []
    shares: dict[str, float] = {}
    for modality, taken in model.borrowed(own, encoded(run, segments), code_S).items():
        total: dict[int, float] = defaultdict(float)
        for row, weight in zip(taken.row_BK.flatten().tolist(), taken.weight_BK.flatten().tolist(), strict=True):
            total[row] += weight / len(segments)
        for row, weight in sorted(total.items(), key=lambda item: (-item[1], item[0])):
            sample = named[modality][row]
            found.append(Neighbour(sample.name, sample.subject_id, modality, weight))  # type: ignore[arg-type]
        if taken.share_B is not None:
            shares[modality] = float(taken.share_B.mean())
    return Told(found, {own: 1 - sum(shares.values()), **shares} if shares else None)


def averaged(told: Sequence[Told]) -> Told:
    """Of several recordings that are asked with together."""
    if len(told) == 1:
        return told[0]
    weight: dict[tuple[str, str, Modality], float] = defaultdict(float)
    for one in told:
        for neighbour in one.neighbours:
            weight[neighbour.recording_id, neighbour.subject_id, neighbour.modality] += neighbour.weight / len(told)
    neighbours = [Neighbour(*key, share) for key, share in sorted(weight.items(), key=lambda item: (-item[1], item[0]))]
    held = [one.shares for one in told if one.shares is not None]
    if len(held) < len(told):
        return Told(neighbours, None)
    return Told(
        neighbours, {m: sum(s.get(m, 0.0) for s in held) / len(held) for m in MODALITIES if any(m in s for s in held)}
    )
