from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray import config
from mmray.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[1] / "jobs" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_loads_and_survives_the_round_trip(path: Path, tmp_path: Path) -> None:
    first = config.load(path)
    (tmp_path / "again.yaml").write_text(config.to_yaml(first), encoding="utf-8")
    assert config.load(tmp_path / "again.yaml") == first


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("train.lerning_rate=1", "did you mean 'learning_rate'"),
        ("trian.epochs=1", "did you mean 'train'"),
        ("features.eeg.montag=x", "did you mean 'montage'"),
        ("model.name=crosmodal_gcn", "did you mean 'crossmodal_gcn'"),
        ("study.kind=modmaa", "did you mean 'modma'"),
        ("features.zzzz=1", "known here: pairing, eeg, audio"),
    ],
)
def test_a_misspelt_key_or_choice_is_answered_with_the_nearest_one(override: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        config.load(None, [override])


@pytest.mark.parametrize(
    "override", ["train.epochs=0", "train.epochs", "=3", "seed.x=1", "train.epochs=[", "features.eeg.highpass_hz=60"]
)
def test_a_refused_override_is_a_config_error(override: str) -> None:
    with pytest.raises(ConfigError):
        config.load(None, [override])


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["train.schedule=plateau", "train.patience=1"], "patience"),
        (["train.clip_norm=0"], "clip_norm"),
        (["features.audio.mels=8"], r"features\.audio: .*mfcc = 13 coefficients of mels = 8 bands"),
        (["features.audio.trim_db=-40"], r"features\.audio\.trim_db"),
        (["features.audio.trim_db=0"], r"features\.audio\.trim_db"),
        (["train.class_weights=true", "train.classification_weight=0"], "class_weights"),
        (["model.node_encoder=conv"], r"config: .*features.eeg.families"),
    ],
)
def test_settings_that_cannot_work_together_are_refused_by_name(overrides: list[str], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        config.load(None, overrides)


@pytest.mark.parametrize(
    ("gpus", "workers", "why"),
    [
        ("1", "0", r"set train\.num_workers"),
        ("0.5", "0", r"set train\.num_workers"),
        ("0.5", "2", "a whole number"),
        ("0.5", "[1, 2]", "a whole number"),
        ("1.5", "1", "a whole number"),
        ("1.5", "4", "a whole number"),
    ],
)
def test_gpus_that_workers_cannot_be_given_are_refused_before_ray_is_asked(gpus: str, workers: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"cluster\.gpus_per_worker = {gpus}.*{why}"):
        config.load(None, [f"cluster.gpus_per_worker={gpus}", f"train.num_workers={workers}"])


@pytest.mark.parametrize(("gpus", "workers"), [("0", "0"), ("0", "4"), ("0.5", "1"), ("1", "[1, 4]"), ("2", "4")])
def test_a_share_of_a_gpu_is_for_one_worker_and_whole_ones_for_any(gpus: str, workers: str) -> None:
    config.load(None, [f"cluster.gpus_per_worker={gpus}", f"train.num_workers={workers}"])


@pytest.mark.parametrize(
    "overrides",
    [
        ["features.audio.mels=13"],
        ["features.audio.mels=8", "features.audio.families=[log_mel]"],
        [
            "features.audio.mels=8",
            "features.audio.encoder=package.module:encoder",
            "features.audio.encoder_version='1'",
        ],
        ["features.audio.trim_db=null"],
    ],
)
def test_more_coefficients_than_bands_matter_only_where_they_are_used(overrides: list[str]) -> None:
    config.load(None, overrides)


def test_every_problem_of_a_file_is_listed_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("train: {epoch: 3, batch_size: 1}\nsed: 4\n")
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "bad.yaml")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        config.load(tmp_path / "bad.yaml")


@given(st.floats(1e-8, 1, allow_nan=False), st.integers(1, 10_000))
def test_numbers_survive_the_override_syntax(rate: float, epochs: int) -> None:
    tree = config.load(None, [f"train.learning_rate={rate!r}", f"train.epochs={epochs}"])
    assert (tree.train.learning_rate, tree.train.epochs) == (rate, epochs)


def test_an_exponent_without_a_dot_is_a_number() -> None:
    assert config.load(None, ["train.learning_rate=1e-4"]).train.learning_rate == 1e-4


def test_hardware_fields_do_not_change_a_digest() -> None:
    one = config.load(None, ["train.num_workers=0", "workspace=a", "cluster.task_cpus=1"])
    two = config.load(None, ["train.num_workers=4", "workspace=b", "cluster.task_cpus=2", "train.compile=true"])
    assert config.digest(one) == config.digest(two)


def test_a_scientific_field_changes_a_digest() -> None:
    one, two = config.load(None), config.load(None, ["features.eeg.segment_s=2"])
    assert config.digest(one.features) != config.digest(two.features)
    assert config.digest(one.train) == config.digest(two.train)


@given(st.text().filter(lambda text: "\x00" not in text))
def test_any_text_survives_the_override_syntax(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    assert config.load(None, [config.override("features.eeg.montage", text)]).features.eeg.montage == text


def test_a_key_below_a_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"train\.fold\.x is not a setting; fold is a value"):
        config.laid_over(config.Config(), {"train.fold.x": 1})


@pytest.mark.parametrize("key", ["workspace", "study.root"])
def test_a_secret_in_a_uri_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load(None, [f"{key}=s3://AKIAX:hunter2@bucket/ws"])  # pragma: allowlist secret
    assert key in str(refused.value)
    assert "environment" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("place", ["gs://anonymous@bucket/ws", "s3://bucket/a:b@c", "hdfs://host:8020/x@y"])
def test_a_uri_without_a_secret_stays_as_it_is(place: str) -> None:
    assert config.load(None, [f"workspace={place}"]).workspace == place


def test_a_milvus_file_may_lie_in_a_folder_with_an_at_sign_and_a_secret_in_a_uri_is_refused() -> None:
    settings = ["index.backend=milvus", "index.milvus_uri=/home/me@corp/m.db"]
    assert config.load(None, settings).index.milvus_uri == "/home/me@corp/m.db"
    with pytest.raises(ConfigError, match="MMRAY_MILVUS_TOKEN") as refused:
        config.load(None, ["index.backend=milvus", "index.milvus_uri=https://hunter2@host:19530"])
    assert "hunter2" not in str(refused.value)


def test_the_folder_of_the_access_log_is_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written in ("~/logs", "logs"):
        assert config.load(None, [f"serve.access_log={written}"]).serve.access_log == str(tmp_path / "logs")
    assert config.load(None, ["serve.access_log=null"]).serve.access_log is None


def test_settings_for_another_machine_keep_its_home_and_are_absolute_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["workspace=~/ws", "study.root=study", "serve.access_log=~/logs"]
    sent = config.load(None, overrides, elsewhere=True)
    assert (sent.workspace, sent.study.root, sent.serve.access_log) == ("~/ws", str(tmp_path / "study"), "~/logs")
    (tmp_path / "job.yaml").write_text(config.to_yaml(sent), encoding="utf-8")
    monkeypatch.setenv("HOME", "/home/ray")
    taken = config.load(tmp_path / "job.yaml")
    assert (taken.workspace, taken.serve.access_log) == ("/home/ray/ws", "/home/ray/logs")
