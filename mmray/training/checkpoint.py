"""A run's state as safetensors with JSON in its header, and a finished run read back. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow.compute as pc
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mmray import config
from mmray.errors import ConfigError, WorkspaceError
from mmray.graphs.population import Reference
from mmray.models import registry
from mmray.models.system import System
from mmray.storage import Workspace
from mmray.training import reference


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
            `rng.cuda` (one row a worker); with `ema` `average.*`; with a population
            graph `reference.*` and `best_reference.*`.
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
        model: in eval mode, on the CPU; a population graph's reference set is attached.
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


def save_model(workspace: Workspace, weights: dict[str, Tensor], attached: Reference | None, run_id: str) -> None:
    """Publish runs/<id>/reference.safetensors, where there is one, and then model.safetensors."""
    data = save_tensors(_contiguous(weights))
    if attached is not None:
        content = reference.to_bytes(attached, hashlib.sha256(data).hexdigest())
        workspace.write_bytes(content, "runs", run_id, reference.FILE)
    workspace.write_bytes(data, "runs", run_id, "model.safetensors")


def fingerprint(workspace: Workspace, run_id: str) -> str:
    """SHA-256 of all that embeds: the weights, and the reference set where there is one."""
    digest = hashlib.sha256(workspace.read_bytes("runs", run_id, "model.safetensors"))
    if workspace.exists("runs", run_id, reference.FILE):
        digest.update(workspace.read_bytes("runs", run_id, reference.FILE))
    return digest.hexdigest()


def newest_run(workspace: Workspace) -> str:
    """Id of the run that finished last. Raises WorkspaceError where none has."""
    finished = [name for name in workspace.names("runs") if workspace.exists("runs", name, "run.json")]
    if not finished:
        raise WorkspaceError(f"workspace {workspace.root} holds no finished run; run `mmray train`")
    infos = workspace.filesystem.get_file_info([workspace.path("runs", name, "run.json") for name in finished])
    newest: str = max(zip(finished, infos, strict=True), key=lambda pair: (pair[1].mtime_ns, pair[0]))[0]
    return newest


def load_run(workspace: Workspace, run_id: str) -> LoadedRun:
    """Read a finished run.

    Raises:
        WorkspaceError: there is no such run, it has not finished, a file is damaged, the weights are of another
            architecture, or the reference set knows a held-out subject.
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
    weights = workspace.read_bytes("runs", run_id, "model.safetensors")
    try:
        model.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id}/model.safetensors is damaged or of another architecture than "
            f"its config.yaml says: {str(error).splitlines()[0]}; train it again"
        ) from error
    if model.neighbours:
        attached = reference.read(workspace, run_id, hashlib.sha256(weights).hexdigest())
        roles = workspace.read_table("runs", run_id, "embeddings.parquet", columns=["subject_id", "role"])
        held_out = roles.filter(pc.not_equal(roles["role"], "train"))["subject_id"].to_pylist()
        where = f"workspace {workspace.root}: runs/{run_id}/{reference.FILE}"
        reference.require_training_subjects(attached, held_out, where)
        model.attach(attached)
    return LoadedRun(run_id, model.eval(), settings, shapes, classes, fold, digest)


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
