from __future__ import annotations

import librosa
import numpy as np
import pytest

from mmray.config import Audio
from mmray.errors import ConfigError, RecordingError
from mmray.features import audio, audio_nodes

RATE = 16000
CONFIG = Audio()


def pulses(hertz, seconds=1.0):
    """A glottal-like pulse train through one formant."""
    t = np.arange(round(seconds * RATE)) / RATE
    harmonics = np.arange(1, int(4000 / hertz) + 1)
    level = 1 / (1 + ((harmonics * hertz - 500) / 200) ** 2)
    return (level[:, None] * np.cos(2 * np.pi * hertz * harmonics[:, None] * t)).sum(0).astype(np.float32)


def f0_of(wave):
    centres = np.arange(800, len(wave) - 800, 160)
    return audio.yin(audio.frame(wave, centres, 496), CONFIG)


def speech(seconds=9.0, seed=0):
    rng = np.random.default_rng(seed)
    wave = np.concatenate([pulses(hertz, 0.5) for hertz in rng.uniform(90, 300, round(2 * seconds))])
    return (wave * np.repeat(rng.uniform(0.2, 1, len(wave) // 1000), 1000) + 0.01 * rng.normal(size=len(wave))).astype(
        np.float32
    )


def features(wave, config=CONFIG):
    wave = audio.normalise_loudness(wave, RATE)
    frames = audio.analyse(wave, audio.segment_count(len(wave), config), config)
    return audio_nodes.node_features(frames, wave, config)


@pytest.mark.parametrize("hertz", [70.0, 110.0, 173.3, 240.0, 331.0, 480.0])
@pytest.mark.parametrize("source", ["tone", "pulses"])
def test_f0_is_within_half_a_percent(hertz, source):
    wave = (
        pulses(hertz) if source == "pulses" else np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    )
    f0, harmonicity = f0_of(wave)
    np.testing.assert_allclose(f0, hertz, rtol=5e-3)
    assert harmonicity.min() > 0.95


def test_f0_agrees_with_librosas_yin_on_a_glide():
    phase = 2 * np.pi * np.cumsum(np.linspace(100, 260, 2 * RATE)) / RATE
    wave = sum(np.cos(k * phase) / k for k in range(1, 6)).astype(np.float32)
    length, hop = 1024, 160
    theirs = librosa.yin(wave, fmin=65, fmax=500, sr=RATE, frame_length=length, hop_length=hop, center=False)
    # librosa compares length / 2 samples from the frame's start; ours compares 248 around its middle
    centres = np.arange(len(theirs)) * hop + length // 2
    ours, _ = audio.yin(audio.frame(wave, centres, 496), CONFIG)
    np.testing.assert_allclose(ours[5:-5], theirs[5:-5], rtol=0.02)


def test_noise_and_silence_are_not_voiced():
    _, noise = f0_of(np.random.default_rng(0).normal(size=RATE).astype(np.float32))
    _, silence = f0_of(np.zeros(RATE, np.float32))
    assert np.mean(noise >= audio._VOICED) < 0.02
    assert silence.max() == 0


def test_mel_power_is_librosas_melspectrogram_over_the_windows_energy():
    wave = speech(1.0)
    theirs = librosa.feature.melspectrogram(
        y=wave, sr=RATE, n_fft=512, hop_length=160, center=False, n_mels=40, power=2.0
    ).T
    centres = np.arange(len(theirs)) * 160 + 256
    ours = audio.mel_power(audio.frame(wave, centres, 512), CONFIG)
    np.testing.assert_allclose(ours * np.square(np.hanning(513)[:-1]).sum(), theirs, rtol=1e-3, atol=1e-5)


def test_mfcc_is_librosas_cosine_transform_of_the_log_mel_spectrum():
    frames = audio.analyse(audio.normalise_loudness(speech(4.0), RATE), 1, CONFIG)
    log_mel = frames.log_mel_SNJM[0, 3]
    expected = librosa.feature.mfcc(S=log_mel.T, n_mfcc=13, dct_type=2, norm="ortho")
    x = audio_nodes.node_features(frames, np.zeros(0, np.float32), CONFIG)[0, 3]
    np.testing.assert_allclose(x[40:53], expected.mean(1), atol=1e-3)
    np.testing.assert_allclose(x[53:66], expected.std(1), atol=1e-3)


def test_features_have_the_configured_shape():
    assert features(speech(9.0)).shape == (2, 32, audio_nodes.width(CONFIG))
    other = Audio(segment_s=1.0, nodes=10, mels=24, mfcc=5)
    assert features(speech(3.5), other).shape == (3, 10, 24 + 10 + 3)


def test_features_do_not_know_the_microphone_gain():
    wave = speech(5.0)
    np.testing.assert_allclose(features(wave * 0.01), features(wave), atol=2e-3)


def test_an_unvoiced_node_has_log_f0_0_and_a_voiced_one_its_octaves():
    wave = np.concatenate([pulses(300.0, 2.0), 0.3 * np.random.default_rng(0).normal(size=2 * RATE)]).astype(np.float32)
    log_f0 = features(wave)[0, :, -3]
    np.testing.assert_allclose(log_f0[1:15], 1.0, atol=0.02)
    assert (log_f0[18:] == 0).mean() > 0.9


def test_node_features_follow_the_sound_in_time():
    energy = features(np.concatenate([speech(2.0), 1e-3 * speech(2.0)]))[0, :, -1]
    assert energy[:15].min() > energy[17:].max()


def test_median_where_is_the_lower_median_of_what_is_kept():
    value = np.array([[[5.0, 1.0, 3.0, 9.0], [5.0, 1.0, 3.0, 9.0], [1.0, 1.0, 1.0, 1.0]]], np.float32)
    mask = np.array([[[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]]], bool)
    assert audio_nodes._median_where(value, mask).tolist() == [[3.0, 5.0, 0.0]]


def test_silence_is_trimmed_to_within_a_frame():
    wave = np.concatenate([np.full(4000, 1e-5), speech(1.0), np.full(8000, 1e-5)]).astype(np.float32)
    start, stop = audio.speech_range(wave, RATE, 40.0)
    assert abs(start - 4000) <= 160
    assert abs(stop - 20000) <= 160
    assert audio.speech_range(wave, RATE, None) == (0, len(wave))


def test_a_silent_clip_is_a_recording_error():
    with pytest.raises(RecordingError, match="silent"):
        audio.speech_range(np.zeros(RATE, np.float32), RATE, 40.0)


def test_a_clip_below_one_segment_says_what_to_lower():
    with pytest.raises(RecordingError, match=r"shorter than one segment of 4 s; lower features.audio.segment_s"):
        audio.segment_count(RATE, CONFIG)


def test_the_last_partial_segment_is_dropped():
    assert audio.segment_count(int(11.9 * RATE), CONFIG) == 2


def test_resampling_keeps_a_tone_and_drops_what_would_alias():
    t = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    kept = audio.resample(tone + np.sin(2 * np.pi * 11000 * t).astype(np.float32), 44100, RATE)
    expected = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(kept[1000:-1000], expected[1000:-1000], atol=0.01)


@pytest.mark.parametrize(("segment_s", "seconds"), [(1.0, 3.5), (0.7, 2.1), (0.33333, 1.0)])
def test_cut_takes_back_to_back_segments_and_zeros_past_the_end(segment_s, seconds):
    config, wave = Audio(segment_s=segment_s), np.arange(1, round(seconds * RATE) + 1, dtype=np.float32)
    count = audio.segment_count(len(wave), config)
    for number, row in enumerate(audio.cut(wave, count, config)):
        start = round(number * segment_s * RATE)
        expected = np.pad(wave[start : start + round(segment_s * RATE)], (0, 9))[: round(segment_s * RATE)]
        np.testing.assert_array_equal(row, expected)


def test_two_channels_become_their_mean():
    np.testing.assert_allclose(audio.mono(np.array([[1, np.nan], [0, 1]], np.float32)), [0.5, 0.5])


def test_more_mel_bands_than_the_spectrum_resolves_is_a_config_error():
    with pytest.raises(ConfigError, match="mels=200"):
        audio.mel_power(np.ones((1, 512), np.float32), Audio(mels=200))


def test_analysis_in_chunks_is_that_of_the_whole(monkeypatch):
    wave = audio.normalise_loudness(speech(9.0), RATE)
    whole = audio.analyse(wave, 2, CONFIG)
    monkeypatch.setattr(audio, "_CHUNK", 37)
    for one, other in zip(whole, audio.analyse(wave, 2, CONFIG), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
