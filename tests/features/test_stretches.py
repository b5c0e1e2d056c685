"""A long EEG recording in stretches against the same recording read whole."""

from __future__ import annotations

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import EEG, Audio, Features
from mmray.errors import RecordingError
from mmray.features import eeg, stretches
from mmray.features.extract import decisions, extract, rows
from mmray.features.table import from_table
from mmray.recordings.signals import spans_within
from tests.features.recordings import recording
from tests.recordings.made_files import rhythms, write_edf

NAMES = ("F3", "F4", "C3", "C4", "O1", "O2")
RATE = 128
SECONDS = 100  # five stretches of 20 s
SETTINGS = Features(
    eeg=EEG(montage="standard_1020", channels=NAMES, segment_s=1.0, neighbours=2, lowpass_hz=40.0),
    audio=Audio(segment_s=1.0),
)
# a stretch filtered with its margins against the whole: anywhere; and farther than the high-pass rings from the ends of
# a span, where the filter hears a little of the span's other end
EDGE_UV, INSIDE_UV = 0.05, 1e-3


@pytest.fixture
def small(monkeypatch):
    """Stretches of as little as there may be: 20 segments and the margins."""
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 1)


def drifting(seconds=SECONDS, rate=RATE):
    """Microvolts: rhythms over an offset, a drift and a random walk."""
    steps = np.random.default_rng(1).normal(size=(len(NAMES), round(seconds * rate)))
    return rhythms(len(NAMES), seconds, rate) + 900 + np.linspace(0, 500, steps.shape[1]) + 0.2 * np.cumsum(steps, 1)


def edf_of(path, data_uv_CT):
    return recording(write_edf(path, data_uv_CT, list(NAMES), RATE), "eeg", "mne")


def fif_of(path, data_uv_CT, gaps):
    """With what someone marked as bad, (onset, duration) in seconds; a duration of 0 is a joint."""
    raw = mne.io.RawArray(data_uv_CT * 1e-6, mne.create_info(list(NAMES), float(RATE), "eeg"), verbose="error")
    onset, duration = zip(*gaps, strict=True)
    raw.set_annotations(mne.Annotations(onset, duration, ["BAD" if length else "boundary" for length in duration]))
    raw.save(path, fmt="double", verbose="error")
    return recording(path, "eeg", "mne")


def in_stretches(file, config=SETTINGS):
    table = extract(file, config)
    return table, decisions(table.schema.metadata)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_segment_lies_in_one_stretch_and_with_its_margins_in_what_is_read(data):
    length, channels = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 300))
    margin, limit = data.draw(st.integers(0, 500)), data.draw(st.integers(1, 200_000))
    cuts = sorted(data.draw(st.sets(st.integers(0, 20_000), min_size=2, max_size=12)))
    spans, samples = tuple(zip(cuts[::2], cuts[1::2], strict=False)), cuts[-1] + data.draw(st.integers(0, 999))
    start_S = eeg.segment_starts(spans, length)
    if not len(start_S):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretches, "EEG_SAMPLES", limit)
        found = stretches.of_eeg(samples, channels, start_S, length, margin)
    np.testing.assert_array_equal(np.concatenate([part.start_S for part in found]), start_S)
    most = max(limit // channels, 20 * length + 2 * margin)
    if samples <= most:
        assert [(part.read, part.own) for part in found] == [((0, samples), (0, samples))]
        return
    for part in found:
        assert part.own == (part.start_S[0], part.start_S[-1] + length)
        assert part.read == (max(0, part.own[0] - margin), min(samples, part.own[1] + margin))
        assert part.read[1] - part.read[0] <= most + length


def test_a_recording_as_long_as_a_stretch_is_one_and_one_sample_more_makes_two(monkeypatch):
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 2 * 5000)
    start_S = np.arange(0, 4900, 50)
    assert len(stretches.of_eeg(5000, 2, start_S, 50, 100)) == 1
    assert len(stretches.of_eeg(5001, 2, start_S, 50, 100)) == 2


def test_what_is_no_longer_than_a_stretch_is_read_whole_and_tells_of_no_stretch(tmp_path):
    file = edf_of(tmp_path / "a.edf", drifting())
    [(table, told)] = list(rows(file, SETTINGS, "sha"))
    assert extract(file, SETTINGS, "sha").equals(table)
    assert "lost" not in told
    assert "of" not in str(told["bad_channels"])


def test_an_hour_and_a_rest_of_modma_are_one_stretch():
    for seconds in (336, 1000):
        assert len(stretches.of_eeg(250 * seconds, 128, np.arange(0, 250 * seconds - 999, 1000), 1000, 3000)) == 1


@pytest.mark.parametrize(
    "gaps",
    [
        [(0.0, 0.0)],
        [(19.5, 1.0), (39.9, 0.3), (59.0, 1.0), (80.0, 0.0)],  # over a boundary, up to one, and on one
        [(15.0, 50.0), (70.3, 0.0)],  # longer than a stretch
    ],
)
def test_stretches_give_the_segments_and_features_of_the_whole(tmp_path, monkeypatch, gaps):
    file = fif_of(tmp_path / "a_raw.fif", drifting(), gaps)
    whole = from_table(extract(file, SETTINGS))
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 1)
    parts = list(rows(file, SETTINGS))
    table, told = in_stretches(file)
    assert len(parts) >= 3
    assert len(set(table["segment_id"].to_pylist())) == len(table)
    assert table["start_s"].to_pylist() == sorted(table["start_s"].to_pylist())
    found = from_table(table)
    assert found.segment_id_S.tolist() == whole.segment_id_S.tolist()
    np.testing.assert_allclose(found.x_SND, whole.x_SND, atol=1e-2)
    np.testing.assert_allclose(found.weight_SNK, whole.weight_SNK, atol=1e-3)
    assert (told["segments"], told["kept"], told["lost"]) == (len(table), len(table), None)
    assert told["duration_s"] == SECONDS


@pytest.mark.parametrize("gaps", [(), ((3000, 3200),), ((2950, 3000),), ((3000, 3010), (6000, 6300), (7000, 7000))])
@pytest.mark.parametrize("highpass_hz", [0.5, 1.0])
def test_a_stretch_filtered_with_its_margins_is_the_whole_filtered_at_once(gaps, highpass_hz):
    config = EEG(highpass_hz=highpass_hz, lowpass_hz=40.0)
    data_NT = drifting() * 1e-6
    samples, edges = data_NT.shape[1], [0, *(place for gap in gaps for place in gap)]
    spans = tuple(zip(edges[::2], [*edges[1::2], samples], strict=True))
    whole_NT = eeg.band_pass(data_NT, RATE, spans, config)
    margin, ring = eeg.margin(RATE, config), eeg.ringing(RATE, config)
    inside_T = np.zeros(samples, dtype=bool)
    for first, last in spans:
        inside_T[first + ring : max(first + ring, last - ring)] = True
    assert inside_T[2990:3010].any() or gaps
    for start, stop in ((0, 3000), (3000, 6000), (6000, samples)):
        read = max(0, start - margin), min(samples, stop + margin)
        part_NT = eeg.band_pass(data_NT[:, slice(*read)], RATE, spans_within(spans, *read), config)
        own_NT = part_NT[:, start - read[0] : stop - read[0]]
        difference_NT = np.abs(own_NT - whole_NT[:, start:stop])
        assert difference_NT.max() < EDGE_UV
        assert difference_NT[:, inside_T[start:stop]].max() < INSIDE_UV


def test_windows_of_a_pair_keep_their_grid_over_stretches(tmp_path, monkeypatch):
    settings_ = SETTINGS.model_copy(
        update={
            "pairing": "window",
            "eeg": SETTINGS.eeg.model_copy(update={"segment_s": 1.003}),
            "audio": SETTINGS.audio.model_copy(update={"segment_s": 1.003, "trim_db": None}),
        }
    )
    file = fif_of(tmp_path / "a_raw.fif", drifting(), [(19.7, 0.5)])
    whole = extract(file, settings_)
    monkeypatch.setattr(stretches, "EEG_SAMPLES", 1)
    table, _ = in_stretches(file, settings_)
    for name in ("segment_id", "pair_id", "start_s"):
        assert table[name].to_pylist() == whole[name].to_pylist()


def test_an_electrode_that_goes_bad_costs_the_stretches_after(tmp_path, small):
    data = drifting()
    data[2, 61 * RATE :] += np.random.default_rng(0).normal(0, 80, data.shape[1] - 61 * RATE)
    table, told = in_stretches(edf_of(tmp_path / "a.edf", data))
    assert told["bad_channels"] == [{"name": "C3", "why": "amplitude in 2 of 5"}]
    bad_S = table["quality_bad_channels"].to_numpy()
    assert (bad_S[table["start_s"].to_numpy() < 60] == 0).all()
    assert (bad_S[table["start_s"].to_numpy() >= 60] == 1).all()


def test_what_lies_in_a_gap_makes_no_electrode_bad(tmp_path, small):
    data = drifting()
    data[2, 45 * RATE + 10 : 47 * RATE - 10] = np.nan
    _, told = in_stretches(fif_of(tmp_path / "a_raw.fif", data, [(45.0, 2.0)]))
    assert told["bad_channels"] == []


def test_a_stretch_without_a_usable_segment_is_lost_and_told_and_the_rest_is_kept(tmp_path, small):
    data = drifting()
    off = slice(38 * RATE, 62 * RATE)  # the third stretch, and a little more
    data[:, off] = np.random.default_rng(0).normal(0, 10, data[:, off].shape)
    table, told = in_stretches(edf_of(tmp_path / "a.edf", data))
    assert not ((table["start_s"].to_numpy() >= 40) & (table["start_s"].to_numpy() < 60)).any()
    assert told["lost"].startswith("0:00:40 to 0:01:00: 6 of 6 electrodes are bad (F3 alone")
    assert told["segments"] == SECONDS
    assert told["kept"] == table.num_rows <= SECONDS - 20


def test_a_recording_without_a_usable_stretch_is_refused_by_file_and_first_reason(tmp_path, small):
    file = edf_of(tmp_path / "a.edf", np.zeros((6, SECONDS * RATE)))
    with pytest.raises(RecordingError, match=r"a\.edf: none of its 5 stretches .* 0:00:20: 6 of 6 electrodes are bad"):
        extract(file, SETTINGS)


def test_wrong_electrodes_are_said_before_a_sample_is_read(tmp_path, small, monkeypatch):
    path = write_edf(tmp_path / "a.edf", drifting(), ["A1", "A2", "X1", "X2", "X3", "X4"], RATE)
    monkeypatch.setattr(mne.io.BaseRaw, "get_data", lambda *_, **__: pytest.fail("a sample was read"))
    with pytest.raises(RecordingError, match="found 0 of the 6 electrodes"):
        extract(recording(path, "eeg", "mne"), SETTINGS)
