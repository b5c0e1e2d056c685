"""An encoder takes the families' place in every path, once a process, and breaks no more than it must."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmray import config
from mmray.config import Audio, Config, Features
from mmray.errors import ConfigError, RecordingError, ResourceError
from mmray.features import audio, encoders, pipeline, table
from mmray.features.extract import extract, feature_names, shape
from mmray.schema import recordings_table
from mmray.storage import Workspace
from tests.features import made_encoders
from tests.features.recordings import recording
from tests.features.test_extract import resting, write_mat

MODULE = "tests.features.made_encoders"
PAGE = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")


def voices(name: str, version: str = "1") -> Features:
    return Features(audio=Audio(segment_s=1.0, encoder=f"{MODULE}:{name}", encoder_version=version))


def clip(folder: Path, seconds: float = 1.0, name: str = "voice", subject: str = "s1"):
    rng = np.random.default_rng(sum(map(ord, name)))
    path = folder / f"{name}.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(round(16000 * seconds)) / 20) + 0.02 * rng.normal(), 16000)
    return recording(path, "audio", "soundfile", subject)


def test_the_pages_example_runs_as_it_stands(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (settings,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_encoders.py").write_text(code)
    (tmp_path / "filters.yaml").write_text(settings)
    monkeypatch.syspath_prepend(tmp_path)
    features = config.load(tmp_path / "filters.yaml").features
    assert shape("audio", features) == (32, 16)
    names = feature_names("audio", features)
    assert (names[0], names[-1]) == ("Filters_000", "Filters_015")
    assert f"`{names[0]}` to `{names[-1]}`" in PAGE
    rows = table.from_table(extract(clip(tmp_path, 9.0), features))
    assert rows.shape == (32, 16)
    assert len(rows) == 2
    assert np.isfinite(rows.x_SND).all()
    assert rows.x_SND.std() > 0
    sys.modules.pop("my_encoders")


def test_a_voices_encoder_is_given_its_segments_at_unit_loudness_and_sets_the_edges(tmp_path):
    features = voices("Counted")
    rows = table.from_table(extract(clip(tmp_path, 3.3), features))
    wave, _ = soundfile.read(tmp_path / "voice.wav", dtype="float32")
    wave = audio.normalise_loudness(wave, 16000)
    expected = np.abs(wave[: 3 * 16000]).reshape(3, 32, 500).mean(-1)
    np.testing.assert_allclose(rows.x_SND[..., 3], expected, rtol=1e-4)
    assert np.array_equal(
        rows.neighbour_SNK[0], table.from_table(extract(clip(tmp_path, 3.3), features)).neighbour_SNK[0]
    )


def test_a_class_is_constructed_once_and_called_for_each_recording(tmp_path, monkeypatch):
    encoders._construct.cache_clear()
    monkeypatch.setattr(made_encoders.Counted, "constructed", 0)
    called = [table.from_table(extract(clip(tmp_path), voices("Counted"))).x_SND[0, 0, 2] for _ in range(3)]
    assert called == [1, 2, 3]
    assert made_encoders.Counted.constructed == 1


def test_a_functions_electrodes_keep_their_order_and_the_edges_their_signal(tmp_path):
    file = recording(write_mat(tmp_path / "r.mat", resting(8)), "eeg", "modma-mat")
    plain = table.from_table(extract(file, Features()))
    settings = config.from_dict({"features": {"eeg": {"encoder": f"{MODULE}:scalp", "encoder_version": "1"}}}).features
    rows = table.from_table(extract(file, settings))
    assert rows.shape == shape("eeg", settings) == (128, 2)
    np.testing.assert_array_equal(rows.neighbour_SNK, plain.neighbour_SNK)
    log_activity = plain.x_SND[..., 5]
    assert np.corrcoef(np.log(rows.x_SND[..., 0].ravel()), log_activity.ravel())[0, 1] > 0.95


def test_double_precision_is_taken_and_stored_as_single(tmp_path):
    assert table.from_table(extract(clip(tmp_path), voices("double"))).x_SND.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Absent", "cannot import .*Absent: AttributeError"),
        ("Untold", "must declare `version`, a string, and `width`.* attributes of the class"),
        ("constant", "is a int, not a callable"),
        ("Uncallable", "cannot be called"),
        ("Unmade", r"Unmade\(\) cannot be constructed: FileNotFoundError: weights"),
        ("flat", r"flat returned float32 of shape \(1, 4\); .* shape \(1, 32, 4\)"),
        ("narrow", r"narrow returned float32 of shape \(1, 31, 4\); .* shape \(1, 32, 4\)"),
        ("whole_numbers", "returned int64"),
        ("listed", "returned <class 'list'>"),
    ],
)
def test_what_breaks_the_contract_is_a_config_error_that_names_it(tmp_path, name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        extract(clip(tmp_path), voices(name))
    assert str(caught.value).startswith("features.audio.encoder: ")
    assert f"{MODULE}:{name}" in str(caught.value)


@pytest.mark.parametrize("broken", ["raise OSError('no licence')", "import not_there", "x ="])
def test_a_module_that_cannot_be_imported_is_a_config_error(tmp_path, monkeypatch, broken):
    (tmp_path / "broken_encoders.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    features = Features(audio=Audio(encoder="broken_encoders:Any", encoder_version="1"))
    with pytest.raises(ConfigError, match=r"features\.audio\.encoder: cannot import broken_encoders:Any"):
        shape("audio", features)


def test_another_version_than_the_settings_say_is_refused():
    with pytest.raises(ConfigError, match=r"is version '1' here, and features\.audio\.encoder_version says '2'"):
        shape("audio", voices("Counted", version="2"))


def test_name_and_version_are_part_of_the_digest():
    digests = {config.digest(voices(*named)) for named in (("Counted", "1"), ("Counted", "2"), ("Picky", "1"))}
    assert len(digests) == 3
    assert config.digest(Config(cluster={"encoder_gpus": 0.5}).features) == config.digest(Features())


@pytest.mark.parametrize(
    "given",
    [
        {"encoder": "a.b:C"},
        {"encoder_version": "1"},
        {"encoder": "a.b.C", "encoder_version": "1"},
        {"encoder": "os:system('x')", "encoder_version": "1"},
    ],
)
def test_an_encoder_without_a_version_or_of_no_importable_name_is_refused(given):
    with pytest.raises(ConfigError, match="encoder"):
        config.from_dict({"features": {"audio": given}})


@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("Picky", 2.0, r"Picky \(version 1\) failed on 2 x 16000 samples at 16000 Hz: ValueError: two segments"),
        ("starved", 1.0, "MemoryError: no room"),
        ("endless", 1.0, "not finite"),
        ("greedy", 1.0, "read-only"),
    ],
)
def test_what_fails_on_a_recording_is_that_recordings_error(tmp_path, name, seconds, message):
    with pytest.raises(RecordingError, match=message) as caught:
        extract(clip(tmp_path, seconds), voices(name))
    assert str(tmp_path / "voice.wav") in str(caught.value)


def study(folder: Path) -> list:
    return [clip(folder, 2.0 if n == 2 else 1.0, f"v{n}", f"s{n}") for n in range(6)]


def workspace_of(folder: Path, people: int = 6) -> str:
    Workspace(str(folder / "ws")).write_table(recordings_table(study(folder)[:people]), "recordings.parquet")
    return str(folder / "ws")


def test_prepare_runs_it_in_actors_that_construct_it_once_and_quarantines_what_it_refuses(ray_session, tmp_path):
    settings = Config(workspace=workspace_of(tmp_path), features=voices("Picky"))
    summary = pipeline.prepare(settings)
    assert summary.prepared["audio"] == 5
    assert [(name, "two segments" in reason) for name, reason in summary.reasons] == [("s2-audio-v2", True)]
    workspace, key = Workspace(settings.workspace), config.digest(settings.features)
    rows = table.load(workspace, key, "audio")
    pids, constructed, called = (rows.x_SND[:, 0, column] for column in range(3))
    assert set(constructed) == {1}
    for pid in set(pids):
        assert sorted(called[pids == pid]) == list(range(1, int((pids == pid).sum()) + 1))
    kept = workspace.read_json("features", key, "provenance.json")["features"]["audio"]
    assert (kept["encoder"], kept["encoder_version"]) == (f"{MODULE}:Picky", "1")
    searched = table.from_table(extract(study(tmp_path)[0], settings.features))
    np.testing.assert_array_equal(searched.x_SND[..., 3], rows.x_SND[:1, :, 3])


def test_prepare_stops_where_the_encoder_can_serve_nobody(ray_session, tmp_path):
    with pytest.raises(ConfigError, match=r"Unmade\(\) cannot be constructed"):
        pipeline.prepare(Config(workspace=workspace_of(tmp_path, 1), features=voices("Unmade")))


def test_an_encoder_that_ends_its_process_stops_prepare_and_hangs_nothing(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "_TASK_RETRIES", 1)
    with pytest.raises(ResourceError, match=r"cluster\.encoder_cpus"):
        pipeline.prepare(Config(workspace=workspace_of(tmp_path, 1), features=voices("Deadly")))


def test_gpus_that_no_node_has_are_a_resource_error(ray_session, tmp_path):
    settings = Config(workspace=workspace_of(tmp_path, 1), features=voices("Counted"), cluster={"encoder_gpus": 64})
    with pytest.raises(ResourceError, match=r"64 GPUs.*lower cluster\.encoder_cpus or cluster\.encoder_gpus"):
        pipeline.prepare(settings)
