"""Which recordings a preparation publishes, without a cluster."""

from __future__ import annotations

import numpy as np
import pytest

from mmray.features.publishing import Outcome, refuse_copies
from mmray.recordings.signals import content
from tests.features.recordings import recording
from tests.recordings.made_files import write_brainvision


def outcome_of(item):
    return Outcome(item.recording_id, "prepared", 3, *content(item.path), part=f"eeg/{item.recording_id}.parquet")


def brainvision(path, subject, seed):
    data = np.random.default_rng(seed).normal(0, 10, (2, 500))
    return recording(write_brainvision(path, data, ["C3", "C4"], 100), "eeg", "mne", subject)


@pytest.mark.parametrize(("subject", "kept"), [("s2", ["s3-eeg-c"]), ("s1", ["s1-eeg-a", "s3-eeg-c"])])
def test_a_copy_under_another_name_is_one_of_the_same_samples(tmp_path, subject, kept):
    recordings = [
        brainvision(tmp_path / "a.vhdr", "s1", seed=0),
        brainvision(tmp_path / "b.vhdr", subject, seed=0),  # its header and its markers name other files
        brainvision(tmp_path / "c.vhdr", "s3", seed=1),
    ]
    outcomes = {item.recording_id: outcome_of(item) for item in recordings}
    refuse_copies(recordings, outcomes)
    assert [name for name, outcome in outcomes.items() if outcome.status == "prepared"] == kept
