"""A fit's epochs told to TensorBoard or MLflow as they end, for who keeps runs there. The report needs neither."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from mmray import config
from mmray.config import Config
from mmray.errors import ConfigError
from mmray.storage import Workspace
from mmray.training.checkpoint import EpochRecord

Track = Callable[[EpochRecord], None]


@contextmanager
def tracked(workspace: Workspace, settings: Config, *place: str) -> Iterator[Track]:
    """What to call after every epoch of a fit, under `train.track`.

    TensorBoard's files lie in the workspace's folder tensorboard/<place>. MLflow's go to MLFLOW_TRACKING_URI or, where
    that is not set, to the workspace's mlflow.db; the run is named by its place and holds every setting of the fit.

    Args:
        place: names the fit, as ("runs", id).

    Raises:
        ConfigError: the workspace is no local folder, or MLflow is not installed.
    """
    match settings.train.track:
        case "none":
            yield lambda record: None
        case "tensorboard":
            _require_local(workspace, "tensorboard")
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

            writer = SummaryWriter(workspace.path("tensorboard", *place))
            try:
                writer.add_text("config", f"```\n{config.to_yaml(settings)}```")
                yield lambda record: _write(record, writer.add_scalar)
            finally:
                writer.close()
        case "mlflow":
            if any(importlib.util.find_spec(name) is None for name in ("mlflow", "sqlalchemy")):
                raise ConfigError("train.track = mlflow needs MLflow: pip install -c constraints.txt '.[mlflow]'")
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            logging.getLogger("alembic").setLevel(logging.WARNING)
            import mlflow

            if not os.environ.get("MLFLOW_TRACKING_URI"):
                _require_local(workspace, "mlflow, unless MLFLOW_TRACKING_URI is set,")
                mlflow.set_tracking_uri(f"sqlite:///{workspace.path('mlflow.db')}")
            mlflow.set_experiment("mmray")
            with mlflow.start_run(run_name="/".join(place)):
                mlflow.log_params(config.fitting(settings))
                yield lambda record: _write(record, lambda name, value, step: mlflow.log_metric(name, value, step=step))


def _write(record: EpochRecord, scalar: Callable[[str, float, int], object]) -> None:
    for name, value in asdict(record).items():
        if name != "epoch" and isinstance(value, int | float):  # neither takes words: the device
            scalar(name, value, record.epoch)


def _require_local(workspace: Workspace, what: str) -> None:
    if not workspace.is_local:
        raise ConfigError(f"train.track = {what} writes to a local folder, and the workspace is {workspace.root}")
