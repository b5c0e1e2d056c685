"""docs/studies.md says what the code does, and its example runs."""

from __future__ import annotations

import re
import shlex
import types
from pathlib import Path

import pytest
import typer
import yaml

from mmray import cli
from mmray.config import Study, from_dict
from mmray.recordings import catalogue, completeness
from mmray.recordings.signals import READERS
from mmray.recordings.studies import STUDIES, reference

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def example(monkeypatch):
    """The worked example in the table's place of EAV."""
    [code] = blocks("python")
    module = types.ModuleType("pauses")
    exec(compile(code, "docs/studies.md", "exec"), module.__dict__)
    monkeypatch.setitem(STUDIES, "eav", module.STUDY)
    return module


@pytest.fixture
def pauses(tmp_path):
    (tmp_path / "groups.csv").write_text("person,group\nP01,fluent\nP02,stuttering\nP03,fluent\n")
    for name in (
        "P01/rest.edf",
        "P01/story-1.wav",
        "P01/story-2.wav",
        "P02/rest.edf",
        "P02/story-1.wav",
        "P02/notes.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_the_table_is_the_codes():
    table = PAGE.split("end='')\" -->\n")[1].split("<!-- end of the table -->")[0]
    assert table == reference(), "write it anew with the command above it"


def test_every_study_and_reader_is_told_of():
    for kind in STUDIES.values():
        assert kind.title.casefold() in PAGE.casefold()
        assert kind.doi in PAGE
    assert all(f"`{name}`" in PAGE for name in READERS)


def test_the_worked_example_finds_what_is_there(example, pauses, tmp_path):
    settings = {"workspace": str(tmp_path / "ws"), "study": {"kind": "eav", "root": str(pauses)}}
    summary = catalogue.catalogue(from_dict(settings))
    assert summary.labels == {"fluent": 1, "stuttering": 1}
    assert {name: count.recordings for name, count in summary.modalities.items()} == {"eeg": 2, "audio": 3}
    assert [Path(item.path).name for item in summary.unplaced] == ["notes.txt"]


def test_the_worked_example_can_be_checked(example, pauses):
    report = completeness.check(Study(kind="eav", root=str(pauses)))
    assert [(item.subject_id, item.missing) for item in report.short] == [("P02", {"story": 1})]
    assert [item.subject_id for item in report.absent] == ["P03"]


def test_the_worked_example_is_short(example):
    assert len(blocks("python")[0].splitlines()) < 120


@pytest.mark.parametrize("text", blocks("yaml"))
def test_settings_on_the_page_are_valid(text):
    from_dict(yaml.safe_load(text))


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_a_command_on_the_page_is_one_that_mmray_takes(command):
    arguments = shlex.split(command)[1:]
    group = typer.main.get_command(cli.app)
    group.commands[arguments[0]].make_context(arguments[0], arguments[1:])  # type: ignore[attr-defined]
