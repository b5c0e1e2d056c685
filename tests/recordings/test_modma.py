from __future__ import annotations

import dataclasses

import numpy as np
import openpyxl
import pytest

from mmray.errors import RecordingError
from mmray.recordings import modma
from mmray.recordings.modma import AUDIO, REST
from tests.recordings.modma_tree import HEADER, write_study, write_v5, write_wav, write_workbook


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "MODMA Daten 抑郁")


def by_id(found):
    return {recording.recording_id: recording for recording in found.recordings}


def reasons(found):
    return [f"{item.path}: {item.reason}" for item in found.unplaced]


def test_a_study_with_every_naming_quirk_is_placed_whole(study):
    found = modma.find(study)
    clips = [f"{s}-audio-{c:02d}" for s in ("02010002", "02020008", "02030014") for c in (1, 7, 13, 19, 20, 26)]
    assert sorted(by_id(found)) == sorted(["02010002-eeg-rest", "02020008-eeg-rest", *clips])
    assert found.unplaced == []


def test_ids_held_as_numbers_meet_their_recordings(study):
    found = by_id(modma.find(study))
    assert found["02020008-eeg-rest"].age == 30
    assert found["02010002-audio-01"].gender == "F"


def test_the_full_width_bracket_column_is_education(study):
    assert by_id(modma.find(study))["02020008-eeg-rest"].education_years == 16


def test_a_blank_cell_is_an_unknown_value(study):
    assert by_id(modma.find(study))["02030014-audio-01"].education_years is None


@pytest.mark.parametrize(("subject", "label"), [("02010002", 1), ("02020008", 0), ("02030014", 0)])
def test_mdd_is_one_and_both_control_prefixes_are_zero(study, subject, label):
    assert by_id(modma.find(study))[f"{subject}-audio-01"].label == label


@pytest.mark.parametrize(
    ("clip", "task"),
    [
        (1, "interview-positive"), (6, "interview-positive"), (7, "interview-neutral"), (12, "interview-neutral"),
        (13, "interview-negative"), (18, "interview-negative"), (19, "reading"), (20, "words"), (25, "words"),
        (26, "picture"), (29, "picture"),
    ],
)  # fmt: skip
def test_a_clip_number_says_the_task(clip, task):
    assert modma.task_of_clip(clip) == task


def test_no_questionnaire_score_leaves_the_workbook(study):
    # every score and junk cell of the tree is 99
    values = [value for recording in modma.find(study).recordings for value in dataclasses.asdict(recording).values()]
    assert 99 not in values
    assert "99" not in values


def test_disagreeing_id_and_workbook_leave_the_label_empty_and_say_so(study):
    write_workbook(study / REST / f"subjects_information_{REST}.xlsx", [("02010002", "HC", 18, "F", 12)])
    found = modma.find(study)
    assert by_id(found)["02010002-eeg-rest"].label is None
    assert any("02010002" in reason and "HC and MDD" in reason for reason in reasons(found))


def test_an_unreadable_workbook_is_listed_and_ids_still_place_and_label(study):
    (study / REST / f"subjects_information_{REST}.xlsx").write_bytes(b"PK\x03\x04 not a workbook")
    (study / AUDIO / f"subjects_information_{AUDIO}.xlsx").write_bytes(b"")
    found = modma.find(study)
    assert [recording.label for recording in found.recordings if recording.modality == "eeg"] == [1, 0]
    assert sum("workbook cannot be read" in reason for reason in reasons(found)) == 2


def test_every_truncation_of_a_workbook_is_listed_and_none_raises(study):
    path = study / REST / f"subjects_information_{REST}.xlsx"
    whole = path.read_bytes()
    for kept in range(0, len(whole) - 1, max(1, len(whole) // 20)):
        path.write_bytes(whole[:kept])
        assert any("workbook cannot be read" in reason for reason in reasons(modma.find(study)))


def test_a_workbook_with_overwritten_bytes_never_raises(study):
    workbook = next((study / REST).glob("*.xlsx"))
    whole = workbook.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        workbook.write_bytes(damaged)
        assert modma.find(study).recordings


def test_a_workbook_of_the_old_form_is_listed(study):
    (study / REST / "subjects.xls").write_bytes(b"\xd0\xcf\x11\xe0" * 64)
    assert any("subjects.xls" in item.path for item in modma.find(study).unplaced)


def test_a_workbook_without_its_id_column_is_listed(study):
    write_workbook(study / REST / f"subjects_information_{REST}.xlsx", [("02010002", "MDD")], ("person", *HEADER[1:]))
    assert any("no column 'subject id'" in reason for reason in reasons(modma.find(study)))


def test_an_unknown_prefix_takes_its_label_from_the_workbook_or_has_none(study):
    write_v5(study / REST / "02990001rest.mat")
    write_v5(study / REST / "02990002rest.mat")
    write_workbook(study / REST / f"subjects_information_{REST}.xlsx", [("02990001", "MDD"), ("02990002", None)])
    found = by_id(modma.find(study))
    assert found["02990001-eeg-rest"].label == 1
    assert found["02990002-eeg-rest"].label is None


def test_a_bad_workbook_row_is_named_and_the_others_kept(study):
    path = study / REST / f"subjects_information_{REST}.xlsx"
    write_workbook(path, [("n/a", "MDD", 18), ("02020008", "healthy", 31), ("02010002", "MDD", "?")])
    found = modma.find(study)
    assert any("row 2: subject id" in reason for reason in reasons(found))
    assert any("row 3: type is neither MDD nor HC" in reason for reason in reasons(found))
    assert by_id(found)["02010002-eeg-rest"].age == 18  # from the audio workbook


def test_the_header_may_stand_on_a_later_sheet_and_row(study):
    path = study / REST / f"subjects_information_{REST}.xlsx"
    book = openpyxl.Workbook()
    sheet = book.create_sheet("people")
    sheet.append(["MODMA"])
    sheet.append(list(HEADER))
    sheet.append(["02010002", "MDD", 77])
    book.save(path)
    assert by_id(modma.find(study))["02010002-eeg-rest"].age == 77


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (f"{REST}/chan_info_egi_128.mat", "does not begin with an eight-digit subject id"),
        (f"{REST}/02010002rest.txt", "not a .mat file"),
        (f"{AUDIO}/notes/01.wav", "not a folder whose name begins"),
        (f"{AUDIO}/02010002/30.wav", "not a clip"),
        (f"{AUDIO}/02010002/cough.wav", "not a clip"),
        ("02010002rest.mat", "belongs into"),
        ("backup/02010002rest.mat", "not a folder of MODMA"),
    ],
)
def test_a_file_that_fits_nothing_is_listed_with_its_reason(study, place, reason):
    before = modma.find(study).recordings
    path = study / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    found = modma.find(study)
    assert found.recordings == before
    assert [item for item in found.unplaced if reason in item.reason]


@pytest.mark.parametrize("folder", ["EEG_128channels_ERP_lanzhou_2015", "EEG_3channels_resting_lanzhou_2015"])
def test_a_folder_not_read_yet_is_listed_once(study, folder):
    (study / folder).mkdir()
    for number in range(5):
        (study / folder / f"0201000{number}erp.raw").write_bytes(b"x")
    assert [(item.path, "not read yet" in item.reason) for item in modma.find(study).unplaced] == [
        (str(study / folder), True)
    ]


def test_hidden_files_and_excel_locks_are_passed_over(study):
    (study / REST / "._02010002rest.mat").write_bytes(b"x")
    (study / AUDIO / "~$subjects_information.xlsx").write_bytes(b"x")
    assert modma.find(study).unplaced == []


def test_audio_alone_is_a_study(tmp_path):
    write_wav(tmp_path / AUDIO / "02010002" / "01.wav")
    assert list(by_id(modma.find(tmp_path))) == ["02010002-audio-01"]


def test_a_folder_that_is_not_modma_is_refused_naming_what_is_expected(tmp_path):
    with pytest.raises(RecordingError, match=REST):
        modma.find(tmp_path)
