"""Retrieval in one process: a run's encoder and an index version, asked by id, by file or by vector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from mmray.config import Config
from mmray.errors import RecordingError, WorkspaceError
from mmray.features.extract import extract
from mmray.features.table import Segments, from_table
from mmray.index import store
from mmray.index.base import Manifest
from mmray.index.embed import recording_vector
from mmray.serving.answer import Answer, Filters, QueryError, UnknownRecordingError, match_of
from mmray.serving.metrics import ENCODE_SECONDS
from mmray.serving.sniff import recording_of
from mmray.storage import Workspace
from mmray.training.checkpoint import LoadedRun, fingerprint, load_run


@dataclass(frozen=True)
class Retriever:
    """An opened index with the encoder that made it. Safe to use from several threads."""

    index: store.OpenIndex
    run: LoadedRun
    top_k_limit: int

    @classmethod
    def open(cls, workspace: Workspace, version: str | None = None, top_k_limit: int = 1000) -> Retriever:
        """Open a version, the current one by default, and the run it came from.

        Raises:
            WorkspaceError: nothing was published, a file is damaged, or the run has other weights by now.
        """
        index = store.open_index(workspace, version)
        return cls(index, run_of(workspace, index.manifest), top_k_limit)

    def search_recording(
        self, recording_id: str, target: str, top_k: int = 10, filters: Filters | None = None
    ) -> Answer:
        """The recordings of modality `target` most like a stored one, itself left out.

        Raises:
            UnknownRecordingError: the id is not in the index.
            QueryError: see search_vector.
        """
        if recording_id not in self.index.place:
            raise UnknownRecordingError(
                f"recording {recording_id[:80]!r} is not in index {self.index.manifest.version}; "
                "see recordings.parquet for the ids, and quarantine.parquet for what could not be used"
            )
        modality, row = self.index.place[recording_id]
        vector_E = self.index.vectors[modality].vector(row)
        own = row if modality == target else None
        return self._search(recording_id, modality, vector_E, target, top_k, filters, own)

    def search_file(
        self, path: Path, target: str, top_k: int = 10, filters: Filters | None = None, name: str | None = None
    ) -> Answer:
        """The recordings most like a file, whose modality is told from its content.

        Args:
            name: what the answer calls the query; the file's name by default.

        Raises:
            RecordingError: the file cannot be read, or yields no segment.
            QueryError: see search_vector; or the run knows nothing of this modality.
        """
        self._check(target, top_k)
        name = name or path.name
        with ENCODE_SECONDS.time():
            try:
                with recording_of(path, self.run.config.study.kind) as recording:
                    if recording.modality not in self.run.shapes:
                        raise QueryError(f"run {self.run.run_id} was not trained on {recording.modality}")
                    try:
                        segments = self._owned(extract(recording, self.run.config.features))
                    except RecordingError as error:
                        raise RecordingError(_without(str(error), Path(recording.path), name)) from error
            except RecordingError as error:
                raise RecordingError(_without(str(error), path, name)) from error
            vector_E = recording_vector(self.run.model, segments)
        return self._search(name, recording.modality, vector_E, target, top_k, filters, None)

    def search_vector(
        self, vector_E: ArrayLike, target: str, top_k: int = 10, filters: Filters | None = None
    ) -> Answer:
        """The recordings most like an embedding.

        Raises:
            QueryError: the vector has another length than the index, is not finite or is zero; top_k is out of
                bounds; no such modality; or a filter names a value that no recording has.
        """
        width = self.index.manifest.width
        try:
            given_E = np.asarray(vector_E, dtype=np.float64)
        except (TypeError, ValueError):
            raise QueryError(f"the vector is not {width} numbers") from None
        if given_E.shape != (width,):
            raise QueryError(f"the vector has shape {given_E.shape}; this index holds vectors of {width} numbers")
        if not np.isfinite(given_E).all():
            raise QueryError("the vector holds a value that is not finite")
        scale = np.abs(given_E).max()
        if scale == 0:
            raise QueryError("the vector is zero, so it has no direction to compare")
        given_E = given_E / scale  # so that the norm of huge or tiny numbers neither overflows nor vanishes
        unit_E = (given_E / np.linalg.norm(given_E)).astype(np.float32)
        return self._search("vector", None, unit_E, target, top_k, filters, None)

    def _owned(self, rows: pa.Table) -> Segments:
        """A file's segments under the id of the subject whose indexed recording it is, or under nobody's.

        A training subject's own file must not ask the reference set about that very subject.
        """
        source = rows["source_sha256"][0].as_py()
        owner = self.index.subject_of.get(source, "")
        segments = from_table(rows)
        return replace(segments, subject_id_S=np.full(len(segments), owner))

    def _search(
        self,
        query: str,
        modality: str | None,
        vector_E: NDArray[np.float32],
        target: str,
        top_k: int,
        filters: Filters | None,
        own: int | None,
    ) -> Answer:
        self._check(target, top_k)
        vectors, rows = self.index.vectors[target], self.index.rows[target]
        allowed_N = allowed_rows(rows, filters or Filters())
        if allowed_N is not None and own is not None:
            allowed_N[own] = False
        # with nothing else filtered, dropping the own row afterwards keeps an HNSW's fast path
        spare = own is not None and allowed_N is None
        score_1K, row_1K = vectors.search(vector_E[None], top_k + spare, allowed_N)
        found_K = (row_1K[0] >= 0) & (row_1K[0] != (-1 if own is None else own))
        score_K, row_K = score_1K[0][found_K][:top_k], row_1K[0][found_K][:top_k]
        held = zip(score_K, rows.take(row_K).to_pylist(), strict=True)
        manifest = self.index.manifest
        return Answer(
            query=query,
            query_modality=modality,
            target=target,
            gallery=vectors.size - spare if allowed_N is None else int(allowed_N.sum()),
            index_version=manifest.version,
            run_id=manifest.run_id,
            matches=[match_of(rank, float(score), row) for rank, (score, row) in enumerate(held, start=1)],
        )

    def _check(self, target: str, top_k: int) -> None:
        if target not in self.index.vectors:
            raise QueryError(f"target {target[:40]!r}: this index holds {' and '.join(self.index.vectors)}")
        if not 1 <= top_k <= self.top_k_limit:
            raise QueryError(f"top_k is {top_k}; it must lie between 1 and {self.top_k_limit} (serve.top_k_limit)")


def allowed_rows(rows: pa.Table, filters: Filters) -> NDArray[np.bool_] | None:
    """Which rows pass; None where nothing is filtered.

    Raises:
        QueryError: a filter names a value that no row has, most likely a misspelling.
    """
    allowed_N: NDArray[np.bool_] | None = None
    for field in ("label", "task", "session", "role", "exclude_subject"):
        wanted = getattr(filters, field)
        if wanted is None:
            continue
        column = "subject_id" if field == "exclude_subject" else field
        same_N = _equals(rows, column, wanted)
        if field == "label":
            same_N |= _equals(rows, "label_name", wanted)
        if not same_N.any():
            raise QueryError(f"{field} {wanted[:40]!r}: no recording has it{_known(rows, field)}")
        passes_N = ~same_N if field == "exclude_subject" else same_N
        allowed_N = passes_N if allowed_N is None else allowed_N & passes_N
    return allowed_N


def search(config: Config, query: str, target: str, top_k: int = 10, filters: Filters | None = None) -> Answer:
    """What `mmray search` answers: `query` is a file where there is one of that name, else a stored recording's id.

    Raises:
        WorkspaceError: there is no usable index.
        RecordingError, QueryError, UnknownRecordingError: as the Retriever.
    """
    retriever = Retriever.open(Workspace(config.workspace), top_k_limit=config.serve.top_k_limit)
    if query not in retriever.index.place and Path(query).is_file():
        return retriever.search_file(Path(query), target, top_k, filters)
    if query not in retriever.index.place:
        raise UnknownRecordingError(
            f"{query[:200]} is neither a file nor a recording of index {retriever.index.manifest.version}"
        )
    return retriever.search_recording(query, target, top_k, filters)


def run_of(workspace: Workspace, manifest: Manifest) -> LoadedRun:
    """The run that made an index version. Raises WorkspaceError as `load_run`, or where it has other weights by now."""
    run = load_run(workspace, manifest.run_id)
    if fingerprint(workspace, manifest.run_id) != manifest.model:
        raise WorkspaceError(
            f"index/{manifest.version} was made with other weights than runs/{manifest.run_id} holds now; "
            "run `mmray index` again"
        )
    return run


def _without(message: str, path: Path, name: str) -> str:
    """An error's text under the query's name, without the folder it lay in."""
    message = message.replace(str(path), name).replace(str(path.parent) + "/", "")
    return message if message.startswith(f"{name}: ") else f"{name}: {message}"


def _equals(rows: pa.Table, column: str, wanted: str) -> NDArray[np.bool_]:
    same = pc.equal(rows[column].cast(pa.string()), wanted).fill_null(False)
    same_N: NDArray[np.bool_] = same.to_numpy()
    return same_N


def _known(rows: pa.Table, field: str) -> str:
    if field == "exclude_subject":  # a list of people is not for an error message
        return ""
    names = {v for v in rows["label_name" if field == "label" else field].to_pylist() if v is not None}
    return f"; known: {', '.join(sorted(names)[:20])}" if names else ""
