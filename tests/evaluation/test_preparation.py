"""`mmray quality` on FEIS, prepared by real Ray; a participant's headset is made worse on purpose."""

from __future__ import annotations

import csv
import itertools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Cluster, Config, digest, load
from mmray.errors import WorkspaceError
from mmray.evaluation import preparation, preparation_plots
from mmray.features import pipeline, stretches
from mmray.recordings import signals
from mmray.schema import recordings_table
from mmray.storage import Workspace
from tests.browsing import asked, opened
from tests.features.recordings import FEIS, recording


def config_of(workspace: Path) -> Config:
    return Config(workspace=str(workspace), features=FEIS, cluster=Cluster())


def flattened(source: Path, target: Path, channels: tuple[str, ...]) -> Path:
    """A participant's archive with some electrodes held still."""
    with zipfile.ZipFile(source) as archive:
        lines = archive.read(archive.namelist()[0]).decode().splitlines()
    head = lines[0].split(",")
    columns = [head.index(name) for name in channels]
    rows = [line.split(",") for line in lines[1:]]
    for row in rows:
        for column in columns:
            row[column] = "4200.0"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("articulators.csv", "\n".join([lines[0], *map(",".join, rows)]))
    return target


@pytest.fixture(scope="module")
def workspace(real_data, ray_session, tmp_path_factory):
    """Four headsets, the second of them with three still electrodes, a ruined one; six clips, the last one clipped."""
    folder = tmp_path_factory.mktemp("study")
    found = []
    for subject in ("01", "03", "04", "06", "07"):
        source = real_data / "feis" / "data_eeg" / subject / "articulators.zip"
        target = folder / f"{subject}.zip"
        still = {"03": ("F3", "O1", "P8"), "07": ("F3", "O1", "O2", "P7", "P8")}.get(subject, ())
        file = flattened(source, target, still) if still else Path(shutil.copy(source, target))
        found.append(recording(file, "eeg", "feis", subject))
    clips = sorted((real_data / "feis" / "data_wav" / "01" / "wavs").glob("*.wav"))[:6]
    for number, clip in enumerate(clips):
        wave, rate = soundfile.read(clip)
        loud = np.clip(wave / np.abs(wave).max() * (4 if number == 5 else 0.5), -1, 1)
        soundfile.write(folder / f"{number}.wav", loud, rate)
        found.append(recording(folder / f"{number}.wav", "audio", "soundfile", "01"))
    place = tmp_path_factory.mktemp("ws")
    Workspace(str(place)).write_table(recordings_table(found), "recordings.parquet")
    pipeline.prepare(config_of(place))
    return place


@pytest.fixture(scope="module")
def told(workspace):
    return preparation.quality(config_of(workspace))


def test_the_worst_come_first_and_the_ruined_one_is_counted_with_its_reason(told):
    assert told.worst["eeg"][0] == "03-eeg-03"
    assert told.worst["audio"][0] == "01-audio-5"
    (reason,) = told.reasons
    assert "5 of 14 electrodes are bad (F3 flat" in reason
    assert told.reasons[reason] == 1
    assert told.verdict[0].startswith("4 EEG recordings prepared, 1 quarantined; ")
    assert told.verdict[1].startswith("6 voice recordings prepared, 0 quarantined; 6 of 6 segments kept; ")


def test_the_page_says_what_was_decided_and_shows_it(told):
    page = Path(told.report).read_text(encoding="utf-8")
    assert "F3 flat, O1 flat, P8 flat" in page
    assert all(line in page for line in told.verdict)
    for title in ("Among the worst: 03-eeg-03", "Quarantined: 07-eeg-07", "Among the worst: 01-audio-5", "Typical: "):
        assert title in page
    assert page.count("data:image/png;base64,") == page.count("<h3>")
    assert "cannot be read" not in page


def test_the_table_holds_what_the_preparation_left(workspace, told):
    folder = Path(told.report).parent
    ours = {row["recording_id"]: row for row in pq.read_table(folder / "tables" / "recordings.parquet").to_pylist()}
    left = pq.read_table(workspace / "features" / digest(FEIS) / "quality.parquet").to_pylist()
    assert {row["recording_id"]: row["kept"] for row in left} == {name: row["kept"] for name, row in ours.items()}
    with (folder / "tables" / "recordings.csv").open(encoding="utf-8") as file:
        assert [row["recording_id"] for row in csv.DictReader(file)] == list(ours)
    assert ours["03-eeg-03"]["bad"] == "F3 flat, O1 flat, P8 flat"
    assert ours["03-eeg-03"]["bad_electrodes"] == 3


def test_the_command_on_the_page_makes_it_again(told):
    report = Path(told.report)
    settings = report.parent / "config.yaml"
    assert f"mmray quality --config {settings} --workspace " in report.read_text(encoding="utf-8")
    assert load(settings).features == FEIS


def test_a_file_that_is_gone_costs_its_picture_alone(workspace, told, tmp_path):
    place = Path(shutil.copytree(workspace, tmp_path / "ws"))
    rows = pq.read_table(place / "recordings.parquet").to_pylist()
    for row in rows:
        if row["recording_id"] == "03-eeg-03":
            row["path"] = str(tmp_path / "gone.zip")
    Workspace(str(place)).write_table(
        pq.read_table(place / "recordings.parquet").from_pylist(rows), "recordings.parquet"
    )
    page = Path(preparation.quality(config_of(place)).report).read_text(encoding="utf-8")
    assert page.count("Its file cannot be read") == 1
    assert "Among the worst: 03-eeg-03" in page


def test_another_picture_comes_of_another_signal(workspace, told):
    figures = Path(told.report).parent / "figures"
    images = {path.name: path.read_bytes() for path in figures.glob("*.png")}
    assert len(set(images.values())) == len(images)


def test_before_a_preparation_there_is_nothing_to_report(tmp_path):
    with pytest.raises(WorkspaceError, match="run `mmray prepare`"):
        preparation.quality(config_of(tmp_path))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_who_is_worse_in_every_way_comes_first(pairs):
    rows = []
    for number, (kept, bad) in enumerate(pairs):
        row = {"recording_id": f"r{number:02d}", "modality": "eeg", "segments": 9, "kept": kept, "peak_to_peak_uv": 1.0}
        row["bad_channels"] = [{"name": f"E{n}", "why": "flat"} for n in range(bad)]
        rows.append(row | {"gone": preparation.gone(row, 10)})
    order = preparation.worst_first(rows)
    assert sorted(row["recording_id"] for row in order) == [row["recording_id"] for row in rows]
    for earlier, later in itertools.pairwise(order):
        assert later["kept"] >= earlier["kept"] or len(later["bad_channels"]) <= len(earlier["bad_channels"])


def test_what_is_gone_is_a_share_of_all_that_was_recorded():
    eeg = {"modality": "eeg", "kept": 3, "segments": 4, "bad_channels": [{}, {}]}
    assert preparation.gone(eeg, 8) == pytest.approx(1 - 0.75 * 0.75)
    voice = {"modality": "audio", "kept": 4, "segments": 4, "clipped_fraction": 0.1}
    assert preparation.gone(voice, 8) == pytest.approx(0.1)


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_browser_and_asks_for_nothing(browser, told, width):
    report = Path(told.report)
    opened(browser, report.as_uri(), width, "dark")
    assert asked(browser) == [report.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    seen = browser.execute_script("return [...document.querySelectorAll('img')].map(i => i.naturalWidth)")
    assert len(seen) >= 8
    assert min(seen) > 300


def test_of_a_long_recording_its_beginning_is_drawn(monkeypatch, tmp_path, real_data):
    clip = tmp_path / "long.wav"
    soundfile.write(clip, 0.1 * np.random.default_rng(0).normal(size=8000 * 200), 8000)
    eeg_file = recording(real_data / "feis" / "data_eeg" / "01" / "articulators.zip", "eeg", "feis")
    read: list[int] = []
    for kind in (signals.EEGFile, signals.AudioFile):
        monkeypatch.setattr(kind, "read", spied(kind.read, read))
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 14 * 256 * 30)
    pictures = [preparation_plots.eeg_of(eeg_file, config_of(tmp_path))]
    pictures.append(preparation_plots.audio_of(recording(clip, "audio", "soundfile"), config_of(tmp_path)))
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert read[0] == 256 * 30
    assert read[1] < 8000 * 130


def spied(method, read):
    def spy(file, start, stop):
        read.append(stop - start)
        return method(file, start, stop)

    return spy
