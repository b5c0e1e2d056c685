from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from mmray.config import Study, from_dict
from mmray.errors import RecordingError, WorkspaceError
from mmray.recordings import catalogue
from mmray.recordings.modma_files import AUDIO, REST
from mmray.storage import Workspace
from tests.recordings.modma_tree import write_study, write_v5


def config_of(tmp_path, root, kind="modma"):
    return from_dict({"workspace": str(tmp_path / "ws"), "study": {"kind": kind, "root": str(root)}})


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "stúdy 1")


def test_the_summary_counts_people_recordings_labels_and_pairs(tmp_path, study):
    write_v5(study / REST / "02990009rest.mat")
    summary = catalogue.catalogue(config_of(tmp_path, study))
    assert summary.subjects == 4
    assert summary.modalities == {"eeg": catalogue.Count(3, 3), "audio": catalogue.Count(3, 18)}
    assert summary.labels == {"HC": 2, "MDD": 1, "missing": 1}
    assert summary.paired == 2


def test_what_was_found_is_what_load_returns(tmp_path, study):
    config = config_of(tmp_path, study)
    catalogue.catalogue(config)
    found = catalogue.find(config.study).recordings
    loaded = catalogue.load(Workspace(config.workspace))
    assert [r.recording_id for r in loaded] == sorted(r.recording_id for r in found)
    assert set(loaded) == set(found)


def test_leftovers_are_written_beside_the_recordings(tmp_path, study):
    (study / REST / "notes.txt").write_text("x")
    config = config_of(tmp_path, study)
    catalogue.catalogue(config)
    assert Workspace(config.workspace).read_table("unplaced.parquet").to_pylist() == [
        {"path": str(study / REST / "notes.txt"), "reason": "not a .mat file"}
    ]


def test_a_synthetic_study_is_found_by_modmas_reader(study):
    assert catalogue.find(Study(kind="synthetic", root=str(study))) == catalogue.find(
        Study(kind="modma", root=str(study))
    )


def test_two_files_of_one_recording_are_both_named(study):
    write_v5(study / REST / "02010002restnew.mat")
    with pytest.raises(RecordingError, match=r"02010002rest 20150416 1017\.\.mat and .*02010002restnew\.mat are both"):
        catalogue.find(Study(root=str(study)))


@pytest.mark.parametrize(
    ("root", "kind", "message"),
    [
        ("", "modma", "study.root is not set"),
        ("/nowhere/at all", "modma", "is not there; check study.root"),
        ("s3://bucket/modma", "feis", "listed on a local disk"),
        (__file__, "feis", "is a file"),
    ],
)
def test_a_root_that_cannot_be_listed_is_refused(root, kind, message):
    with pytest.raises(RecordingError, match=message):
        catalogue.find(Study(kind=kind, root=root))


def test_a_study_without_a_recording_is_refused_with_what_was_left_over(tmp_path):
    (tmp_path / "s" / AUDIO / "notes").mkdir(parents=True)
    with pytest.raises(RecordingError, match=r"no recording in .*notes"):
        catalogue.catalogue(config_of(tmp_path, tmp_path / "s"))


def test_a_relative_root_is_stored_as_an_absolute_path(study, monkeypatch):
    monkeypatch.chdir(study.parent)
    paths = [recording.path for recording in catalogue.find(Study(root=f"./x/../{study.name}")).recordings]
    assert all(path.startswith(f"{study}/") for path in paths)


def test_a_name_that_is_no_text_is_listed_and_the_rest_written(tmp_path, study):
    os.rename(study / REST / "02010002rest 20150416 1017..mat", os.fsencode(study / REST) + b"/02010002\xff.mat")
    summary = catalogue.catalogue(config_of(tmp_path, study))
    assert [item.reason for item in summary.unplaced] == ["its name is not UTF-8; rename the file"]
    assert summary.modalities["eeg"].recordings == 1


def test_loading_before_finding_says_which_command_to_run(tmp_path):
    with pytest.raises(WorkspaceError, match="run `mmray recordings`"):
        catalogue.load(Workspace(str(tmp_path)))


def test_recordings_of_another_version_are_refused(tmp_path):
    Workspace(str(tmp_path)).write_table(pa.table({"recording_id": ["a"]}), "recordings.parquet")
    with pytest.raises(WorkspaceError, match="again"):
        catalogue.load(Workspace(str(tmp_path)))


def test_the_description_of_the_real_study_tells_its_size(tmp_path, real_data):
    text = catalogue.catalogue(config_of(tmp_path, real_data / "feis", "feis")).render()
    for phrase in (
        "14 recordings of 14 subjects",
        "208 recordings of 13 subjects",
        "13 of them with",
        "2,192",
        "native 7",
    ):
        assert phrase in text


def test_the_description_lists_ten_leftovers_and_counts_the_rest(tmp_path, study):
    for number in range(12):
        Path(study / REST / f"note {number}.txt").write_text("x")
    assert "... and 2 more in unplaced.parquet" in catalogue.catalogue(config_of(tmp_path, study)).render()


def test_a_person_labelled_on_one_recording_counts_once(tmp_path):
    rows = ["a,S1,audio,a.wav,S1,1", "b,S1,audio,b.wav,S1,"]
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    manifest = tmp_path / "study.csv"
    manifest.write_text("\n".join(["recording_id,subject_id,modality,path,pair_id,label", *rows]))
    settings = config_of(tmp_path, manifest, "manifest")
    assert catalogue.catalogue(settings).labels == {"1": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,S1,eeg,a.wav,trial-1,", "b,S2,audio,b.wav,trial-1,"], "pair_id trial-1 is given to subjects S1 and S2"),
        (["a,S1,eeg,a.wav,S1,1", "b,S1,audio,b.wav,S1,0"], "subject S1 has label 1 in .* and 0 in "),
    ],
)
def test_a_study_that_contradicts_itself_about_a_person_is_refused(tmp_path, rows, message):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"RIFF")
    manifest = tmp_path / "study.csv"
    manifest.write_text("\n".join(["recording_id,subject_id,modality,path,pair_id,label", *rows]))
    with pytest.raises(RecordingError, match=message):
        catalogue.find(Study(kind="manifest", root=str(manifest)))
