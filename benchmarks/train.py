"""A training epoch of crossmodal_gcn against the same network from PyG's sparse layers and loader, one thread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import dense_to_sparse

from benchmarks.harness import Outcome
from benchmarks.sparse_network import SparseNetwork
from mmray import config
from mmray.features.table import Segments
from mmray.graphs.adjacency import dense_adjacency
from mmray.models.crossmodal_gcn import CrossModalGCN
from mmray.training import batches, losses
from mmray.training.sampling import Sampler, sampler

SHAPES = {"eeg": (128, 8), "audio": (32, 69)}  # nodes and features of the default settings
SUBJECTS, SEGMENTS_EACH = 64, 4
# no population graph: PyG has no such layer, and both sides would call the same one
MODEL = config.Model(population=False, dropout=0.0)
TRAIN = config.Train(batch_size=32, passes=1)


def run(*, quick: bool) -> Outcome:
    """Time epochs of 64 people at 8 and at 32 neighbours; both sides see as many segments, and take as many steps."""
    torch.set_num_threads(1)
    outcome = Outcome("train")
    for neighbours, bar in ((8, 3.0), (32, 10.0)):
        ours, theirs = _sides(neighbours)
        for one, other in zip(ours(False), theirs(False), strict=True):
            torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-3)  # the first batch, before any step
        outcome.compare(
            f"samples/s, whole network at {neighbours} neighbours",
            lambda ours=ours: ours(True),  # type: ignore[misc]
            lambda theirs=theirs: theirs(True),  # type: ignore[misc]
            rounds=2 if quick else 9,
            bar=bar,
        )
    return outcome


Side = Callable[[bool], tuple[Tensor, ...]]


def _sides(neighbours: int) -> tuple[Side, Side]:
    segments = {m: _segments(m, min(neighbours, SHAPES[m][0] - 1)) for m in SHAPES}
    graphs = {m: batches.graphs(part, torch.device("cpu")) for m, part in segments.items()}
    draws = sampler(segments)
    torch.manual_seed(0)
    dense = CrossModalGCN(SHAPES, 2, MODEL)
    torch.manual_seed(0)
    sparse = SparseNetwork(CrossModalGCN(SHAPES, 2, MODEL), SHAPES, MODEL)
    with torch.no_grad():
        for network in (dense, sparse):
            for name, parameter in network.named_parameters():
                if name.endswith("share"):
                    parameter.fill_(0.5)  # at its start of 0 the graph layers would pass no gradient on
    steps = [torch.optim.AdamW(network.parameters(), lr=1e-4) for network in (dense, sparse)]
    data = {m: _data(graphs[m]) for m in SHAPES}

    def ours(train: bool) -> tuple[Tensor, ...]:
        return _epoch(dense, draws, graphs, steps[0], train)

    def theirs(train: bool) -> tuple[Tensor, ...]:
        return _sparse_epoch(sparse, draws, data, steps[1], train)

    return ours, theirs


def _epoch(
    model: CrossModalGCN,
    draws: Sampler,
    graphs: dict[str, batches.Graphs],
    optimiser: torch.optim.Optimizer,
    train: bool,
) -> tuple[Tensor, ...]:
    for draw in draws.batches(TRAIN.batch_size, TRAIN.passes, TRAIN.segments, 0, 0):
        batch = batches.batch(graphs, draw)
        output = model(batch)
        if not train:
            return output.z["eeg"].detach(), output.logit_BC.detach()
        _step(model, losses.total_loss(output, batch, TRAIN).total, optimiser)
    return ()


def _sparse_epoch(
    model: SparseNetwork,
    draws: Sampler,
    data: dict[str, list[Data]],
    optimiser: torch.optim.Optimizer,
    train: bool,
) -> tuple[Tensor, ...]:
    """The same draws; the loader gets them as its samplers' batches."""
    rows = [draw for draw in draws.batches(TRAIN.batch_size, TRAIN.passes, TRAIN.segments, 0, 0)]
    loaders = [
        DataLoader(data[m], batch_sampler=[draw.row_BMS[:, column].ravel().tolist() for draw in rows])
        for column, m in enumerate(data)
    ]
    for draw, *drawn in zip(rows, *loaders, strict=True):
        output = model(dict(zip(data, drawn, strict=True)), TRAIN.segments)
        if not train:
            return output.z["eeg"].detach(), output.logit_BC.detach()
        present_BM = torch.ones(len(draw.pair_B), len(data), dtype=torch.bool)
        pair_B, label_B = torch.as_tensor(draw.pair_B), torch.as_tensor(draw.label_B)
        loss = losses.retrieval_loss(output.z, present_BM, pair_B, output.logit_scale)
        loss = loss + TRAIN.classification_weight * losses.classification_loss(output.logit_BC, label_B)
        _step(model, loss, optimiser)
    return ()


def _step(model: torch.nn.Module, loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()


def _segments(modality: str, neighbours: int) -> Segments:
    rng = np.random.default_rng(0)
    nodes, width = SHAPES[modality]
    count = SUBJECTS * SEGMENTS_EACH
    subject = np.repeat([f"s{u:03d}" for u in range(SUBJECTS)], SEGMENTS_EACH)
    text = np.array([f"{modality}{row}" for row in range(count)])
    score = rng.random((count, nodes, nodes)) + 9 * np.eye(nodes)
    return Segments(
        modality=modality,
        segment_id_S=text,
        recording_id_S=text,
        subject_id_S=subject,
        pair_id_S=subject,
        label_S=np.repeat(np.arange(SUBJECTS) % 2, SEGMENTS_EACH).astype(np.int8),
        start_s_S=np.zeros(count, np.float32),
        x_SND=rng.normal(size=(count, nodes, width)).astype(np.float32),
        neighbour_SNK=score.argsort(-1)[..., :neighbours].astype(np.int16),
        weight_SNK=rng.random((count, nodes, neighbours)).astype(np.float32),
    )


def _data(graphs: batches.Graphs) -> list[Data]:
    """PyG's objects, edges made once beforehand."""
    found = []
    for x_ND, neighbour_NK, weight_NK in zip(graphs.x_SND, graphs.neighbour_SNK, graphs.weight_SNK, strict=True):
        edge_2E, weight_E = dense_to_sparse(dense_adjacency(neighbour_NK[None], weight_NK[None])[0])
        found.append(Data(x=x_ND, edge_index=edge_2E, edge_attr=weight_E))
    return found
