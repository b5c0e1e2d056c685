from __future__ import annotations

import dataclasses

import numpy as np
import openpyxl
import pytest

from mmray.config import Study, from_dict
from mmray.errors import RecordingError
from mmray.recordings import catalogue, modma, modma_files
from mmray.recordings.found import Absent
from mmray.recordings.modma_files import AUDIO, ERP, REST, THREE
from mmray.recordings.signals import read_eeg
from tests.recordings.made_files import write_edf, write_egi, write_three_channels
from tests.recordings.modma_tree import HEADER, eeg_129, recording, write_study, write_v5, write_wav, write_workbook


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
    assert modma_files.task_of_clip(clip) == task


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


def whole(study):
    """The study with its further folders, and a person of three channels alone."""
    write_egi(study / ERP / "02010002erp 20150416 1131.raw", eeg_129(), 250, {"hcue": [10, 200]})
    write_egi(study / ERP / "02020008_erp(n) 20150619 1709.raw", eeg_129(1), 250, {})
    (study / ERP / "chan_info_egi_128.mat").write_bytes(b"x")
    for subject in ("02010002", "02010005"):
        write_three_channels(study / THREE / f"{subject}_still.txt", eeg_129()[:3])
    return study


def test_dot_probe_and_three_channel_recordings_are_found_with_readers_that_read_them(study):
    found = by_id(modma.find(whole(study)))
    erp, three = found["02010002-eeg-dot-probe"], found["02010005-eeg-rest-3ch"]
    assert (erp.task, erp.label, three.task, three.label) == ("dot-probe", 1, "rest-3ch", 1)
    assert found["02020008-eeg-dot-probe"].path.endswith("02020008_erp(n) 20150619 1709.raw")
    signal = read_eeg(erp, 1.0)
    assert signal.channels == tuple(f"E{n}" for n in range(1, 130))
    np.testing.assert_allclose(signal.data_CT, eeg_129() * 1e-6, rtol=1e-6)
    assert signal.spans == ((0, 600),)
    np.testing.assert_allclose(read_eeg(three, 1e-6).data_CT, np.trunc(eeg_129()[:3]) * 1e-6)


def test_electrode_positions_beside_the_dot_probe_recordings_are_no_leftover(study):
    assert modma.find(whole(study)).unplaced == []


def test_rest_and_audio_are_what_a_whole_study_yields_by_default(study):
    before = catalogue.find(Study(root=str(study))).recordings
    after = catalogue.find(Study(root=str(whole(study))))
    assert after.recordings == before
    assert "left aside: dot-probe (2), rest-3ch (2); study.tasks" in after.notes[0]


def test_the_tasks_that_are_named_are_the_ones_taken(study):
    tasks = ("dot-probe", "reading")
    found = catalogue.find(Study(root=str(whole(study)), tasks=tasks))
    assert {recording.task for recording in found.recordings} == set(tasks)


def test_a_task_that_nobody_did_is_refused_with_the_nearest(study):
    with pytest.raises(RecordingError, match="'dotprobe' is in this study; did you mean 'dot-probe'"):
        catalogue.find(Study(root=str(whole(study)), tasks=("dotprobe",)))


def test_a_study_whose_every_recording_is_left_aside_says_how_to_take_them(study, tmp_path):
    (whole(study) / ERP).rename(tmp_path / ERP)
    with pytest.raises(RecordingError, match="left aside: dot-probe"):
        catalogue.catalogue(from_dict({"workspace": str(tmp_path / "ws"), "study": {"root": str(tmp_path)}}))


@pytest.mark.parametrize(
    "text",
    ["", "1 2\n3 4\n", "1 2 3\n4 5\n", "1 2 3.5\n", "a b c\n", "1 2 3 4\n", "1,2,3\n", "9999999999999999999 1 1\n"],
)
def test_a_text_that_is_not_three_whole_numbers_a_row_is_refused(tmp_path, text):
    (tmp_path / "a_still.txt").write_text(text)
    with pytest.raises(RecordingError, match=r"a_still\.txt"):
        read_eeg(recording(tmp_path / "a_still.txt", "modma-txt"), 1e-6)


def test_three_channels_survive_windows_line_ends_and_trailing_blanks(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"1 2 3 \r\n-4 5 6\r\n")
    np.testing.assert_array_equal(
        read_eeg(recording(tmp_path / "a.txt", "modma-txt"), 1.0).data_CT, [[1, -4], [2, 5], [3, 6]]
    )


def bids_form(root, subject="sub-001"):
    place = root / "EEG_LZU_2015_2_resting state"
    names = [f"E{n}" for n in range(1, 129)]
    write_edf(place / subject / "eeg" / f"{subject}_task-Resting-state_eeg.EDF", eeg_129()[:128, :250] / 10, names, 250)
    (place / "participants.tsv").write_text("participant_id\tage\tgroup\nsub-001\t30\tMDD\textra\nsub-002\n")
    return place


def test_the_bids_form_is_read_under_its_own_ids_where_it_stands_alone(tmp_path):
    bids_form(tmp_path)
    found = modma.find(tmp_path)
    [only] = found.recordings
    assert (only.subject_id, only.task, only.label, only.label_name) == ("sub-001", "Resting-state", 1, "MDD")
    assert any("cannot be paired" in note for note in found.notes)
    assert found.absent == (Absent("sub-002", "eeg"),)
    assert read_eeg(only, 1.0).channels[127] == "E128"


def test_the_bids_form_beside_the_same_peoples_recordings_is_left_out(study):
    bids_form(study)
    found = modma.find(study)
    assert "sub-001" not in {recording.subject_id for recording in found.recordings}
    assert any("under other ids" in reason for reason in reasons(found))


def test_a_person_of_a_workbook_without_a_file_is_absent(study):
    write_workbook(study / REST / f"subjects_information_{REST}.xlsx", [("02010002", "MDD"), ("02010099", "MDD")])
    assert modma.find(study).absent == (Absent("02010099", "eeg", ("rest",)),)


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
