from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter

import numpy as np
import pytest

from mmray.errors import RecordingError
from mmray.recordings import feis, feis_epochs


@pytest.fixture(scope="module")
def found(real_data):
    return feis.find(real_data / "feis")


def write_zip(path, text, name="articulators.csv"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return path


def rows(epochs):
    lines = [",".join(["Time:256Hz", "Epoch", *feis_epochs.CHANNELS, "Label", "Stage", "Flag"])]
    for epoch, samples in epochs:
        lines += [",".join(["0.0", str(epoch), *["4200.5"] * 14, "m", "articulators", ""])] * samples
    return "\r\n".join(lines)


def test_the_real_study_has_14_eeg_subjects_and_13_voices_with_208_clips(found):
    assert len({r.subject_id for r in found.recordings if r.modality == "eeg"}) == 14
    assert len({r.subject_id for r in found.recordings if r.modality == "audio"}) == 13
    assert Counter(r.modality for r in found.recordings) == {"eeg": 14, "audio": 208}


def test_the_real_study_has_2192_epochs(found):
    assert found.notes == ("2,192 one-second EEG epochs",)


def test_half_of_the_real_participants_are_native_speakers(found):
    labels = {r.subject_id: r.label for r in found.recordings}
    native = {subject for subject, label in labels.items() if label == 1}
    assert native == {f"feis-{number:02d}" for number in (4, 5, 6, 7, 8, 10, 13)}


def test_ids_name_participant_modality_and_phoneme(found):
    ids = {r.recording_id for r in found.recordings}
    assert {"feis-01-eeg", "feis-01-audio-fleece"} <= ids


def test_a_match_is_a_person(found):
    assert all(r.pair_id == r.subject_id for r in found.recordings)


def test_streamed_samples_equal_those_of_the_csv_module(real_data):
    path = real_data / "feis" / "data_eeg" / "12" / "articulators.zip"
    data_CT, spans = feis_epochs.read_epochs(path)
    with zipfile.ZipFile(path) as archive, archive.open("articulators.csv") as stream:
        lines = list(csv.DictReader(io.TextIOWrapper(stream)))
    np.testing.assert_array_equal(data_CT[3], [float(line["F7"]) for line in lines])
    assert spans == tuple((256 * n, 256 * (n + 1)) for n in range(112))


def test_a_span_ends_where_the_epoch_number_changes(tmp_path):
    path = write_zip(tmp_path / "a.zip", rows([(0, 3), (1, 2), (0, 4)]))
    assert feis_epochs.read_epochs(path)[1] == ((0, 3), (3, 5), (5, 9))


def test_a_member_that_points_outside_is_read_and_never_unpacked(tmp_path):
    path = write_zip(tmp_path / "in" / "a.zip", rows([(0, 3)]), "../../evil.csv")
    feis_epochs.read_epochs(path)
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (rows([]) + "\r\n", "no samples"),
        ("Time:256Hz,Epoch,F3\r\n0,0,1\r\n", "lacks a column"),
        (rows([(0, 3)]).replace("4200.5", "high", 1), "not a zip with a readable CSV"),
        ("", "not a zip with a readable CSV"),
    ],
)
def test_a_csv_that_is_not_feis_is_refused(tmp_path, text, reason):
    with pytest.raises(RecordingError, match=reason):
        feis_epochs.read_epochs(write_zip(tmp_path / "a.zip", text))


def test_every_truncation_of_a_zip_is_refused(tmp_path):
    whole = write_zip(tmp_path / "whole.zip", rows([(0, 300)])).read_bytes()
    path = tmp_path / "cut.zip"
    for kept in range(0, len(whole) - 1, max(1, len(whole) // 20)):
        path.write_bytes(whole[:kept])
        with pytest.raises(RecordingError, match=r"cut\.zip"):
            feis_epochs.read_epochs(path)


def test_changed_bytes_inside_a_zip_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", rows([(0, 300)]))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"a\.zip"):
        feis_epochs.read_epochs(path)


def test_a_zip_that_would_unpack_to_more_than_a_gibibyte_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feis_epochs, "_LARGEST_CSV", 1000)
    with pytest.raises(RecordingError, match="wants one CSV of at most"):
        feis_epochs.read_epochs(write_zip(tmp_path / "a.zip", rows([(0, 300)])))


def test_what_is_no_recording_and_what_cannot_be_counted_is_listed(tmp_path):
    write_zip(tmp_path / "data_eeg" / "01" / "articulators.zip", rows([(0, 256), (1, 256)]))
    write_zip(tmp_path / "data_eeg" / "01" / "thinking.zip", "x")
    (tmp_path / "data_eeg" / "02").mkdir()
    (tmp_path / "data_eeg" / "02" / "articulators.zip").write_bytes(b"PK")
    (tmp_path / "data_wav" / "01" / "wavs").mkdir(parents=True)
    (tmp_path / "data_wav" / "01" / "wavs" / "übung 1.wav").write_bytes(b"x")
    found = feis.find(tmp_path)
    assert [r.recording_id for r in found.recordings] == ["feis-01-eeg", "feis-02-eeg"]
    assert found.notes == ("2 one-second EEG epochs",)
    assert [item.path.rsplit("/", 2)[-2:] for item in found.unplaced] == [
        ["01", "thinking.zip"], ["02", "articulators.zip"], ["wavs", "übung 1.wav"]
    ]  # fmt: skip


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="neither data_eeg nor data_wav"):
        feis.find(tmp_path)
