"""Families of a voice's node features against their definitions, on frames where these can be counted by hand."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from scipy import fft

from mmray.config import Audio, Features, from_dict
from mmray.errors import ConfigError
from mmray.features import audio, audio_nodes
from mmray.features.extract import shape
from tests.features.test_audio import RATE, pulses, speech

PROSODY = Audio(families=("prosody",))
NAMES = audio_nodes.names(PROSODY)


def analysed(wave, config=PROSODY):
    wave = audio.normalise_loudness(wave, RATE)
    segments = audio.segment_count(len(wave), config)
    return audio.analyse(wave, segments, config), audio.cut(wave, segments, config)


def told(wave, name, config=PROSODY):
    """One prosodic feature of every node of the first segment."""
    return audio_nodes.prosody(analysed(wave, config)[0], config)[0, :, NAMES.index(name)]


def random_frames(seed=0, segments=3, nodes=4, per_node=12):
    rng = np.random.default_rng(seed)
    shape = (segments, nodes, per_node)
    harmonicity = rng.uniform(0, 1.4, (segments, nodes, 1)) * rng.uniform(0.5, 1, shape)
    log_f0, energy = rng.normal(0, 0.5, shape), rng.normal(-3, 3, shape)
    frames = audio.Frames(rng.normal(size=(*shape, 40)), log_f0, np.clip(harmonicity, 0, 1), energy)
    return audio.Frames(*(part.astype(np.float32) for part in frames))


def test_the_default_is_the_five_families_before_to_the_bit():
    frames, signal = analysed(speech(9.0))
    mfcc = fft.dct(frames.log_mel_SNJM, axis=-1, norm="ortho")[..., :13]
    scalars = [
        audio_nodes._median_where(frames.log_f0_SNJ, frames.voiced_SNJ),
        frames.harmonicity_SNJ.mean(2),
        frames.energy_SNJ.mean(2),
    ]
    parts = [frames.log_mel_SNJM.mean(2), mfcc.mean(2), mfcc.std(2), *(value[..., None] for value in scalars)]
    expected = np.concatenate(parts, axis=-1).astype(np.float32)
    np.testing.assert_array_equal(audio_nodes.node_features(frames, signal, Audio()), expected)
    names = audio_nodes.names(Audio())
    assert (len(names), names[0], names[40], names[53]) == (69, "log_mel_00", "mfcc_00_mean", "mfcc_00_sd")
    assert names[-3:] == ("log_f0", "harmonicity", "log_energy")


def test_every_family_comes_under_its_names_wherever_it_stands():
    families = ("prosody", "energy", "log_mel", "pitch", "envelope", "mfcc", "harmonicity")
    together = Audio(families=families, mels=24, mfcc=5)
    frames, signal = analysed(speech(9.0), together)
    x = audio_nodes.node_features(frames, signal, together)
    assert x.shape == (2, 32, audio_nodes.width(together))
    column = {name: x[..., number] for number, name in enumerate(audio_nodes.names(together))}
    assert len(column) == audio_nodes.width(together)
    for family in families:
        alone = together.model_copy(update={"families": (family,)})
        for number, name in enumerate(audio_nodes.names(alone)):
            np.testing.assert_array_equal(column[name], audio_nodes.node_features(frames, signal, alone)[..., number])


def test_the_envelope_is_the_mean_rms_of_a_nodes_frames():
    frames, signal = analysed(speech(9.0))
    envelope_SN = audio_nodes.node_features(frames, signal, Audio(families=("envelope",)))[..., 0]
    rms = [np.mean([np.sqrt(np.exp(e)) for e in node]) for segment in frames.energy_SNJ for node in segment]
    np.testing.assert_allclose(envelope_SN.ravel(), rms, rtol=1e-5)


def naive_prosody(log_f0, voiced, energy, step_s):
    """Pause fraction, slope, range, jitter and shimmer of one node, from the definitions."""
    pause = sum(10 * np.log10(np.exp(e)) < -25 for e in energy) / len(energy)
    at = [j for j in range(len(voiced)) if voiced[j]]
    slope = np.polyfit(np.array(at) * step_s, log_f0[at], 1)[0] if len(at) >= 3 else 0.0
    spread = max(log_f0[at]) - min(log_f0[at]) if at else 0.0
    pairs = [(j, j + 1) for j in at if j + 1 in at]
    period = 1 / (150 * 2**log_f0)
    jitter = np.mean([abs(period[j] - period[i]) for i, j in pairs]) / period[at].mean() if pairs else 0.0
    amplitude = np.sqrt(np.exp(energy))
    shimmer = np.mean([abs(20 * np.log10(amplitude[j] / amplitude[i])) for i, j in pairs]) if pairs else 0.0
    return [pause, slope, spread, jitter, shimmer]


def test_all_but_the_rate_are_their_definitions_node_by_node():
    config = Audio(families=("prosody",), nodes=4, segment_s=0.48)
    frames = random_frames()
    found = audio_nodes.prosody(frames, config)
    counts = frames.voiced_SNJ.sum(2)
    assert (counts.min() == 0, (counts == 1).any() or (counts == 2).any(), counts.max() > 3) == (True, True, True)
    for s in range(3):
        for n in range(4):
            parts = frames.log_f0_SNJ[s, n], frames.voiced_SNJ[s, n], frames.energy_SNJ[s, n]
            np.testing.assert_allclose(found[s, n, 1:], naive_prosody(*parts, 0.01), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("hertz", [2.5, 4.0, 6.0])
def test_the_rate_of_a_voice_that_swells_is_the_swells_a_second(hertz):
    wave = pulses(120.0, 4.0) * (1.05 - np.cos(2 * np.pi * hertz * np.arange(4 * RATE) / RATE)).astype(np.float32)
    np.testing.assert_allclose(told(wave, "syllable_rate")[4:-4], hertz, atol=1.01)  # one more or less in a second
    assert told(wave, "syllable_rate").mean() == pytest.approx(hertz, rel=0.12)


def test_noise_that_swells_and_a_steady_voice_have_no_syllables():
    swell = (1.05 - np.cos(2 * np.pi * 4 * np.arange(4 * RATE) / RATE)).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=4 * RATE).astype(np.float32)
    assert told(noise * swell, "syllable_rate").mean() < 0.3
    assert not told(pulses(120.0, 4.0), "syllable_rate")[1:-1].any()
    flutter = (1.5 - np.cos(2 * np.pi * 20 * np.arange(4 * RATE) / RATE)).astype(np.float32)  # 50 ms, no syllable
    assert told(flutter * pulses(120.0, 4.0), "syllable_rate").mean() < 0.5


def test_what_swells_in_a_pause_is_no_syllable():
    swell = (1.05 - np.cos(2 * np.pi * 4 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    wave = np.concatenate([pulses(120.0, 2.0), np.float32(0.01) * swell * pulses(120.0, 2.0)])
    assert not told(wave, "syllable_rate")[20:].any()


def test_a_pause_is_a_pause_and_an_octave_a_second_is_a_slope_of_one():
    phase = 2 * np.pi * np.cumsum(100 * 2 ** (np.arange(2 * RATE) / RATE)) / RATE
    glide = sum(np.cos(k * phase) / k for k in range(1, 6))
    wave = np.concatenate([glide, 1e-4 * np.random.default_rng(0).normal(size=2 * RATE)]).astype(np.float32)
    assert told(wave, "pause_fraction")[:15].max() == 0
    assert told(wave, "pause_fraction")[17:].min() == 1
    np.testing.assert_allclose(told(wave, "f0_slope")[1:15], 1, atol=0.1)
    np.testing.assert_allclose(told(wave, "f0_range")[1:15], 0.125 * 11 / 12, atol=0.02)


def test_a_rough_voice_has_jitter_and_shimmer_and_a_steady_one_little():
    rng = np.random.default_rng(0)
    hertz = 120 * (1 + 0.06 * np.repeat(rng.normal(size=400), RATE // 100))
    rough = np.sin(2 * np.pi * np.cumsum(hertz) / RATE) * np.repeat(1 + 0.3 * rng.normal(size=400), RATE // 100)
    steady = np.sin(2 * np.pi * 120 * np.arange(4 * RATE) / RATE)
    for name in ("frame_jitter", "frame_shimmer"):
        assert told(rough.astype(np.float32), name).mean() > 5 * told(steady.astype(np.float32), name).mean()
    assert told(steady.astype(np.float32), "frame_jitter").mean() < 0.003


def test_prosody_knows_neither_the_gain_nor_the_segment_before():
    wave = speech(9.0)
    frames, _ = analysed(wave)
    found = audio_nodes.prosody(frames, PROSODY)
    np.testing.assert_allclose(audio_nodes.prosody(analysed(0.01 * wave)[0], PROSODY), found, atol=2e-3)
    second = audio_nodes.prosody(audio.Frames(*(part[1:] for part in frames)), PROSODY)
    np.testing.assert_allclose(second, found[1:], atol=1e-6)


def test_a_family_named_twice_or_not_known_is_refused():
    for families in (["mfcc", "mfcc"], [], ["mfc"]):
        with pytest.raises(ConfigError, match="families"):
            from_dict({"features": {"audio": {"families": families}}})


EGEMAPS = Audio(families=("egemaps",))


def test_without_opensmile_the_error_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmray\[opensmile\]'"):
        shape("audio", Features(audio=EGEMAPS))


needs_opensmile = pytest.mark.skipif(
    importlib.util.find_spec("opensmile") is None, reason="opensmile is not installed: pip install 'mmray[opensmile]'"
)


@needs_opensmile
def test_names_are_opensmiles_own_without_their_smoothing():
    own = audio_nodes._smile().feature_names
    assert tuple(name.removesuffix("nz").removesuffix("_sma3") for name in own) == audio_nodes.EGEMAPS
    assert [name.endswith("nz") for name in own] == [n >= audio_nodes._VOICED_ONLY for n in range(len(own))]


@needs_opensmile
@pytest.mark.parametrize("nodes", [32, 800])
def test_egemaps_are_opensmiles_frames_averaged_node_by_node(nodes):
    config = EGEMAPS.model_copy(update={"nodes": nodes})
    frames, signal = analysed(speech(9.0), config)
    x_SND = audio_nodes.node_features(frames, signal, config)
    assert np.isfinite(x_SND).all()
    table = audio_nodes._smile().process_signal(np.float32(0.05) * signal[1], RATE)
    centre, x = [(a + b).total_seconds() / 2 for a, b in table.index], x_SND[1]
    for node in (0, 5, nodes // 2, nodes - 9):
        inside = [f for f, c in enumerate(centre) if node * 4 / nodes <= c < (node + 1) * 4 / nodes]
        inside = inside or [int(np.argmin([abs(c - (node + 0.5) * 4 / nodes) for c in centre]))]
        for column, name in enumerate(table.columns):
            values = [v for v in table.iloc[inside, column] if v != 0 or not name.endswith("nz")]
            assert x[node, column] == pytest.approx(np.mean(values) if values else 0, rel=1e-3, abs=1e-4), name


@needs_opensmile
def test_egemaps_do_not_know_the_gain():
    wave = speech(5.0)
    quiet, loud = (audio_nodes.egemaps(analysed(gain * wave)[1], EGEMAPS) for gain in (np.float32(0.01), np.float32(1)))
    np.testing.assert_allclose(quiet, loud, rtol=1e-2, atol=1e-2)
