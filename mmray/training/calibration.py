"""How sure a fitted classifier may be: one temperature, set on validation subjects."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

MAX_TEMPERATURE = 20.0


def temperature(logit_UC: Tensor, label_U: NDArray[np.int64]) -> float:
    """The T >= 1 that minimises the cross-entropy of logit / T (Guo et al. 2017, doi 10.48550/arXiv.1706.04599).

    It cools an overconfident classifier and changes no decision. T below 1, which would sharpen, is not for the handful
    of subjects that validation has.

    Args:
        logit_UC: scores of validation subjects.
        label_U: their classes; -1 where it is not known. Without any, T is 1.
    """
    known_U = label_U >= 0
    if not known_U.any():
        return 1.0
    logit_KC = logit_UC[torch.as_tensor(known_U)].double().cpu()
    label_K = torch.as_tensor(label_U[known_U])

    def cost(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logit_KC / np.exp(log_t), label_K))

    return float(np.exp(minimize_scalar(cost, bounds=(0.0, np.log(MAX_TEMPERATURE)), method="bounded").x))
