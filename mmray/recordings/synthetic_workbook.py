"""The workbook beside MODMA's recordings: who a subject is, and questionnaire scores that define the label."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from datetime import datetime

import numpy as np

# mean and SD of (MDD, HC) in MODMA, and the range a score can take
_AGE = ((30.9, 10.4), (31.4, 9.1), (18, 55))
_EDUCATION = ((13.2, 3.8), (16.0, 2.3), (6, 22))
_SCORES = {
    "PHQ-9": ((18.3, 3.5), (2.7, 1.8), (0, 27)),
    "CTQ-SF": ((50.8, 10.3), (41.6, 6.3), (25, 125)),
    "LES": ((-36.3, 55.9), (0.8, 36.7), (-200, 200)),
    "SSRS": ((33.3, 6.8), (42.0, 6.2), (12, 66)),
    "GAD-7": ((13.4, 4.9), (2.1, 2.1), (0, 21)),
    "PSQI": ((12.5, 4.2), (4.1, 2.2), (0, 21)),
}
# MODMA has 13 men of 24 among the patients and 20 of 29 among the controls. Here the share is the same: sex colours the
# voice and class the EEG, so a link between the two would couple the modalities even at coupling 0.
_MEN = 33 / 53
_HEADER = ["subject id", "type", "age", "gender", "education（years）", *_SCORES]
_MADE = datetime(2015, 4, 16, 10, 17)


@dataclass(frozen=True)
class Person:
    """A row of the workbook; label 1 is MDD, 0 is HC."""

    subject_id: str
    label: int
    age: int
    gender: str
    education_years: int
    scores: tuple[int, ...]


def draw_person(subject_id: str, label: int, rng: np.random.Generator) -> Person:
    """Demographics and scores with MODMA's means and spreads, of that class."""
    which = 0 if label else 1

    def draw(table: tuple[tuple[float, float], tuple[float, float], tuple[int, int]]) -> int:
        mean, spread = table[which]
        return int(np.clip(round(mean + spread * rng.standard_normal()), *table[2]))

    gender = "M" if rng.random() < _MEN else "F"
    scores = tuple(draw(table) for table in _SCORES.values())
    return Person(subject_id, label, draw(_AGE), gender, draw(_EDUCATION), scores)


def workbook(people: list[Person], *, ids_as_text: bool) -> bytes:
    """An xlsx as MODMA's: Sheet1 with two junk columns behind the table, two empty sheets; same people, same bytes."""
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append([*_HEADER, None, "Unnamed"])
    for row, person in enumerate(people):
        subject_id = person.subject_id if ids_as_text else int(person.subject_id)
        kind = "MDD" if person.label else "HC"
        junk = [None, "x" if row % 9 == 0 else None]
        sheet.append([subject_id, kind, person.age, person.gender, person.education_years, *person.scores, *junk])
    book.create_sheet("Sheet2")
    book.create_sheet("Sheet3")
    buffer = io.BytesIO()
    book.save(buffer)
    return _undated(buffer.getvalue())


def _undated(xlsx: bytes) -> bytes:
    """The same workbook, made on a fixed day: openpyxl writes the present into its properties and its zip."""
    stamp = _MADE.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(xlsx)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp, content)
            new.writestr(zipfile.ZipInfo(name, _MADE.timetuple()[:6]), content, zipfile.ZIP_DEFLATED)
    return result.getvalue()
