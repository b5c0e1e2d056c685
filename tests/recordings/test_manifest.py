from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmray.errors import RecordingError
from mmray.recordings import manifest

GOOD = "recording_id,subject_id,modality,path\ne1,p 1,eeg,sub 1/ä.edf\na1,p 1,audio,sub 1/a.wav\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub 1").mkdir()
    for name in ("ä.edf", "a.wav", "m.mat"):
        (tmp_path / "sub 1" / name).write_bytes(b"12345")
    return tmp_path


def write(folder, text, encoding="utf-8"):
    (folder / "m.csv").write_text(text, encoding=encoding)
    return folder / "m.csv"


def one(folder, **cells):
    row = {"recording_id": "e1", "subject_id": "p1", "modality": "eeg", "path": "sub 1/ä.edf"} | cells
    return write(folder, ",".join(row) + "\n" + ",".join(row.values()) + "\n")


def test_paths_start_at_the_manifests_folder(folder):
    first, _ = manifest.find(write(folder, GOOD)).recordings
    assert first.path == str(folder / "sub 1" / "ä.edf")
    assert first.size_bytes == 5


def test_what_is_left_out_has_its_default(folder):
    first, second = manifest.find(write(folder, GOOD)).recordings
    assert (first.pair_id, first.session, first.task, first.label, first.age) == ("p 1", "1", "recording", None, None)
    assert (first.reader, second.reader) == ("mne", "soundfile")


def test_a_mat_file_is_read_as_modmas_by_default(folder):
    assert manifest.find(one(folder, path="sub 1/m.mat")).recordings[0].reader == "modma-mat"


def test_every_optional_column_is_taken_over(folder):
    cells = {
        "pair_id": "trial-3", "session": "b", "task": "story", "label": "2", "label_name": "bipolar", "reader": "feis",
        "age": "31.5", "gender": "F", "education_years": "12",
    }  # fmt: skip
    found = manifest.find(one(folder, **cells)).recordings[0]
    assert {name: str(getattr(found, name)) for name in cells} == cells | {"education_years": "12.0"}


def test_a_byte_order_mark_blank_lines_and_spaces_do_no_harm(folder):
    text = GOOD.replace(",eeg,", " , eeg ,") + "\n,,,\n"
    assert len(manifest.find(write(folder, text, "utf-8-sig")).recordings) == 2


def test_parquet_gives_what_csv_gives(folder):
    table = pa.table(
        {
            "recording_id": ["e1", "a1"], "subject_id": ["p 1", "p 1"], "modality": ["eeg", "audio"],
            "path": ["sub 1/ä.edf", "sub 1/a.wav"], "label": pa.array([1.0, float("nan")]), "age": pa.array([30, None]),
        }
    )  # fmt: skip
    pq.write_table(table, folder / "m.parquet")
    text = GOOD.replace("path\n", "path,label,age\n").replace("edf\n", "edf,1,30\n").replace("wav\n", "wav,,\n")
    assert manifest.find(folder / "m.parquet") == manifest.find(write(folder, text))


def test_a_path_may_be_a_uri(folder):
    uri = f"file://{folder}/sub%201/a.wav"
    found = manifest.find(one(folder, modality="audio", path=uri)).recordings[0]
    assert (found.path, found.size_bytes) == (uri, 5)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"recording_id": ""}, "row 2, column recording_id: is empty"),
        ({"subject_id": ""}, "row 2, column subject_id: is empty"),
        ({"recording_id": "a/b"}, "row 2, column recording_id: 'a/b' may hold only"),
        ({"modality": "EGG"}, "row 2, column modality: 'EGG' is not known; did you mean 'eeg'?"),
        ({"modality": "video"}, "row 2, column modality: 'video' is not known"),
        ({"path": "gone.edf"}, "row 2, column path: there is no file "),
        ({"path": "sub 1"}, "row 2, column path: there is no file "),
        ({"label": "MDD"}, "row 2, column label: 'MDD' is not a number"),
        ({"label": "1.5"}, "row 2, column label: '1.5' is not a whole number from 0 to 127"),
        ({"label": "-1"}, "row 2, column label: '-1' is not a number from 0"),
        ({"label": "300"}, "row 2, column label: '300' is not a whole number"),
        ({"age": "nan"}, "row 2, column age: 'nan' is not a number from 0"),
        ({"reader": "nme"}, "row 2, column reader: 'nme' does not read eeg; did you mean 'mne'?"),
        ({"reader": "soundfile"}, "row 2, column reader: 'soundfile' does not read eeg"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(folder, cells, message):
    with pytest.raises(RecordingError) as error:
        manifest.find(one(folder, **cells))
    assert message in str(error.value)


def test_every_bad_cell_is_listed_at_once(folder):
    with pytest.raises(RecordingError) as error:
        manifest.find(write(folder, GOOD.replace("eeg", "egg").replace("p 1,audio", ",audio").replace("a.wav", "b")))
    assert str(error.value).count("row ") == 3


def test_at_most_twenty_problems_are_listed(folder):
    rows = "".join(f"r{n},p,eeg,gone\n" for n in range(25))
    with pytest.raises(RecordingError) as error:
        manifest.find(write(folder, GOOD.splitlines()[0] + "\n" + rows))
    assert str(error.value).count("row ") == 20
    assert "5 more" in str(error.value)


def test_a_duplicate_id_names_both_rows(folder):
    with pytest.raises(RecordingError, match="row 3, column recording_id: 'e1' stands in row 2 too"):
        manifest.find(write(folder, GOOD.replace("a1", "e1")))


def test_a_label_with_two_names_is_refused(folder):
    text = GOOD.replace("path\n", "path,label,label_name\n").replace("edf\n", "edf,1,ill\n")
    with pytest.raises(RecordingError, match="row 3, column label_name: label 1 is called ill and well"):
        manifest.find(write(folder, text.replace("wav\n", "wav,1,well\n")))


def test_a_row_of_another_length_is_named(folder):
    with pytest.raises(RecordingError, match="row 3: has 5 cells, the header 4"):
        manifest.find(write(folder, GOOD.replace("a.wav", "a.wav,extra")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("subject_id", "subjct_id"), "'subjct_id' is not known; did you mean 'subject_id'?"),
        (GOOD.replace(",path", ",file"), "column 'path' is missing"),
        (GOOD.replace("modality", "subject_id"), "column 'subject_id' stands twice"),
        (GOOD.replace(",", ";"), "column 'path' is missing"),
        ("", "column 'recording_id' is missing"),
        (GOOD + '"open', "cannot be read as UTF-8 CSV"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(folder, text, message):
    with pytest.raises(RecordingError) as error:
        manifest.find(write(folder, text))
    assert message in str(error.value)


def test_text_that_is_not_utf8_is_refused(folder):
    with pytest.raises(RecordingError, match="UTF-8"):
        manifest.find(write(folder, GOOD, "latin-1"))


def test_a_damaged_parquet_file_is_refused(folder):
    (folder / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecordingError, match="cannot be read as Parquet"):
        manifest.find(folder / "m.parquet")


def test_another_kind_of_file_is_refused(folder):
    (folder / "m.json").write_text("[]")
    with pytest.raises(RecordingError, match=r"neither \.csv nor \.parquet"):
        manifest.find(folder / "m.json")
