"""The file for `serve deploy`: every key is one that Serve or the application knows, and the application builds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from mmray import config as configuration
from mmray.config import Config, from_dict
from mmray.errors import ConfigError
from mmray.serving import app, keys
from mmray.serving.deploy import application
from mmray.storage import Workspace

FILE = Path(__file__).parents[2] / "jobs" / "serve_config.yaml"


@pytest.fixture
def with_key(config: Config, tmp_path: Path) -> Config:
    shutil.copytree(config.workspace, tmp_path / "ws")
    keys.add(Workspace(str(tmp_path / "ws")), "clinic")
    return from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")})


def unknown(given: dict[str, Any], schema: type[BaseModel]) -> set[str]:
    return set(given) - set(schema.model_fields)


def test_no_key_of_the_file_is_misspelt() -> None:
    given = yaml.safe_load(FILE.read_text())
    ServeDeploySchema.model_validate(given)
    assert unknown(given, ServeDeploySchema) == set()
    assert unknown(given["http_options"], HTTPOptionsSchema) == set()
    assert unknown(given["logging_config"], LoggingConfig) == set()
    (one,) = given["applications"]
    assert unknown(one, ServeApplicationSchema) == set()
    assert one["import_path"] == f"{application.__module__}:{application.__name__}"
    configuration.load(None, one["args"]["settings"])


def built(**args: Any) -> Any:
    return call_user_app_builder_with_args_if_necessary(application, args)


def test_the_application_builds_from_the_files_arguments(with_key: Config) -> None:
    (one,) = yaml.safe_load(FILE.read_text())["applications"]
    made = built(**{**one["args"], "workspace": with_key.workspace})
    deployment = made._bound_deployment
    assert deployment.name == "Retriever"
    scaling = deployment._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 8)


def test_without_replicas_max_the_number_is_fixed(with_key: Config) -> None:
    deployment = built(workspace=with_key.workspace, settings=["serve.replicas=3"])._bound_deployment
    assert deployment._deployment_config.autoscaling_config is None
    assert deployment._deployment_config.num_replicas == 3


@pytest.mark.parametrize("wrong", [{"worksapce": "x"}, {"settings": "serve.replicas=2"}])
def test_a_misspelt_argument_is_refused(with_key: Config, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        built(**{"workspace": with_key.workspace, **wrong})


def test_a_workspace_without_a_key_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="mmray keys add"):
        built(workspace=config.workspace)


def test_replicas_max_below_replicas_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="replicas_max"):
        from_dict({**config.model_dump(), "serve": {"replicas": 3, "replicas_max": 2}})


def test_the_key_at_start_is_in_nothing_that_ray_stores(config: Config) -> None:
    from ray import cloudpickle

    key = "a-key-of-sixteen-or-more"
    assert key.encode() not in cloudpickle.dumps(app.application_of(config, keys.digest(key)))


def test_a_key_of_the_environment_serves_where_the_workspace_has_none_and_is_stored_nowhere(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    key = "a-key-of-sixteen-or-more"
    monkeypatch.setenv("MMRAY_KEY", key)
    stored = cloudpickle.dumps(built(workspace=config.workspace))
    assert keys.digest(key).encode() in stored
    assert key.encode() not in stored


def test_a_key_of_the_environment_that_could_be_guessed_is_refused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMRAY_KEY", "short")
    with pytest.raises(ConfigError, match="at least 16"):
        built(workspace=config.workspace)
