"""Training crossmodal_gcn: against PyG's sparse layers, two workers against one, and growth with the subjects.

The same network from PyG's sparse layers and loader runs in a plain loop here, one thread; the other figures time the
product's own fit in processes of their own, one thread each.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.utils import dense_to_sparse

from benchmarks.fits import SEGMENTS_EACH, SHAPES, Fit, segments_of
from benchmarks.harness import Figure, Outcome, growth, timed
from benchmarks.sparse_network import SparseNetwork
from mmray import config, progress
from mmray.graphs.adjacency import dense_adjacency
from mmray.models.crossmodal_gcn import CrossModalGCN
from mmray.quota import usable_cores
from mmray.training import batches, losses
from mmray.training.sampling import Sampler, sampler

SUBJECTS = 64
# no population graph: PyG has no such layer, and both sides would call the same one
MODEL = config.Model(population=False, dropout=0.0, stochastic_depth=0.0)
TRAIN = config.Train(batch_size=32, passes=1)


def run(*, quick: bool) -> Outcome:
    """Time the layers, the workers and the growth."""
    torch.set_num_threads(1)
    outcome = Outcome("train")
    _against_sparse_layers(outcome, quick)
    _against_one_worker(outcome, quick)
    _growth(outcome, quick)
    outcome.detail["segments a subject and modality"] = SEGMENTS_EACH
    return outcome


def _against_sparse_layers(outcome: Outcome, quick: bool) -> None:
    """Epochs of 64 people at 8 and at 32 neighbours; both sides see as many segments, and take as many steps."""
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


def _against_one_worker(outcome: Outcome, quick: bool) -> None:
    """Whole epochs of the product's fit, the global batch and the data the same: two workers must halve the time."""
    label, bar = "samples/s, two workers over one", 1.6
    if usable_cores() < 2:
        outcome.figures[label] = Figure(None, bar, None, detail={"not_measured": "fewer than two cores"})
        return
    subjects = 64 if quick else 256
    with Fit(subjects, world=2) as two, Fit(subjects) as one:
        names = ("two_workers", "one_worker")
        outcome.compare(label, two, one, rounds=4 if quick else 15, bar=bar, names=names)
        outcome.figures[label].detail["subjects"] = subjects


def _growth(outcome: Outcome, quick: bool) -> None:
    """Whole epochs and peak memory of the product's fit; the sizes in turn, so that a busy minute slows them all."""
    sizes, rounds = ((50, 100, 200, 400), 2) if quick else ((250, 500, 1000, 2000), 5)
    with ExitStack() as stack, progress.bar("train: growth", (1 + rounds) * len(sizes)) as advance:
        fits: list[Fit] = []
        for size in sizes:
            fits.append(stack.enter_context(Fit(size)))
            advance()
        seconds: list[list[float]] = [[] for _ in fits]
        for _ in range(rounds):
            for fit, taken in zip(fits, seconds, strict=True):
                taken.append(timed(fit))
                advance()
        mebibytes = [fit.peak_bytes / 2**20 for fit in fits]
    medians = [statistics.median(taken) for taken in seconds]
    outcome.figures["time an epoch over training subjects"] = growth(sizes, medians, bar=1.15, unit="s")
    outcome.figures["peak memory, less that of imports, over training subjects"] = growth(
        sizes, mebibytes, bar=1.15, unit="MiB"
    )


Side = Callable[[bool], tuple[Tensor, ...]]


def _sides(neighbours: int) -> tuple[Side, Side]:
    segments = segments_of(SUBJECTS, neighbours)
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


def _data(graphs: batches.Graphs) -> list[Data]:
    """PyG's objects, edges made once beforehand."""
    found = []
    for x_ND, neighbour_NK, weight_NK in zip(graphs.x_SND, graphs.neighbour_SNK, graphs.weight_SNK, strict=True):
        edge_2E, weight_E = dense_to_sparse(dense_adjacency(neighbour_NK[None], weight_NK[None])[0])
        found.append(Data(x=x_ND, edge_index=edge_2E, edge_attr=weight_E))
    return found
