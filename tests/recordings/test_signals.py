from __future__ import annotations

import dataclasses
import hashlib
import shutil
import struct

import mne
import numpy as np
import pytest
import soundfile

from mmray.errors import RecordingError
from mmray.features import quality
from mmray.recordings import beside, mne_files
from mmray.recordings.signals import READERS, content, content_sha256, open_audio, read_audio, read_eeg
from tests.recordings.made_files import write_brainvision
from tests.recordings.modma_tree import eeg_129, recording, write_v5, write_v73, write_wav


@pytest.fixture
def eeglab(real_data, tmp_path):
    for suffix in ("set", "fdt"):
        shutil.copy(real_data / "eeglab" / f"eeglab_data.{suffix}", tmp_path)
        (tmp_path / f"eeglab_data.{suffix}").chmod(0o644)
    return tmp_path / "eeglab_data.set"


def raw_of(data_CT, annotations=None, kinds="eeg"):
    info = mne.create_info(len(data_CT), 100.0, kinds)
    raw = mne.io.RawArray(data_CT, info, verbose="error")
    return raw.set_annotations(annotations)


def alpha_share(signal):
    """Power in 8-12 Hz over power in 2-30 Hz, an electrode."""
    spectrum_CF = np.abs(np.fft.rfft(signal.data_CT - signal.data_CT.mean(1, keepdims=True))) ** 2
    hertz_F = np.fft.rfftfreq(signal.data_CT.shape[1], 1 / signal.sampling_rate_hz)
    band = spectrum_CF[:, (hertz_F >= 8) & (hertz_F <= 12)].sum(1)
    return band / spectrum_CF[:, (hertz_F >= 2) & (hertz_F <= 30)].sum(1)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_modma_comes_in_volts_with_its_electrodes_named(tmp_path, write):
    signal = read_eeg(recording(write(tmp_path / "人 1..mat"), "modma-mat"), 1e-6)
    np.testing.assert_allclose(signal.data_CT, eeg_129()[:128] * 1e-6)
    assert signal.channels == tuple(f"E{n}" for n in range(1, 129))
    assert signal.spans == ((0, 600),)


def test_real_feis_eeg_is_160_one_second_spans_around_its_offset_in_volts(real_data):
    signal = read_eeg(recording(real_data / "feis/data_eeg/01/articulators.zip", "feis"), 1e-6)
    assert signal.spans == tuple((256 * n, 256 * (n + 1)) for n in range(160))
    assert 4e-3 < np.median(signal.data_CT) < 4.5e-3
    assert signal.sampling_rate_hz == 256


def test_alpha_of_the_real_eeglab_recording_peaks_over_the_occiput(eeglab):
    signal = read_eeg(recording(eeglab, "mne"), 1e-6)
    share = dict(zip(signal.channels, alpha_share(signal), strict=True))
    occiput, front = ("O1", "Oz", "O2", "PO3", "PO4", "POz"), ("FPz", "F3", "Fz", "F4", "FC1", "FC2")
    assert max(share, key=share.get) in occiput
    assert min(share[name] for name in occiput) > 1.5 * max(share[name] for name in front)


def test_formats_that_state_their_unit_ignore_the_scale(eeglab):
    signal = read_eeg(recording(eeglab, "mne"), 1.0)
    assert 5e-6 < np.median(signal.data_CT.std(axis=1)) < 1e-4


def test_only_eeg_channels_are_read(tmp_path):
    path = tmp_path / "a_raw.fif"
    raw_of(np.ones((3, 200)), kinds=["eeg", "eog", "stim"]).save(path, verbose="error")
    assert read_eeg(recording(path, "mne"), 1.0).data_CT.shape == (1, 200)


def test_a_file_without_eeg_channels_is_refused(tmp_path):
    path = tmp_path / "a_raw.fif"
    raw_of(np.ones((1, 200)), kinds="eog").save(path, verbose="error")
    with pytest.raises(RecordingError, match="MNE cannot read EEG"):
        read_eeg(recording(path, "mne"), 1.0)


def test_joints_cut_and_filled_gaps_are_left_out(tmp_path):
    path = tmp_path / "a_raw.fif"
    notes = mne.Annotations([0.5, 1.0, 1.7], [1.0, 0.2, 0.1], ["boundary", "BAD_ACQ_SKIP", "blink"])
    raw_of(np.ones((2, 200)), notes).save(path, verbose="error")
    assert read_eeg(recording(path, "mne"), 1.0).spans == ((0, 50), (50, 100), (120, 200))


@pytest.mark.parametrize("date", [0, None])
def test_joints_are_placed_right_in_a_file_cropped_from_another_dated_or_not(tmp_path, date):
    path = tmp_path / "a_raw.fif"
    raw = raw_of(np.ones((2, 300))).set_meas_date(date)
    raw.set_annotations(mne.Annotations([1.5], [0.0], ["boundary"], orig_time=raw.info["meas_date"]))
    raw.crop(tmin=1.0).save(path, verbose="error")
    assert read_eeg(recording(path, "mne"), 1.0).spans == ((0, 50), (50, 200))


def test_no_span_reaches_past_the_end(tmp_path):
    raw = raw_of(np.ones((2, 200)))
    raw.annotations.append(2.5, 0.1, "BAD late")  # not held to the data, as set_annotations would
    assert mne_files.spans(raw) == ((0, 200),)


def test_one_nan_or_constant_channel_is_left_to_the_features(tmp_path):
    data = eeg_129()
    data[3], data[5] = np.nan, 7.0
    signal = read_eeg(recording(write_v5(tmp_path / "a.mat", data), "modma-mat"), 1e-6)
    assert np.isnan(signal.data_CT[3]).all()


@pytest.mark.parametrize("reader", list(READERS))
@pytest.mark.parametrize("content", [b"", b"\x00" * 3000, b"no recording at all" * 100])
@pytest.mark.parametrize("suffix", [".mat", ".zip", ".set", ".edf", ".vhdr", ".fif", ".wav", ".nonsense"])
def test_every_reader_refuses_what_is_no_recording_and_names_it(tmp_path, reader, content, suffix):
    path = tmp_path / f"odd ü{suffix}"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="odd ü"):
        read_audio(recording(path, reader)) if reader == "soundfile" else read_eeg(recording(path, reader), 1e-6)


@pytest.mark.parametrize("reader", list(READERS))
def test_every_reader_refuses_a_missing_file_and_names_it(tmp_path, reader):
    gone = recording(tmp_path / "gone.x", reader)
    with pytest.raises(RecordingError, match=r"gone\.x"):
        read_audio(gone) if reader == "soundfile" else read_eeg(gone, 1e-6)


def test_eeglab_without_its_fdt_is_refused(eeglab):
    eeglab.with_suffix(".fdt").unlink()
    with pytest.raises(RecordingError, match="MNE cannot read"):
        read_eeg(recording(eeglab, "mne"), 1e-6)


def test_damaged_fif_files_never_raise_another_error(tmp_path):
    # MNE raises a bare Exception on some of these
    raw_of(np.ones((3, 300))).save(tmp_path / "whole_raw.fif", verbose="error")
    whole = (tmp_path / "whole_raw.fif").read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        start = int(rng.integers(0, 1500))
        (tmp_path / "damaged_raw.fif").write_bytes(whole[:start] + rng.bytes(16) + whole[start + 16 :])
        try:
            read_eeg(recording(tmp_path / "damaged_raw.fif", "mne"), 1.0)
        except RecordingError:
            refused += 1
    assert refused > 5


def test_an_audio_reader_is_refused_for_eeg(tmp_path):
    odd = dataclasses.replace(recording(write_wav(tmp_path / "a.wav"), "soundfile"), modality="eeg")
    with pytest.raises(RecordingError, match="no EEG reader 'soundfile'; known: modma-mat"):
        read_eeg(odd, 1e-6)


@pytest.mark.parametrize(("subtype", "channels"), [("PCM_24", 1), ("PCM_16", 2), ("FLOAT", 1)])
def test_sound_is_what_was_written_and_channels_come_first(tmp_path, subtype, channels):
    path = write_wav(tmp_path / "a b.wav", channels=channels, subtype=subtype)
    signal = read_audio(recording(path, "soundfile"))
    expected_T = 0.01 * np.sin(2 * np.pi * 220 * np.arange(22050) / 44100)
    np.testing.assert_allclose(signal.data_CT, np.tile(expected_T, (channels, 1)), atol=2**-15)
    assert signal.data_CT.dtype == np.float32


def patched(path, offset, value):
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


def data_size_at(path):
    return path.read_bytes().index(b"data") + 4


def test_a_header_that_promises_more_sound_than_there_is_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav")
    with pytest.raises(RecordingError, match="header claims 1000000 bytes of sound"):
        read_audio(recording(patched(path, data_size_at(path), 1_000_000), "soundfile"))


def test_a_wav_cut_short_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(RecordingError, match="it was cut short"):
        read_audio(recording(path, "soundfile"))


def cut_mp3(path, seconds=8, rate=44_100):
    soundfile.write(path, 0.1 * np.sin(np.arange(seconds * rate) / 30), rate, format="MP3")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def test_an_mp3_cut_short_is_refused_read_whole_or_in_windows(tmp_path):
    half = recording(cut_mp3(tmp_path / "a.mp3"), "soundfile")
    with pytest.raises(RecordingError, match=r"promises 352800 samples, it ends after .* cut short"):
        read_audio(half)
    with open_audio(half) as file:
        assert file.read(0, 50_000).data_CT.shape == (1, 50_000)
        with pytest.raises(RecordingError, match="cut short"):
            file.read(150_000, 250_000)


@pytest.mark.parametrize("tag", [b"", b"ID3\x04\0\0\0\0\x30\0" + bytes(0x30 << 7)])
def test_an_mp3_that_does_not_say_how_long_it_is_is_whole_as_it_is(tmp_path, tag):
    wave_T = 0.1 * np.sin(np.arange(320_000) / 20)
    soundfile.write(tmp_path / "a.mp3", wave_T, 44_100, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    content = (tmp_path / "a.mp3").read_bytes()
    (tmp_path / "b.mp3").write_bytes(tag + content.replace(b"Xing", b"none", 1).replace(b"Info", b"none", 1))
    file = recording(tmp_path / "b.mp3", "soundfile")
    with open_audio(file) as opened:
        assert 320_000 < read_audio(file).data_CT.shape[1] < opened.samples  # which mpg123 guessed
    (tmp_path / "c.mp3").write_bytes(tag + content[: len(content) // 2])
    with pytest.raises(RecordingError, match="cut short"):
        read_audio(recording(tmp_path / "c.mp3", "soundfile"))


def test_a_wav_written_to_a_pipe_is_read(tmp_path):
    path = write_wav(tmp_path / "a.wav")
    piped = patched(path, data_size_at(path), 0xFFFF_FFFF)
    assert read_audio(recording(piped, "soundfile")).data_CT.shape[1] >= 22050


def test_a_header_of_no_frames_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 44_100)
    with pytest.raises(RecordingError, match="header says 0 frames"):
        read_audio(recording(tmp_path / "a.wav", "soundfile"))


def test_a_header_with_an_absurd_rate_is_refused(tmp_path):
    path = patched(write_wav(tmp_path / "a.wav"), 24, 1)
    with pytest.raises(RecordingError, match="claims 1 samples a second"):
        read_audio(recording(path, "soundfile"))


@pytest.mark.parametrize("value", [np.nan, np.inf, 32_768.0])
def test_sound_that_is_no_sound_is_refused(tmp_path, value):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, value, 0.1]), 44_100, subtype="FLOAT")
    with pytest.raises(RecordingError, match="NaN or far beyond full scale"):
        read_audio(recording(tmp_path / "a.wav", "soundfile"))


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_a_decoders_overshoot_is_held_to_full_scale(tmp_path, suffix):
    clipped_T = np.clip(1.3 * np.sin(np.arange(44_100) / 30), -1, 1)
    soundfile.write(tmp_path / f"a.{suffix}", clipped_T, 44_100)
    assert np.abs(soundfile.read(tmp_path / f"a.{suffix}")[0]).max() > 1
    data_CT = read_audio(recording(tmp_path / f"a.{suffix}", "soundfile")).data_CT
    assert np.abs(data_CT).max() == 1
    assert quality.clipped(data_CT) > 0.2


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_beyond_full_scale_are_kept_and_not_said_to_be_clipped(tmp_path, subtype):
    ramp_T = np.linspace(-2.5, 2.5, 10_000)
    soundfile.write(tmp_path / "a.wav", ramp_T, 44_100, subtype=subtype)
    data_CT = read_audio(recording(tmp_path / "a.wav", "soundfile")).data_CT
    np.testing.assert_allclose(data_CT[0], ramp_T, atol=1e-6)
    assert quality.clipped(data_CT) < 0.001
    assert quality.clipped(np.clip(data_CT, -1, 1)) > 0.59


def test_a_uri_is_read_and_hashed_as_the_file_it_names(tmp_path):
    path = write_v5(tmp_path / "a b.mat")
    uri = f"file://{tmp_path}/a%20b.mat"
    np.testing.assert_array_equal(
        read_eeg(recording(uri, "modma-mat"), 1e-6).data_CT, read_eeg(recording(path, "modma-mat"), 1e-6).data_CT
    )
    assert content_sha256(uri) == content_sha256(str(path))


def test_a_header_at_a_uri_comes_with_the_files_beside_it(tmp_path):
    path = write_brainvision(tmp_path / "a b.vhdr", eeg_129()[:4], ["F3", "F4", "C3", "C4"], 250)
    data = path.with_suffix(".eeg").rename(tmp_path / "c.eeg")
    path.write_text(path.read_text().replace("a b.eeg", data.name))
    uri = f"file://{tmp_path}/a%20b.vhdr"
    here, there = (read_eeg(recording(place, "mne"), 1.0) for place in (path, uri))
    np.testing.assert_array_equal(here.data_CT, there.data_CT)
    assert there.spans == ((0, 250), (250, 600))  # of the markers
    assert content(uri) == content(str(path))


def test_an_eeglab_header_at_a_uri_comes_with_its_samples(eeglab):
    uri = f"file://{eeglab}"
    np.testing.assert_array_equal(
        read_eeg(recording(uri, "mne"), 1.0).data_CT, read_eeg(recording(eeglab, "mne"), 1.0).data_CT
    )
    assert content(uri) == content(str(eeglab))


def test_the_hash_of_a_single_file_is_its_sha256(tmp_path):
    path = write_wav(tmp_path / "a.wav")
    assert content_sha256(str(path)) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_an_eeglab_header_changes_with_its_samples(eeglab):
    before = content_sha256(str(eeglab))
    with eeglab.with_suffix(".fdt").open("r+b") as file:
        file.write(b"\x01")
    assert content_sha256(str(eeglab)) != before


def renamed(header, stem):
    """A BrainVision recording's files under another name."""
    for suffix in (".vhdr", ".vmrk", ".eeg"):
        old = header.with_suffix(suffix)
        content = old.read_bytes()
        new = old.with_name(f"{stem}{suffix}")
        new.write_bytes(content if suffix == ".eeg" else content.replace(header.stem.encode(), stem.encode()))
    return header.with_name(f"{stem}.vhdr")


def test_a_renamed_copy_of_a_header_has_the_same_samples_and_other_bytes(tmp_path):
    one = content(str(write_brainvision(tmp_path / "a.vhdr", eeg_129()[:4], ["F3", "F4", "C3", "C4"], 250)))
    two = content(str(renamed(tmp_path / "a.vhdr", "other")))
    assert one.samples_sha256 == two.samples_sha256
    assert one.sha256 != two.sha256


@pytest.mark.parametrize("key", ["DataFile", "MarkerFile"])
def test_the_hash_of_a_header_changes_with_the_files_it_names(tmp_path, key):
    header = write_brainvision(tmp_path / "a.vhdr", eeg_129()[:4], ["F3", "F4", "C3", "C4"], 250)
    file = header.with_suffix({"DataFile": ".eeg", "MarkerFile": ".vmrk"}[key])
    elsewhere = file.rename(tmp_path / f"of another stem{file.suffix}")
    header.write_text(header.read_text().replace(f"{key}={file.name}", f"{key}={elsewhere.name}"))
    assert read_eeg(recording(header, "mne"), 1.0).data_CT.shape == (4, 600)
    before = content(str(header))
    elsewhere.write_bytes(elsewhere.read_bytes() + b"; ")
    assert content(str(header)).sha256 != before.sha256
    assert (content(str(header)).samples_sha256 != before.samples_sha256) == (key == "DataFile")


def test_a_header_of_an_older_recorder_and_with_a_comment_names_its_files(tmp_path):
    header = tmp_path / "a.vhdr"
    text = "[Common Infos]\nDataFile=Pr\xfcfung.eeg\nMarkerFile=m.vmrk\n[Comment]\nDataFile=another.eeg\n"
    header.write_bytes(text.encode("cp1252"))
    assert beside.names(header) == (("Prüfung.eeg",), ("m.vmrk", "a.vmrk"))


@pytest.mark.parametrize("name", ["/dev/zero", "../outside.eeg", "."])
def test_what_a_header_names_outside_its_folder_is_not_hashed(tmp_path, name):
    (tmp_path / "outside.eeg").write_bytes(b"x")
    header = tmp_path / "in" / "a.vhdr"
    header.parent.mkdir()
    header.write_text(f"[Common Infos]\nDataFile={name}\n")
    assert content_sha256(str(header)) == hashlib.sha256(header.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("naming", "first", "last"),
    [("neuromag", "a_raw.fif", "a_raw-2.fif"), ("bids", "a_split-01_eeg.fif", "a_split-03_eeg.fif")],
)
def test_the_hash_of_a_fif_in_several_files_changes_with_the_last(tmp_path, naming, first, last):
    raw = raw_of(np.random.default_rng(0).normal(size=(40, 18_000)))
    raw.save(tmp_path / first.replace("_split-01", ""), split_size="2MB", split_naming=naming, verbose="error")
    assert [path.name for path in beside.there(tmp_path / first)][-1] == last
    before = content_sha256(str(tmp_path / first))
    with (tmp_path / last).open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01\x02")
    assert content_sha256(str(tmp_path / first)) != before


def test_hashing_a_missing_file_names_it(tmp_path):
    with pytest.raises(RecordingError, match=r"gone\.wav"):
        content_sha256(str(tmp_path / "gone.wav"))
