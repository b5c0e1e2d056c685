"""Metadata asked by number answers what a plain scan of it answers."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from mmray.index.base import METADATA
from mmray.serving.answer import Filters, QueryError
from mmray.serving.columns import Columns

ROWS = 400


def table(order: str) -> pa.Table:
    rng = np.random.default_rng(0)
    names = [f"r{number:04d}-ä" for number in range(ROWS)]
    if order == "shuffled":
        rng.shuffle(names)
    rows = []
    for number, name in enumerate(names):
        label = [0, 1, None][rng.integers(3)]
        rows.append(
            {
                "recording_id": name,
                "subject_id": f"s{number % 40}",
                "pair_id": f"s{number % 40}",
                "modality": "audio",
                "session": str(rng.integers(1, 3)),
                "task": str(rng.choice(["rest", "reading", ""])),
                "label": label,
                "label_name": None if label is None else ("HC", "MDD")[label],
                "age": None if number % 7 == 0 else float(rng.integers(18, 80)),
                "role": str(rng.choice(["train", "test"])),
                "source_sha256": f"{number:064x}",
                "study": "modma",
                "segments": number,
                "part": "p",
            }
        )
    return pa.Table.from_pylist(rows, schema=METADATA)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_every_id_is_found_at_its_row_and_no_other_is(order: str) -> None:
    rows = table(order)
    columns = Columns(rows)
    for row, recording_id in enumerate(rows["recording_id"].to_pylist()):
        assert columns.row_of(recording_id) == row
        assert columns.row_of_source(f"{row:064x}") == row
    for absent in ("", "r", "r0000", "r9999-ä", "\U0010ffff", "z\x00"):
        assert columns.row_of(absent) is None
    assert columns.row_of_source("f" * 64) is None


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_rows_are_listed_in_order_of_id(order: str) -> None:
    rows = table(order)
    columns = Columns(rows)
    named = [columns.stored(row).recording_id for row in columns.rows("s3", "00").tolist()]
    held = zip(rows["recording_id"].to_pylist(), rows["subject_id"].to_pylist(), strict=True)
    assert named == sorted(name for name, subject in held if subject == "s3" and "00" in name)
    assert named


CHOICES = {
    "label": [None, "1", "HC"],
    "task": [None, "reading", ""],
    "role": [None, "train"],
    "exclude_subject": [None, "s5"],
    "age_min": [None, 30.0],
    "age_max": [None, 50.0],
}


@pytest.mark.parametrize("chosen", itertools.product(*CHOICES.values()))
def test_filters_let_through_what_a_scan_lets_through(chosen: tuple[object, ...]) -> None:
    filters = Filters(**dict(zip(CHOICES, chosen, strict=True)))  # type: ignore[arg-type]
    rows = table("shuffled")

    def passes(row: dict[str, object]) -> bool:
        age = row["age"]
        within = filters.age_min is None and filters.age_max is None
        if isinstance(age, float):
            within = (filters.age_min or 0) <= age <= (filters.age_max or 999)
        return bool(
            within
            and filters.label in (None, row["label_name"], None if row["label"] is None else str(row["label"]))
            and filters.task in (None, row["task"])
            and filters.role in (None, row["role"])
            and row["subject_id"] != filters.exclude_subject
        )

    allowed_N = Columns(rows).allowed(filters)
    expected = [passes(row) for row in rows.to_pylist()]
    assert (allowed_N is None and all(expected)) or (allowed_N is not None and allowed_N.tolist() == expected)


def test_a_value_that_nobody_has_is_refused_even_where_the_text_of_nothing_is_asked() -> None:
    columns = Columns(table("sorted"))
    with pytest.raises(QueryError, match="known: HC, MDD"):
        columns.allowed(Filters(label="None"))
    with pytest.raises(QueryError, match=r"study 'feis'.*known: modma"):
        columns.allowed(Filters(study="feis"))


def test_a_match_holds_its_rows_values() -> None:
    rows = table("shuffled")
    columns = Columns(rows)
    for row, held in enumerate(rows.to_pylist()):
        match = columns.match(1, 0.5, row, 2.0)
        for name in (
            "recording_id",
            "subject_id",
            "modality",
            "study",
            "session",
            "task",
            "label",
            "label_name",
            "role",
        ):
            assert getattr(match, name) == held[name], name
        assert match.age == held["age"]
        assert match.seen_in_training == (held["role"] == "train")
        assert columns.stored(row).segments == held["segments"]
