"""Retrieval in one process: a run's encoder and an index version, asked by id, by file or by vector."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mmray.config import Config
from mmray.errors import WorkspaceError
from mmray.features.table import Segments, from_table
from mmray.index import store
from mmray.index.base import Manifest
from mmray.index.embed import recording_vector
from mmray.schema import MODALITIES
from mmray.serving import queries
from mmray.serving.answer import (
    MOST_MATCHES,
    MOST_QUERIES,
    BatchAnswer,
    Classification,
    ClassProbability,
    Filters,
    QueryError,
    SearchAnswer,
    Stored,
    StoredList,
    StoredRecording,
    UnknownRecordingError,
)
from mmray.serving.columns import Columns
from mmray.serving.evidence import evidence, metrics_of_run
from mmray.serving.metrics import ENCODE_SECONDS
from mmray.serving.queries import Query, Told
from mmray.storage import Workspace
from mmray.training import inference
from mmray.training.checkpoint import LoadedRun, fingerprint, load_run

_NAMED = 8  # unknown ids that an error names
_QUICK_S, _QUICK_MATCHES = 2e-3, 100
_WARMED = 5  # searches
_UNFILTERED = Filters()
_REMEMBERED = 4096  # stored recordings whose explanation is kept


class Retriever:
    """An opened index with the encoder that made it. Safe to use from several threads.

    Attributes:
        columns: modality -> its recordings, row i belonging to vector i.
        metrics: what the run's own test found; empty where it was not evaluated.
    """

    def __init__(self, workspace: Workspace, index: store.OpenIndex, run: LoadedRun, top_k_limit: int) -> None:
        self.workspace = workspace
        self.index = index
        self.run = run
        self.top_k_limit = top_k_limit
        self.columns = {modality: Columns(table) for modality, table in index.rows.items()}
        self.metrics = metrics_of_run(workspace, run.run_id)
        self._told: dict[str, Told] = {}
        for columns in self.columns.values():
            columns.row_of("")  # puts ids in order now, not in the first request
        # what asks another machine may take long tomorrow, and the loop would wait for it
        here = store.settings_of(index.manifest).backend != "milvus"
        self._quick = {modality: self._seconds(modality) < _QUICK_S and here for modality in index.vectors}

    @classmethod
    def open(cls, workspace: Workspace, version: str | None = None, top_k_limit: int = 1000) -> Retriever:
        """Open a version, the current one by default, and the run it came from.

        Raises:
            WorkspaceError: nothing was published, a file is damaged, or the run has other weights by now.
        """
        index = store.open_index(workspace, version)
        return cls(workspace, index, run_of(workspace, index.manifest), top_k_limit)

    def stored(self, *recording_ids: str) -> list[Query]:
        """Recordings of the index as queries.

        Raises:
            UnknownRecordingError: an id is not in the index; the message names the first few.
        """
        found, unknown = [], []
        for recording_id in recording_ids:
            place = self._place(recording_id)
            if place is None:
                unknown.append(recording_id)
                continue
            modality, row = place
            seen = self.columns[modality].value("role", row) == "train"
            found.append(Query(recording_id, modality, self.index.vectors[modality].vector(row), row, seen))
        if unknown:
            named = ", ".join(repr(name[:80]) for name in unknown[:_NAMED])
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            raise UnknownRecordingError(
                f"no recording {named}{more} in index {self.index.manifest.version}; "
                "see recordings.parquet for the ids, and quarantine.parquet for what could not be used"
            )
        return found

    def file(self, path: Path, name: str | None = None) -> Query:
        """A file as a query, its modality told from its content.

        A file that an indexed recording was made of counts as its subject's: a training subject's own file must not ask
        the reference set about that very subject.

        Args:
            name: what the answer calls it; the file's name by default.

        Raises:
            RecordingError: the file cannot be read, or yields no segment.
            QueryError: the run knows nothing of this modality.
        """
        name = name or path.name
        with ENCODE_SECONDS.time():
            segments, sha = queries.of_file(path, name, self.run)
            columns = self.columns.get(segments.modality)
            row = None if columns is None else columns.row_of_source(sha)
            subject, seen = "", None
            if columns is not None and row is not None:
                subject, seen = columns.value("subject_id", row), columns.value("role", row) == "train"
            segments = replace(segments, subject_id_S=np.full(len(segments), subject))
            vector_E = recording_vector(self.run.model, segments)
        return Query(name, segments.modality, vector_E, None, seen, segments)

    def search(
        self,
        asked: Sequence[Query],
        target: str,
        top_k: int = 10,
        filters: Filters | None = None,
        explain: bool = True,
    ) -> SearchAnswer:
        """The recordings of modality `target` most like the asked ones together, these left out.

        Args:
            asked: at least one; of several, the mean of their vectors is searched with.
            explain: tell what filled a lone query's other slots; a stored recording's segments are encoded for it.

        Raises:
            QueryError: top_k is out of bounds; no such modality; a filter names a value that no recording has; or there
                are too many recordings.
        """
        if not 1 <= len(asked) <= MOST_QUERIES:
            raise QueryError(f"{len(asked)} recordings are asked with; send 1 to {MOST_QUERIES}")
        self._check(target, top_k)
        allowed_N = self.columns[target].allowed(filters or Filters())
        answer = self._search(asked, queries.joined(asked), target, top_k, allowed_N)
        if not explain:
            return answer
        neighbours, shares = self._explained(asked)
        return replace(answer, neighbours=neighbours, modality_weights=shares)

    def search_recording(
        self, recording_id: str, target: str, top_k: int = 10, filters: Filters | None = None
    ) -> SearchAnswer:
        """As `search`, with one stored recording."""
        return self.search(self.stored(recording_id), target, top_k, filters)

    def search_file(self, path: Path, target: str, top_k: int = 10, filters: Filters | None = None) -> SearchAnswer:
        """As `search`, with one file."""
        self._check(target, top_k)  # before it is encoded
        return self.search([self.file(path)], target, top_k, filters)

    def search_batch(
        self, recording_ids: Sequence[str], target: str, top_k: int = 10, filters: Filters | None = None
    ) -> BatchAnswer:
        """One answer a stored recording, unexplained.

        Raises:
            UnknownRecordingError: an id is not in the index.
            QueryError: as `search`; or the answers would hold too many matches.
        """
        self._check(target, top_k)
        if len(recording_ids) * top_k > MOST_MATCHES:
            raise QueryError(
                f"{len(recording_ids)} ids with top_k {top_k} are more than {MOST_MATCHES:,} matches; send fewer"
            )
        allowed_N = self.columns[target].allowed(filters or Filters())
        answers = [
            self._search([query], query.vector_E, target, top_k, allowed_N) for query in self.stored(*recording_ids)
        ]
        manifest = self.index.manifest
        return BatchAnswer(manifest.version, manifest.run_id, answers)

    def search_vector(
        self, vector_E: ArrayLike, target: str, top_k: int = 10, filters: Filters | None = None
    ) -> SearchAnswer:
        """The recordings most like an embedding.

        Raises:
            QueryError: as `search`; or the vector has another length than the index, is not finite or is zero.
        """
        self._check(target, top_k)
        unit_E = self._unit(vector_E)
        return self._search([], unit_E, target, top_k, self.columns[target].allowed(filters or Filters()))

    def classify(self, asked: Sequence[Query]) -> Classification:
        """Class probabilities of the asked recordings, taken as one person's.

        Raises:
            UnknownRecordingError: a stored recording's prepared segments are gone.
            QueryError: there are none, or too many.
        """
        if not 1 <= len(asked) <= MOST_QUERIES:
            raise QueryError(f"{len(asked)} recordings are asked with; send 1 to {MOST_QUERIES}")
        vectors: dict[str, list[Tensor]] = {}
        for query in asked:
            segments = query.segments or self._segments(query)
            vectors.setdefault(query.modality, []).append(queries.encoded(self.run, segments))
        joined = {modality: torch.cat(parts) for modality, parts in vectors.items()}
        probability_C, shares = inference.classify_person(self.run.model, joined)
        names = {label: name for columns in self.columns.values() for label, name in columns.labels().items()}
        manifest = self.index.manifest
        return Classification(
            run_id=manifest.run_id,
            model=manifest.model,
            query=queries.named(asked),
            query_modality=queries.modalities(asked),
            classes=[ClassProbability(c, names.get(c), float(p)) for c, p in enumerate(probability_C)],
            modality_weights=shares,
            subject_seen_in_training=any(known) if (known := [q.seen for q in asked if q.seen is not None]) else None,
            evidence=evidence(self.metrics, "fused", "balanced_accuracy"),
        )

    def recordings(
        self, modality: str | None = None, subject: str | None = None, contains: str | None = None, limit: int = 50
    ) -> StoredList:
        """Recordings of the index, of one modality or of all, in order of id within each."""
        total, found = 0, list[Stored]()
        for held in MODALITIES:
            if held not in self.columns or modality not in (None, held):
                continue
            row_N = self.columns[held].rows(subject, contains)
            total += len(row_N)
            found += [self.columns[held].stored(row) for row in row_N[: limit - len(found)].tolist()]
        return StoredList(total, found)

    def recording(self, recording_id: str) -> StoredRecording:
        """One recording of the index. Raises UnknownRecordingError where there is none."""
        (query,) = self.stored(recording_id)
        assert query.row is not None
        stored = self.columns[query.modality].stored(query.row)
        starts = self.index.segments[query.modality].start_s(query.row).tolist()
        return StoredRecording(
            **{name: getattr(stored, name) for name in stored.__dataclass_fields__},
            index_version=self.index.manifest.version,
            segment_start_s=starts,
        )

    def is_quick(self, target: str, top_k: int, filters: Filters) -> bool:
        """Whether a search by vector takes less time than handing it to a thread would."""
        return self._quick.get(target, False) and top_k <= _QUICK_MATCHES and filters == _UNFILTERED

    @property
    def labels(self) -> list[str]:
        """Names of the classes in order of number, the number where there is no name."""
        names = {label: name for columns in self.columns.values() for label, name in columns.labels().items()}
        return [names[label] or str(label) for label in sorted(names)]

    def _seconds(self, modality: str) -> float:
        """The shortest of a few searches; also brings the index into memory."""
        vectors, taken = self.index.vectors[modality], []
        for row in range(min(_WARMED, vectors.size)):
            start = time.perf_counter()
            vectors.search(vectors.vector(row)[None], 10)
            taken.append(time.perf_counter() - start)
        return min(taken)

    def _place(self, recording_id: str) -> tuple[str, int] | None:
        for modality, columns in self.columns.items():
            if (row := columns.row_of(recording_id)) is not None:
                return modality, row
        return None

    def _search(
        self,
        asked: Sequence[Query],
        vector_E: NDArray[np.float32],
        target: str,
        top_k: int,
        allowed_N: NDArray[np.bool_] | None,
    ) -> SearchAnswer:
        vectors, columns = self.index.vectors[target], self.columns[target]
        own = {query.row for query in asked if query.modality == target and query.row is not None}
        spare = len(own)
        if allowed_N is not None and own:
            allowed_N = allowed_N.copy()
            allowed_N[list(own)] = False
            spare = 0
        # with nothing else filtered, dropping the own rows afterwards keeps an index's fast path
        score_1K, row_1K = vectors.search(vector_E[None], top_k + spare, allowed_N)
        ranked = [
            (float(s), int(r)) for s, r in zip(score_1K[0], row_1K[0], strict=True) if r >= 0 and int(r) not in own
        ]
        ranked = ranked[:top_k]
        row_K = np.array([row for _, row in ranked], dtype=np.int64)
        start_K = self.index.segments[target].best(row_K, vector_E).tolist()
        manifest = self.index.manifest
        modality = queries.modalities(asked) if asked else None
        direct = len(asked) == 1 and modality != target
        return SearchAnswer(
            query=queries.named(asked) if asked else "vector",
            query_modality=modality,
            target=target,  # type: ignore[arg-type]
            gallery=vectors.size - spare if allowed_N is None else int(allowed_N.sum()),
            index_version=manifest.version,
            run_id=manifest.run_id,
            model=manifest.model,
            matches=[
                columns.match(rank, score, row, start)
                for rank, ((score, row), start) in enumerate(zip(ranked, start_K, strict=True), start=1)
            ],
            evidence=evidence(self.metrics, f"{modality}->{target}", "R@1") if direct else None,
            neighbours=[],
            modality_weights=None,
        )

    def _explained(self, asked: Sequence[Query]) -> Told:
        told = []
        for query in asked:
            if query.segments is not None:
                segments = query.segments
            elif query.name in self._told:
                told.append(self._told[query.name])
                continue
            else:
                try:
                    segments = self._segments(query)
                except UnknownRecordingError:
                    return Told([], None)
            told.append(queries.borrowed(self.run, segments, self._samples))
            if query.segments is None:
                if len(self._told) >= _REMEMBERED:
                    self._told.clear()
                self._told[query.name] = told[-1]
        return queries.averaged(told)

    def _segments(self, query: Query) -> Segments:
        """A stored recording's prepared segments."""
        folder = ("features", self.run.features_digest)
        part = self.index.rows[query.modality]["part"][query.row].as_py()
        try:
            return from_table(self.workspace.read_table(*folder, part))
        except WorkspaceError:
            raise UnknownRecordingError(
                f"recording {query.name!r} is in the index, and its prepared segments are not in the workspace; "
                "run `mmray prepare` again"
            ) from None

    @cached_property
    def _samples(self) -> dict[str, list[queries.Sample]]:
        return queries.samples(self.workspace, self.run, self.index.rows)

    def _unit(self, vector_E: ArrayLike) -> NDArray[np.float32]:
        width = self.index.manifest.width
        try:
            given_E = np.asarray(vector_E, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise QueryError(f"the vector is not {width} numbers") from None
        if given_E.shape != (width,):
            raise QueryError(f"the vector has shape {given_E.shape}; this index holds vectors of {width} numbers")
        if not np.isfinite(given_E).all():
            raise QueryError("the vector holds a value that is not finite")
        scale = np.abs(given_E).max()
        if scale == 0:
            raise QueryError("the vector is zero, so it has no direction to compare")
        given_E = given_E / scale  # so that the norm of huge or tiny numbers neither overflows nor vanishes
        unit_E: NDArray[np.float32] = (given_E / np.linalg.norm(given_E)).astype(np.float32)
        return unit_E

    def _check(self, target: str, top_k: int) -> None:
        if target not in self.index.vectors:
            raise QueryError(f"target {target[:40]!r}: this index holds {' and '.join(self.index.vectors)}")
        if not 1 <= top_k <= self.top_k_limit:
            raise QueryError(f"top_k is {top_k}; it must lie between 1 and {self.top_k_limit} (serve.top_k_limit)")


def search(
    config: Config, asked: str | Sequence[str], target: str, top_k: int = 10, filters: Filters | None = None
) -> SearchAnswer:
    """What `mmray search` answers: what is asked with are stored recordings' ids, and files.

    Raises:
        WorkspaceError: there is no usable index.
        RecordingError, QueryError, UnknownRecordingError: as the Retriever.
    """
    retriever = Retriever.open(Workspace(config.workspace), top_k_limit=config.serve.top_k_limit)
    found = []
    for one in [asked] if isinstance(asked, str) else asked:
        try:
            found += retriever.stored(one)
        except UnknownRecordingError:
            if not Path(one).is_file():
                raise UnknownRecordingError(
                    f"{one[:200]} is neither a file nor a recording of index {retriever.index.manifest.version}"
                ) from None
            found.append(retriever.file(Path(one)))
    return retriever.search(found, target, top_k, filters)


def run_of(workspace: Workspace, manifest: Manifest) -> LoadedRun:
    """The run that made an index version. Raises WorkspaceError as `load_run`, or where it has other weights by now."""
    run = load_run(workspace, manifest.run_id)
    if fingerprint(workspace, manifest.run_id) != manifest.model:
        raise WorkspaceError(
            f"index/{manifest.version} was made with other weights than runs/{manifest.run_id} holds now; "
            "run `mmray index` again"
        )
    return run
