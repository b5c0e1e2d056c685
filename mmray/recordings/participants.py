"""A BIDS dataset's participants.tsv: who took part, and which of its columns is the label."""

from __future__ import annotations

import csv
import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from mmray.errors import RecordingError
from mmray.recordings.found import Unplaced

LABEL_COLUMNS = ("group", "diagnosis", "label")  # the first of them that is there, where no setting names another
_EDUCATION = ("education_years", "education")
_UNKNOWN = ("", "n/a", "na", "nan")
_MOST_LABELS = 20


@dataclass(frozen=True)
class Participant:
    """One row; label is the rank of its label_name among all, in alphabetical order."""

    label: int | None = None
    label_name: str | None = None
    age: float | None = None
    gender: str | None = None
    education_years: float | None = None


@dataclass(frozen=True)
class Participants:
    """All rows by subject (`sub-01`), the label's column, and what of the file could not be used."""

    rows: dict[str, Participant]
    label_column: str | None
    unplaced: list[Unplaced]


def read_participants(path: Path, label_column: str | None = None) -> Participants:
    """Read participants.tsv as it is found in the wild: ragged, with `n/a`, columns missing; or not there at all.

    Args:
        label_column: its name, whatever the case; None takes the first of LABEL_COLUMNS that is there.

    Raises:
        RecordingError: label_column is not there, or has more values than classes can have.
    """
    header, lines, unplaced = _read(path)
    column = _label_column(path, header, label_column)
    if len(names := sorted({line[column] for line in lines.values() if column and line.get(column)})) > _MOST_LABELS:
        raise RecordingError(
            f"recordings: {path}: column {column} has {len(names)} values, too many to be a class; name another "
            "one with --set study.label_column=..."
        )
    rows = {}
    for subject, line in lines.items():
        name = line.get(column) if column else None
        education = next((line[key] for key in _EDUCATION if line.get(key)), None)
        rows[subject] = Participant(
            label=names.index(name) if name else None,
            label_name=name or None,
            age=_number(line.get("age")),
            gender=line.get("sex") or line.get("gender") or None,
            education_years=_number(education),
        )
    return Participants(rows, column, unplaced)


def _read(path: Path) -> tuple[list[str], dict[str, dict[str, str]], list[Unplaced]]:
    """Header, and cells by subject and column; unknown cells are empty."""
    try:
        # BIDS has no quoting: a lone quotation mark must not swallow the lines behind it
        table = list(
            csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
        )
    except FileNotFoundError:
        return [], {}, []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], {}, [Unplaced(str(path), f"cannot be read as UTF-8 ({error}); nobody has a label")]
    header = [cell.strip().lower() for cell in table[0]] if table else []
    if "participant_id" not in header:
        return [], {}, [Unplaced(str(path), "has no column participant_id; nobody has a label")]
    lines: dict[str, dict[str, str]] = {}
    problems: list[Unplaced] = []
    for number, cells in enumerate(table[1:], start=2):
        row = {name: _known(cell) for name, cell in zip(header, cells, strict=False)}
        subject = row.get("participant_id", "")
        if not subject:
            if any(cell.strip() for cell in cells):
                problems.append(Unplaced(str(path), f"row {number}: no participant_id"))
            continue
        subject = subject if subject.startswith("sub-") else f"sub-{subject}"
        if lines.setdefault(subject, row) != row:
            problems.append(Unplaced(str(path), f"row {number}: {subject} stands twice, differently; first kept"))
    return header, lines, problems


def _label_column(path: Path, header: list[str], wanted: str | None) -> str | None:
    if wanted is None:
        return next((name for name in LABEL_COLUMNS if name in header), None)
    if wanted.lower() in header:
        return wanted.lower()
    near = difflib.get_close_matches(wanted.lower(), header, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(header) or 'no columns'}"
    raise RecordingError(f"recordings: study.label_column: {path} has no column {wanted!r}; {hint}")


def _known(cell: str) -> str:
    return "" if cell.strip().lower() in _UNKNOWN else cell.strip()


def _number(cell: str | None) -> float | None:
    try:
        number = float(cell or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
