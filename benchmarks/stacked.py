"""Would one stacked model fit four learning rates of gcn faster than four models? The same gradients, timed in pairs.

Whatever no weight touches (features, adjacency, dropout's masks) is worked out once for all four. What remains is each
replica's own matrix products, which run at the core's peak alone as well.
"""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from benchmarks.fits import SHAPES, segments_of
from benchmarks.harness import timed
from mmray import config
from mmray.models import registry
from mmray.models.system import Batch, System
from mmray.training import batches, losses
from mmray.training.sampling import sampler

REPLICAS = 4
SUBJECTS = 34  # a training fold of 53 people


def measured(rounds: int) -> dict[str, Any]:
    """The ratio of time, replicas one after the other over one stacked model, and the largest gap of a gradient."""
    torch.set_num_threads(1)
    segments = segments_of(SUBJECTS)
    train = config.Train()
    draws = sampler(segments)
    graphs = {m: batches.dense(batches.graphs(part, torch.device("cpu"))) for m, part in segments.items()}
    models = []
    for seed in range(REPLICAS):
        torch.manual_seed(seed)
        model = registry.build(config.Model(name="gcn"), SHAPES, 2).train()
        model.fit_scalers(
            {m: g.x_SND for m, g in graphs.items()},
            {m: g.subject_id_S for m, g in graphs.items()},
            {m: g.recording_id_S for m, g in graphs.items()},
        )
        models.append(model)
    some = [batches.batch(graphs, draw) for draw in draws.batches(train.batch_size, 2, train.segments, 0, 0)]
    parameters, _ = stack_module_state(list(models))
    stack = {name: tensor.detach().requires_grad_() for name, tensor in parameters.items()}

    alone_s, stacked_s = [], []
    for _ in range(rounds + 1):
        alone_s.append(timed(lambda: _alone(models, some, train)))
        stacked_s.append(timed(lambda: _stacked(models[0], stack, some, train)))
    gap = max(
        float((tensor.grad[replica] - dict(model.named_parameters())[name].grad).abs().max())
        for name, tensor in stack.items()
        for replica, model in enumerate(models)
    )
    pairs = [one / other for one, other in zip(alone_s[1:], stacked_s[1:], strict=True)]
    return {
        "one stacked gcn over four replicas in turn": round(statistics.median(pairs), 3),
        "stacked, spread": [round(min(pairs), 3), round(max(pairs), 3)],
        "stacked, largest gap of a gradient": gap,
    }


def _alone(models: list[System], some: list[Batch], train: config.Train) -> None:
    for model in models:
        torch.manual_seed(0)
        model.zero_grad()
        for batch in some:
            losses.total_loss(model(batch), batch, train).total.backward()  # type: ignore[no-untyped-call]


def _stacked(of: System, stack: dict[str, Tensor], some: list[Batch], train: config.Train) -> None:
    skeleton, buffers = copy.deepcopy(of), dict(of.named_buffers())
    torch.manual_seed(0)
    for tensor in stack.values():
        tensor.grad = None
    for batch in some:

        def loss(parameters: dict[str, Tensor], batch: Batch = batch) -> Tensor:
            output = functional_call(skeleton, (parameters, buffers), (batch,))
            return losses.total_loss(output, batch, train).total

        vmap(loss, randomness="same")(stack).sum().backward()  # type: ignore[no-untyped-call]
