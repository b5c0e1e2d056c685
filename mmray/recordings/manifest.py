"""Anyone's own study: a CSV or Parquet file with one row a recording."""

from __future__ import annotations

import csv
import difflib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.errors import RecordingError
from mmray.recordings.formats import reader_of
from mmray.recordings.found import RECORDING_ID, Found, size_of
from mmray.recordings.signals import AUDIO_READERS, EEG_READERS
from mmray.recordings.study import StudyKind
from mmray.schema import MODALITIES, Recording
from mmray.storage import is_uri

REQUIRED = ("recording_id", "subject_id", "modality", "path")
COLUMNS = tuple(field.name for field in fields(Recording) if field.name != "size_bytes")
_MOST_PROBLEMS = 20

_Row = dict[str, str] | str  # cells by column; or what is wrong with the row as a whole
_Value = TypeVar("_Value")


def find(path: Path) -> Found:
    """Read and validate a manifest.

    Columns recording_id, subject_id, modality and path are required; pair_id (default: the subject), session ("1"),
    task ("recording"), label (a whole number from 0; empty: not known), label_name, reader (by the file's suffix), age,
    gender and education_years may follow. Relative paths start at the manifest's folder; a path may be a URI.

    Raises:
        RecordingError: with row and column of every problem, up to 20. Rows count as a spreadsheet shows them: a
            CSV's header is row 1; a Parquet file has no header row and starts at 1.
    """
    if path.suffix.lower() == ".csv":
        columns, rows = _read_csv(path)
    elif path.suffix.lower() in (".parquet", ".pq"):
        columns, rows = _read_parquet(path)
    else:
        raise RecordingError(f"manifest {path}: neither .csv nor .parquet")
    _check_columns(path, columns)

    recordings: list[Recording] = []
    problems: list[str] = []
    row_of_id: dict[str, int] = {}
    names_of_label: dict[int, set[str]] = defaultdict(set)
    for number, row in rows:
        if isinstance(row, str):
            problems.append(f"row {number}: {row}")
            continue
        recording, wrong = _recording(row, path.parent)
        first = row_of_id.setdefault(row["recording_id"], number)
        if first != number:
            wrong.append(f"column recording_id: {row['recording_id']!r} stands in row {first} too")
        if recording and recording.label is not None and recording.label_name:
            names = names_of_label[recording.label] | {recording.label_name}
            if len(names) > 1 and names != names_of_label[recording.label]:
                wrong.append(f"column label_name: label {recording.label} is called {' and '.join(sorted(names))}")
            names_of_label[recording.label] = names
        problems += [f"row {number}, {why}" for why in wrong]
        if recording and not wrong:
            recordings.append(recording)
    if problems:
        shown = "\n  ".join(problems[:_MOST_PROBLEMS])
        more = f"\n  ... and {len(problems) - _MOST_PROBLEMS} more" if len(problems) > _MOST_PROBLEMS else ""
        raise RecordingError(f"manifest {path}: correct these and run again:\n  {shown}{more}")
    return Found(recordings, [])


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, _Row]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordingError(f"manifest {path}: cannot be read as UTF-8 CSV: {error}") from error
    columns = [cell.strip() for cell in lines[0]] if lines else []
    rows: list[tuple[int, _Row]] = []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            rows.append((number, f"has {len(cells)} cells, the header {len(columns)}"))
        else:
            rows.append((number, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    return columns, rows


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[int, _Row]]]:
    try:
        table = pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"manifest {path}: cannot be read as Parquet: {error}") from error
    rows: Iterable[_Row] = (
        {name: "" if value is None or value != value else str(value).strip() for name, value in row.items()}
        for row in table.to_pylist()
    )
    return table.column_names, list(enumerate(rows, start=1))


def _check_columns(path: Path, columns: list[str]) -> None:
    problems = []
    for name in columns:
        if name not in COLUMNS:
            problems.append(f"column {name!r} is not known{_nearest(name, COLUMNS)}")
    problems += [f"column {name!r} stands twice" for name in sorted({c for c in columns if columns.count(c) > 1})]
    problems += [f"column {name!r} is missing" for name in REQUIRED if name not in columns]
    if problems:
        raise RecordingError(f"manifest {path}: " + "; ".join(problems))


def _recording(row: dict[str, str], folder: Path) -> tuple[Recording | None, list[str]]:
    """The row's recording, or None and what is wrong with each of its cells."""
    wrong: list[str] = []

    def checked(column: str, check: Callable[[str], _Value]) -> _Value | None:
        text = row.get(column, "")
        try:
            if not text and column in REQUIRED:
                raise ValueError("is empty")
            return check(text) if text else None
        except ValueError as error:
            wrong.append(f"column {column}: {error}")
            return None

    recording_id, subject_id = checked("recording_id", _recording_id), checked("subject_id", str)
    modality = checked("modality", _modality)
    file = checked("path", lambda text: _file(text, folder))
    reader = checked("reader", lambda text: _reader(text, modality) if modality else text)
    label, age = checked("label", _label), checked("age", _number)
    education_years = checked("education_years", _number)
    if wrong or recording_id is None or subject_id is None or modality is None or file is None:
        return None, wrong
    path, size_bytes = file
    recording = Recording(
        recording_id=recording_id,
        subject_id=subject_id,
        pair_id=row.get("pair_id") or subject_id,
        modality=modality,
        session=row.get("session") or "1",
        task=row.get("task") or "recording",
        label=label,
        label_name=row.get("label_name") or None,
        path=path,
        reader=reader or reader_of(modality, path),
        size_bytes=size_bytes,
        age=age,
        gender=row.get("gender") or None,
        education_years=education_years,
    )
    return recording, []


def _recording_id(text: str) -> str:
    if not RECORDING_ID.fullmatch(text):
        raise ValueError(f"{text!r} may hold only letters, digits, '-' and '_'")
    return text


def _modality(text: str) -> str:
    if text not in MODALITIES:
        raise ValueError(f"{text!r} is not known{_nearest(text, MODALITIES)}")
    return text


def _file(text: str, folder: Path) -> tuple[str, int]:
    try:
        path = text if is_uri(text) else str(folder / Path(text).expanduser())
    except RuntimeError as error:
        raise ValueError(f"{text!r}: {error}") from None
    size = size_of(path)
    if size is None:
        raise ValueError(f"there is no file {path}")
    return path, size


def _label(text: str) -> int:
    number = _number(text)
    if number != int(number) or number > 127:
        raise ValueError(f"{text!r} is not a whole number from 0 to 127")
    return int(number)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{text!r} is not a number from 0")
    return number


def _reader(text: str, modality: str) -> str:
    readers = EEG_READERS if modality == "eeg" else AUDIO_READERS
    if text not in readers:
        raise ValueError(f"{text!r} does not read {modality}{_nearest(text, readers)}")
    return text


def _nearest(text: str, known: Iterable[str]) -> str:
    known = list(known)
    near = difflib.get_close_matches(text.lower(), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


STUDY = StudyKind(find, title="manifest", citation="your own study", doi="", licence="your own")
