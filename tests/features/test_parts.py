"""A part file of a long recording: whole or not there, and written in no more memory than that of a short one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from mmray.config import EEG, Audio, Features
from mmray.errors import RecordingError, WorkspaceError
from mmray.features import parts, pipeline, stretches
from mmray.features.extract import decisions, extract
from mmray.recordings import matlab
from mmray.storage import Workspace
from tests.features.recordings import recording
from tests.features.test_stretches import NAMES, RATE, SETTINGS, drifting, edf_of
from tests.features.test_voice import spoken
from tests.recordings.made_files import rhythms, write_brainvision, write_edf

ROOT = Path(__file__).parents[2]


def written(folder, file, features=SETTINGS):
    return parts.write(Workspace(str(folder)), ("features",), "eeg/part.parquet", file, features, "sha")


def test_a_part_has_a_group_of_rows_a_stretch_and_is_what_extract_yields(tmp_path, monkeypatch):
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 1)
    file = edf_of(tmp_path / "a.edf", drifting())
    count, told = written(tmp_path / "ws", file)
    part = tmp_path / "ws" / "features" / "eeg" / "part.parquet"
    assert pq.read_metadata(part).num_row_groups == 5
    table = extract(file, SETTINGS, "sha")
    assert pq.read_table(part).equals(table)
    assert (count, told) == (table.num_rows, decisions(table.schema.metadata))
    assert parts.there(Workspace(str(tmp_path / "ws")), "features", "eeg/part.parquet") == (count, told)


@pytest.mark.parametrize("older", [False, True])
def test_what_breaks_in_a_later_stretch_leaves_no_part(tmp_path, monkeypatch, older):
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 1)
    folder = tmp_path / "ws" / "features" / "eeg"
    if older:
        folder.mkdir(parents=True)
        (folder / "part.parquet").write_bytes(b"before")
    file = recording(write_brainvision(tmp_path / "a.vhdr", drifting(), list(NAMES), RATE), "eeg", "mne")

    class Cut(Workspace):
        """Whose recording is cut short while its first stretch is written, as by a disk that is pulled out."""

        def writing(self, *place):
            os.truncate(tmp_path / "a.eeg", 4 * len(NAMES) * RATE * 50)
            return super().writing(*place)

    with pytest.raises(RecordingError, match=r"a\.vhdr"):
        parts.write(Cut(str(tmp_path / "ws")), ("features",), "eeg/part.parquet", file, SETTINGS, "sha")
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("part.parquet", b"before")] * older


def test_an_unusable_recording_does_not_even_begin_a_part(tmp_path):
    with pytest.raises(RecordingError, match="bad"):
        written(tmp_path / "ws", edf_of(tmp_path / "a.edf", 0 * drifting()))
    assert not (tmp_path / "ws").exists()


def test_a_disk_that_fails_is_the_workspaces_error_and_not_the_recordings(tmp_path, monkeypatch):
    file = edf_of(tmp_path / "a.edf", drifting())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(WorkspaceError, match="No space left"):
        written(tmp_path / "ws", file)
    assert not list((tmp_path / "ws" / "features" / "eeg").iterdir())


WRITER = """
import sys
from pathlib import Path
from mmray.features import parts, stretches
from mmray.storage import Workspace
from tests.features.recordings import recording
from tests.features.test_stretches import SETTINGS
stretches.EEG_SAMPLES = 1
file = recording(Path(sys.argv[1]), "eeg", "mne")
while True:
    parts.write(Workspace(sys.argv[2]), ("features",), "eeg/part.parquet", file, SETTINGS, "sha")
    Path(sys.argv[2], "features/eeg/part.parquet").unlink()
"""


def test_a_writer_killed_in_the_middle_leaves_no_part(tmp_path):
    file = edf_of(tmp_path / "a.edf", drifting(200))
    folder = tmp_path / "ws" / "features" / "eeg"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, file.path, str(tmp_path / "ws")], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not [path for path in folder.glob(".partial-*") if path.exists() and path.stat().st_size > 0]:
        assert writer.poll() is None
        assert time.monotonic() < deadline
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert [path.name[:9] for path in folder.iterdir()] == [".partial-"]
    assert Workspace(str(tmp_path / "ws")).names("features", "eeg") == []
    written(tmp_path / "ws", file)
    assert Workspace(str(tmp_path / "ws")).names("features", "eeg") == ["part.parquet"]


GROWTH = """
import sys
from pathlib import Path
from mmray.features import parts, stretches
from mmray.storage import Workspace
from tests.features.recordings import recording
from tests.features.test_stretches import SETTINGS
def peak():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
stretches.EEG_SAMPLES, stretches.AUDIO_SAMPLES = 1 << 20, 1
for place in sys.argv[2:]:
    modality, reader = ("eeg", "mne") if place.endswith("edf") else ("audio", "soundfile")
    parts.write(Workspace(sys.argv[1]), (), Path(place).name, recording(Path(place), modality, reader), SETTINGS, "sha")
    print(peak())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells a process's peak of memory there")
@pytest.mark.parametrize("modality", ["eeg", "audio"])
def test_ten_stretches_take_hardly_more_memory_than_two(tmp_path, modality):
    files = []
    for stretches_ in (2, 10):
        if modality == "eeg":  # 8 MiB a stretch as float64
            data = np.tile(rhythms(len(NAMES), 16, 1000), 10 * stretches_)
            files.append(write_edf(tmp_path / f"{stretches_}.edf", data, list(NAMES), 1000))
        else:  # 17 MiB a passage as float32, with its margins
            wave = np.tile(spoken(44_100, 10)[3 * 44_100 : 6 * 44_100], 13 * stretches_ // 2)
            files.append(tmp_path / f"{stretches_}.wav")
            soundfile.write(files[-1], np.repeat(wave[:, None], 4, axis=1), 44_100)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "ws"), *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=one_thread)
    two, ten = map(int, done.stdout.split())
    for file, groups in zip(files, (2, 10), strict=True):
        found = pq.read_metadata(tmp_path / "ws" / file.name).num_row_groups
        assert abs(found - groups) <= 1
    assert ten - two < 64 << 20  # read whole, it would be 150 and 400 MiB


def sized(path, size, reader="mne", modality="eeg"):
    path.touch()
    return replace(recording(path, modality, reader), size_bytes=size)


def test_what_a_task_reserves_is_bounded_for_what_is_streamed(tmp_path):
    hour, night = 1 << 28, 12 << 28
    for name in ("a.edf", "a_raw.fif"):
        small, long, longer = (pipeline._bytes_of(sized(tmp_path / name, size)) for size in (1 << 20, hour, night))
        assert small == 6 << 20
        assert long == longer == 24 * stretches.EEG_SAMPLES
    assert pipeline._bytes_of(sized(tmp_path / "a.wav", night, "soundfile", "audio")) == 16 * stretches.AUDIO_SAMPLES
    assert pipeline._bytes_of(sized(tmp_path / "a.mat", hour, "modma-mat")) == 6 * hour
    assert pipeline._bytes_of(sized(tmp_path / "a.mat", 1 << 40, "modma-mat")) == 6 * 8 * matlab.MOST_SAMPLES
    assert pipeline._bytes_of(sized(tmp_path / "inside.set", hour)) == 6 * hour


def test_what_a_task_reserves_counts_a_headers_data_files(tmp_path):
    (tmp_path / "a.eeg").write_bytes(bytes(1 << 20))
    (tmp_path / "b.fdt").write_bytes(bytes(1 << 20))
    assert pipeline._bytes_of(sized(tmp_path / "a.vhdr", 1000)) == 6 * ((1 << 20) + 1000)
    assert pipeline._bytes_of(sized(tmp_path / "b.set", 12 << 30)) == 24 * stretches.EEG_SAMPLES


EXTRAS = {
    "mne-icalabel": Features(eeg=EEG(ica=True)),
    "python-picard": Features(eeg=EEG(ica=True)),
    "autoreject": Features(eeg=EEG(autoreject=True)),
    "opensmile": Features(audio=Audio(families=("egemaps",))),
}


@pytest.fixture
def upgraded(monkeypatch):
    """Tells what a part is named before and after a package is upgraded."""

    def names(package, features, file):
        told = []
        for version in ("1", "2"):
            parts._version.cache_clear()
            version_of = {package: version}
            monkeypatch.setattr(parts.importlib.metadata, "version", lambda name, of=version_of: of.get(name, "0"))
            told.append(parts.made_from(file, features, "sha", None))
        parts._version.cache_clear()
        return told

    return names


@pytest.mark.parametrize("package", ["mmray", "mne", "librosa", "soxr", "scipy", "numpy", *EXTRAS])
def test_a_part_is_another_once_software_that_decides_its_rows_is(tmp_path, upgraded, package):
    before, after = upgraded(package, EXTRAS.get(package, SETTINGS), edf_of(tmp_path / "a.edf", drifting(2)))
    assert before != after


@pytest.mark.parametrize("package", list(EXTRAS))
def test_an_extra_that_the_settings_leave_alone_is_no_reason_to_prepare_anew(tmp_path, upgraded, package):
    before, after = upgraded(package, SETTINGS, edf_of(tmp_path / "a.edf", drifting(2)))
    assert before == after


def test_a_package_that_is_not_there_is_left_to_whoever_needs_it():
    assert parts._version("mmray-no-such-package") == "none"
