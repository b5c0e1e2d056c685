"""A run's state as safetensors with JSON in its header, and a finished run read back. No pickle anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mmray import config
from mmray.errors import ConfigError, WorkspaceError
from mmray.models import registry
from mmray.models.system import System
from mmray.storage import Workspace


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a fit: a row of history.parquet."""

    epoch: int
    loss: float
    retrieval_loss: float
    classification_loss: float
    validation_mrr: float
    logit_scale: float
    learning_rate: float


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a fit goes on from.

    Attributes:
        tensors: `model.*`, `best.*` (weights of the best epoch), `optimiser.<parameter>.*`, `rng.cpu` and, on a GPU,
            `rng.cuda` (one row a worker).
        optimiser: the optimiser's parameter groups.
        scheduler: the scheduler's state.
        history: epochs done.
        best_epoch: whose weights `best.*` are.
        best_mrr: validation MRR of that epoch.
        stale: epochs since validation MRR last rose.
        finished: whether the fit is over.
    """

    tensors: dict[str, Tensor]
    optimiser: list[dict[str, Any]]
    scheduler: dict[str, Any]
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = -1
    best_mrr: float = -1.0
    stale: int = 0
    finished: bool = False

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to embed.

    Attributes:
        model: in eval mode, on the CPU.
        shapes: modality -> (nodes, features a node).
        fold: number of the split's fold that it was fitted on.
        features_digest: names the features it was fitted on.
    """

    run_id: str
    model: System
    config: config.Config
    shapes: dict[str, tuple[int, int]]
    classes: int
    fold: int
    features_digest: str


def write_checkpoint(workspace: Workspace, checkpoint: Checkpoint, *parts: str) -> None:
    """Publish a checkpoint as one file, atomically."""
    state = {f.name: getattr(checkpoint, f.name) for f in fields(checkpoint) if f.name != "tensors"}
    state["history"] = [asdict(record) for record in checkpoint.history]
    workspace.write_bytes(save_tensors(_contiguous(checkpoint.tensors), {"state": json.dumps(state)}), *parts)


def read_checkpoint(workspace: Workspace, *parts: str) -> Checkpoint | None:
    """The checkpoint at this path; None where there is none.

    Raises:
        WorkspaceError: the file is damaged.
    """
    if not workspace.exists(*parts):
        return None
    data = workspace.read_bytes(*parts)
    try:
        tensors = load_tensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        state = json.loads(header["__metadata__"]["state"])
        state["history"] = [EpochRecord(**record) for record in state["history"]]
        return Checkpoint(tensors=tensors, **state)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: {'/'.join(parts)} is damaged ({error}); delete it to train from the start"
        ) from error


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's per-parameter state as `optimiser.<parameter>.<name>`."""
    state: Mapping[int, Mapping[str, Tensor]] = optimiser.state_dict()["state"]
    return {f"optimiser.{key}.{name}": tensor for key, entry in state.items() for name, tensor in entry.items()}


def restore_optimiser(optimiser: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Load groups and per-parameter state."""
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in checkpoint.part("optimiser").items():
        key, name = path.split(".")
        state.setdefault(int(key), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": checkpoint.optimiser})


def save_model(workspace: Workspace, weights: dict[str, Tensor], run_id: str) -> None:
    """Publish runs/<id>/model.safetensors."""
    workspace.write_bytes(save_tensors(_contiguous(weights)), "runs", run_id, "model.safetensors")


def load_run(workspace: Workspace, run_id: str) -> LoadedRun:
    """Read a finished run.

    Raises:
        WorkspaceError: there is no such run, it has not finished, a file is damaged, or the weights are of another
            architecture.
    """
    if not workspace.exists("runs", run_id, "run.json"):
        finished = [name for name in workspace.names("runs") if workspace.exists("runs", name, "run.json")]
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id} is not a finished run; "
            f"finished: {', '.join(finished) or 'none, run `mmray train`'}"
        )
    summary = workspace.read_json("runs", run_id, "run.json")
    try:
        settings = config.from_dict(yaml.safe_load(workspace.read_bytes("runs", run_id, "config.yaml")))
        shapes = {str(m): (int(nodes), int(width)) for m, (nodes, width) in summary["shapes"].items()}
        classes, fold, digest = int(summary["classes"]), int(summary["fold"]), str(summary["features_digest"])
    except (ConfigError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id} is damaged: {error}; train it again"
        ) from error
    model = registry.build(settings.model, shapes, classes)
    try:
        model.load_state_dict(load_tensors(workspace.read_bytes("runs", run_id, "model.safetensors")))
    except (SafetensorError, RuntimeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id}/model.safetensors is damaged or of another architecture than "
            f"its config.yaml says: {str(error).splitlines()[0]}; train it again"
        ) from error
    return LoadedRun(run_id, model.eval(), settings, shapes, classes, fold, digest)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
