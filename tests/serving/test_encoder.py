"""A run on an encoder's features is asked with a file, which goes through the same encoder."""

from __future__ import annotations

import pytest

from mmray import config as configuration
from mmray.errors import ConfigError
from mmray.features import encoders
from mmray.index.build import build_index
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from tests import small_run
from tests.features import made_encoders


def test_a_file_is_searched_through_the_encoder_that_the_run_was_made_with(ray_session, tmp_path, monkeypatch):
    encoder = {"encoder": "tests.features.made_encoders:envelope", "encoder_version": "1"}
    settings = {f"features.audio.{name}": value for name, value in (encoder | {"nodes": 32}).items()}
    plain, whole = small_run.make_config, small_run.recordings
    monkeypatch.setattr(small_run, "recordings", lambda folder: [one for one in whole(folder) if one.session == "1"])
    monkeypatch.setattr(small_run, "make_config", lambda root: configuration.laid_over(plain(root), settings))
    config = small_run.make_workspace(tmp_path)
    build_index(config)
    retriever = Retriever.open(Workspace(config.workspace))
    assert retriever.run.shapes["audio"] == (32, 4)
    file = tmp_path / "study" / "s2-audio-1.wav"
    asked, stored = retriever.search_file(file, "audio", 3), retriever.search_recording("s2-audio-1", "eeg", 3)
    assert (asked.matches[0].recording_id, round(asked.matches[0].score, 4)) == ("s2-audio-1", 1.0)
    across = retriever.search_file(file, "eeg", 3)
    assert [match.recording_id for match in across.matches] == [match.recording_id for match in stored.matches]

    monkeypatch.setattr(made_encoders.envelope, "version", "2")
    encoders._declared.cache_clear()
    encoders._construct.cache_clear()
    with pytest.raises(ConfigError, match="version '2' here"):
        retriever.search_file(file, "eeg", 3)
    encoders._declared.cache_clear()
