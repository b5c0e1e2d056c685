"""Time-locked studies: the same window of EEG and voice under one pair_id, whatever the rates, gaps and losses."""

from __future__ import annotations

import re
from dataclasses import replace

import mne
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from mmray import config
from mmray.errors import ConfigError
from mmray.features import eeg, pipeline
from mmray.features.extract import extract
from mmray.schema import recordings_table
from mmray.storage import Workspace
from tests.features.recordings import recording

NAMES = ("F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2")
SETTINGS = config.from_dict(
    {
        "features": {
            "pairing": "window",
            "eeg": {"montage": "standard_1020", "channels": NAMES, "segment_s": 2.0, "neighbours": 3},
            "audio": {"segment_s": 2.0, "trim_db": None, "nodes": 16, "neighbours": 3},
        }
    }
)


def trial(folder, seconds=15.0, rate=128.0, bad=(), subject="s1", number=1):
    """A person's EEG and voice that began at the same moment."""
    rng = np.random.default_rng(number)
    place_N3 = eeg.positions("standard_1020", NAMES) / 0.1
    samples = round(seconds * rate)
    # a field that neighbours share, or every electrode would be alone
    data_NT = place_N3 @ rng.normal(size=(3, samples)) + 0.1 * rng.normal(size=(len(NAMES), samples))
    raw = mne.io.RawArray(1e-5 * data_NT, mne.create_info(list(NAMES), rate, "eeg"), verbose=0)
    raw.set_annotations(mne.Annotations([onset for onset, _ in bad], [length for _, length in bad], "BAD_blink"))
    raw.save(folder / f"{subject}-{number}_raw.fif", verbose=0)
    soundfile.write(folder / f"{subject}-{number}.wav", 0.1 * rng.normal(size=round(seconds * 16000)), 16000)
    return [
        replace(
            recording(folder / file, modality, reader, subject, f"{subject}-{modality}-{number}"),
            pair_id=f"{subject}-trial{number}",
        )
        for file, modality, reader in (
            (f"{subject}-{number}_raw.fif", "eeg", "mne"),
            (f"{subject}-{number}.wav", "audio", "soundfile"),
        )
    ]


def pairs_of(recording):
    return extract(recording, SETTINGS.features)["pair_id"].to_pylist()


@pytest.mark.parametrize("rate", [128.0, 250.0, 204.8, 512.3])
def test_a_window_of_eeg_and_of_voice_have_one_pair_id_at_any_rate(tmp_path, rate):
    brain, voice = trial(tmp_path, rate=rate)
    expected = [f"s1-trial1@{2000 * number:08d}" for number in range(7)]
    assert pairs_of(brain) == pairs_of(voice) == expected


def test_a_gap_costs_the_windows_it_touches_and_moves_no_other(tmp_path):
    brain, voice = trial(tmp_path, bad=[(4.5, 0.2), (9.0, 2.5)])
    held = [int(pair.split("@")[1]) for pair in pairs_of(brain)]
    assert held == [0, 2000, 6000, 12000]
    assert set(pairs_of(brain)) < set(pairs_of(voice))


def test_without_windows_a_gap_moves_what_follows(tmp_path):
    brain, _ = trial(tmp_path, bad=[(4.5, 0.2)])
    rows = extract(brain, SETTINGS.features.model_copy(update={"pairing": "recording"}))
    assert set(rows["pair_id"].to_pylist()) == {"s1-trial1"}
    assert any(start % 2 for start in rows["start_s"].to_pylist())


@given(
    segment_s=st.floats(0.5, 5),
    rate=st.floats(100, 600),
    spans=st.lists(st.integers(0, 20_000), min_size=2, max_size=8, unique=True).map(sorted),
)
def test_windows_stand_on_one_grid_inside_one_span(segment_s, rate, spans):
    ranges = list(zip(spans[::2], spans[1::2], strict=False))
    length = round(segment_s * rate)
    found = eeg.window_starts(ranges, segment_s, rate).tolist()
    expected = [
        start
        for number in range(20_000)
        if (start := round(number * segment_s * rate)) < 20_000
        and any(first <= start and start + length <= stop for first, stop in ranges)
    ]
    # a start that lies half-way between two samples may be rounded either way
    assert len(found) == len(expected)
    assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True))


def test_two_recordings_of_one_trial_are_refused_by_name(tmp_path):
    both = [*trial(tmp_path), *trial(tmp_path, number=2)]
    settings = SETTINGS.model_copy(update={"workspace": str(tmp_path / "ws")})
    same = [replace(member, pair_id="s1") for member in both]
    Workspace(settings.workspace).write_table(recordings_table(same), "recordings.parquet")
    with pytest.raises(ConfigError, match=r"recording a pair_id; s1 has s1-(eeg|audio)-1 and s1-(eeg|audio)-2"):
        pipeline.prepare(settings)


@pytest.mark.parametrize(
    ("audio", "message"),
    [({"segment_s": 3.0, "trim_db": None}, "segment_s = 3 differ"), ({"segment_s": 2.0}, "audio.trim_db=null")],
)
def test_windows_that_cannot_match_are_refused(audio, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.from_dict({"features": {"pairing": "window", "eeg": {"segment_s": 2.0}, "audio": audio}})
