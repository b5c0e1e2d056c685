"""StrucGCN's matrices beside the features: features/<digest>/structural-<modality>.safetensors, worked out once.

They stand beside the features' rows and not in them: the other systems neither pay for nor carry a column that they do
not read, features prepared earlier stay valid, and a recording that was never prepared takes the same path. A topology
names its matrix, so nothing here can grow stale.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays
from torch import Tensor

from mmray import cluster, config, progress
from mmray.config import Config
from mmray.errors import WorkspaceError
from mmray.features.table import Segments
from mmray.graphs.adjacency import dense_adjacency
from mmray.graphs.structural import Mask
from mmray.graphs.structural_memo import Entry, StructuralMemo, topologies, work_out
from mmray.models import registry
from mmray.models.system import System
from mmray.storage import Workspace

Neighbours = tuple[NDArray[np.int16], NDArray[np.float32]]  # neighbour_BNK, weight_BNK

CHUNK = 64
FEW = 512  # worked out in the time that a cluster takes to start


def prepare(settings: Config, segments: dict[str, Segments]) -> None:
    """Work out and publish what is missing for these segments; only a strucgcn needs it.

    Raises:
        WorkspaceError: the file of an earlier run is damaged.
        ResourceError: the cluster cannot be reached.
    """
    if settings.model.name != "strucgcn":
        return
    workspace = Workspace(settings.workspace)
    for modality, part in segments.items():
        memo = _read(workspace, settings, modality)
        todo = _missing(memo, part)
        if todo:
            for fresh in _work_out_all(settings, todo):
                memo.entries |= fresh
            workspace.write_bytes(save_arrays(_arrays(memo)), *_place(settings, modality))


def untrained(settings: Config, segments: dict[str, Segments], classes: int) -> System:
    """The system as a fit begins: weights of the config's seed, and a strucgcn with what `prepare` published.

    Raises:
        ConfigError: no system is called so, or the settings fit none.
        WorkspaceError: as `prepare`.
    """
    torch.manual_seed(settings.seed)
    model = registry.build(settings.model, {m: part.shape for m, part in segments.items()}, classes)
    if settings.model.name == "strucgcn":
        from mmray.models.baselines.strucgcn import StrucGCN  # brings torch's compiler, which others do without

        assert isinstance(model, StrucGCN)
        workspace = Workspace(settings.workspace)
        for modality in model.modalities:
            model.memo(modality).entries |= _read(workspace, settings, modality).entries
    return model


def remember(model: System, modality: str, weight_SNN: Tensor) -> None:
    """Let a strucgcn that is about to see these graphs many times work each out once; nothing for another system."""
    from mmray.models.baselines.strucgcn import StrucGCN

    if isinstance(model, StrucGCN):
        model.memo(modality).dense((weight_SNN > 0).numpy(), keep=True)


def _place(settings: Config, modality: str) -> tuple[str, ...]:
    return "features", config.digest(settings.features), f"structural-{modality}.safetensors"


def _missing(memo: StructuralMemo, part: Segments) -> list[Neighbours]:
    """The distinct graphs that the memo does not know, in chunks."""
    seen, unknown = set(memo.entries), []
    for start in range(0, len(part), CHUNK):
        neighbours = part.neighbour_SNK[start : start + CHUNK], part.weight_SNK[start : start + CHUNK]
        fresh = []
        for row, key in enumerate(topologies(_edges(neighbours))):
            if key not in seen:
                seen.add(key)
                fresh.append(row)
        if fresh:
            unknown.append((neighbours[0][fresh], neighbours[1][fresh]))
    return unknown


def _work_out_all(settings: Config, todo: list[Neighbours]) -> Iterator[dict[bytes, Entry]]:
    if sum(len(weight_BNK) for _, weight_BNK in todo) > FEW:
        with cluster.session(settings.cluster):
            hardware = settings.cluster
            yield from cluster.map(_work_out, todo, label="structure", config=hardware, cpus=hardware.task_cpus)
        return
    with progress.bar("structure", len(todo)) as advance:
        for neighbours in todo:
            yield _work_out(neighbours)
            advance()


def _work_out(neighbours: Neighbours) -> dict[bytes, Entry]:
    return work_out(_edges(neighbours))


def _edges(neighbours: Neighbours) -> Mask:
    """As the model finds them in its dense weights."""
    neighbour_BNK, weight_BNK = neighbours
    edge_BNN: Mask = (dense_adjacency(torch.tensor(neighbour_BNK), torch.tensor(weight_BNK)) > 0).numpy()
    return edge_BNN


def _arrays(memo: StructuralMemo) -> dict[str, NDArray[np.generic]]:
    keys = sorted(memo.entries)
    nothing = [(np.zeros(0, np.int32), np.zeros(0, np.float32))]
    entries = [memo.entries[key] for key in keys] or nothing
    return {
        "topology": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16).copy(),
        "length": np.array([len(memo.entries[key][0]) for key in keys], dtype=np.int64),
        "position": np.concatenate([position for position, _ in entries]),
        "value": np.concatenate([value for _, value in entries]),
    }


def _read(workspace: Workspace, settings: Config, modality: str) -> StructuralMemo:
    place = _place(settings, modality)
    if not workspace.exists(*place):
        return StructuralMemo()
    try:
        arrays = load_arrays(workspace.read_bytes(*place))
        ends = np.cumsum(arrays["length"])
        positions, values = (np.split(arrays[name], ends[:-1]) for name in ("position", "value"))
        keys = [row.tobytes() for row in arrays["topology"]]
        return StructuralMemo(dict(zip(keys, zip(positions, values, strict=True), strict=True)))
    except (SafetensorError, KeyError, ValueError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: {'/'.join(place)} is damaged ({error}); delete it, the next run makes it anew"
        ) from error
