"""A long voice in passages against the same voice read whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Audio, Features
from mmray.errors import RecordingError
from mmray.features import stretches
from mmray.features.extract import decisions, extract, rows
from mmray.features.table import from_table
from tests.features.recordings import recording

SETTINGS = Features(audio=Audio(segment_s=1.0, min_active=0.2))
SECONDS = 90


@pytest.fixture
def small(monkeypatch):
    """Passages of as little as there may be, 20 segments."""
    monkeypatch.setattr(stretches, "AUDIO_SAMPLES", 1)


def spoken(rate, seconds=SECONDS):
    """Syllables of a gliding voice over noise; quiet at both ends, and for a while in the middle."""
    time_T = np.arange(round(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    phase_T = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time_T)) / rate
    voice_T = sum(np.sin(n * phase_T) / n for n in range(1, 9)) * (1 + np.sin(2 * np.pi * 4 * time_T))
    quiet_T = (time_T < 2.37) | (time_T > seconds - 3) | ((time_T > 31) & (time_T < 39))
    return 0.08 * voice_T * np.where(quiet_T, 1e-4, 1) + 1e-5 * rng.normal(size=len(time_T))


def clip(path, rate=22_050, wave_T=None):
    wave_T = spoken(rate) if wave_T is None else wave_T
    soundfile.write(path, np.stack([wave_T, 0.5 * wave_T], axis=1), rate, subtype="PCM_16")
    return recording(path, "audio", "soundfile")


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 500), st.integers(1, 5000), st.floats(0.2, 40), st.floats(1, 900))
def test_every_segment_lies_in_one_passage_and_in_what_is_read(start_s, segments, segment_s, longest_s):
    found = stretches.of_audio(start_s, segments, segment_s, max(longest_s, segment_s))
    numbers = [number for part in found for number in range(part.first, part.first + part.segments)]
    assert numbers == list(range(segments))
    for part in found:
        begin_s, end_s = (start_s + number * segment_s for number in (part.first, part.first + part.segments))
        assert part.read_s[0] <= max(0, begin_s - 2)
        assert part.read_s[1] >= end_s + 2
        assert part.segments * segment_s <= max(longest_s, segment_s) + segment_s


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 5000), st.floats(1, 900))
def test_windows_cover_all_of_a_voice_once(duration_s, longest_s):
    windows = list(stretches.windows_s(duration_s, longest_s))
    assert windows[0][0] == 0
    assert windows[-1][0] < duration_s <= windows[-1][1]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(windows))


@pytest.mark.parametrize(("suffix", "rate"), [("wav", 22_050), ("flac", 44_100)])
def test_passages_give_the_segments_of_the_whole_and_differ_by_their_loudness_alone(
    tmp_path, monkeypatch, suffix, rate
):
    file = clip(tmp_path / f"v.{suffix}", rate)
    before = extract(file, SETTINGS)
    monkeypatch.setattr(stretches, "AUDIO_SAMPLES", 1)
    parts = [part for part, _ in rows(file, SETTINGS)]
    after = extract(file, SETTINGS)
    assert len(parts) == 5
    assert after["segment_id"].to_pylist() == before["segment_id"].to_pylist()
    assert len(set(after["segment_id"].to_pylist())) == after.num_rows
    assert after["start_s"].to_pylist() == before["start_s"].to_pylist()
    assert not [start for start in after["start_s"].to_pylist() if 31.5 <= start < 37.5], "a pause is no end"
    whole, found = from_table(before), from_table(after)
    assert np.isfinite(found.x_SND).all()
    for part in parts:
        rows_of_part = np.isin(found.segment_id_S, part["segment_id"].to_pylist())
        difference_SND = (found.x_SND - whole.x_SND)[rows_of_part]
        np.testing.assert_allclose(difference_SND[..., 66:68], 0, atol=5e-3)  # pitch and harmonicity
        loud_SN = whole.x_SND[rows_of_part][..., 68] > -5  # below, the floor of the logarithm shows
        level = difference_SND[..., 68][loud_SN]
        np.testing.assert_allclose(level, np.median(level), atol=2e-3)
    np.testing.assert_allclose(
        after["quality_level_dbfs"].to_numpy(), before["quality_level_dbfs"].to_numpy(), atol=1e-3
    )


def test_silence_is_trimmed_at_the_recordings_ends_alone(tmp_path, monkeypatch):
    file = clip(tmp_path / "v.wav")
    everything = Features(audio=Audio(segment_s=1.0))
    whole = decisions(extract(file, everything).schema.metadata)
    monkeypatch.setattr(stretches, "AUDIO_SAMPLES", 1)
    table = extract(file, everything)
    told = decisions(table.schema.metadata)
    assert table["start_s"][0].as_py() == pytest.approx(2.37, abs=0.011)
    np.testing.assert_allclose(np.diff(table["start_s"].to_numpy()), 1.0, atol=1e-5)
    assert told["trimmed_s"] == whole["trimmed_s"] == pytest.approx(5.37, abs=0.03)
    assert (told["segments"], told["kept"]) == (whole["segments"], whole["kept"]) == (84, 84)
    assert told["duration_s"] == SECONDS
    for name, near in (("level_dbfs", 0.5), ("peak_dbfs", 0.01), ("active_fraction", 0.08)):
        assert told[name] == pytest.approx(whole[name], abs=near)


def test_a_silent_passage_is_lost_and_told(tmp_path, small):
    wave_T = spoken(16_000)
    wave_T[16_000 * 15 : 16_000 * 40] = 0
    table = extract(clip(tmp_path / "v.wav", 16_000, wave_T), Features(audio=Audio(segment_s=1.0)))
    told = decisions(table.schema.metadata)
    assert told["lost"].startswith("0:00:18 to 0:00:35: the clip is silent")
    assert table.num_rows == told["kept"]
    assert table.num_rows < told["segments"] == 84


def test_a_long_silence_is_refused(tmp_path, small):
    with pytest.raises(RecordingError, match=r"v\.wav: the clip is silent"):
        extract(clip(tmp_path / "v.wav", 16_000, np.zeros(16_000 * 60)), SETTINGS)


@pytest.mark.parametrize("trim_db", [40.0, None])
def test_a_flac_cut_short_is_refused_whole(tmp_path, small, trim_db):
    file = clip(tmp_path / "v.flac", 16_000)
    content = (tmp_path / "v.flac").read_bytes()
    (tmp_path / "v.flac").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(RecordingError, match=r"v\.flac"):
        extract(file, Features(audio=Audio(segment_s=1.0, trim_db=trim_db)))
