from __future__ import annotations

import mne
import numpy as np
import pytest

from mmray.config import EEG
from mmray.features import cleaning, eeg

RATE = 250.0


def sine(hertz, seconds):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


def brain(seconds=20.0, seed=0, white=False):
    """Six sources, random walks or white, seen by all electrodes of a montage, plus a little noise of each; volts."""
    rng = np.random.default_rng(seed)
    names = eeg.node_names(EEG())
    position = eeg.positions("GSN-HydroCel-129", names)
    direction = position / np.linalg.norm(position, axis=1, keepdims=True)
    source = rng.normal(size=(6, 3))
    source /= np.linalg.norm(source, axis=1, keepdims=True)
    mixing = np.exp(3 * (direction @ source.T - 1))
    activity = rng.normal(size=(6, round(seconds * RATE)))
    activity = 10 * activity if white else np.cumsum(activity, axis=1)
    return (mixing @ activity + 0.3 * rng.normal(size=(len(names), activity.shape[1]))) * 1e-6


def break_flat(data):
    data[7] = 3e-3


def break_nan(data):
    data[7, 400:420] = np.nan


def break_quiet(data):
    data[7] /= 60


def break_noisy(data):
    data[7] += 4e-5 * sine(100, 20.0)  # above the band


word_of = {break_flat: "flat", break_nan: "not finite", break_quiet: "amplitude", break_noisy: "noise"}


@pytest.mark.parametrize("damage", word_of)
def test_exactly_the_damaged_electrode_is_found_and_interpolated_near_the_truth(damage):
    config, spans, names = EEG(), [(0, 5000)], eeg.node_names(EEG())
    clean = brain()
    data = clean.copy()
    damage(data)
    filtered = eeg.band_pass(data, RATE, spans, config)
    why = cleaning.bad_channels(data, filtered, RATE, spans)
    assert {n: word for n, word in enumerate(why.tolist()) if word} == {7: word_of[damage]}
    bad = why != ""
    repaired = cleaning.interpolate(filtered, bad, eeg.positions(config.montage, names))
    truth = eeg.band_pass(clean, RATE, spans, config)
    assert np.corrcoef(repaired[7], truth[7])[0, 1] > 0.95


def test_an_electrode_that_goes_its_own_way_at_the_usual_level_is_bad():
    data = brain(white=True)
    data[7] = data[7].std() * np.random.default_rng(1).normal(size=data.shape[1])
    filtered = eeg.band_pass(data, RATE, [(0, 5000)], EEG())
    why = cleaning.bad_channels(data, filtered, RATE, [(0, 5000)])
    assert {n: word for n, word in enumerate(why.tolist()) if word} == {7: "alone"}


def test_interpolation_does_not_depend_on_where_the_coordinates_start():
    data = (brain(1.0) * 1e6).astype(np.float32)
    position = eeg.positions("GSN-HydroCel-129", eeg.node_names(EEG()))
    bad = np.arange(128) == 7
    here = cleaning.interpolate(data.copy(), bad, position)
    there = cleaning.interpolate(data.copy(), bad, position + np.array([0.03, -0.02, 0.05]))
    np.testing.assert_allclose(here[7], there[7], atol=1e-3)


def test_no_electrode_of_a_clean_recording_is_bad():
    data = brain(seed=3)
    filtered = eeg.band_pass(data, RATE, [(0, 5000)], EEG())
    assert set(cleaning.bad_channels(data, filtered, RATE, [(0, 5000)])) == {""}


def test_interpolation_is_mnes():
    names = eeg.node_names(EEG())
    position = eeg.positions("GSN-HydroCel-129", names)
    data = brain(2.0)
    info = mne.create_info(list(names), RATE, "eeg")
    raw = mne.io.RawArray(data.copy(), info, verbose="error")
    raw.set_montage("GSN-HydroCel-129", verbose="error")
    raw.info["bads"] = ["E8", "E60", "E100"]
    # mne places electrodes in head coordinates, so it is asked on a sphere around the same centre
    raw.interpolate_bads(method={"eeg": "spline"}, verbose="error")
    bad = np.isin(names, ["E8", "E60", "E100"])
    ours = cleaning.interpolate((data * 1e6).astype(np.float32), bad, position)
    theirs = raw.get_data()[bad] * 1e6
    assert np.abs(ours[bad] - theirs).max() < 0.02 * np.abs(theirs).max()


def test_average_reference_leaves_no_mean():
    data = np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32) + 100
    assert np.abs(cleaning.average_reference(data).mean(0)).max() < 1e-4


@pytest.mark.parametrize("expected_db", [0, 20, 40])
def test_mains_stand_as_far_above_their_neighbourhood_as_they_were_put_there(expected_db):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(20, 20_000)) * 1e-6
    # welch of 2 s: white noise has 1e-12 / 125 V^2 a Hz, five bins of half a Hz within 1 Hz of the line
    power = 5 * 0.5 * 1e-12 / 125 * (10 ** (expected_db / 10) - 1)
    data += np.sqrt(2 * power) * sine(50, 80.0)
    told = cleaning.mains_db(data + 0.03, RATE, [(0, 20_000)], 50.0)
    assert told == pytest.approx(expected_db, abs=1.0)


@pytest.mark.parametrize(("rate", "spans"), [(100.0, [(0, 5000)]), (250.0, [(0, 200)]), (250.0, [])])
def test_mains_that_cannot_be_seen_are_not_told(rate, spans):
    assert cleaning.mains_db(np.ones((4, 5000)), rate, spans, 50.0) is None
