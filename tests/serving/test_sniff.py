from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import soundfile

from mmray.errors import RecordingError
from mmray.serving.sniff import kind_of, refuse_references


@pytest.mark.parametrize(
    ("form", "subtype", "suffix"),
    [
        ("WAV", "PCM_24", ".wav"),
        ("FLAC", "PCM_16", ".flac"),
        ("OGG", "VORBIS", ".ogg"),
        ("MP3", "MPEG_LAYER_III", ".mp3"),
    ],
)
def test_sound_is_known_whatever_its_name(tmp_path: Path, form: str, subtype: str, suffix: str) -> None:
    path = tmp_path / "looks_like.mat"
    soundfile.write(path, np.zeros(16000), 16000, format=form, subtype=subtype)
    kind = kind_of(path, "modma")
    assert (kind.modality, kind.reader, kind.suffix) == ("audio", "soundfile", suffix)
    refuse_references(path, "modma")


def test_real_eeglab_and_real_feis_files_are_known(real_data: Path) -> None:
    assert kind_of(real_data / "eeglab" / "eeglab_data.set", "modma").reader == "mne"
    archive = real_data / "feis" / "data_eeg" / "01" / "articulators.zip"
    assert kind_of(archive, "feis").reader == "feis"
    with pytest.raises(RecordingError, match="archive"):
        kind_of(archive, "modma")


def test_a_set_file_in_matlab_5_form_is_no_upload(real_data: Path) -> None:
    with pytest.raises(RecordingError, match="MATLAB 5 form"):
        refuse_references(real_data / "eeglab" / "eeglab_data.set", "modma")


def test_matlab_files_are_told_apart_by_their_variables(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a", {"x": np.zeros((129, 200))}, appendmat=False)
    scipy.io.savemat(tmp_path / "b", {"nbchan": 2, "srate": 9, "data": np.zeros((2, 9))}, appendmat=False)
    assert kind_of(tmp_path / "a", "modma").reader == "modma-mat"
    assert kind_of(tmp_path / "b", "modma").reader == "mne"
    refuse_references(tmp_path / "a", "modma")
    with pytest.raises(RecordingError, match="MATLAB 5 form"):
        refuse_references(tmp_path / "b", "modma")


def external_link(file: h5py.File, other: Path) -> None:
    file["x"] = h5py.ExternalLink(str(other), "/x")


def soft_link(file: h5py.File, other: Path) -> None:
    file["x"] = h5py.SoftLink("/y")


def external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("x", (8,), "u1", external=[(str(other), 0, 8)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(str(other), "x", (8,))
    file.create_virtual_dataset("x", layout)


def deep(file: h5py.File, other: Path) -> None:
    file["a/b"] = h5py.ExternalLink(str(other), "/x")


@pytest.mark.parametrize("write", [external_link, soft_link, external_storage, virtual, deep])
def test_an_hdf5_file_that_reaches_into_another_is_refused(tmp_path: Path, write: Any) -> None:
    other = tmp_path / "secret"
    other.write_bytes(bytes(64))
    with h5py.File(tmp_path / "upload", "w") as file:
        write(file, other)
    with pytest.raises(RecordingError, match="another file"):
        refuse_references(tmp_path / "upload", "modma")


def test_groups_that_hold_each_other_end_the_walk(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "upload", "w") as file:
        group = file.create_group("a")
        group["again"] = group
        file["samples"] = np.zeros((129, 200))
    refuse_references(tmp_path / "upload", "modma")
