"""Neighbour lists to dense, batched adjacency matrices. Pure torch."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_adjacency(neighbour_BNK: Tensor, weight_BNK: Tensor) -> Tensor:
    """Symmetric edge weights from directed nearest neighbours; an edge named from both ends keeps the larger weight.

    Args:
        neighbour_BNK: index of each node's K neighbours, any integer type.
        weight_BNK: their non-negative weights; a weight of 0 is no edge.

    Returns:
        weight_BNN with a zero diagonal: self-loops are the normalisation's business.
    """
    nodes = neighbour_BNK.shape[-2]
    directed_BNN = weight_BNK.new_zeros(*weight_BNK.shape[:-1], nodes)
    directed_BNN.scatter_reduce_(-1, neighbour_BNK.long(), weight_BNK, reduce="amax")
    weight_BNN = torch.maximum(directed_BNN, directed_BNN.transpose(-1, -2))
    weight_BNN.diagonal(dim1=-2, dim2=-1).zero_()
    return weight_BNN


def normalise_adjacency(weight_BNN: Tensor) -> Tensor:
    """Symmetric normalisation with self-loops, the A-hat of eq. 1 (Kipf & Welling 2017, eq. 2).

    Args:
        weight_BNN: non-negative, symmetric edge weights without self-loops; B graphs of N nodes.

    Returns:
        D^-1/2 (A + I) D^-1/2, same shape. An isolated node keeps only itself (1 on the diagonal).

    Raises:
        ValueError: a weight is negative; its square-root degree would be NaN.
    """
    if weight_BNN.numel() and weight_BNN.amin() < 0:
        raise ValueError("edge weights must be >= 0; take |r| or max(r, 0) of a correlation")
    scale_BN = (weight_BNN.sum(-1) + 1).rsqrt()
    normalised_BNN = scale_BN[..., :, None] * weight_BNN * scale_BN[..., None, :]
    normalised_BNN.diagonal(dim1=-2, dim2=-1).add_(scale_BN.square())  # A + I would be one more pass over N x N
    return normalised_BNN


def normalise_by_count(matrix_BNN: Tensor) -> Tensor:
    """N(M)_ij = M_ij / sqrt(c_i c_j), where c counts a row's entries that are not 0; a row of none stays 0.

    StrucGCN's normalisation: unlike A-hat's it leaves the weights out of c.
    """
    scale_BN = (matrix_BNN != 0).sum(-1).clamp(min=1).to(matrix_BNN.dtype).rsqrt()
    return scale_BN[..., :, None] * matrix_BNN * scale_BN[..., None, :]
