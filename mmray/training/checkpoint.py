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

MODEL = "model.safetensors"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a fit: a row of history.parquet.

    Validation figures are of people: accuracy and cross-entropy of the fused classes, at temperature 1 and before it is
    known which epoch is kept; None where no validation subject has a label.

    Attributes:
        workers: that ended the epoch; None where it was not kept, as in a sweep's rows ...
        device: ... and the kind of theirs, the same.
    """

    epoch: int
    loss: float
    retrieval_loss: float
    classification_loss: float
    validation_mrr: float
    validation_accuracy: float | None
    validation_cross_entropy: float | None
    logit_scale: float
    learning_rate: float
    workers: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a fit goes on from.

    Attributes:
        tensors: `model.*`, `best.*` (weights of the best epoch), `optimiser.<parameter>.*`, `rng.cpu` and, on a GPU,
            `rng.cuda` (one row a worker); with `ema` `average.*`; with a population
            graph `reference.*` and `best_reference.*`; inside an epoch `progress.losses`, sums so far (one row a
            worker).
        optimiser: the optimiser's parameter groups.
        scheduler: the scheduler's state.
        history: epochs done.
        best_epoch: whose weights `best.*` are.
        best_mrr: validation MRR of that epoch.
        stale: epochs since validation MRR last rose.
        finished: whether the fit is over.
        step: batches done of the epoch that is under way; 0 between epochs.
    """

    tensors: dict[str, Tensor]
    optimiser: list[dict[str, Any]]
    scheduler: dict[str, Any]
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = -1
    best_mrr: float = -1.0
    stale: int = 0
    finished: bool = False
    step: int = 0

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors under `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}


@dataclass(frozen=True)
class LoadedRun:
    """A finished run, ready to embed.

    Attributes:
        model: in eval mode, on the CPU; a population graph's reference set is attached.
        shapes: modality -> (nodes, features a node).
        features_digest: names the features it was fitted on.
    """

    run_id: str
    model: System
    config: config.Config
    shapes: dict[str, tuple[int, int]]
    classes: int
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


def save_model(
    workspace: Workspace, weights: dict[str, Tensor], attached: Reference | None, run_id: str, settings: config.Config
) -> None:
    """Publish runs/<id>/reference.safetensors, where there is one, and then model.safetensors.

    The weights' header keeps the settings that they were fitted with, which `read_settings` holds config.yaml against.
    """
    # one entry: safetensors writes several in any order, and equal weights must be equal bytes
    fitted_with = {"settings": config.fitting(settings), "features_digest": config.digest(settings.features)}
    data = save_tensors(_contiguous(weights), {"fitted_with": json.dumps(fitted_with)})
    if attached is not None:
        content = reference.to_bytes(attached, hashlib.sha256(data).hexdigest())
        workspace.write_bytes(content, "runs", run_id, reference.FILE)
    workspace.write_bytes(data, "runs", run_id, MODEL)


def fingerprint(workspace: Workspace, run_id: str) -> str:
    """SHA-256 of all that embeds: the weights, and the reference set where there is one."""
    digest = hashlib.sha256(workspace.read_bytes("runs", run_id, MODEL))
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
        WorkspaceError: there is no such run, it has not finished, a file is damaged, config.yaml is not what the
            weights were fitted with, they are of another architecture, or the reference set knows a held-out subject.
    """
    if not workspace.exists("runs", run_id, "run.json"):
        finished = [name for name in workspace.names("runs") if workspace.exists("runs", name, "run.json")]
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id} is not a finished run; "
            f"finished: {', '.join(finished) or 'none, run `mmray train`'}"
        )
    summary = workspace.read_json("runs", run_id, "run.json")
    settings, digest, weights = _published(workspace, run_id)
    try:
        shapes = {str(m): (int(nodes), int(width)) for m, (nodes, width) in summary["shapes"].items()}
        classes = int(summary["classes"])
        model = registry.build(settings.model, shapes, classes)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: runs/{run_id}/run.json is damaged: {error!r}; train the run again"
        ) from error
    where = f"workspace {workspace.root}: runs/{run_id}/{MODEL}"
    try:
        tensors = load_tensors(weights)
    except SafetensorError as error:
        raise WorkspaceError(f"{where} is damaged ({error}); train the run again") from error
    load_weights(model, tensors, where)
    if model.neighbours:
        attached = reference.read(workspace, run_id, hashlib.sha256(weights).hexdigest())
        roles = workspace.read_table("runs", run_id, "embeddings.parquet", columns=["subject_id", "role"])
        held_out = roles.filter(pc.not_equal(roles["role"], "train"))["subject_id"].to_pylist()
        where = f"workspace {workspace.root}: runs/{run_id}/{reference.FILE}"
        reference.require_training_subjects(attached, held_out, where)
        model.attach(attached)
    return LoadedRun(run_id, model.eval(), settings, shapes, classes, digest)


def read_settings(workspace: Workspace, run_id: str) -> config.Config:
    """A fitted run's config.yaml, which must be what its weights were fitted with.

    Only what a fit depends on is compared: figures may be made again with other `evaluate`, a run may move.

    Raises:
        WorkspaceError: a file is missing or damaged, or they differ; the message names the fields.
    """
    return _published(workspace, run_id)[0]


def _published(workspace: Workspace, run_id: str) -> tuple[config.Config, str, bytes]:
    """Settings as `read_settings`, the digest of the features fitted on, and the weights' file."""
    where = f"workspace {workspace.root}: runs/{run_id}"
    try:
        settings = config.from_dict(yaml.safe_load(workspace.read_bytes("runs", run_id, "config.yaml")))
    except (ConfigError, ValueError, yaml.YAMLError) as error:
        raise WorkspaceError(f"{where}/config.yaml is damaged: {error}; train the run again") from error
    data = workspace.read_bytes("runs", run_id, MODEL)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = json.loads(header["__metadata__"]["fitted_with"])
        features_digest, items = str(told["features_digest"]), told["settings"].items()
        # resolved as config.yaml is, so that a setting that is new since has its default on both sides
        fitted_with = config.fitting(config.load(None, [config.override(*item) for item in items]))
    except KeyError as error:
        raise WorkspaceError(
            f"{where}/{MODEL} does not say which settings it was fitted with; train the run again"
        ) from error
    except (ConfigError, AttributeError, TypeError, ValueError) as error:
        raise WorkspaceError(f"{where}/{MODEL} is damaged ({error}); train the run again") from error
    now = config.fitting(settings)
    if now != fitted_with:
        differing = [f"{key} = {now[key]!r}, was {was!r}" for key, was in fitted_with.items() if now[key] != was]
        raise WorkspaceError(
            f"{where}/config.yaml is not what the weights were fitted with: {'; '.join(differing)}. Put back what was "
            "there, or fit the new settings as a run of their own: mmray train --config with a copy of the file"
        )
    return settings, features_digest, data


def load_weights(model: System, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights that fit the model tensor by tensor.

    Args:
        where: the file they come from, as an error names it.

    Raises:
        WorkspaceError: they are of another architecture; the message names the tensors.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    told = [f"{name} is missing" for name in expected if name not in found]
    told += [f"{name} has no place in it" for name in found if name not in expected]
    told += [
        f"{name} is {' x '.join(map(str, found[name]))}, not {' x '.join(map(str, shape))}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if told:
        raise WorkspaceError(
            f"{where} is of another architecture than the run's settings: {'; '.join(told[:3])}"
            + (f"; and {len(told) - 3} tensors more" if len(told) > 3 else "")
            + ". Put the run's own file back, or delete the run and train it again"
        )
    model.load_state_dict(dict(tensors))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
