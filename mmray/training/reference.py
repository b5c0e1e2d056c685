"""The reference set: made from training subjects while a model is fitted, and read back beside its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from mmray.errors import ConfigError, WorkspaceError
from mmray.features.table import Segments
from mmray.graphs.population import Reference
from mmray.models.system import System
from mmray.storage import Workspace
from mmray.training.batches import Graphs
from mmray.training.losses import dealt_back
from mmray.training.sampling import spread

FILE = "reference.safetensors"
CHUNK = 256


@torch.no_grad()
def make(
    model: System,
    training: dict[str, Segments],
    graphs: dict[str, Graphs],
    segments_each: int,
    rank: int = 0,
    world: int = 1,
) -> Reference:
    """One row a training pair_id: the mean encoded vector of its segments, in evaluation mode.

    Each worker encodes every world-th row; all end with the same reference.

    Args:
        training: modality -> segments of the training subjects, and of nobody else.
        graphs: the same as tensors.
        segments_each: segments a row is the mean of, at most; spread evenly over what there is.

    Raises:
        ConfigError: a query would find fewer neighbours than the model asks for.
    """
    was_training = model.training
    model.eval()
    subject_of = {
        str(pair): str(subject)
        for part in training.values()
        for pair, subject in zip(part.pair_id_S, part.subject_id_S, strict=True)
    }
    pairs = sorted(subject_of)
    subjects = training_subjects(training)
    code = {subject: number for number, subject in enumerate(subjects)}
    padded = pairs + [""] * (-len(pairs) % world)  # equal shares, whatever the number of workers
    columns = [_means(model, m, part, graphs[m], padded[rank::world], segments_each) for m, part in training.items()]
    vector_RME = dealt_back(torch.stack([vector for vector, _ in columns], 1), world)[: len(pairs)]
    present_RM = dealt_back(torch.stack([present for _, present in columns], 1), world)[: len(pairs)]
    subject_R = torch.tensor([code[subject_of[pair]] for pair in pairs], device=vector_RME.device)
    model.train(was_training)
    reference = Reference(vector_RME, present_RM, subject_R, subjects)
    if reference.room() < model.neighbours:
        raise ConfigError(
            f"config: model.population_neighbours = {model.neighbours}, and a training subject finds "
            f"{reference.room()} other reference samples with every modality; lower it, train on more subjects, or set "
            "model.population=false"
        )
    return reference


def training_subjects(training: dict[str, Segments]) -> tuple[str, ...]:
    """Everybody who has a segment of any modality, sorted; the order that subject codes count in."""
    return tuple(sorted({str(subject) for part in training.values() for subject in part.subject_id_S}))


def of_tensors(tensors: dict[str, Tensor], training: dict[str, Segments], device: torch.device) -> Reference:
    """A reference back from what a checkpoint kept of it, `Reference.tensors`."""
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Reference(**on_device, subjects=training_subjects(training))


def require_training_subjects(reference: Reference, held_out: Iterable[str], where: str) -> None:
    """Refuse a reference that knows somebody whom the run is tested or validated on.

    Raises:
        WorkspaceError: naming the subject.
    """
    known = sorted(set(reference.subjects) & set(held_out))
    if known:
        raise WorkspaceError(
            f"{where}: subject {known[0]} is held out for validation or test and stands in the reference set "
            f"({len(known)} such), so their own partner would answer for them; train the run again"
        )


def to_bytes(reference: Reference, weights_sha256: str) -> bytes:
    """The file's content; it names the weights that encoded it."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in reference.tensors().items()}
    # one entry: safetensors writes several in any order, and equal references must be equal bytes
    about = {"subjects": reference.subjects, "weights_sha256": weights_sha256}
    return save_tensors(tensors, {"about": json.dumps(about)})


def read(workspace: Workspace, run_id: str, weights_sha256: str) -> Reference:
    """The reference of a run.

    Raises:
        WorkspaceError: it is missing, damaged, or was encoded by other weights.
    """
    where = f"workspace {workspace.root}: runs/{run_id}/{FILE}"
    if not workspace.exists("runs", run_id, FILE):
        raise WorkspaceError(f"{where} is missing, and this model asks it for neighbours; train the run again")
    data = workspace.read_bytes("runs", run_id, FILE)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        about = json.loads(header["about"])
        reference = Reference(**load_tensors(data), subjects=tuple(map(str, about["subjects"])))
        other = about["weights_sha256"] != weights_sha256
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WorkspaceError(f"{where} is damaged ({error}); train the run again") from error
    if other:
        raise WorkspaceError(f"{where} was encoded by other weights than model.safetensors holds; train the run again")
    return reference


def _means(
    model: System, modality: str, part: Segments, graphs: Graphs, pairs: list[str], segments_each: int
) -> tuple[Tensor, Tensor]:
    """Mean vector of each pair_id, and whether it has any segment; zeros where it has none."""
    rows_of = spread(part.pair_id_S, segments_each)
    device = graphs.x_SND.device
    chosen = [rows_of.get(pair, np.empty(0, dtype=np.int64)) for pair in pairs]
    row_C = torch.as_tensor(np.concatenate([*chosen, np.empty(0, dtype=np.int64)]), device=device)
    encoded = [model.encode(modality, *graphs.take(row)).float() for row in torch.split(row_C, CHUNK)]
    group_C = torch.as_tensor(np.repeat(np.arange(len(pairs)), [len(rows) for rows in chosen]), device=device)
    count_P = torch.as_tensor([len(rows) for rows in chosen], device=device)
    total_PE = torch.zeros(len(pairs), encoded[0].shape[1], device=device)
    total_PE.index_add_(0, group_C, torch.cat(encoded))
    return total_PE / count_P.clamp(min=1)[:, None], count_P > 0
