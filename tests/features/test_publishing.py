"""Which recordings a preparation publishes, without a cluster."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from mmray.config import Features
from mmray.errors import WorkspaceError
from mmray.features.publishing import Outcome, provenance, publish, refuse_copies
from mmray.recordings.signals import content
from mmray.storage import Workspace
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


@pytest.fixture
def one(tmp_path):
    """What publishes one recording's part, which is there, as a preparation that began at some moment."""
    item = brainvision(tmp_path / "a.vhdr", "s1", seed=0)
    decided = json.dumps({"duration_s": 5.0, "sampling_rate_hz": 100.0, "segments": 3, "kept": 3})
    outcome, workspace = replace(outcome_of(item), decided=decided), Workspace(str(tmp_path / "ws"))
    workspace.write_text("rows", "features", "key", outcome.part)
    origin = provenance(Features(), [item])
    return workspace, lambda began_s: publish(workspace, "key", [item], {item.recording_id: outcome}, origin, began_s)


def test_a_part_that_another_preparation_writes_meanwhile_is_left_to_it(one):
    workspace, publish_from = one
    began_s = time.time() - 60
    for name, age_s in (("spare", 120), ("others", 30)):
        workspace.write_text("rows", "features", "key", "eeg", f"{name}.parquet")
        os.utime(workspace.path("features", "key", "eeg", f"{name}.parquet"), 2 * (time.time() - age_s,))
    publish_from(began_s)
    assert workspace.names("features", "key", "eeg") == ["others.parquet", "s1-eeg-a.parquet"]


def test_a_part_that_is_gone_is_told_and_that_another_preparation_may_have_removed_it(one):
    workspace, publish_from = one
    workspace.delete("features", "key", "eeg", "s1-eeg-a.parquet")
    with pytest.raises(WorkspaceError, match=r"not to be seen from here.*another prepare of the same workspace"):
        publish_from(time.time())
