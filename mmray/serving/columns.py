"""One modality's metadata, made quick to ask at a million rows: ids found by bisection, filters compared as numbers."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mmray.schema import Modality
from mmray.serving.answer import Filters, Match, QueryError, Stored

_FILTERED = ("label", "study", "task", "session", "role", "exclude_subject")


@dataclass(frozen=True)
class Coded:
    """A column as numbers.

    Attributes:
        code_N: of each row, its value's place in `values`; the last place is of rows without one.
        values: the distinct values, None last.
    """

    code_N: NDArray[np.int32]
    values: list[Any]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Coded:
        """Encode a column once."""
        encoded = column.combine_chunks().dictionary_encode()
        values = encoded.dictionary.to_pylist()
        return cls(encoded.indices.fill_null(len(values)).to_numpy().astype(np.int32), [*values, None])

    def __getitem__(self, row: int) -> Any:
        return self.values[self.code_N[row]]

    def same(self, text: str) -> NDArray[np.bool_]:
        """Rows whose value, written out, is this text."""
        codes = [code for code, value in enumerate(self.values[:-1]) if str(value) == text]
        return self.code_N == codes[0] if codes else np.zeros(len(self.code_N), dtype=bool)


class Columns:
    """The rows of one modality, as Match and Stored, by id and by filter."""

    def __init__(self, table: pa.Table) -> None:
        self._id_N = table["recording_id"].combine_chunks()
        self._source_N = table["source_sha256"]
        self._age_N = table["age"].to_numpy()  # null becomes NaN
        self._segments_N = table["segments"].to_numpy()
        self.modality: Modality = table["modality"][0].as_py()
        names = ("subject_id", "study", "session", "task", "label", "label_name", "role")
        self._coded = {name: Coded.of(table[name]) for name in names}

    def __len__(self) -> int:
        return len(self._id_N)

    @cached_property
    def _order_N(self) -> NDArray[np.uint64] | None:
        """Rows in order of id; None where they are in order already."""
        if pc.all(pc.less_equal(self._id_N[:-1], self._id_N[1:])).as_py() in (True, None):
            return None
        order_N: NDArray[np.uint64] = pc.sort_indices(self._id_N).to_numpy()
        return order_N

    def row_of(self, recording_id: str) -> int | None:
        """The row of an id; None where there is none."""
        order_N = self._order_N

        def row(place: int) -> int:
            return place if order_N is None else int(order_N[place])

        place = bisect_left(range(len(self)), recording_id, key=lambda place: self._id_N[row(place)].as_py())
        found = place < len(self) and self._id_N[row(place)].as_py() == recording_id
        return row(place) if found else None

    def row_of_source(self, sha256: str) -> int | None:
        """The first row made of a file with this content; None where there is none."""
        row = pc.index(self._source_N, sha256).as_py()
        return None if row < 0 else int(row)

    def value(self, name: str, row: int) -> Any:
        """A row's subject_id, study, session, task, label, label_name or role."""
        return self._coded[name][row]

    def age(self, row: int) -> float | None:
        """Of the row's subject, in years."""
        age = float(self._age_N[row])
        return None if np.isnan(age) else age

    def match(self, rank: int, score: float, row: int, start_s: float | None) -> Match:
        """A row as the match of this rank."""
        about = self._coded
        role = about["role"][row]
        return Match(
            rank=rank,
            score=score,
            recording_id=self._id_N[row].as_py(),
            subject_id=about["subject_id"][row],
            modality=self.modality,
            study=about["study"][row],
            session=about["session"][row],
            task=about["task"][row],
            label=about["label"][row],
            label_name=about["label_name"][row],
            age=self.age(row),
            role=role,
            seen_in_training=role == "train",
            start_s=start_s,
        )

    def stored(self, row: int) -> Stored:
        """A row as a recording of the index."""
        told = {name: coded[row] for name, coded in self._coded.items()}
        segments = int(self._segments_N[row])
        age, modality = self.age(row), self.modality
        return Stored(recording_id=self._id_N[row].as_py(), modality=modality, age=age, segments=segments, **told)

    def rows(self, subject: str | None = None, contains: str | None = None) -> NDArray[np.int64]:
        """Rows of a subject whose id contains a text, whatever its case; in order of id."""
        keep_N = np.ones(len(self), dtype=bool)
        if subject is not None:
            keep_N &= self._coded["subject_id"].same(subject)
        if contains:
            keep_N &= pc.match_substring(self._id_N, contains, ignore_case=True).to_numpy(zero_copy_only=False)
        order_N = self._order_N
        if order_N is None:
            return np.flatnonzero(keep_N)
        return order_N[keep_N[order_N]].astype(np.int64)

    def labels(self) -> dict[int, str | None]:
        """label -> its name."""
        code, name = self._coded["label"], self._coded["label_name"]
        first = {int(c): int(row) for c, row in zip(*np.unique(code.code_N, return_index=True), strict=True)}
        return {code.values[c]: name[row] for c, row in first.items() if code.values[c] is not None}

    def allowed(self, filters: Filters) -> NDArray[np.bool_] | None:
        """Which rows pass; None where nothing is filtered.

        Raises:
            QueryError: a filter names a value that no row has, most likely a misspelling, or the ages are no range.
        """
        allowed_N: NDArray[np.bool_] | None = None
        for field in _FILTERED:
            wanted = getattr(filters, field)
            if wanted is None:
                continue
            same_N = self._coded["subject_id" if field == "exclude_subject" else field].same(wanted)
            if field == "label":
                same_N |= self._coded["label_name"].same(wanted)
            if not same_N.any():
                raise QueryError(f"{field} {wanted[:40]!r}: no recording has it{self._known(field)}")
            passes_N = ~same_N if field == "exclude_subject" else same_N
            allowed_N = passes_N if allowed_N is None else allowed_N & passes_N
        least, most = filters.age_min, filters.age_max
        if least is None and most is None:
            return allowed_N
        if least is not None and most is not None and least > most:
            raise QueryError(f"age_min {least:g} is above age_max {most:g}")
        # NaN, an age that is not known, is within no range
        within_N: NDArray[np.bool_] = self._age_N >= (0 if least is None else least)
        within_N &= self._age_N <= (np.inf if most is None else most)
        return within_N if allowed_N is None else allowed_N & within_N

    def _known(self, field: str) -> str:
        if field == "exclude_subject":  # a list of people is not for an error message
            return ""
        names = {str(v) for v in self._coded["label_name" if field == "label" else field].values if v is not None}
        return f"; known: {', '.join(sorted(names)[:20])}" if names else ""
