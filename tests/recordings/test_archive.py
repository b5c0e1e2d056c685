"""A recording inside a zip, and zips made to do harm."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from mmray.errors import RecordingError
from mmray.recordings import archive
from mmray.recordings.signals import read_audio, read_eeg
from tests.recordings.made_files import rhythms, write_brainvision, write_edf
from tests.recordings.modma_tree import eeg_129, recording, write_v5, write_wav

NAMES = ["F3", "Cz", "O2"]


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """Where archives are unpacked; empty again after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def edf(tmp_path):
    return write_edf(tmp_path / "a.edf", rhythms(3, 4, 100), NAMES, 100)


def packed(path: Path, members: dict[str, bytes | Path], compression=zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


def refusal(path: Path, reader="mne") -> str:
    with pytest.raises(RecordingError) as error:
        read_audio(recording(path, reader)) if reader == "soundfile" else read_eeg(recording(path, reader), 1e-6)
    assert str(path) in str(error.value)
    return str(error.value)


def test_one_recording_is_read_as_if_it_lay_there(tmp_path, edf):
    path = packed(
        tmp_path / "z.zip", {"day 1/": b"", "day 1/a.edf": edf, "LICENSE": b"x", "__MACOSX/day 1/._a.edf": b"x"}
    )
    np.testing.assert_array_equal(
        read_eeg(recording(path, "mne"), 1).data_CT, read_eeg(recording(edf, "mne"), 1).data_CT
    )


def test_a_header_comes_with_its_data_files(tmp_path):
    header = write_brainvision(tmp_path / "b.vhdr", rhythms(3, 4, 100), NAMES, 100)
    members = {f"x/{file.name}": file for file in (header, header.with_suffix(".eeg"), header.with_suffix(".vmrk"))}
    signal = read_eeg(recording(packed(tmp_path / "z.zip", members), "mne"), 1)
    assert signal.spans == ((0, 100), (100, 400))
    assert "b.vhdr" in refusal(packed(tmp_path / "y.zip", {"b.vhdr": header}))


def test_matlab_and_sound_are_read_from_archives_too(tmp_path):
    mat, wav = write_v5(tmp_path / "r..mat"), write_wav(tmp_path / "w.wav")
    signal = read_eeg(recording(packed(tmp_path / "m.zip", {"r..mat": mat}), "modma-mat"), 1e-6)
    np.testing.assert_allclose(signal.data_CT, eeg_129()[:128] * 1e-6)
    assert read_audio(recording(packed(tmp_path / "w.zip", {"w.wav": wav}), "soundfile")).data_CT.shape == (1, 22050)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "holds 0"),
        (["readme.md", "x.zip"], "holds 0"),
        (["a.edf", "b.edf"], "holds 2 (a.edf, b.edf)"),
        (["a.edf", "b.wav"], "holds 2"),
        (["1/a.edf", "2/A.EDF"], "twice"),
    ],
)
def test_an_archive_of_none_or_several_recordings_is_refused(tmp_path, edf, names, reason):
    assert reason in refusal(packed(tmp_path / "z.zip", dict.fromkeys(names, edf)))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../a.edf", "leads out"),
        ("x/../../a.edf", "leads out"),
        ("x\\..\\a.edf", "leads out"),
        ("/etc/a.edf", "absolute"),
        ("C:/a.edf", "absolute"),
        ("\\\\host\\a.edf", "absolute"),
        ("../../notes.txt", "leads out"),  # beside an honest recording
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(tmp_path, edf, name, reason):
    before = sorted(tmp_path.rglob("*"))
    path = packed(tmp_path / "z.zip", {"b.edf": edf, name: edf})
    assert reason in refusal(path)
    assert sorted(tmp_path.rglob("*")) == sorted([*before, path])


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_a_link_or_a_device_is_refused(tmp_path, kind):
    info = zipfile.ZipInfo("a.edf")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert "a link or a device" in refusal(tmp_path / "z.zip")


def test_an_encrypted_member_is_refused(tmp_path, edf):
    path = packed(tmp_path / "z.zip", {"a.edf": edf})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # its local header, and its line of the directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted; unpack it yourself" in refusal(path)


def test_a_bomb_is_refused_by_its_ratio_before_it_is_unpacked(tmp_path):
    assert "to 1, as no recording is" in refusal(packed(tmp_path / "z.zip", {"a.edf": bytes(8 << 20)}))


def test_a_bomb_is_refused_by_its_size(tmp_path, edf, monkeypatch):
    monkeypatch.setattr(archive, "_MOST_BYTES", edf.stat().st_size - 1)
    assert "would unpack to" in refusal(packed(tmp_path / "z.zip", {"a.edf": edf}))


def test_a_member_that_lies_about_its_size_yields_no_more_than_it_says(tmp_path):
    path = packed(tmp_path / "z.zip", {"a.edf": bytes(50_000)})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 50_000), struct.pack("<I", 100)))
    assert "not a whole zip archive" in refusal(path)


def test_an_archive_of_very_many_files_is_refused(tmp_path):
    assert "holds 1001 files" in refusal(packed(tmp_path / "z.zip", {f"{n}.txt": b"" for n in range(1001)}))


def test_every_truncation_and_damaged_bytes_are_refused_and_nothing_stays(tmp_path, edf):
    whole = packed(tmp_path / "z.zip", {"a.edf": edf}).read_bytes()
    path = tmp_path / "z.zip"
    for kept in range(0, len(whole) - 1, max(1, len(whole) // 20)):
        path.write_bytes(whole[:kept])
        refusal(path)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= rng.integers(1, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(RecordingError):  # what still reads has its damage in a date or an attribute
            read_eeg(recording(path, "mne"), 1.0)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_read(tmp_path, edf, compression):
    path = packed(tmp_path / "z.zip", {"a.edf": edf}, compression)
    assert read_eeg(recording(path, "mne"), 1).data_CT.shape == (3, 400)


def test_a_header_that_names_data_outside_the_archive_is_refused(tmp_path, temporary):
    outside = write_brainvision(tmp_path / "secret.vhdr", rhythms(3, 4, 100), NAMES, 100)
    text = outside.read_text().replace("DataFile=secret.eeg", f"DataFile={tmp_path}/secret.eeg")
    assert "data outside its folder" in refusal(packed(tmp_path / "z.zip", {"a.vhdr": text.encode()}))


def test_a_dataset_of_links_into_a_store_is_read(tmp_path):
    """As DataLad and git-annex lay it out: each file is a link into a folder of its own."""
    header = write_brainvision(tmp_path / "made" / "b.vhdr", rhythms(3, 4, 100), NAMES, 100)
    (tmp_path / "data").mkdir()
    for number, suffix in enumerate((".vhdr", ".eeg", ".vmrk")):
        stored = tmp_path / "store" / str(number) / f"KEY{suffix}"
        stored.parent.mkdir(parents=True)
        header.with_suffix(suffix).rename(stored)
        (tmp_path / "data" / f"b{suffix}").symlink_to(stored)
    assert read_eeg(recording(tmp_path / "data" / "b.vhdr", "mne"), 1).data_CT.shape == (3, 400)


def test_an_hdf5_file_inside_that_reaches_out_is_refused(tmp_path):
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "other.mat"), "/x")
    assert "data in another file" in refusal(packed(tmp_path / "z.zip", {"a.mat": content.getvalue()}), "modma-mat")


def test_what_is_wrong_with_the_recording_is_said_with_the_archives_name(tmp_path):
    path = packed(tmp_path / "z.zip", {"a.edf": b"nonsense"})
    assert f"{path} (a.edf): MNE cannot read EEG" in refusal(path)
