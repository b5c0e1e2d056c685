from __future__ import annotations

import pytest

from mmray.errors import RecordingError
from mmray.recordings import eav


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_the_emotion_of_a_voice_is_its_task_and_no_label(tmp_path):
    found = eav.find(
        tree(
            tmp_path,
            "subject1/Audio/002_Trial_02_Speaking_Neutral_Aud.wav",
            "subject1/Audio/196_Trial_10_Speaking_Sadness_aud.wav",
            "subject1/Video/002.mp4",
        )
    )
    assert [(r.recording_id, r.subject_id, r.task, r.label) for r in found.recordings] == [
        ("subject1-audio-002_Trial_02_Speaking_Neutral_Aud", "subject1", "speaking-neutral", None),
        ("subject1-audio-196_Trial_10_Speaking_Sadness_aud", "subject1", "speaking-sadness", None),
    ]
    assert found.unplaced == []


def test_other_files_of_such_folders_are_taken_and_matlab_is_listed_as_not_read(tmp_path):
    names = ["anna b/EEG/day 1.set", "anna b/EEG/day 1.fdt", "anna b/EEG/subject1_eeg.mat", "anna b/Audio/x.ogg"]
    found = eav.find(tree(tmp_path, *names, "readme.txt"))
    assert [(r.recording_id, r.task) for r in found.recordings] == [
        ("anna-b-audio-x", "recording"),
        ("anna-b-eeg-day-1", "recording"),
    ]
    assert [(item.path, item.reason[:8]) for item in found.unplaced] == [(str(tmp_path / names[2]), "not read")]


def test_a_folder_of_other_folders_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="holds EEG/ or Audio/"):
        eav.find(tree(tmp_path, "subject1/x.wav"))
