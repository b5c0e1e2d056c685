"""How the learning rate moves from epoch to epoch. A schedule's state is plain numbers, which a checkpoint keeps."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from mmray.config import Train


def schedule(optimiser: Optimizer, train: Train) -> LRScheduler:
    """The schedule that the settings name, at its first epoch.

    constant stays; cosine falls to 0 over the budget (Loshchilov & Hutter 2017, doi 10.48550/arXiv.1608.03983, without
    restarts); one_cycle rises from a 25th to the learning rate over three tenths of the budget, where that holds an
    epoch or more, and falls to near 0
    (Smith & Topin 2019, doi 10.48550/arXiv.1708.07120); plateau halves when validation MRR has stood still for more
    than a third of `patience`. None spends an epoch at the rate that it falls to.
    """
    match train.schedule:
        case "constant":
            return ConstantLR(optimiser, factor=1.0)
        case "cosine":
            return CosineAnnealingLR(optimiser, train.epochs)
        case "one_cycle":
            return OneCycleLR(optimiser, train.learning_rate, total_steps=train.epochs + 1, cycle_momentum=False)
        case "plateau":
            return ReduceLROnPlateau(optimiser, "max", factor=0.5, patience=train.patience // 3, threshold=0.0)


def advance(of: LRScheduler, validation_mrr: float) -> None:
    """Move on by one epoch, which ended with this validation MRR."""
    if isinstance(of, ReduceLROnPlateau):
        of.step(validation_mrr)
    else:
        of.step()
