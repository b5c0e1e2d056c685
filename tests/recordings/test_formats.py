"""Every format goes the whole way: found, read, and made into segment graphs."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import mne
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Study, from_dict
from mmray.errors import RecordingError
from mmray.features.extract import extract
from mmray.recordings import catalogue, mne_files, signals
from mmray.recordings.signals import open_audio, open_eeg, read_eeg, spans_within
from tests.recordings.made_files import rhythms, write_brainvision, write_edf
from tests.recordings.modma_tree import recording

NAMES = ["F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"]
FEATURES = from_dict(
    {"features": {"eeg": {"montage": "standard_1020", "channels": NAMES, "segment_s": 1, "neighbours": 3},
                  "audio": {"segment_s": 1, "nodes": 8, "neighbours": 3}}}
).features  # fmt: skip
RATE = 200


@pytest.fixture(scope="module")
def data():
    return rhythms(8, 6, RATE)


def raw_of(data):
    return mne.io.RawArray(data * 1e-6, mne.create_info(NAMES, RATE, "eeg"), verbose="error")


WRITERS = {
    "edf": lambda path, data: write_edf(path, data, [f"EEG {name}-REF" for name in NAMES], RATE),
    "bdf": lambda path, data: write_edf(path, data, [f"{name.upper()}." for name in NAMES], RATE),
    "vhdr": lambda path, data: write_brainvision(path, data, NAMES, RATE),
    "fif": lambda path, data: raw_of(data).save(path, verbose="error"),
}


def write(root, suffix, data):
    path = root / "sub-01" / "eeg" / f"sub-01_task-rest_eeg.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[suffix](path, data)
    return path


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_a_generated_recording_becomes_the_graphs_of_its_own_signal(tmp_path, data, suffix):
    write(tmp_path, suffix, data)
    [found] = catalogue.find(Study(kind="bids", root=str(tmp_path))).recordings
    signal = read_eeg(found, 1.0)
    np.testing.assert_allclose(signal.data_CT * 1e6, data, atol=0.06)
    rows = extract(found, FEATURES)
    assert rows.num_rows == 6
    assert rows["x"].combine_chunks().to_numpy_ndarray().shape[1:] == (8, 8)


def test_channels_in_another_order_and_spelling_give_the_same_rows(tmp_path, data):
    straight = write_edf(tmp_path / "a.edf", data, NAMES, RATE)
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    names = [f"EEG {NAMES[place].upper()}-LE" for place in order]
    mixed = write_edf(tmp_path / "b.edf", data[order], names, RATE)
    one, two = (extract(recording(path, "mne"), FEATURES, "same") for path in (straight, mixed))
    assert one.drop_columns(["segment_id"]).equals(two.drop_columns(["segment_id"]))


def test_an_ambiguous_channel_is_refused_with_the_files_name(tmp_path, data):
    path = write_edf(tmp_path / "a.edf", data, ["C3-A1", "C3-A2", *NAMES[2:]], RATE)
    with pytest.raises(RecordingError, match=r"a\.edf: channels 'C3-A1' and 'C3-A2' are both electrode C3"):
        read_eeg(recording(path, "mne"), 1.0)


def test_the_real_eeglab_recording_goes_the_whole_way(real_data, tmp_path):
    place = tmp_path / "sub-1" / "eeg"
    place.mkdir(parents=True)
    header = zipfile.ZipFile(tmp_path / "set.zip", "w")
    for suffix in ("set", "fdt"):
        file = real_data / "eeglab" / f"eeglab_data.{suffix}"
        shutil.copy(file, place / f"sub-1_task-x_eeg.{suffix}")
        header.write(file, f"folder/eeglab_data.{suffix}")
    header.close()
    channels = ["F3", "Fz", "F4", "C3", "Cz", "C4", "P3", "Pz", "P4", "O1", "Oz", "O2"]
    settings = {"montage": "standard_1020", "channels": channels, "neighbours": 4, "lowpass_hz": 40}
    features = from_dict({"features": {"eeg": settings}}).features
    [found] = catalogue.find(Study(kind="bids", root=str(tmp_path))).recordings
    rows = extract(found, features, "same")
    assert rows.num_rows > 40
    zipped = extract(recording(tmp_path / "set.zip", "mne"), features, "same")
    assert zipped["x"].equals(rows["x"])


@pytest.mark.parametrize(
    ("suffix", "form", "subtype"),
    [
        ("wav", "WAV", "PCM_16"),
        ("flac", "FLAC", "PCM_16"),
        ("ogg", "OGG", "VORBIS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_every_kind_of_sound_beside_bids_becomes_graphs(tmp_path, suffix, form, subtype):
    time_T = np.arange(3 * 44100) / 44100
    voice_T = 0.2 * np.sign(np.sin(2 * np.pi * 140 * time_T)) * (1 + np.sin(2 * np.pi * 3 * time_T)) / 2
    path = tmp_path / "sub-01" / "audio" / f"sub-01_task-story_audio.{suffix}"
    path.parent.mkdir(parents=True)
    soundfile.write(path, voice_T, 44100, format=form, subtype=subtype)
    [found] = catalogue.find(Study(kind="bids", root=str(tmp_path))).recordings
    assert extract(found, FEATURES).num_rows >= 2


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_windows_of_a_file_are_what_it_holds(tmp_path, data, suffix):
    with open_eeg(recording(write(tmp_path, suffix, data), "mne"), 1.0) as file:
        whole = file.read(0, file.samples)
        for start, stop in ((0, 1), (199, 555), (1000, file.samples)):
            window = file.read(start, stop)
            np.testing.assert_array_equal(window.data_CT, whole.data_CT[:, start:stop])
            assert window.spans == spans_within(whole.spans, start, stop)


@pytest.mark.parametrize(("suffix", "subtype"), [("wav", "PCM_24"), ("flac", "PCM_16"), ("ogg", None), ("mp3", None)])
def test_windows_of_sound_are_what_the_file_holds(tmp_path, suffix, subtype):
    wave = 0.3 * np.sin(np.arange(5 * 22_050) / 20 + 3e-5 * np.arange(5 * 22_050) ** 2)
    soundfile.write(tmp_path / f"a.{suffix}", wave, 22_050, subtype=subtype)
    with open_audio(recording(tmp_path / f"a.{suffix}", "soundfile")) as file:
        whole_CT = file.read(0, file.samples).data_CT
        for start, stop in ((0, 100), (33_333, 77_777), (100_000, file.samples)):
            np.testing.assert_array_equal(file.read(start, stop).data_CT, whole_CT[:, start:stop])


@given(st.lists(st.integers(0, 60), min_size=2, max_size=8, unique=True), st.integers(0, 60), st.integers(0, 60))
def test_spans_within_a_window_are_those_of_its_samples(cuts, start, stop):
    cuts = sorted(cuts)
    spans = tuple(zip(cuts[::2], cuts[1::2], strict=False))
    used = np.zeros(61, dtype=bool)
    for first, last in spans:
        used[first:last] = True
    found = np.zeros(max(0, stop - start), dtype=bool)
    for first, last in spans_within(spans, start, stop):
        found[first:last] = True
    np.testing.assert_array_equal(found, used[start:stop])


def test_an_eeglab_file_too_large_to_be_read_whole_is_to_be_saved_in_two(tmp_path, real_data, monkeypatch):
    path = Path(shutil.copy(real_data / "eeglab" / "eeglab_data.set", tmp_path / "a.set"))
    monkeypatch.setattr(mne_files, "_MOST_BYTES", 1000)
    with pytest.raises(RecordingError, match=r"a\.set: .*two files \(\.set and \.fdt\), or export it as EDF or FIF"):
        read_eeg(recording(path, "mne"), 1.0)


def test_a_recording_too_long_to_be_held_is_not_read_at_once(tmp_path, data, monkeypatch):
    path = write(tmp_path, "edf", data)
    monkeypatch.setattr(signals, "MOST_SAMPLES", 8 * 1199)
    with pytest.raises(RecordingError, match=r"8 channels are too much to be read at once"):
        read_eeg(recording(path, "mne"), 1.0)


def test_records_with_gaps_between_them_are_refused(tmp_path, data):
    path = write_edf(tmp_path / "a.edf", data, NAMES, RATE, reserved="EDF+D")
    with pytest.raises(RecordingError, match="not contiguous"):
        read_eeg(recording(path, "mne"), 1.0)


@pytest.mark.parametrize("suffix", ["edf", "bdf"])
@pytest.mark.parametrize("lost", [1, 4000])
def test_an_edf_cut_short_is_refused(tmp_path, data, suffix, lost):
    path = write(tmp_path, suffix, data)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(RecordingError, match=r"promises 6 records, .* it was cut short"):
        read_eeg(recording(path, "mne"), 1.0)


def test_an_edf_whose_recorder_never_wrote_how_long_it_is_is_read(tmp_path, data):
    path = write(tmp_path, "edf", data)
    content = bytearray(path.read_bytes())
    content[236:244] = b"-1      "
    path.write_bytes(content)
    assert read_eeg(recording(path, "mne"), 1.0).data_CT.shape == data.shape


def fast(data, rate, label="ECG"):
    """A channel beside the electrodes that has a rate of its own."""
    seconds = data.shape[1] // RATE
    return {label: 100 * np.sin(np.arange(seconds * rate) / 7)}


@pytest.mark.parametrize("suffix", ["edf", "bdf"])
@pytest.mark.parametrize("others", [{"ECG": 512}, {"SaO2": 1}, {"ECG": 1000, "Temp": 4, "E1-M2": 256, "Status": 400}])
def test_channels_of_other_rates_leave_the_electrodes_as_they_are(tmp_path, data, suffix, others):
    beside = {label: channel for name, rate in others.items() for label, channel in fast(data, rate, name).items()}
    path = write_edf(tmp_path / f"sub-01_eeg.{suffix}", data, NAMES, RATE, others=beside)
    sidecar(path.with_suffix(".json"), RATE)
    with open_eeg(recording(path, "mne"), 1.0) as file:
        assert (file.sampling_rate_hz, file.channels, file.samples) == (RATE, tuple(NAMES), data.shape[1])
        for start, stop in ((0, file.samples), (150, 333), (1001, 1007)):
            np.testing.assert_allclose(file.volts(start, stop) * 1e6, data[:, start:stop], atol=0.06)


def test_a_channel_of_the_electrodes_rate_stays_beside_one_of_another(tmp_path, data):
    path = write_edf(tmp_path / "a.edf", data, NAMES, RATE, others=fast(data, RATE, "EOG") | fast(data, 512))
    assert read_eeg(recording(path, "mne"), 1.0).channels == (*NAMES, "EOG")


def test_what_an_edf_marks_as_bad_is_cut_out_beside_channels_of_other_rates(tmp_path, data):
    records = [f"+{second}\x14\x14\0" for second in range(6)]
    records[2] += "+2.5\x150.25\x14BAD blink\x14\0"
    text = b"".join(record.encode().ljust(60, b"\0") for record in records)
    notes = {"EDF Annotations": np.frombuffer(text, "<i2") * 0.1}  # of a microvolt a digit
    path = write_edf(tmp_path / "a.edf", data, NAMES, RATE, "EDF+C", fast(data, 512) | notes)
    signal = read_eeg(recording(path, "mne"), 1.0)
    assert signal.spans == ((0, 500), (550, 1200))
    assert signal.channels == tuple(NAMES)


def test_electrodes_of_two_rates_are_refused_naming_one_of_each(tmp_path, data):
    path = write_edf(tmp_path / "a.edf", data, NAMES, RATE, others=fast(data, 400, "EEG Fz-REF"))
    with pytest.raises(
        RecordingError, match=r"a\.edf: its electrodes are .* 2 rates \('O2' at 200 Hz, 'EEG Fz-REF' at 400"
    ):
        read_eeg(recording(path, "mne"), 1.0)


def test_where_several_rates_and_no_electrode_stand_the_file_is_refused(tmp_path, data):
    path = write_edf(tmp_path / "a.edf", data[:1], ["EEG Fpz-Cz"], RATE, others=fast(data, 1, "Resp"))
    with pytest.raises(RecordingError, match=r"none of its channels is named as an electrode"):
        read_eeg(recording(path, "mne"), 1.0)


def sidecar(path, rate):
    path.write_text(json.dumps({"SamplingFrequency": rate, "TaskName": "rest"}))
    return path


@pytest.mark.parametrize(
    "place", ["sub-01/eeg/sub-01_task-rest_eeg.json", "sub-01/sub-01_eeg.json", "task-rest_eeg.json"]
)
def test_a_rate_that_header_and_sidecar_disagree_on_is_refused_naming_both(tmp_path, data, place):
    path = write(tmp_path, "edf", data)
    stated = sidecar(tmp_path / place, 250)
    with pytest.raises(RecordingError) as error:
        read_eeg(recording(path, "mne"), 1.0)
    assert all(part in str(error.value) for part in (str(path), str(stated), "200 Hz", "250 Hz"))


def test_a_sidecar_of_another_task_does_not_speak(tmp_path, data):
    path = write(tmp_path, "edf", data)
    sidecar(tmp_path / "task-story_eeg.json", 999)
    sidecar(path.with_name("sub-02_task-rest_eeg.json"), 999)
    assert read_eeg(recording(path, "mne"), 1.0).sampling_rate_hz == 200


def test_the_nearest_sidecar_speaks(tmp_path, data):
    path = write(tmp_path, "edf", data)
    sidecar(tmp_path / "task-rest_eeg.json", 999)
    sidecar(path.with_suffix(".json"), 200.0001)
    assert read_eeg(recording(path, "mne"), 1.0).sampling_rate_hz == 200


def test_a_sidecar_of_all_runs_beside_the_recording_speaks_before_the_datasets(tmp_path, data):
    path = tmp_path / "sub-01" / "eeg" / "sub-01_task-rest_run-1_eeg.edf"
    write_edf(path, data, NAMES, RATE)
    sidecar(tmp_path / "task-rest_eeg.json", 999)
    sidecar(path.with_name("sub-01_eeg.json"), 888)
    sidecar(path.with_name("sub-01_task-rest_run-2_eeg.json"), 777)
    nearest = sidecar(path.with_name("sub-01_task-rest_eeg.json"), 200)
    assert read_eeg(recording(path, "mne"), 1.0).sampling_rate_hz == 200
    sidecar(nearest, 250)
    with pytest.raises(RecordingError, match=r"sub-01_task-rest_eeg\.json says 250 Hz"):
        read_eeg(recording(path, "mne"), 1.0)


@pytest.mark.parametrize("rate", ["n/a", None, 0, -5, True])
def test_a_sidecar_that_states_no_rate_does_no_harm(tmp_path, data, rate):
    path = write(tmp_path, "edf", data)
    sidecar(path.with_suffix(".json"), rate)
    assert read_eeg(recording(path, "mne"), 1.0).sampling_rate_hz == 200


def test_a_sidecar_that_is_no_json_is_refused(tmp_path, data):
    path = write(tmp_path, "edf", data)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(RecordingError, match="not JSON"):
        read_eeg(recording(path, "mne"), 1.0)


NOTES = st.tuples(
    st.integers(0, 190),
    st.integers(0, 60),
    st.sampled_from(["BAD x", "bad", "boundary", "New Segment/", "word boundary", "BAD_ACQ_SKIP"]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(NOTES, max_size=6))
def test_spans_are_what_a_sample_by_sample_count_leaves(notes):
    raw = mne.io.RawArray(np.zeros((1, 200)), mne.create_info(1, 100.0, "eeg"), verbose="error")
    onset, length, text = zip(*notes, strict=True) if notes else ((), (), ())
    raw.set_annotations(mne.Annotations(np.array(onset) / 100, np.array(length) / 100, list(text)), verbose="error")
    used_T, cuts = np.ones(200, dtype=bool), set()
    for first, samples, kind in notes:
        if kind.lower().startswith("bad"):
            used_T[first : first + samples] = False
        if kind != "word boundary":
            cuts.add(first)
    naive = [part for part in np.split(np.arange(200), sorted(cuts | set(np.flatnonzero(np.diff(used_T)) + 1)))]
    expected = tuple((int(part[0]), int(part[-1]) + 1) for part in naive if len(part) and used_T[part[0]])
    assert mne_files.spans(raw) == expected


@pytest.mark.parametrize("joint", ["boundary", "BAD boundary", "EDGE boundary", "New Segment/", "New Segment/part 2"])
def test_what_a_tool_writes_where_it_joins_is_a_joint(joint):
    raw = raw_of(np.zeros((8, 200)))
    raw.set_annotations(mne.Annotations([0.5], [0.2], [joint]))
    assert mne_files.spans(raw) == ((0, 100), (100, 200))


@pytest.mark.parametrize("event", ["word boundary", "phrase_boundary", "Boundary tone", "a New Segment/"])
def test_an_event_that_tells_of_a_boundary_is_no_joint(event):
    raw = raw_of(np.zeros((8, 200)))
    raw.set_annotations(mne.Annotations([0.5], [0.0], [event]))
    assert mne_files.spans(raw) == ((0, 200),)


def test_what_someone_marked_as_bad_is_cut_out(tmp_path, data):
    raw = raw_of(data)
    raw.set_annotations(mne.Annotations([1.0, 2.5, 4.0], [0.5, 0.25, 0.5], ["BAD blink", "bad_muscle", "not bad"]))
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    assert read_eeg(recording(tmp_path / "a_raw.fif", "mne"), 1.0).spans == ((0, 200), (300, 500), (550, 1200))
