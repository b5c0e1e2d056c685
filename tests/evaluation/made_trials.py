"""Rows of a sweep as fits would leave them, the two modalities sharing more or less, without any fit."""

from __future__ import annotations

import numpy as np

from mmray.evaluation import trials
from mmray.evaluation.trials import Plan, Planned
from mmray.storage import Workspace

SYSTEMS = ("crossmodal_gcn", "gcn", "ridge")
EVERY_SYSTEM = (*SYSTEMS, "gat", "graphsage", "strucgcn", "mamsa", "clip", "logreg", "majority")
TASKS = ("interview", "reading")


def row(one: Planned, subjects: int = 8, noise: float = 0.7, epochs: int = 4) -> dict:
    """One finished fit; `noise` is the spread of both modalities around what they share."""
    rng = np.random.default_rng([one.fold, one.seed, EVERY_SYSTEM.index(one.system), int(-np.log10(one.learning_rate))])
    names = [f"s{one.fold}{u:02d}" for u in range(subjects)]
    label = np.arange(subjects) % 2
    shared = np.random.default_rng(one.fold).normal(size=(subjects, 6))

    def vectors() -> list[list[float]]:
        z = shared + noise * rng.normal(size=shared.shape)
        return (z / np.linalg.norm(z, axis=1, keepdims=True)).tolist()

    def probabilities() -> list[list[float]]:
        p = 1 / (1 + np.exp(-(label - 0.5) - noise * rng.normal(size=subjects)))
        return np.stack([1 - p, p], 1).tolist()

    return {
        "trial_id": one.trial_id,
        "variant": one.variant,
        "system": one.system,
        "learning_rate": one.learning_rate,
        "fold": one.fold,
        "seed": one.seed,
        "config": "{}",
        "error": None,
        "seconds": 1.0 + one.fold,
        "best_epoch": epochs - 1,
        "validation_mrr": float(rng.uniform(0.2, 0.6)),
        "validation_cross_entropy": float(rng.uniform(0.5, 0.8)),
        "history": [
            {
                "epoch": epoch,
                "loss": 3.0 / (1 + epoch),
                "retrieval_loss": 2.0,
                "classification_loss": 0.7,
                "validation_mrr": 0.2 + 0.05 * epoch,
                "validation_accuracy": float(rng.uniform(0.4, 0.7)),
                "validation_cross_entropy": 0.7,
                "logit_scale": 14.0,
                "learning_rate": one.learning_rate,
            }
            for epoch in range(epochs)
        ],
        "subject_id": names,
        "label": label.tolist(),
        "eeg": vectors(),
        "audio": vectors(),
        "probability": probabilities(),
        "by_task": [
            {"task": task, "subject_id": name, "probability": p}
            for task in TASKS
            for name, p in zip(names, probabilities(), strict=True)
        ],
    }


def plan_of(sweep_id: str = "made", systems=SYSTEMS, rates=(1e-2, 1e-3), folds: int = 3, seeds: int = 2) -> Plan:
    """Of a small grid."""
    planned = [
        Planned(f"{system}-{rate:g}-{fold}-{seed}", system, system, rate, fold, seed)
        for seed in range(seeds)
        for fold in range(folds)
        for system in systems
        for rate in rates
    ]
    return Plan(sweep_id, "d" * 64, tuple(planned))


def write(workspace: Workspace, plan: Plan, rows: list[dict] | None = None) -> None:
    """A sweep's folder: its plan and its fits."""
    trials.write_plan(workspace, plan)
    for one in [row(one) for one in plan.trials] if rows is None else rows:
        trials.write(workspace, plan.sweep_id, one)
