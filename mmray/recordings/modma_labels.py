"""Who of MODMA has which diagnosis.

Labels come from the id (0201 is MDD, 0202 and 0203 are HC) and are checked against the workbooks. Where the sources
disagree the label is null and the conflict is told: a disputed diagnosis is not trained on. Questionnaire scores define
the label, so they never leave the workbooks.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmray.recordings.modma_files import File
from mmray.recordings.workbook import Person
from mmray.schema import Recording

LABELS = {"HC": 0, "MDD": 1}
_NAME_OF_PREFIX = {"0201": "MDD", "0202": "HC", "0203": "HC"}


def labelled(files: list[File], rows: dict[str, list[Person]]) -> tuple[list[Recording], list[str]]:
    """The files as recordings, and a line for each person about whom the sources disagree.

    Args:
        rows: what the workbooks say of each subject, the most trusted first.
    """
    names: dict[str, str | None] = {}
    conflicts: list[str] = []
    for subject in sorted({file.subject for file in files}):
        names[subject], conflict = _diagnosis(subject, rows.get(subject, []))
        conflicts += [conflict] if conflict else []
    return [_recording(file, names[file.subject], rows.get(file.subject, [])) for file in files], conflicts


def _diagnosis(subject: str, rows: list[Person]) -> tuple[str | None, str | None]:
    """The label's name, or None where no source knows it or two disagree; then the second value says so."""
    by_id = _NAME_OF_PREFIX.get(subject[:4])
    by_workbook = {row.diagnosis for row in rows} - {None}
    names = by_workbook | ({by_id} if by_id else set())
    if len(names) > 1:
        return None, (
            f"subject {subject}: the id says {by_id or 'nothing'}, the workbooks say "
            f"{' and '.join(sorted(str(name) for name in by_workbook))}; label left empty, correct the wrong one"
        )
    return next(iter(names), None), None


def _recording(file: File, label_name: str | None, rows: list[Person]) -> Recording:
    def known(values: Iterable[float | None]) -> float | None:
        return next((value for value in values if value is not None), None)

    return Recording(
        recording_id=f"{file.subject}-{file.modality}-{file.name}",
        subject_id=file.subject,
        pair_id=file.subject,
        modality=file.modality,
        session="1",
        task=file.task,
        label=None if label_name is None else LABELS[label_name],
        label_name=label_name,
        path=str(file.path),
        reader=file.reader,
        size_bytes=file.path.stat().st_size,
        age=known(row.age for row in rows),
        gender=next((row.gender for row in rows if row.gender), None),
        education_years=known(row.education_years for row in rows),
    )
