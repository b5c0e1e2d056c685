from __future__ import annotations

import sys
from typing import get_args

import numpy as np
import pytest
import scipy.io
import soundfile

from mmray.config import EEG, Audio, Features, Similarity
from mmray.errors import ConfigError, RecordingError
from mmray.features import artefacts, eeg_nodes
from mmray.features.extract import decisions, extract, shape
from mmray.features.table import from_table
from mmray.recordings.signals import content_sha256
from mmray.schema import features_schema
from tests.features.recordings import EEGLAB, FEIS, recording
from tests.recordings.made_files import rhythms, write_edf


def write_wav(path, seconds=9.0, channels=1, level=0.1):
    t = np.arange(round(44100 * seconds)) / 44100
    wave = level * np.sin(2 * np.pi * 150 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))
    soundfile.write(path, np.repeat(wave[:, None], channels, axis=1), 44100, subtype="PCM_24")
    return path


def write_mat(path, data):
    scipy.io.savemat(path, {"a02010002rest": data, "samplingRate": np.array([[250.0]])})
    return path


def resting(seconds=20, seed=0):
    """129 x N microvolts over a large offset, with smooth sources shared by the electrodes."""
    rng = np.random.default_rng(seed)
    source = np.cumsum(rng.normal(size=(5, 250 * seconds)), axis=1)
    data = rng.normal(size=(129, 5)) @ source * 0.5 + rng.normal(size=(129, 250 * seconds)) + 2e4
    data[128] = 0
    return data


def test_alpha_of_the_eeglab_recording_peaks_over_the_occiput(real_data):
    file = recording(real_data / "eeglab" / "eeglab_data.set", "eeg", "mne")
    x = from_table(extract(file, Features(eeg=EEGLAB))).x_SND
    # alpha stands out of its neighbours, so that a loud electrode does not win by being loud
    alpha = (x[..., 2] - 0.5 * (x[..., 1] + x[..., 3])).mean(0)
    occiput = [name.startswith(("PO", "O")) for name in EEGLAB.channels]
    front = [name.startswith(("F", "C", "T")) for name in EEGLAB.channels]
    assert EEGLAB.channels[alpha.argmax()] in {"PO3", "POz", "PO4", "O1", "Oz", "O2"}
    assert alpha[occiput].mean() > alpha[front].mean() + 0.1


def test_feis_epochs_become_one_second_segments_inside_their_epochs(real_data):
    file = recording(real_data / "feis" / "data_eeg" / "01" / "articulators.zip", "eeg", "feis")
    starts = extract(file, FEIS)["start_s"].to_pylist()
    assert 150 <= len(starts) <= 160
    assert set(starts) <= set(range(160))


def test_rows_of_both_modalities_follow_the_schema(real_data, tmp_path):
    voice = extract(recording(write_wav(tmp_path / "a b-ü.wav"), "audio", "soundfile"), FEIS)
    zipped = recording(real_data / "feis" / "data_eeg" / "12" / "articulators.zip", "eeg", "feis")
    scalp = extract(zipped, FEIS)
    assert voice.schema.equals(features_schema("audio", *shape("audio", FEIS), FEIS.audio.neighbours))
    assert scalp.schema.equals(features_schema("eeg", *shape("eeg", FEIS), FEIS.eeg.neighbours))
    assert scalp["source_sha256"].unique().to_pylist() == [content_sha256(zipped.path)]
    for table in (voice, scalp):
        graphs = from_table(table)
        assert np.isfinite(graphs.x_SND).all()
        assert ((graphs.weight_SNK >= 0) & (graphs.weight_SNK <= 1)).all()
        assert (graphs.neighbour_SNK != np.arange(graphs.shape[0])[None, :, None]).all()


def test_segment_id_is_the_recording_and_its_start_in_milliseconds(tmp_path):
    file = recording(write_wav(tmp_path / "v.wav"), "audio", "soundfile", name="s1-v")
    table = extract(file, Features(audio=Audio(trim_db=None)))
    assert table["segment_id"].to_pylist() == ["s1-v@00000000", "s1-v@00004000"]


def test_the_same_file_yields_the_same_rows(tmp_path):
    file = recording(write_mat(tmp_path / "r..mat", resting()), "eeg", "modma-mat")
    assert extract(file, Features()).equals(extract(file, Features()))


def test_gain_changes_only_the_level_column(tmp_path):
    loud = extract(recording(write_wav(tmp_path / "v.wav"), "audio", "soundfile"), Features())
    quiet = extract(recording(write_wav(tmp_path / "v.wav", level=0.001), "audio", "soundfile"), Features())
    np.testing.assert_allclose(from_table(loud).x_SND, from_table(quiet).x_SND, atol=0.02)
    difference = loud["quality_level_dbfs"].to_numpy() - quiet["quality_level_dbfs"].to_numpy()
    np.testing.assert_allclose(difference, 40, atol=0.1)


def test_clipping_is_counted_on_the_clip_as_recorded(tmp_path):
    table = extract(recording(write_wav(tmp_path / "v.wav", level=3.0), "audio", "soundfile"), Features())
    assert 0.2 < table["quality_clipped_fraction"][0].as_py() < 0.95


@pytest.mark.parametrize("similarity", get_args(Similarity))
def test_every_eeg_similarity_gives_graphs(tmp_path, similarity):
    file = recording(write_mat(tmp_path / "r.mat", resting(8)), "eeg", "modma-mat")
    graphs = from_table(extract(file, Features(eeg=EEG(similarity=similarity))))
    assert graphs.x_SND.shape == (2, 128, eeg_nodes.width(EEG()))
    assert graphs.weight_SNK.max() > 0


def test_the_band_of_a_connectivity_is_the_settings_and_moves_its_edges_alone(tmp_path):
    file = recording(write_mat(tmp_path / "r.mat", resting(8)), "eeg", "modma-mat")
    weights = {}
    for band in ("alpha", "beta", None):
        for kind in ("coherence", "phase_locking"):
            settings = Features(eeg=EEG(similarity=kind, connectivity_band=band))
            weights[kind, band] = from_table(extract(file, settings)).weight_SNK
    assert not np.array_equal(weights["coherence", "alpha"], weights["coherence", "beta"])
    assert not np.array_equal(weights["coherence", "alpha"], weights["coherence", None])
    np.testing.assert_array_equal(weights["phase_locking", "alpha"], weights["phase_locking", None])


def test_nan_and_constant_channels_are_counted_and_mended(tmp_path):
    data = resting()
    data[3, 100:200] = np.nan
    data[60] = 5.0
    table = extract(recording(write_mat(tmp_path / "r.mat", data), "eeg", "modma-mat"), Features())
    assert set(table["quality_bad_channels"].to_pylist()) == {2.0}


def test_bad_electrodes_are_told_by_name_and_reason(tmp_path):
    data = resting()
    data[3, 100:200] = np.nan
    data[60] = 5.0
    table = extract(recording(write_mat(tmp_path / "r.mat", data), "eeg", "modma-mat"), Features())
    told = decisions(table.schema.metadata)
    assert told["bad_channels"] == [{"name": "E4", "why": "not finite"}, {"name": "E61", "why": "flat"}]
    assert (told["segments"], told["kept"], told["components_removed"]) == (5, 5, [])


@pytest.mark.parametrize("number", [1e15, -1e300, np.inf])
def test_a_number_that_no_amplifier_gives_makes_its_electrode_bad(tmp_path, number):
    data = resting()
    data[3, 100] = number
    told = decisions(
        extract(recording(write_mat(tmp_path / "r.mat", data), "eeg", "modma-mat"), Features()).schema.metadata
    )
    assert told["bad_channels"] == [{"name": "E4", "why": "not finite"}]
    assert told["kept"] == 5


def test_segments_with_too_little_speech_are_dropped(tmp_path):
    path = write_wav(tmp_path / "v.wav", seconds=12.0)
    wave, rate = soundfile.read(path)
    wave[4 * rate : 8 * rate] *= 1e-4
    soundfile.write(path, wave, rate, subtype="PCM_24")
    file = recording(path, "audio", "soundfile")
    settings = Features(audio=Audio(min_active=0.5))
    table = extract(file, settings)
    assert table["start_s"].to_pylist() == [0.0, 8.0]
    told = decisions(table.schema.metadata)
    assert (told["segments"], told["kept"]) == (3, 2)
    assert told["active_fraction"] == pytest.approx(2 / 3, abs=0.03)
    assert told["snr_db"] == pytest.approx(80, abs=3)
    everything = extract(file, Features())
    rows = [0, 2]
    np.testing.assert_array_equal(from_table(table).x_SND, from_table(everything).x_SND[rows])
    np.testing.assert_allclose(everything["quality_active_fraction"].to_numpy(), [1, 0.05, 1], atol=0.05)


def test_a_clip_without_speech_enough_is_a_recording_error(tmp_path):
    path = write_wav(tmp_path / "v.wav", seconds=8.0)
    wave, rate = soundfile.read(path)
    wave[rate // 2 :] *= 1e-4
    soundfile.write(path, wave, rate, subtype="PCM_24")
    with pytest.raises(RecordingError, match=r"v\.wav: none of its 2 segments holds as much speech.*min_active=0\.9"):
        extract(recording(path, "audio", "soundfile"), Features(audio=Audio(min_active=0.9, trim_db=None)))


@pytest.mark.parametrize(("name", "module"), [("ica", "mne_icalabel"), ("autoreject", "autoreject")])
def test_a_missing_extra_is_a_config_error_that_names_it(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    file = recording(write_mat(tmp_path / "r.mat", resting()), "eeg", "modma-mat")
    with pytest.raises(ConfigError, match=rf"features\.eeg\.{name} needs the extra: pip install 'mmray\[{name}\]'"):
        extract(file, Features(eeg=EEG(**{name: True})))


def test_a_rejected_segment_leaves_the_others_as_they_are(tmp_path):
    data = resting()
    data[:128, 1000:1250] += 2000 * np.sin(2 * np.pi * 8 * np.arange(250) / 250) * np.linspace(-1, 1, 128)[:, None]
    file = recording(write_mat(tmp_path / "r.mat", data), "eeg", "modma-mat")
    some, everything = (from_table(extract(file, Features(eeg=EEG(reject_uv=uv)))) for uv in (200.0, 1e6))
    kept = np.isin(everything.start_s_S, some.start_s_S)
    assert 0 < np.flatnonzero(~kept).min() < len(kept) - 1
    np.testing.assert_array_equal(some.x_SND, everything.x_SND[kept])
    np.testing.assert_array_equal(some.neighbour_SNK, everything.neighbour_SNK[kept])


def test_a_burst_costs_its_segment_and_shows_in_kept_fraction(tmp_path):
    data = resting()
    data[:128, 1000:1250] += 2000 * np.sin(2 * np.pi * 8 * np.arange(250) / 250) * np.linspace(-1, 1, 128)[:, None]
    table = extract(recording(write_mat(tmp_path / "r.mat", data), "eeg", "modma-mat"), Features())
    assert 4.0 not in table["start_s"].to_pylist()
    assert table["quality_kept_fraction"][0].as_py() < 1


def too_many_bad(path):
    data = resting()
    data[:50] = np.nan
    return recording(write_mat(path / "r.mat", data), "eeg", "modma-mat")


def wrong_scale(path):
    return recording(write_mat(path / "r.mat", resting() * 1000), "eeg", "modma-mat")


def too_short(path):
    return recording(write_mat(path / "r.mat", resting()[:, :900]), "eeg", "modma-mat")


def all_constant(path):
    return recording(write_mat(path / "r.mat", np.ones((129, 5000))), "eeg", "modma-mat")


def all_nan(path):
    return recording(write_mat(path / "r.mat", np.full((129, 5000), np.nan)), "eeg", "modma-mat")


def short_clip(path):
    return recording(write_wav(path / "v.wav", 1.0), "audio", "soundfile")


def silent_clip(path):
    return recording(write_wav(path / "v.wav", 9.0, level=0.0), "audio", "soundfile")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (too_many_bad, "50 of 128 electrodes are bad.*max_bad_fraction"),
        (wrong_scale, r"each of its 5 segments exceeds .*reject_uv=200 .*; check features\.eeg\.scale_to_volts, or"),
        (too_short, "lower features.eeg.segment_s"),
        (all_constant, "128 of 128 electrodes are bad"),
        (all_nan, "every EEG sample is NaN"),
        (short_clip, "lower features.audio.segment_s"),
        (silent_clip, "silent"),
    ],
)
def test_an_unusable_recording_is_refused_by_file_and_reason(tmp_path, make, reason):
    file = make(tmp_path)
    with pytest.raises(RecordingError, match=reason) as caught:
        extract(file, Features())
    assert str(caught.value).count(file.path) == 1


def test_a_wrong_unit_of_a_file_that_states_one_is_the_files(tmp_path):
    names = ["F3", "F4", "C3", "C4", "O1", "O2"]
    file = recording(write_edf(tmp_path / "a.edf", 20 * rhythms(6, 20, 100), names, 100), "eeg", "mne")
    config = EEG(montage="standard_1020", channels=tuple(names), neighbours=3, lowpass_hz=40)
    with pytest.raises(
        RecordingError, match=r"exceeds .*reject_uv=200 .*; correct the unit that the file states, or raise"
    ):
        extract(file, Features(eeg=config))


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (0, r"features\.eeg\.autoreject drops each of its 5 segments; look at"),
        (2, r"autoreject drops 3 of its 5 segments, each of the others exceeds .*reject_uv=0\.1 .*scale_to_volts"),
    ],
)
def test_what_autoreject_drops_does_not_exceed_a_range(tmp_path, monkeypatch, kept, reason):
    monkeypatch.setattr(artefacts, "repair_segments", lambda signal_SNT, *_: (signal_SNT, np.arange(5) < kept))
    file = recording(write_mat(tmp_path / "r.mat", resting()), "eeg", "modma-mat")
    with pytest.raises(RecordingError, match=reason):
        extract(file, Features(eeg=EEG(autoreject=True, reject_uv=0.1)))


def test_wrong_electrodes_are_refused(real_data):
    file = recording(real_data / "feis" / "data_eeg" / "01" / "articulators.zip", "eeg", "feis")
    with pytest.raises(RecordingError, match="found 0 of the 128 electrodes"):
        extract(file, Features())


def test_shape_tells_nodes_and_width_before_any_file_is_read():
    assert shape("eeg", Features()) == (128, 8)
    assert shape("audio", Features()) == (32, 69)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Features(eeg=EEG(montage="GSN-128")), "montage"),
        (Features(eeg=EEG(channels=("E1", "E2", "E3"))), "neighbours"),
        (Features(eeg=EEG(channels=("E1", "E1", "E3"), neighbours=2)), "twice"),
    ],
)
def test_settings_that_fit_no_recording_are_config_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        shape("eeg", settings)
