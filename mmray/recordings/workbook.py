"""MODMA's workbooks: who took part, with which diagnosis. Only the columns named here are ever looked at."""

from __future__ import annotations

import math
import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError  # nosec B405 # the error alone
from zipfile import BadZipFile

from mmray.recordings.found import Unplaced

# a workbook's further columns are questionnaire scores, which define the label and must not reach a model
_ID, _TYPE, _AGE, _GENDER, _EDUCATION = "subject id", "type", "age", "gender", "education(years)"
_UNREADABLE = (  # what openpyxl and the libraries below it raise on damaged workbooks
    OSError,
    BadZipFile,
    ParseError,
    zlib.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
_DIAGNOSES = ("MDD", "HC")


@dataclass(frozen=True)
class Person:
    """One row of a workbook, without its questionnaire scores."""

    diagnosis: str | None
    age: float | None
    gender: str | None
    education_years: float | None


def read_people(path: Path) -> tuple[dict[str, Person], list[Unplaced]]:
    """The people of a workbook by eight-digit subject id, and what of it could not be used.

    An unreadable workbook yields nobody and one entry that says why: ids alone still place the recordings.
    """
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl tells of styles and extensions it drops
            book = openpyxl.load_workbook(path, data_only=True)
    except (*_UNREADABLE, InvalidFileException) as error:
        return {}, [Unplaced(str(path), f"workbook cannot be read ({_first_line(error)}); labels come from the ids")]
    for sheet in book.worksheets:
        rows = enumerate(sheet.iter_rows(values_only=True), start=1)
        for _, cells in rows:
            columns = {_normalised(cell): position for position, cell in reversed(list(enumerate(cells)))}
            if _ID in columns:
                return _people(path, rows, columns)
    return {}, [Unplaced(str(path), f"workbook has no column '{_ID}'; labels come from the ids")]


def _people(
    path: Path, rows: Iterable[tuple[int, tuple[Any, ...]]], columns: dict[str, int]
) -> tuple[dict[str, Person], list[Unplaced]]:
    people: dict[str, Person] = {}
    problems: list[Unplaced] = []
    for number, cells in rows:
        row = {name: cells[columns[name]] for name in (_ID, _TYPE, _AGE, _GENDER, _EDUCATION) if name in columns}
        if row[_ID] is None or not str(row[_ID]).strip():
            continue
        subject = _subject_id(row[_ID])
        if subject is None:
            problems.append(Unplaced(str(path), f"row {number}: subject id is not eight digits"))
            continue
        diagnosis = _normalised(row.get(_TYPE)).upper() or None
        if diagnosis is not None and diagnosis not in _DIAGNOSES:
            problems.append(Unplaced(str(path), f"row {number}: type is neither MDD nor HC"))
            diagnosis = None
        person = Person(diagnosis, _number(row.get(_AGE)), _text(row.get(_GENDER)), _number(row.get(_EDUCATION)))
        if subject in people and people[subject] != person:
            problems.append(
                Unplaced(str(path), f"row {number}: subject {subject} stands twice, differently; first kept")
            )
            continue
        people[subject] = person
    return people, problems


def _subject_id(cell: Any) -> str | None:
    # stored as text '02010002', as a number 2010002, or as a number's text '2010002.0'
    text = re.sub(r"\.0+$", "", str(cell).strip())
    return text.zfill(8) if re.fullmatch(r"[0-9]{7,8}", text) else None


def _normalised(cell: Any) -> str:
    # NFKC turns the full-width brackets of 'education（years）' into plain ones
    return "" if cell is None else " ".join(unicodedata.normalize("NFKC", str(cell)).split()).lower()


def _number(cell: Any) -> float | None:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _text(cell: Any) -> str | None:
    return None if cell is None else str(cell).strip() or None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
