from __future__ import annotations

import json

import pytest

from mmray.config import Study, from_dict
from mmray.errors import ConfigError, RecordingError
from mmray.recordings import bids, catalogue
from mmray.recordings.found import Absent

PEOPLE = "participant_id\tage\tsex\tgroup\nsub-01\t30.5\tF\tpatient\nsub-02\tn/a\tn/a\tcontrol\n"
NAMES = (
    "sub-01/ses-a/eeg/sub-01_ses-a_task-rest_run-1_eeg.edf",
    "sub-01/ses-a/eeg/sub-01_ses-a_task-rest_run-2_eeg.bdf",
    "sub-01/ses-b/eeg/sub-01_ses-b_task-story_eeg.set",
    "sub-01/ses-b/eeg/sub-01_ses-b_task-story_eeg.fdt",
    "sub-01/ses-b/audio/sub-01_ses-b_task-story_audio.flac",
    "sub-02/eeg/sub-02_task-rest_eeg.vhdr",
    "sub-02/eeg/sub-02_task-rest_eeg.eeg",
    "sub-02/eeg/sub-02_task-rest_eeg.vmrk",
    "sub-02/eeg/sub-02_task-rest_eeg.json",
    "sub-02/eeg/sub-02_task-rest_channels.tsv",
    "sub-02/eeg/sub-02_task-rest_acq-x_eeg.fif",
    "sub-02/beh/sub-02_task-story_audio.mp3",
    "sub-02/beh/sub-02_task-story_beh.tsv",
    "sub-02/anat/sub-02_T1w.nii.gz",
    "derivatives/clean/sub-01/eeg/sub-01_task-rest_eeg.edf",
)


def tree(root, names=NAMES, people: str | None = PEOPLE):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    if people is not None:
        (root / "participants.tsv").write_text(people, encoding="utf-8")
    return root


def by_id(found):
    return {recording.recording_id: recording for recording in found.recordings}


def reasons(found):
    return [f"{item.path}: {item.reason}" for item in found.unplaced]


def test_every_suffix_and_entity_is_placed_and_nothing_that_belongs_to_one_is_left_over(tmp_path):
    found = bids.find(tree(tmp_path))
    assert found.unplaced == []
    assert {name: (r.subject_id, r.session, r.task, r.modality) for name, r in by_id(found).items()} == {
        "sub-01_ses-a_task-rest_run-1_eeg": ("sub-01", "a", "rest", "eeg"),
        "sub-01_ses-a_task-rest_run-2_eeg": ("sub-01", "a", "rest", "eeg"),
        "sub-01_ses-b_task-story_eeg": ("sub-01", "b", "story", "eeg"),
        "sub-01_ses-b_task-story_audio": ("sub-01", "b", "story", "audio"),
        "sub-02_task-rest_eeg": ("sub-02", "1", "rest", "eeg"),
        "sub-02_task-rest_acq-x_eeg": ("sub-02", "1", "rest", "eeg"),
        "sub-02_task-story_audio": ("sub-02", "1", "story", "audio"),
    }


def test_labels_count_up_in_alphabetical_order_and_a_match_is_a_person(tmp_path):
    found = by_id(bids.find(tree(tmp_path)))
    one, two = found["sub-01_ses-b_task-story_audio"], found["sub-02_task-rest_eeg"]
    assert (one.label, one.label_name, one.age, one.gender, one.pair_id) == (1, "patient", 30.5, "F", "sub-01")
    assert (two.label, two.label_name, two.age, two.gender) == (0, "control", None, None)


@pytest.mark.parametrize(
    ("people", "label"),
    [
        ("participant_id\tgroup\n01\tpatient\n", 0),  # without its prefix
        ("\ufeffparticipant_id\tGroup\r\nsub-01\tpatient\r\n", 0),
        ("participant_id\tage\tgroup\nsub-01\t30\n", None),  # too short
        ("participant_id\tgroup\nsub-01\tpatient\tmore\tand more\n", 0),  # too long
        ("participant_id\tgroup\nsub-01\tn/a\n", None),
        ('participant_id\tgroup\nsub-00\t"odd\nsub-01\tpatient\n', 1),  # a lone quotation mark
        ("participant_id\tage\nsub-01\t30\n", None),
        ("participant_id\tdiagnosis\tlabel\nsub-01\tx\ty\n", 0),
        ("", None),
        (None, None),
    ],
)
def test_a_ragged_list_of_participants_gives_what_it_has(tmp_path, people, label):
    assert by_id(bids.find(tree(tmp_path, people=people)))["sub-01_ses-b_task-story_eeg"].label == label


@pytest.mark.parametrize(
    ("people", "reason"),
    [
        ("subject\tgroup\nsub-01\tx\n", "no column participant_id"),
        ("participant_id\tgroup\n\tx\n", "row 2: no participant_id"),
        ("participant_id\tgroup\nsub-01\tx\nsub-01\ty\n", "row 3: sub-01 stands twice"),
    ],
)
def test_what_a_list_of_participants_cannot_say_is_told(tmp_path, people, reason):
    assert any(reason in line for line in reasons(bids.find(tree(tmp_path, people=people))))


def test_a_list_that_is_not_utf8_is_told_and_the_recordings_kept(tmp_path):
    tree(tmp_path)
    (tmp_path / "participants.tsv").write_bytes(b"participant_id\tgroup\nsub-01\t\xff\n")
    found = bids.find(tmp_path)
    assert len(found.recordings) == 7
    assert any("UTF-8" in line for line in reasons(found))


def test_another_column_is_the_label_where_the_setting_names_it(tmp_path):
    study = Study(kind="bids", root=str(tree(tmp_path)), label_column="SEX")
    labels = {r.subject_id: r.label_name for r in catalogue.find(study).recordings}
    assert labels == {"sub-01": "F", "sub-02": None}


@pytest.mark.parametrize(("column", "message"), [("grp", "did you mean 'group'"), ("zzz", "it has participant_id")])
def test_a_column_that_is_not_there_is_refused(tmp_path, column, message):
    with pytest.raises(RecordingError, match=message):
        bids.find(tree(tmp_path), column)


def test_a_column_of_many_values_is_no_class(tmp_path):
    people = "participant_id\tid\n" + "".join(f"sub-{n}\t{n}\n" for n in range(30))
    with pytest.raises(RecordingError, match="30 values"):
        bids.find(tree(tmp_path, people=people), "id")


def test_a_label_column_for_another_layout_is_refused():
    with pytest.raises(ConfigError, match="label_column is for kind = bids, not feis"):
        from_dict({"study": {"kind": "feis", "label_column": "group"}})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sub-01/eeg/sub-02_task-rest_eeg.edf", "does not say sub-01"),
        ("sub-01/ses-a/eeg/sub-01_ses-b_task-rest_eeg.edf", "does not say ses-a"),
        ("sub-01/eeg/sub-01_task-rést_eeg.edf", "only letters, digits"),
        ("sub-01/eeg/sub-01_task-rest_eeg.mat", "not a sub-..._eeg<.edf|.bdf"),
        ("sub-01/eeg/notes.edf", "not a sub-..._eeg<.edf|.bdf"),
        ("sub-01/audio/sub-01_task-rest_audio.txt", "not a sub-..._audio<.wav"),
        ("sub-01/eeg/sub-01_task-x_eeg.vmrk", "its header (.vhdr or .set) is not there"),
    ],
)
def test_a_file_that_fits_nothing_is_listed_with_its_reason(tmp_path, name, reason):
    before = bids.find(tree(tmp_path)).recordings
    found = bids.find(tree(tmp_path, [name]))
    assert found.recordings == before
    assert [line.endswith(reason) or reason in line for line in reasons(found)] == [True]


def test_a_link_whose_file_was_not_fetched_is_listed(tmp_path):
    link = tree(tmp_path) / "sub-02" / "eeg" / "sub-02_task-far_eeg.edf"
    link.symlink_to(tmp_path / ".git" / "annex" / "objects" / "gone.edf")
    found = bids.find(tmp_path)
    assert len(found.recordings) == 7
    assert [item.path for item in found.unplaced if "datalad get" in item.reason] == [str(link)]


def test_parts_of_a_split_file_are_one_recording(tmp_path):
    names = [f"sub-01/eeg/sub-01_task-rest_split-{n:02d}_eeg.fif" for n in (1, 2, 3)]
    assert list(by_id(bids.find(tree(tmp_path, names)))) == ["sub-01_task-rest_split-01_eeg"]


def test_someone_listed_without_eeg_is_absent(tmp_path):
    assert bids.find(tree(tmp_path, people=PEOPLE + "sub-03\t1\tM\tcontrol\n")).absent == (Absent("sub-03", "eeg"),)


def test_the_datasets_own_licence_is_told(tmp_path):
    said = {"Name": "Stories", "License": "CC0"}
    tree(tmp_path).joinpath("dataset_description.json").write_text(json.dumps(said))
    assert bids.find(tmp_path).notes == ("Stories, licence CC0", "labels from column group of participants.tsv")


@pytest.mark.parametrize("text", ["", "[]", "{}", "nonsense"])
def test_a_description_that_says_nothing_does_no_harm(tmp_path, text):
    tree(tmp_path).joinpath("dataset_description.json").write_text(text)
    assert len(bids.find(tmp_path).notes) == 1


def test_a_folder_that_is_not_bids_is_refused(tmp_path):
    with pytest.raises(RecordingError, match=r"no folder sub-"):
        bids.find(tmp_path)
