"""Population based training of the learning rate (Jaderberg et al. 2017, doi 10.48550/arXiv.1711.09846). No Ray.

Members start at different rates and train in turns. After each turn the worst quarter take over state and rate of one
of the best quarter, the rate then moved up or down; validation MRR judges. A sweep has a population for each fold and
seed, every one a trial; Tune's own scheduler keeps one population a study.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np

from mmray.config import Train
from mmray.features.table import Segments
from mmray.models.system import System
from mmray.training import loop
from mmray.training.checkpoint import Checkpoint

TURNS = 6  # of the budget
STEPS = (0.8, 1.25)


def fit(
    model: System,
    training: dict[str, Segments],
    validation: dict[str, Segments],
    train: Train,
    rates: tuple[float, ...],
    seed: int,
) -> Checkpoint:
    """Fit a population, one member a starting rate, and return the member of the best validation MRR.

    Args:
        model: freshly built; every member starts from its weights.
        train: budget of each member; its rate and schedule are not used.
        rates: where members start; a rate never leaves their range.
        seed: of batches, dropout, and of who takes over whom.

    Raises:
        As `loop.fit`.
    """
    rng = np.random.default_rng(seed)
    members: list[Checkpoint | None] = [None] * len(rates)
    now = list(rates)
    bounds = np.linspace(0, train.epochs, min(TURNS, train.epochs) + 1).round().astype(int).tolist()[1:]
    for end in bounds:
        for position, state in enumerate(members):
            if state is None or not _over(state, train):
                budget = train.model_copy(
                    update={"epochs": end, "schedule": "constant", "learning_rate": now[position]}
                )
                start = None if state is None else replace(_at(state, now[position]), finished=False)
                fresh = copy.deepcopy(model)
                members[position] = loop.fit(fresh, training, validation, budget, seed, start=start)
        if end < train.epochs:
            _take_over(members, now, rates, rng)
    return max((state for state in members if state is not None), key=lambda state: state.best_mrr)


def _take_over(members: list[Any], now: list[float], rates: tuple[float, ...], rng: np.random.Generator) -> None:
    """Truncation selection: the worst quarter become one of the best quarter at a rate beside its own."""
    some = max(1, len(members) // 4)
    order = sorted(range(len(members)), key=lambda m: members[m].history[-1].validation_mrr)
    for loser in order[:some]:
        winner = int(rng.choice(order[-some:]))
        if winner != loser:
            members[loser] = members[winner]
            now[loser] = float(np.clip(now[winner] * rng.choice(STEPS), min(rates), max(rates)))


def _over(state: Checkpoint, train: Train) -> bool:
    return state.stale >= train.patience or len(state.history) >= train.epochs


def _at(state: Checkpoint, rate: float) -> Checkpoint:
    """The same state, going on at another rate."""
    scheduler = {
        **state.scheduler,
        "base_lrs": [rate] * len(state.optimiser),
        "_last_lr": [rate] * len(state.optimiser),
    }
    tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}  # the optimiser writes into its own
    groups = [{**group, "lr": rate, "initial_lr": rate} for group in state.optimiser]
    return replace(state, tensors=tensors, optimiser=groups, scheduler=scheduler)
