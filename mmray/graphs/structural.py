"""How alike two nodes' surroundings are, whatever their features: StrucGCN's matrix A'. Topology alone; numpy alone.

After StrucGCN, whose ring distance is struc2vec's (Ribeiro et al. 2017, doi
10.1145/3097983.3098061, section 3.1). Around each node lie rings: ring r holds the nodes r steps away, written as an
ordered list of (degree, count). Two nodes are compared if they have equal degree and equal eccentricity (within their
component), so that their rings pair off one to one:

    D = sum_r DTW(ring r of u, ring r of v), cost of matching (a, f) to (b, g):
        ((max(a, b) + .5) / (min(a, b) + .5) - 1) * max(f, g)
    p = 1 if D <= d*, else exp(-(D / d* - 1)); kept above 0.01

Our reading: a group is the nodes of one graph with equal degree and eccentricity; d* is its second-smallest distinct
distance, the smallest being every node's 0 to itself; where all are 0, p = 1. A node's own entry is 0: alpha I of the
layer holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLOOR = 0.01
PAIRS = 1 << 12  # compared at once; the tables of so many fit a core's cache

Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def structural_similarity(edge_GNN: Mask) -> NDArray[np.float32]:
    """A' of G graphs of N nodes each, symmetric, zero diagonal.

    Args:
        edge_GNN: which nodes are joined, symmetric; the diagonal is ignored.
    """
    graphs, nodes, _ = edge_GNN.shape
    edge_GNN = edge_GNN & ~np.eye(nodes, dtype=bool)
    degree_GN = edge_GNN.sum(-1)
    distance_GNN = hop_distance(edge_GNN)
    eccentricity_GN = distance_GNN.max(-1)
    # one group a graph, degree and eccentricity
    _, group_V = np.unique(
        np.stack([np.repeat(np.arange(graphs), nodes), degree_GN.ravel(), eccentricity_GN.ravel()]),
        axis=1,
        return_inverse=True,
    )
    u_P, v_P = _pairs_within(group_V.ravel())
    distance_P = np.zeros(len(u_P))
    for ring in range(1, int(eccentricity_GN.max(initial=0)) + 1):
        lists = ring_lists(distance_GNN == ring, degree_GN)
        distance_P += _list_distances(lists, u_P, v_P)
    p_P = _group_similarity(distance_P, group_V.ravel()[u_P])
    kept_P = p_P > FLOOR
    g_P, i_P, j_P = u_P // nodes, u_P % nodes, v_P % nodes
    similarity_GNN = np.zeros(edge_GNN.shape, dtype=np.float32)
    similarity_GNN[g_P[kept_P], i_P[kept_P], j_P[kept_P]] = p_P[kept_P]
    return similarity_GNN + similarity_GNN.transpose(0, 2, 1)


def hop_distance(edge_GNN: Mask) -> NDArray[np.int16]:
    """Steps between all nodes of each graph by breadth-first search; -1 where there is no way."""
    distance_GNN = np.where(np.eye(edge_GNN.shape[-1], dtype=bool), 0, -1).astype(np.int16)
    distance_GNN = np.broadcast_to(distance_GNN, edge_GNN.shape).copy()
    step_GNN = edge_GNN.astype(np.float32)
    front_GNN, step = distance_GNN == 0, 0
    while front_GNN.any():
        step += 1
        front_GNN = (front_GNN.astype(np.float32) @ step_GNN > 0) & (distance_GNN < 0)
        distance_GNN[front_GNN] = step
    return distance_GNN


@dataclass(frozen=True)
class RingLists:
    """Distinct ordered lists, padded with zeros, and which one each node has.

    Attributes:
        degree_UL: degrees, ascending.
        count_UL: nodes of that degree in the ring; 0 is padding.
        length_U: entries that count.
        list_V: the list of each node, graph after graph.
    """

    degree_UL: Ints
    count_UL: Ints
    length_U: Ints
    list_V: Ints


def ring_lists(ring_GNN: Mask, degree_GN: NDArray[Any]) -> RingLists:
    """One ring around every node as (degree, count) lists; identical lists are held once.

    Args:
        ring_GNN: row i marks the nodes in i's ring.
        degree_GN: degree of each node.
    """
    degrees, code_V = np.unique(degree_GN, return_inverse=True)
    one_hot_GNC = (code_V.reshape(degree_GN.shape)[..., None] == np.arange(len(degrees))).astype(np.float32)
    count_VC = (ring_GNN.astype(np.float32) @ one_hot_GNC).reshape(-1, len(degrees)).astype(np.int16)
    _, first_U, list_V = np.unique(_as_bytes(count_VC), return_index=True, return_inverse=True)
    count_UC = count_VC[first_U].astype(np.int64)
    length_U = (count_UC > 0).sum(1)
    # entries move to the front, their order kept
    order_UL = np.argsort(count_UC == 0, axis=1, kind="stable")[:, : max(1, length_U.max(initial=0))]
    count_UL = np.take_along_axis(count_UC, order_UL, 1)
    return RingLists(degrees[order_UL], count_UL, length_U, list_V.ravel())


def dtw(lists: RingLists, a_P: Ints, b_P: Ints) -> Floats:
    """Dynamic time warping of P pairs of lists (Sakoe & Chiba 1978, doi 10.1109/TASSP.1978.1163055), all at once.

    Args:
        lists: the distinct lists.
        a_P: first list of each pair, by number.
        b_P: second. Two empty lists are 0 apart; an empty one and another are not comparable and must not be given.
    """
    rows, columns = lists.length_U[a_P], lists.length_U[b_P]
    most_rows, most_columns = int(rows.max(initial=0)), int(columns.max(initial=0))
    degree_LU, count_LU = lists.degree_UL.T.astype(np.float64) + 0.5, lists.count_UL.T.astype(np.float64)
    degree_b_LP, count_b_LP = degree_LU[:, b_P], count_LU[:, b_P]
    total_P = np.zeros(len(a_P))
    above_LP = np.full((most_columns + 1, len(a_P)), np.inf)
    above_LP[0] = 0.0
    for i in range(most_rows):
        degree_P, count_P = degree_LU[i, a_P], count_LU[i, a_P]
        here_LP = np.full_like(above_LP, np.inf)
        for j in range(most_columns):
            high_P, low_P = np.maximum(degree_P, degree_b_LP[j]), np.minimum(degree_P, degree_b_LP[j])
            cost_P = (high_P / low_P - 1) * np.maximum(count_P, count_b_LP[j])
            here_LP[j + 1] = cost_P + np.minimum(np.minimum(above_LP[j], above_LP[j + 1]), here_LP[j])
        ended_P = np.flatnonzero(rows == i + 1)
        total_P[ended_P] = here_LP[columns[ended_P], ended_P]
        above_LP = here_LP
    return total_P


def _pairs_within(group_V: Ints) -> tuple[Ints, Ints]:
    """All pairs u < v of nodes in one group."""
    order_V = np.argsort(group_V, kind="stable")
    size = np.bincount(group_V)
    start = np.cumsum(size) - size
    # position q of a group of n pairs with the n - 1 - q after it
    place_V = np.arange(len(group_V)) - np.repeat(start, size)
    later_V = np.repeat(size, size) - 1 - place_V
    u_P = np.repeat(np.arange(len(group_V)), later_V)
    offset_P = np.arange(len(u_P)) - np.repeat(np.cumsum(later_V) - later_V, later_V)
    return order_V[u_P], order_V[u_P + 1 + offset_P]


def _list_distances(lists: RingLists, u_P: Ints, v_P: Ints) -> Floats:
    """DTW of two nodes' lists, worked out once for each pair of distinct lists."""
    a_P, b_P = lists.list_V[u_P], lists.list_V[v_P]
    low_P, high_P = np.minimum(a_P, b_P), np.maximum(a_P, b_P)
    key_K, pair_P = np.unique(low_P * len(lists.length_U) + high_P, return_inverse=True)
    a_K, b_K = np.divmod(key_K, len(lists.length_U))
    distance_K = np.zeros(len(key_K))
    # pairs of like length share a table, so that little of it is padding; a list is 0 from itself
    order_K = np.lexsort((lists.length_U[b_K], lists.length_U[a_K]))
    order_K = order_K[a_K[order_K] != b_K[order_K]]
    for start in range(0, len(order_K), PAIRS):
        chunk = order_K[start : start + PAIRS]
        distance_K[chunk] = dtw(lists, a_K[chunk], b_K[chunk])
    return distance_K[pair_P.ravel()]


def _group_similarity(distance_P: Floats, group_P: Ints) -> Floats:
    """p of each pair by the d* of its group."""
    second = np.full(int(group_P.max(initial=-1)) + 1, np.inf)
    positive_P = distance_P > 0
    np.minimum.at(second, group_P[positive_P], distance_P[positive_P])
    p_P: Floats = np.exp(-np.maximum(distance_P / second[group_P] - 1, 0))
    return p_P


def _as_bytes(row_VC: NDArray[np.int16]) -> NDArray[Any]:
    """Each row as one sortable value."""
    return np.ascontiguousarray(row_VC).view(np.dtype((np.void, row_VC.dtype.itemsize * row_VC.shape[1]))).ravel()
