"""The listening study: same bytes, readable by MNE, a response where it was put, and nothing else that is shared."""

from __future__ import annotations

import hashlib
import re

import mne
import numpy as np
import pytest
import soundfile

from mmray import config
from mmray.errors import ConfigError, RecordingError, WorkspaceError
from mmray.recordings import catalogue, listening, synthetic_eeg

SIZE = config.Listening(subjects=4, trials=2, trial_seconds=12, response_db=(0.0, 0.0))


@pytest.fixture(scope="module")
def study(tmp_path_factory, ray_session):
    folder = tmp_path_factory.mktemp("listening") / "study"
    listening.generate(folder, SIZE, 0, config.Cluster())
    return folder


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_same_seed_and_settings_same_bytes_and_another_seed_others(study, tmp_path):
    listening.generate(tmp_path / "again", SIZE, 0, config.Cluster())
    listening.generate(tmp_path / "other", SIZE, 1, config.Cluster())
    one, again, other = (hashes(folder) for folder in (study, tmp_path / "again", tmp_path / "other"))
    assert one == again
    assert not [name for name in one if name.endswith(("edf", "wav")) and one[name] == other[name]]


def test_a_lost_file_alone_is_made_again(study, tmp_path):
    before = hashes(study)
    for name in ("manifest.csv", "L002-t01.edf", "L003-t02.wav"):
        (study / name).unlink()
    listening.generate(study, SIZE, 0, config.Cluster())
    assert hashes(study) == before


def test_a_study_of_other_settings_is_refused(study):
    with pytest.raises(WorkspaceError, match="trials"):
        listening.generate(study, SIZE.model_copy(update={"trials": 3}), 0, config.Cluster())


def test_each_trial_is_a_pair_of_eeg_and_voice(study):
    found = catalogue.find(config.Study(kind="listening", root=str(study))).recordings
    assert len(found) == 16
    for recording in found:
        assert recording.recording_id == f"{recording.pair_id}-{recording.modality}"
        assert recording.pair_id.startswith(f"{recording.subject_id}-")
        assert recording.label is None


def test_a_study_cut_short_is_not_found(tmp_path):
    with pytest.raises(RecordingError, match=re.escape("manifest.csv")):
        catalogue.find(config.Study(kind="listening", root=str(tmp_path)))


def test_mne_reads_the_edf_as_it_was_meant(tmp_path):
    rng = np.random.default_rng(0)
    uv_ET = rng.normal(0, 40, (len(listening.ELECTRODES), 750)) + 500 * np.arange(32)[:, None]
    (tmp_path / "a.edf").write_bytes(listening._edf(uv_ET, "L001-t01"))
    raw = mne.io.read_raw_edf(tmp_path / "a.edf", preload=True, verbose="error")
    assert tuple(raw.ch_names) == listening.ELECTRODES
    assert (raw.info["sfreq"], raw.n_times) == (250, 750)
    np.testing.assert_allclose(1e6 * raw.get_data(), uv_ET - uv_ET.mean(1, keepdims=True), atol=0.051)


def test_electrodes_are_of_the_net_and_stand_once():
    names = mne.channels.make_standard_montage("GSN-HydroCel-129").ch_names
    assert len(set(listening.ELECTRODES)) == 32
    assert set(listening.ELECTRODES) <= set(names)


@pytest.mark.parametrize("level_db", [-15.0, 0.0])
def test_the_level_is_the_responses_power_over_the_rests(level_db):
    rng = np.random.default_rng(1)
    rest_ET, answer_ET = rng.normal(size=(8, 5000)), 7 * rng.normal(size=(8, 5000))
    bad_E = np.arange(8) == 3
    rest_ET[3] *= 1000
    added_ET = listening.with_response(rest_ET, bad_E, answer_ET, level_db) - rest_ET
    psd = [
        mne.time_frequency.psd_array_welch(x - x.mean(0), 250, 1, 45, n_fft=1000, verbose=0)[0].mean()
        for x in (added_ET[~bad_E], rest_ET[~bad_E])
    ]
    assert 10 * np.log10(psd[0] / psd[1]) == pytest.approx(level_db, abs=0.3)


def test_the_scalp_answers_after_the_speech(study):
    """Cross-correlation of envelope and frontocentral voltage, over all trials, is largest where the response lies."""
    lags = np.arange(-75, 100)
    total = np.zeros(len(lags))
    for path in sorted(study.glob("*.edf")):
        raw = mne.io.read_raw_edf(path, preload=True, verbose="error").filter(1, 15, verbose="error")
        voice, _ = soundfile.read(path.with_suffix(".wav"))
        heard = listening.envelope(voice, raw.n_times)
        front = raw.get_data(["E6", "E11", "E13", "E112"]).mean(0)
        total += [np.corrcoef(heard[100:-100], np.roll(front, -lag)[100:-100])[0, 1] for lag in lags]
    assert 0.05 < lags[np.abs(total).argmax()] / 250 < 0.25


def test_an_impulse_is_answered_within_a_quarter_of_a_second():
    for seed in range(20):
        answer_T = listening.response(np.random.default_rng(seed))
        assert len(answer_T) <= 0.25 * synthetic_eeg.SAMPLING_RATE_HZ + 1
        assert 0.07 < answer_T.argmin() / synthetic_eeg.SAMPLING_RATE_HZ < 0.13  # N1
        assert answer_T.min() < -0.3 < 0.3 < answer_T.max()
        assert abs(answer_T[0]) < 0.05


def test_levels_the_wrong_way_round_are_refused():
    with pytest.raises(ConfigError, match="lower level first"):
        config.from_dict({"listening": {"response_db": [0, -15]}})
