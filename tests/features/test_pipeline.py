"""`prepare` on real Ray, with FEIS participants and files broken on purpose."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mmray.config import Cluster, Config, digest
from mmray.errors import ConfigError, RecordingError, ResourceError, WorkspaceError
from mmray.features import extract, pipeline, table
from mmray.quota import usable_cores
from mmray.recordings.feis_epochs import CHANNELS
from mmray.schema import PARTS, QUARANTINE, Recording, recordings_of, recordings_table
from mmray.storage import Workspace
from tests.features import made_encoders
from tests.features.recordings import FEIS, recording
from tests.recordings.made_files import rhythms, write_edf

KEY = digest(FEIS)
BROKEN = {
    "s1-cut-mat": "not a whole MATLAB",
    "s1-lying-wav": "cut short",
    "s1-empty-wav": "empty",
    "s1-nan-eeg": "of 14 electrodes are bad",
    "s1-short-wav": "shorter than one segment of 1 s",
}


A_CLIP = Recording("r", "p", "p", "audio", "1", "read", None, None, "r.wav", "soundfile", 1)


def config_of(workspace: Path, **cluster) -> Config:
    return Config(workspace=str(workspace), features=FEIS, cluster=Cluster(**cluster))


def write_recordings(workspace: Path, recordings) -> None:
    Workspace(str(workspace)).write_table(recordings_table(recordings), "recordings.parquet")


def read_recordings(workspace: Path) -> list:
    return recordings_of(Workspace(str(workspace)).read_table("recordings.parquet"))


def asking() -> list[str]:
    """This process's threads in which Ray Data asks Ray for something."""
    names = ("StreamingExecutor", "ray-data-", "iter_threaded", "Prefetcher")
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(names)]


def rows_of(workspace: Path) -> dict[str, bytes]:
    """Every published part file, byte for byte."""
    folder = workspace / "features" / KEY
    return {path: (folder / path).read_bytes() for path in read(workspace, "parts")["path"].to_pylist()}


def read(workspace: Path, name: str):
    return pq.read_table(workspace / "features" / KEY / f"{name}.parquet")


def part_of(workspace: Path, recording_id: str) -> str:
    parts = read(workspace, "parts").to_pylist()
    return next(row["path"] for row in parts if row["recording_id"] == recording_id)


def reversed_copy(source: str, target: Path) -> Path:
    """Another clip: the same bytes under two people would be quarantined."""
    wave, rate = soundfile.read(source)
    soundfile.write(target, wave[::-1], rate)
    return target


def decided(workspace: Path) -> dict[str, dict]:
    return {row["recording_id"]: row for row in read(workspace, "quality").to_pylist()}


def times_of(workspace: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (workspace / "features" / KEY).glob("*/*.parquet")}


def write_broken(folder: Path, real_data: Path) -> list:
    folder.mkdir()
    wav = next((real_data / "feis" / "data_wav" / "01" / "wavs").glob("*.wav"))
    (folder / "cut.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\1IM" + b"\x0f\0\0\0")
    (folder / "lying.wav").write_bytes(wav.read_bytes()[:9000])
    (folder / "empty.wav").write_bytes(b"")
    soundfile.write(folder / "short.wav", np.sin(np.arange(8000) / 10), 16000)
    sample = ["NaN"] * 5 + ["{:.3f}"] * 9
    noise = np.random.default_rng(0).normal(4200, 10, size=(512, 9))
    lines = ["Time:256Hz,Epoch," + ",".join(CHANNELS) + ",Label,Stage,Flag"]
    for number, values in enumerate(noise):
        lines.append(f"{number / 256},{number // 256}," + ",".join(sample).format(*values) + ",goose,articulators,")
    with zipfile.ZipFile(folder / "nan.zip", "w") as archive:
        archive.writestr("articulators.csv", "\n".join(lines))
    return [
        recording(folder / "cut.mat", "eeg", "modma-mat", name="s1-cut-mat"),
        recording(folder / "lying.wav", "audio", "soundfile", name="s1-lying-wav"),
        recording(folder / "empty.wav", "audio", "soundfile", name="s1-empty-wav"),
        recording(folder / "nan.zip", "eeg", "feis", name="s1-nan-eeg"),
        recording(folder / "short.wav", "audio", "soundfile", name="s1-short-wav"),
    ]


@pytest.fixture(scope="module")
def study(real_data, tmp_path_factory):
    """Five people's EEG, three clips of each, and the broken files; in a folder with a blank and an umlaut."""
    folder = tmp_path_factory.mktemp("prepare") / "Stüdy of five"
    folder.mkdir()
    found = []
    for subject in ("01", "02", "03", "04", "06"):
        place = shutil.copy(real_data / "feis" / "data_eeg" / subject / "articulators.zip", folder / f"{subject}.zip")
        found.append(recording(Path(place), "eeg", "feis", subject))
        for clip in sorted((real_data / "feis" / "data_wav" / subject / "wavs").glob("*.wav"))[:3]:
            place = shutil.copy(clip, folder / f"{subject}-{clip.name}")
            found.append(recording(Path(place), "audio", "soundfile", subject, f"{subject}-audio-{clip.stem}"))
    return found + write_broken(folder / "broken", real_data)


@pytest.fixture(scope="module")
def undisturbed(study, ray_session, tmp_path_factory):
    workspace = tmp_path_factory.mktemp("undisturbed")
    write_recordings(workspace, study)
    return workspace, pipeline.prepare(config_of(workspace))


@pytest.fixture
def prepared(undisturbed, tmp_path):
    """A copy to disturb."""
    return Path(shutil.copytree(undisturbed[0], tmp_path / "ws"))


def test_what_was_decided_about_each_prepared_recording_is_told(undisturbed):
    workspace, _ = undisturbed
    parts = {row["recording_id"]: row["segments"] for row in read(workspace, "parts").to_pylist()}
    rows = decided(workspace)
    assert {name: row["kept"] for name, row in rows.items()} == parts
    eeg, voice = rows["01-eeg-01"], next(row for row in rows.values() if row["modality"] == "audio")
    assert (eeg["sampling_rate_hz"], eeg["duration_s"], eeg["segments"]) == (256, 160, 160)
    assert eeg["peak_to_peak_uv"] > 0
    assert eeg["level_dbfs"] is None
    assert voice["sampling_rate_hz"] == 44100
    assert 0 < voice["active_fraction"] <= 1
    assert voice["bad_channels"] is None


def test_broken_recordings_are_quarantined_by_reason_and_the_others_prepared(undisturbed):
    workspace, summary = undisturbed
    rows = {row["recording_id"]: row for row in read(workspace, "quarantine").to_pylist()}
    assert set(rows) == set(BROKEN)
    for name, reason in BROKEN.items():
        assert reason in rows[name]["reason"]
        assert rows[name]["path"] in rows[name]["reason"]
    assert summary.prepared == {"eeg": 5, "audio": 15}
    assert summary.quarantined == {"eeg": 2, "audio": 3}
    assert [name for name, _ in summary.reasons] == sorted(BROKEN)


def test_published_rows_are_what_the_parts_and_the_summary_count(undisturbed):
    workspace, summary = undisturbed
    parts = read(workspace, "parts")
    assert parts.schema.equals(PARTS)
    assert read(workspace, "quarantine").schema.equals(QUARANTINE)
    for modality in ("eeg", "audio"):
        rows = table.load(Workspace(str(workspace)), KEY, modality)
        counted = sum(row["segments"] for row in parts.to_pylist() if row["modality"] == modality)
        assert len(rows) == counted == summary.segments[modality]


def test_provenance_names_settings_versions_and_counts(undisturbed):
    provenance = Workspace(str(undisturbed[0])).read_json("features", KEY, "provenance.json")
    assert provenance["features"] == FEIS.model_dump(mode="json")
    assert set(provenance["versions"]) == {"mmray", "mne", "librosa", "soxr", "scipy", "numpy"}
    assert provenance["counts"] == {"prepared": 20, "quarantined": 5}


def test_a_second_run_computes_nothing_and_tells_the_decisions_again(prepared):
    before, rows, told = times_of(prepared), rows_of(prepared), decided(prepared)
    summary = pipeline.prepare(config_of(prepared))
    assert (summary.prepared, summary.unchanged) == ({"eeg": 0, "audio": 0}, {"eeg": 5, "audio": 15})
    assert (times_of(prepared), rows_of(prepared), decided(prepared)) == (before, rows, told)
    assert len(summary.reasons) == len(BROKEN)


def test_only_a_changed_recording_and_one_with_another_label_are_computed_again(prepared, study, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    other = next(item for item in study if item.recording_id.startswith("03-audio"))
    moved = reversed_copy(clip.path, tmp_path / "changed.wav")
    changed = {
        clip.recording_id: replace(clip, path=str(moved)),
        other.recording_id: replace(other, label=0, label_name="zero"),
    }
    write_recordings(prepared, [changed.get(item.recording_id, item) for item in study])
    before, listed = rows_of(prepared), {name: part_of(prepared, name) for name in changed}
    summary = pipeline.prepare(config_of(prepared))
    after = rows_of(prepared)
    assert summary.prepared == {"eeg": 0, "audio": 2}
    assert set(before) - set(after) == set(listed.values())
    assert all(after[path] == before[path] for path in set(after) & set(before))
    rows = table.load(Workspace(str(prepared)), KEY, "audio")
    assert set(rows.label_S[rows.recording_id_S == other.recording_id]) == {0}


def test_what_a_published_manifest_names_is_never_overwritten(prepared, study, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    before, folder = rows_of(prepared), prepared / "features" / KEY
    for number in range(2):
        moved = reversed_copy(clip.path, tmp_path / f"{number}.wav")
        if number:
            soundfile.write(moved, soundfile.read(moved)[0] * 0.5, 44100)
        write_recordings(prepared, [replace(item, path=str(moved)) if item is clip else item for item in study])
        pipeline.prepare(config_of(prepared))
        kept = all((folder / path).exists() and (folder / path).read_bytes() == rows for path, rows in before.items())
        assert kept == (number == 0), "a reader of the manifest before keeps its parts until the next one"


def test_the_same_bytes_under_two_people_are_quarantined(prepared, study, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    twin = replace(clip, recording_id="twin", subject_id="twin", pair_id="twin")
    write_recordings(prepared, [*study, twin])
    reasons = dict(pipeline.prepare(config_of(prepared)).reasons)
    assert {clip.recording_id, "twin"} <= set(reasons)
    assert "belong to subjects" in reasons["twin"]
    assert not {clip.recording_id, "twin"} & set(read(prepared, "parts")["recording_id"].to_pylist())


def test_the_same_bytes_twice_under_one_person_count_once(prepared, study, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    copy = Path(shutil.copy(clip.path, tmp_path / "copy.wav"))
    twin = replace(clip, recording_id=f"{clip.recording_id}-again", path=str(copy))
    write_recordings(prepared, [*study, twin])
    summary = pipeline.prepare(config_of(prepared))
    assert f"the same bytes as {clip.path} ({clip.recording_id})" in dict(summary.reasons)[twin.recording_id]
    parts = read(prepared, "parts")["recording_id"].to_pylist()
    assert clip.recording_id in parts
    assert twin.recording_id not in parts
    times = times_of(prepared)
    assert [path for path in times if twin.recording_id in path], "kept, so that the next run need not make it again"
    assert pipeline.prepare(config_of(prepared)).prepared == {"eeg": 0, "audio": 0}
    assert times_of(prepared) == times


def test_what_was_a_copy_is_taken_once_the_other_has_changed_in_place(prepared, study, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    copy = Path(shutil.copy(clip.path, tmp_path / "copy.wav"))
    first = replace(clip, recording_id="00-first", path=str(copy))
    write_recordings(prepared, [*study, first])
    assert clip.recording_id in dict(pipeline.prepare(config_of(prepared)).reasons)
    reversed_copy(clip.path, copy)
    assert not {clip.recording_id, "00-first"} & set(dict(pipeline.prepare(config_of(prepared)).reasons))


def test_a_preparation_killed_between_its_rows_and_their_origin_is_not_trained_on(prepared, study, monkeypatch):
    relabelled = [replace(item, label=1) if item.label == 0 else item for item in study]
    write_recordings(prepared, relabelled)
    provenance = prepared / "features" / KEY / "provenance.json"
    before, rows = provenance.read_bytes(), rows_of(prepared)
    real = Workspace.write_table

    def killed(self, table, *place):
        if place[-1] == "parts.parquet":
            raise KeyboardInterrupt
        real(self, table, *place)

    monkeypatch.setattr(Workspace, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(config_of(prepared))
    assert rows_of(prepared) == rows
    assert provenance.read_bytes() == before, "old rows would stand beside the word that they are of these labels"


def test_what_was_set_aside_for_a_passing_reason_is_prepared_by_the_next_run(prepared, study, ray_session, tmp_path):
    clip = next(item for item in study if item.recording_id.startswith("02-audio"))
    one = replace(clip, recording_id="s1-busy", path=str(reversed_copy(clip.path, tmp_path / "other.wav")))
    made_encoders.ROOM.unlink(missing_ok=True)
    audio = FEIS.audio.model_copy(update={"encoder": "tests.features.made_encoders:Busy", "encoder_version": "1"})
    settings = config_of(prepared).model_copy(update={"features": FEIS.model_copy(update={"audio": audio})})
    eeg = next(item for item in study if item.modality == "eeg" and item.recording_id not in BROKEN)
    write_recordings(prepared, [eeg, one])
    assert "no room on the device" in dict(pipeline.prepare(settings).reasons)["s1-busy"]
    made_encoders.ROOM.touch()
    try:
        again = pipeline.prepare(settings)
    finally:
        made_encoders.ROOM.unlink()
    assert (again.prepared["audio"], again.reasons) == (1, [])


def test_a_removed_recording_and_one_that_broke_lose_their_rows_and_files(prepared, study, tmp_path):
    gone, broke = (item for item in study if item.recording_id in ("01-eeg-01", "06-eeg-06"))
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK")
    kept = [replace(item, path=str(bad)) if item is broke else item for item in study if item is not gone]
    write_recordings(prepared, kept)
    pipeline.prepare(config_of(prepared))
    assert not {gone.recording_id, broke.recording_id} & set(read(prepared, "parts")["recording_id"].to_pylist())
    pipeline.prepare(config_of(prepared))
    files = {path.name for path in (prepared / "features" / KEY / "eeg").iterdir()}
    assert not [name for name in files if name.startswith((gone.recording_id, broke.recording_id))]
    assert broke.recording_id in read(prepared, "quarantine")["recording_id"].to_pylist()


def test_what_is_put_right_leaves_quarantine_be_it_sidecar_reader_path_or_the_file_itself(prepared, study, tmp_path):
    clip, other = (next(item for item in study if item.recording_id.startswith(f"{n}-audio")) for n in ("02", "03"))
    eeg = next(item for item in study if item.modality == "eeg" and item.reader == "feis")
    path = write_edf(tmp_path / "sub-1_eeg.edf", rhythms(14, 5, 256), list(CHANNELS), 256)
    sidecar, file = path.with_suffix(".json"), tmp_path / "clip.wav"
    sidecar.write_text('{"SamplingFrequency": 500}')
    file.write_bytes(b"")
    stated = recording(path, "eeg", "mne", name="s1-sidecar")
    misread = replace(eeg, recording_id="s1-reader", reader="mne")
    in_place = replace(clip, recording_id="s1-mended", path=str(file))
    others = [item for item in study if item is not eeg]
    write_recordings(prepared, [*others, stated, misread, in_place])
    reasons = dict(pipeline.prepare(config_of(prepared)).reasons)
    mended = {"s1-sidecar", "s1-reader", "s1-empty-wav", "s1-mended"}
    assert reasons.keys() == BROKEN.keys() | mended
    assert "says 500 Hz" in reasons["s1-sidecar"]

    sidecar.write_text('{"SamplingFrequency": 256}')
    reversed_copy(clip.path, file)
    moved = str(reversed_copy(other.path, tmp_path / "moved.wav"))
    others = [replace(item, path=moved) if item.recording_id == "s1-empty-wav" else item for item in others]
    write_recordings(prepared, [*others, stated, replace(misread, reader="feis"), in_place])
    summary = pipeline.prepare(config_of(prepared))
    assert summary.prepared == {"eeg": 2, "audio": 2}
    assert dict(summary.reasons).keys() == BROKEN.keys() - mended
    assert set(read(prepared, "quarantine")["recording_id"].to_pylist()) == BROKEN.keys() - mended

    sidecar.write_text('{"SamplingFrequency": 250}')
    assert "s1-sidecar" in dict(pipeline.prepare(config_of(prepared)).reasons)


def test_a_damaged_part_file_is_made_again(prepared, undisturbed):
    part = prepared / "features" / KEY / part_of(prepared, "01-eeg-01")
    part.write_bytes(part.read_bytes()[:100])
    assert pipeline.prepare(config_of(prepared)).prepared["eeg"] == 1
    assert rows_of(prepared) == rows_of(undisturbed[0])


def test_strict_publishes_what_is_usable_and_then_refuses_by_name(prepared):
    (prepared / "features" / KEY / "parts.parquet").unlink()
    with pytest.raises(RecordingError, match=r"--strict: 5 of 25 .*") as caught:
        pipeline.prepare(config_of(prepared), strict=True)
    assert "lying.wav" in str(caught.value)
    assert caught.value.exit_code == 3
    assert read(prepared, "parts").num_rows == 20


def test_no_usable_recording_at_all_is_a_recording_error(study, ray_session, tmp_path):
    write_recordings(tmp_path, [item for item in study if item.recording_id in BROKEN])
    with pytest.raises(RecordingError, match="none of 5 recordings is usable"):
        pipeline.prepare(config_of(tmp_path))


def test_a_workspace_that_cannot_be_written_is_said_and_nothing_is_published(study, ray_session, tmp_path):
    write_recordings(tmp_path, [item for item in study if item.modality == "audio"])
    folder = tmp_path / "features" / KEY
    folder.mkdir(parents=True)
    (folder / "audio").write_text("a file where the folder should be; chmod does not stop root")
    with pytest.raises(WorkspaceError, match="cannot"):
        pipeline.prepare(config_of(tmp_path))
    assert [path.name for path in folder.iterdir()] == ["audio"]


def test_a_run_that_stops_early_leaves_no_thread_of_ray_datas_behind(study, ray_session, tmp_path, monkeypatch):
    """Ray would end the process, before it has said why, where one asked for something after the session's end."""

    @contextmanager
    def interrupted(*_):
        def advance(**_):
            raise KeyboardInterrupt

        yield advance

    write_recordings(tmp_path, study)
    monkeypatch.setattr(pipeline.progress, "bar", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        pipeline.prepare(config_of(tmp_path))
    assert raised.tb  # which holds the frames of what would go on
    assert asking() == []


def test_a_task_that_no_node_can_hold_is_a_resource_error(study, ray_session, tmp_path):
    write_recordings(tmp_path, study)
    with pytest.raises(ResourceError, match=r"prepare: 1 x \(99 CPUs, .*lower cluster.task_cpus"):
        pipeline.prepare(config_of(tmp_path, task_cpus=99))


def test_a_reader_that_fails_in_an_unknown_way_stops_nobody_else(study, ray_session, tmp_path, monkeypatch):
    write_recordings(tmp_path, [item for item in study if item.modality == "audio"][:2])
    [one, other] = read_recordings(tmp_path)

    def rows(recording, *_):
        if recording == one:
            raise ArithmeticError("nobody thought of this")
        return every_row(recording, *_)

    every_row = extract.rows
    monkeypatch.setattr(extract, "rows", rows)
    workspace = Workspace(str(tmp_path))
    outcomes = [pipeline._prepare_one(item, FEIS, workspace, KEY) for item in (one, other)]
    assert [outcome.status for outcome in outcomes] == ["quarantined", "prepared"]
    assert "ArithmeticError: nobody thought of this" in outcomes[0].reason


def test_an_unknown_montage_is_refused_before_ray_is_asked(study, tmp_path):
    write_recordings(tmp_path, study)
    features = FEIS.model_copy(update={"eeg": FEIS.eeg.model_copy(update={"montage": "colin27_1021"})})
    with pytest.raises(ConfigError, match="colin27_1020"):
        pipeline.prepare(Config(workspace=str(tmp_path), features=features))


@given(st.lists(st.integers(1, 400 << 20), min_size=1, max_size=80), st.integers(1, 16))
def test_groups_hold_every_recording_once_and_none_is_more_than_a_share_of_what_was_left(sizes, at_once):
    sized = [replace(A_CLIP, recording_id=f"{i:02d}", size_bytes=size) for i, size in enumerate(sizes)]
    groups = list(pipeline._groups(sized, at_once))
    members = [item for group in groups for item in group]
    assert sorted(item.recording_id for item in members) == [item.recording_id for item in sized]
    assert [item.size_bytes for item in members] == sorted(sizes, reverse=True)
    left_bytes, left = sum(sizes), len(sizes)
    for group in groups:
        held = sum(item.size_bytes for item in group)
        assert len(group) <= min(32, max(8, left / (2 * at_once)))
        assert len(group) == 1 or held <= min(320 << 20, max(16 << 20, left_bytes / (2 * at_once)))
        left_bytes, left = left_bytes - held, left - len(group)


def test_many_small_recordings_share_tasks_and_the_last_tasks_are_short():
    sized = [replace(A_CLIP, recording_id=f"{i:04d}", size_bytes=1000) for i in range(1000)]
    counts = [len(group) for group in pipeline._groups(sized, 4)]
    assert counts[0] == 32
    assert counts[-3] == 8
    assert counts == sorted(counts, reverse=True)


def test_a_headers_recording_weighs_what_its_data_files_weigh(tmp_path):
    headers = []
    for number in range(8):
        header = tmp_path / f"{number}.vhdr"
        header.write_text(f"[Common Infos]\nDataFile={number}.eeg\n")
        with header.with_suffix(".eeg").open("wb") as data:
            data.truncate((100 + number) << 20)  # sparse
        headers.append(recording(header, "eeg", "mne"))
    groups = [[Path(item.path).stem for item in group] for group in pipeline._groups(headers, 1)]
    assert groups[0] == ["7", "6", "5"]  # of 320 MiB at most
    assert [name for group in groups for name in group] == list("76543210")


def descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (ValueError, OSError):
            continue  # not a process, or one that ended meanwhile
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, its_parent in parents.items() if its_parent == parent]
        found += children
        todo += children
    return found


DRIVER = """
import sys
from mmray.config import load
from mmray.features.pipeline import prepare
prepare(load(sys.argv[1]))
"""


@pytest.fixture
def short_tmp():
    """For the Ray that is killed: it cannot clean up, and its sockets allow no long path."""
    folder = Path(tempfile.mkdtemp(prefix="mmray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def interrupted(study, tmp_path, short_tmp):
    """A workspace, and `prepare` at work on it in a process of its own; its first part is there."""
    from mmray.config import to_yaml

    workspace = tmp_path / "interrupted"
    write_recordings(workspace, study)
    settings = tmp_path / "config.yaml"
    settings.write_text(to_yaml(config_of(workspace, num_cpus=2)))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(settings)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"TMPDIR": str(short_tmp)},
    )
    deadline = time.monotonic() + 120
    while not list((workspace / "features" / KEY).glob("eeg/[!.]*.parquet")):
        assert driver.poll() is None, driver.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    yield workspace, driver
    started = [driver.pid, *descendants(driver.pid)] if driver.poll() is None else []
    for pid in started:
        kill(pid)
    driver.wait()
    driver.stderr.close()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it shared its driver's fate already


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds Ray's processes through /proc")


@needs_proc
def test_no_more_tasks_run_at_once_than_there_are_cores(study, ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_GROUP_RECORDINGS", (1, 1))
    usable = [item for item in study if item.recording_id not in BROKEN]
    eeg, clips = ([item for item in usable if item.modality == modality] for modality in ("eeg", "audio"))
    write_recordings(tmp_path, [*eeg[:2], *clips[:8]])
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            most.append(sum("FlatMap" in title(pid) for pid in descendants(os.getpid())))  # Ray renames a busy worker

    looking = threading.Thread(target=look)
    looking.start()
    try:
        pipeline.prepare(config_of(tmp_path))
    finally:
        ended.set()
        looking.join()
    assert max(most) == min(4, usable_cores())  # the session's Ray counts four CPUs on any machine


@needs_proc
def test_killed_prepare_run_again_yields_the_same_rows(undisturbed, interrupted, short_tmp):
    workspace, driver = interrupted
    folder = workspace / "features" / KEY
    processes = descendants(driver.pid)
    kill(driver.pid)
    for pid in processes:
        if "ray" in title(pid):
            kill(pid)
    driver.wait()
    finished = len(list(folder.glob("*/[!.]*.parquet")))
    assert not (folder / "parts.parquet").exists()
    assert 1 <= finished < 20

    summary = pipeline.prepare(config_of(workspace))
    assert sum(summary.unchanged.values()) == finished
    assert_same(workspace, undisturbed[0])


@needs_proc
def test_prepare_goes_on_without_a_killed_worker_and_yields_the_same_rows(undisturbed, study, tmp_path):
    write_recordings(tmp_path, study)
    folder = tmp_path / "features" / KEY
    published: list[bool] = []
    ended = threading.Event()

    def kill_one() -> None:
        while not published and not ended.wait(0.005):
            if not list(folder.glob("eeg/[!.]*.parquet")):
                continue
            at_work = [pid for pid in descendants(os.getpid()) if title(pid).startswith("ray::FlatMap")]
            if at_work:
                kill(at_work[0])
                published.append((folder / "parts.parquet").exists())

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        pipeline.prepare(config_of(tmp_path))
    finally:
        ended.set()
        killer.join()
    assert published == [False], "killed too late to matter"
    assert_same(tmp_path, undisturbed[0])


def assert_same(workspace: Path, undisturbed: Path) -> None:
    assert rows_of(workspace) == rows_of(undisturbed)
    for name in ("parts", "quarantine", "quality"):
        assert read(workspace, name).equals(read(undisturbed, name)), name
    assert not list((workspace / "features" / KEY).rglob(".partial-*"))


def test_what_a_killed_worker_had_half_written_is_gone_when_prepare_ends(study, ray_session, tmp_path):
    write_recordings(tmp_path, study[1:2])
    folder = tmp_path / "features" / KEY
    dying = (
        "import os, signal, sys\nfrom mmray.storage import Workspace\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Workspace(sys.argv[1]).write_bytes(b'half', 'audio', 'part.parquet')\n"
    )
    pipeline.prepare(config_of(tmp_path))
    before = sorted(path.name for path in folder.rglob("*"))
    subprocess.run([sys.executable, "-c", dying, str(folder)], check=False)
    assert list(folder.rglob(".partial-*"))
    pipeline.prepare(config_of(tmp_path))
    assert sorted(path.name for path in folder.rglob("*")) == before
