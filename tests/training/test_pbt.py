"""A population: who takes over whom, that rates stay in range, and that a member alone is a fit alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmray import config
from mmray.models.registry import build
from mmray.training import pbt
from mmray.training.loop import fit
from tests.training.made_sweeps import rows_of

TRAIN = config.Train(epochs=6, passes=2, patience=6, schedule="constant", learning_rate=1e-2)
MODEL = config.Model(name="gcn", hidden=8, embedding=8)


@pytest.fixture
def study(generated, by_subject):
    segments = generated(subjects=24, segments=4)
    return by_subject(segments, range(16)), by_subject(segments, range(16, 24))


def fresh(training):
    torch.manual_seed(0)
    return build(MODEL, {m: part.shape for m, part in training.items()}, 2)


def test_a_population_of_one_is_the_fit_alone_bit_for_bit(study):
    """Its turns are stops and resumptions, which change nothing."""
    training, validation = study
    alone = fit(fresh(training), training, validation, TRAIN, 3)
    population = pbt.fit(fresh(training), training, validation, TRAIN, (1e-2,), 3)
    assert [r.loss for r in population.history] == [r.loss for r in alone.history]
    for name, tensor in alone.part("best").items():
        assert torch.equal(tensor, population.part("best")[name]), name


def test_the_worst_goes_on_from_the_best_at_a_rate_beside_its(study, monkeypatch):
    training, validation = study
    turns = []
    taken = pbt._take_over

    def watched(members, now, rates, rng):
        before = [(m.history[-1].validation_mrr, rate) for m, rate in zip(members, now, strict=True)]
        states = list(members)
        taken(members, now, rates, rng)
        turns.append((before, [states.index(m) for m in members], list(now)))

    monkeypatch.setattr(pbt, "_take_over", watched)
    rates = (1e-1, 1e-2, 1e-3, 1e-7)
    best = pbt.fit(fresh(training), training, validation, TRAIN, rates, 0)
    assert len(turns) == 5
    moved = 0
    for before, source, now in turns:
        scores = [score for score, _ in before]
        for member, origin in enumerate(source):
            if origin == member:
                assert now[member] == before[member][1]
                continue
            moved += 1
            assert scores[member] == min(scores)
            assert scores[origin] == max(scores)
            steps = [np.clip(before[origin][1] * step, 1e-7, 1e-1) for step in pbt.STEPS]
            assert any(now[member] == pytest.approx(step) for step in steps)
    assert moved >= 3
    assert all(1e-7 <= rate <= 1e-1 for _, _, now in turns for rate in now)
    # a rate that was taken over is the rate that the next epoch ran at
    assert {r.learning_rate for r in best.history} <= {rate for _, _, now in turns for rate in now} | set(rates)


def test_a_sweep_runs_a_population_a_fold_and_seed(calm):
    """And repeats it: test_sweep's killed one ends with the same rows."""
    settings, summary = calm
    rows = rows_of(settings, summary.sweep_id)
    mine = [(row["seed"], row["fold"], row["error"]) for row in rows if row["variant"] == "pbt"]
    assert mine == [(0, 0, None), (0, 1, None), (1, 0, None), (1, 1, None)]
    assert len(rows) == 12
