"""`mmray recordings --check` against trees with something taken away."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from mmray import cli
from mmray.config import Study, StudyName
from mmray.recordings import completeness
from mmray.recordings.modma_files import AUDIO, REST
from mmray.recordings.studies import STUDIES
from mmray.recordings.study import Expected
from tests.recordings.modma_tree import write_study, write_workbook


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")


@pytest.fixture
def whole(tmp_path):
    """As many files as MODMA has, of one byte each: listing opens none."""
    for number in range(53):
        touch(tmp_path / REST / f"{2010001 + number:08d}rest.mat")
    for number in range(52):
        for clip in range(1, 30):
            touch(tmp_path / AUDIO / f"{2010001 + number:08d}" / f"{clip:02d}.wav")
    return tmp_path


def check(root, **study):
    return completeness.check(Study(root=str(root), **study))


def test_every_study_of_the_setting_stands_in_the_table():
    assert tuple(STUDIES) == get_args(StudyName)


def test_published_counts_are_those_of_the_publication():
    counts = {(part.modality, *part.each): (part.subjects, part.recordings) for part in STUDIES["modma"].expected}
    assert sorted(counts.values()) == [(52, 1508), (53, 53), (53, 53), (55, 55)]
    assert sum(part.recordings for part in STUDIES["eav"].expected if part.modality == "audio") == 4200


def test_a_whole_study_is_complete(whole):
    report = check(whole)
    assert (report.complete, report.exit_code, report.short, report.absent) == (True, 0, [], [])
    assert "1508 of 1508 recordings, 52 of 52 subjects" in report.render()


def test_a_lost_clip_is_told_by_subject_and_task(whole):
    (whole / AUDIO / "02010004" / "24.wav").unlink()
    report = check(whole)
    [short] = report.short
    assert (short.subject_id, short.recordings, short.expected, short.missing) == ("02010004", 28, 29, {"words": 1})
    assert report.exit_code == 3
    assert "02010004 has 28 of 29 audio recordings; missing 1 of words" in report.render()


def test_more_people_do_not_make_up_for_a_lost_clip(whole):
    for clip in range(1, 30):
        touch(whole / AUDIO / "02010099" / f"{clip:02d}.wav")
    (whole / AUDIO / "02010004" / "24.wav").unlink()
    assert not check(whole).complete


def test_a_lost_subject_is_told_by_count_and_by_name_where_a_workbook_has_it(whole):
    (whole / REST / "02010007rest.mat").unlink()
    assert not check(whole).complete
    assert "1 people without eeg rest" in check(whole).render()
    write_workbook(whole / REST / "subjects.xlsx", [("02010007", "MDD")])
    report = check(whole)
    assert [item.subject_id for item in report.absent] == ["02010007"]
    assert "02010007 is listed without eeg rest" in report.render()


def test_what_is_left_aside_is_expected_only_where_it_is_chosen(whole):
    touch(whole / "EEG_128channels_ERP_lanzhou_2015" / "02010001erp.raw")
    assert check(whole).complete
    assert "left aside: dot-probe (1)" in check(whole).render()
    report = check(whole, tasks=("dot-probe",))
    assert [(part.tasks, part.subjects, part.expected_subjects) for part in report.parts] == [(("dot-probe",), 1, 53)]


def test_someone_listed_for_what_is_left_aside_is_not_missed(whole):
    write_workbook(whole / "EEG_128channels_ERP_lanzhou_2015" / "subjects.xlsx", [("02010007", "MDD")])
    assert check(whole).absent == []


def test_a_layout_without_published_counts_is_held_to_its_own_list_of_people(tmp_path):
    touch(tmp_path / "sub-01" / "eeg" / "sub-01_task-x_eeg.edf")
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\n")
    assert check(tmp_path, kind="bids").complete
    (tmp_path / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    report = check(tmp_path, kind="bids")
    assert (report.parts, report.exit_code) == ([], 3)
    assert "no counts are published" in report.render()


def test_a_task_missing_everywhere_is_missing_of_each(whole, monkeypatch):
    more = (Expected("eeg", 53, {"rest": 1, "rest-2": 2}),)
    monkeypatch.setitem(STUDIES, "modma", type(STUDIES["modma"])(**vars(STUDIES["modma"]) | {"expected": more}))
    assert [item.missing for item in check(whole).short] == [{"rest-2": 2}] * 53


def test_the_command_prints_json_exits_with_3_and_writes_nothing(tmp_path, capsys):
    study, workspace = write_study(tmp_path / "MODMA"), tmp_path / "ws"
    arguments = ["recordings", "--check", "--json", "--root", str(study), "--workspace", str(workspace)]
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(arguments) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["complete"] is False
    assert {part["modality"] for part in said["parts"]} == {"eeg", "audio"}
    assert sorted(tmp_path.rglob("*")) == before


def test_checking_a_synthetic_study_makes_none(tmp_path, capsys):
    assert cli.main(["recordings", "--check", "--study", "synthetic", "--root", str(tmp_path / "none")]) == 3
    assert list(tmp_path.iterdir()) == []
