from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow.parquet as pq
import pytest
import soundfile
from scipy.io import loadmat
from scipy.signal import welch
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from mmray import cluster
from mmray.config import Cluster, Synth
from mmray.errors import ConfigError, WorkspaceError
from mmray.recordings import modma, synthetic

SMALL = Synth(subjects=4, eeg_seconds=8, clips=2, clip_seconds=3)
REST = "EEG_128channels_resting_lanzhou_2015"
AUDIO = "audio_lanzhou_2015"


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def backwards(function: Callable[[Any], Any], items: Iterable[Any], **_: Any) -> Iterator[Any]:
    """cluster.map in this process, last item first."""
    yield from [function(item) for item in reversed(list(items))]


@pytest.fixture(scope="module")
def study(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "a study, é"
    synthetic.generate(root, SMALL, 7, Cluster())
    return root


@pytest.fixture(scope="module")
def clean_study(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "clean"
    synthetic.generate(root, Synth(subjects=10, eeg_seconds=16, clips=1, clip_seconds=4, nuisance=0), 1, Cluster())
    return root


@pytest.mark.parametrize("threads", [1, 3])
def test_one_process_in_another_order_writes_the_same_bytes(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(cluster, "map", backwards)
    with threadpool_limits(threads):
        synthetic.generate(tmp_path / "again", SMALL, 7, Cluster())
    assert digests(tmp_path / "again") == digests(study)


def test_another_seed_changes_every_signal(study: Path, tmp_path: Path) -> None:
    synthetic.generate(tmp_path / "other", SMALL, 8, Cluster())
    one, other = digests(study), digests(tmp_path / "other")
    assert one.keys() == other.keys()
    assert not [name for name in one if one[name] == other[name]]


def test_interrupted_generation_leaves_no_truth_and_goes_on_where_it_stopped(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(function: Callable[[Any], Any], items: Iterable[Any], **_: Any) -> Iterator[Any]:
        todo = list(items)
        yield function(todo[0])
        raise KeyboardInterrupt

    root = tmp_path / "half"
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "map", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            synthetic.generate(root, SMALL, 7, Cluster())
    assert not (root / "truth.parquet").exists()
    done = {path: path.stat().st_mtime_ns for path in root.rglob("*.mat")}
    assert len(done) == 1
    assert not synthetic.generate(root, SMALL, 7, Cluster()).kept
    assert digests(root) == digests(study)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())


def test_same_settings_keep_a_whole_study_untouched(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}
    summary = synthetic.generate(study, SMALL, 7, Cluster())
    assert summary.kept
    assert (summary.subjects, summary.mdd, summary.hc, summary.clips) == (4, 2, 2, 8)
    assert before == {path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file()}


def test_other_settings_on_a_study_are_refused_and_named(study: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"other settings \(coupling differ\)"):
        synthetic.generate(study, SMALL.model_copy(update={"coupling": 0.1}), 7, Cluster())


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / REST).mkdir()
    with pytest.raises(WorkspaceError, match="not empty"):
        synthetic.generate(tmp_path, SMALL, 7, Cluster())
    assert list(tmp_path.iterdir()) == [tmp_path / REST]


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        synthetic.generate(tmp_path / "x", SMALL, -1, Cluster())


def test_mat_files_hold_what_modmas_hold(study: Path) -> None:
    for path in (study / REST).glob("*.mat"):
        content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        (signal_name,) = (name for name, value in content.items() if value.shape[0] == 129 and value.shape[1] > 1)
        uv_EN = content[signal_name]
        assert len(path.stem) <= 27
        assert signal_name == "a" + path.stem.rstrip(".").replace(" ", "_") + "mat"
        assert uv_EN.dtype == np.float64
        assert 2000 <= uv_EN.shape[1] <= 2240
        assert not uv_EN[128].any()
        assert np.abs(uv_EN[:128].mean(1)).min() > 5_000
        assert content["samplingRate"].tolist() == [[250.0]]
        assert content["Impedances_0"].shape == (129, 1)
    assert any("DIN_1" in loadmat(path) for path in (study / REST).glob("*.mat"))


def test_wav_files_are_24_bit_at_44100_hz_and_as_quiet_as_modmas(study: Path) -> None:
    folders = [folder for folder in (study / AUDIO).iterdir() if folder.is_dir()]
    assert len(folders) == 4
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == ["01.wav", "02.wav"]
        for path in folder.iterdir():
            info = soundfile.info(path)
            assert (info.samplerate, info.subtype) == (44100, "PCM_24")
            peak_db = 20 * np.log10(np.abs(soundfile.read(path)[0]).max())
            assert -53 < peak_db < -27


def test_workbooks_have_modmas_header_junk_columns_and_empty_sheets(study: Path) -> None:
    truth = pq.read_table(study / "truth.parquet")
    for folder, id_type in ((REST, str), (AUDIO, int)):
        book = openpyxl.load_workbook(study / folder / f"subjects_information_{folder}.xlsx")
        header, *rows = book["Sheet1"].iter_rows(values_only=True)
        assert header[:5] == ("subject id", "type", "age", "gender", "education（years）")
        assert header[5:11] == ("PHQ-9", "CTQ-SF", "LES", "SSRS", "GAD-7", "PSQI")
        assert len(header) == 13
        assert {type(row[0]) for row in rows} == {id_type}
        assert [str(row[0]).zfill(8) for row in rows] == truth["subject_id"].to_pylist()
        assert [int(row[1] == "MDD") for row in rows] == truth["label"].to_pylist()
        assert [sheet.max_row for sheet in book.worksheets[1:]] == [1, 1]


def test_modmas_own_reader_places_every_file(study: Path) -> None:
    found = modma.find(study)
    truth = pq.read_table(study / "truth.parquet")
    assert not found.unplaced
    assert len(found.recordings) == 4 * 3
    label_of = dict(zip(truth["subject_id"].to_pylist(), truth["label"].to_pylist(), strict=True))
    assert {(item.subject_id, item.label) for item in found.recordings} == set(label_of.items())


def test_ids_and_file_names_stay_unique_at_modmas_size() -> None:
    config = Synth(subjects=200, clips=1)
    subjects = [synthetic._subject(config, 0, index) for index in range(config.subjects)]
    assert len({subject.person.subject_id for subject in subjects}) == 200
    assert {subject.person.subject_id[:4] for subject in subjects} == {"0201", "0202", "0203"}
    assert {subject.person.label for subject in subjects if subject.person.subject_id.startswith("0201")} == {1}


def test_nothing_that_colours_the_voice_depends_on_the_class_without_coupling() -> None:
    config = Synth(subjects=3000, clips=1, coupling=0, label_effect=5)
    subjects = [synthetic._subject(config, 0, index) for index in range(config.subjects)]
    label_S = np.array([subject.person.label for subject in subjects])

    def gap(value_S: np.ndarray) -> float:
        return float(abs(value_S[label_S == 1].mean() - value_S[label_S == 0].mean()) / value_S.std())

    assert gap(np.array([subject.person.gender == "F" for subject in subjects])) < 0.15
    assert gap(np.array([subject.eeg["alpha_power"] for subject in subjects])) > 0.5
    for name in subjects[0].voice:
        assert gap(np.array([subject.voice[name] for subject in subjects])) < 0.15


def test_truth_carries_the_settings_an_oracle_needs(study: Path) -> None:
    metadata = pq.read_table(study / "truth.parquet").schema.metadata
    assert {name.decode(): json.loads(value) for name, value in metadata.items()} == {
        "coupling": 0.8,
        "label_effect": 1.0,
        "traits": 8,
    }


def test_first_eeg_trait_is_seen_as_alpha_power_in_the_mat_files(clean_study: Path) -> None:
    power = {}
    for path in (clean_study / REST).glob("*.mat"):
        uv_EN = next(value for name, value in loadmat(path).items() if name.startswith("a02"))[:128]
        frequency_F, psd_EF = welch(uv_EN - uv_EN.mean(0), 250, nperseg=500)
        psd_F = np.median(psd_EF, axis=0)
        band_F = (frequency_F >= 6) & (frequency_F <= 14)
        power[path.name[:8]] = psd_F[band_F].max()
    truth = pq.read_table(clean_study / "truth.parquet")
    alpha = [power[subject] for subject in truth["subject_id"].to_pylist()]
    assert spearmanr(alpha, truth["eeg_0"].to_numpy()).statistic > 0.8


def test_first_voice_trait_is_heard_as_f0_in_the_wav_files(clean_study: Path) -> None:
    truth = pq.read_table(clean_study / "truth.parquet")
    heard = []
    for subject in truth["subject_id"].to_pylist():
        wave_N, rate = soundfile.read(clean_study / AUDIO / subject / "01.wav", always_2d=True)
        heard.append(median_f0(wave_N[:, 0], rate))
    assert spearmanr(heard, truth["audio_0"].to_numpy()).statistic > 0.8


def median_f0(wave_N: np.ndarray, rate: int) -> float:
    """By autocorrelation, over the frames that have a clear period."""
    length = int(0.05 * rate)
    periods = []
    for start in range(0, len(wave_N) - length, length):
        frame = wave_N[start : start + length] * np.hanning(length)
        lag = np.fft.irfft(np.abs(np.fft.rfft(frame, 2 * length)) ** 2)[:length]
        low, high = rate // 400, rate // 60
        best = low + int(np.argmax(lag[low:high]))
        if lag[best] > 0.5 * lag[0]:
            periods.append(best)
    return rate / float(np.median(periods))
