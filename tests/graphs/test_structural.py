"""Structural similarity by hand, against a slow reading of the definition, and under renumbering."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.graphs import structural
from mmray.graphs.structural import hop_distance, structural_similarity


def graph(nodes: int, *edges: tuple[int, int]):
    edge_NN = np.zeros((nodes, nodes), dtype=bool)
    for i, j in edges:
        edge_NN[i, j] = edge_NN[j, i] = True
    return edge_NN


def star(centre: int, leaves: int):
    return [(centre, centre + 1 + leaf) for leaf in range(leaves)]


def similarity(edge_NN):
    return structural_similarity(edge_NN[None])[0]


def test_a_path_mirrors_itself():
    expected = np.zeros((4, 4))
    expected[0, 3] = expected[3, 0] = expected[1, 2] = expected[2, 1] = 1
    np.testing.assert_array_equal(similarity(graph(4, (0, 1), (1, 2), (2, 3))), expected)


def test_the_leaves_of_a_star_are_alike_and_its_centre_like_none():
    expected = 1 - np.eye(5)
    expected[0], expected[:, 0] = 0, 0
    np.testing.assert_array_equal(similarity(graph(5, *star(0, 4))), expected)


def test_the_nodes_of_a_cycle_are_all_alike():
    cycle = graph(6, *pairwise([0, 1, 2, 3, 4, 5, 0]))
    np.testing.assert_array_equal(similarity(cycle), 1 - np.eye(6))


def test_two_components_are_compared_where_degree_and_eccentricity_agree():
    # two triangles, and an edge whose ends have another degree
    two = graph(8, (0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (6, 7))
    expected = np.zeros((8, 8))
    expected[:6, :6], expected[6:, 6:] = 1, 1
    np.testing.assert_array_equal(similarity(two), expected - np.eye(8))


def test_leaves_of_stars_of_2_3_4_and_20_by_hand():
    # a leaf's rings are ((leaves, 1)) and ((1, leaves - 1)); the second costs nothing
    # distances: 2-3 1/2.5 = .4, 2-4 2/2.5 = .8, 3-4 1/3.5 = .2857 = d*, 4-20 16/4.5 = 3.556
    edge_NN = graph(33, *star(0, 2), *star(3, 3), *star(7, 4), *star(12, 20))
    found = similarity(edge_NN)
    assert found[1, 2] == 1  # distance 0
    assert found[4, 8] == 1  # distance d*
    assert found[1, 4] == pytest.approx(math.exp(-(0.4 * 3.5 - 1)))
    assert found[1, 8] == pytest.approx(math.exp(-(0.8 * 3.5 - 1)))
    assert found[8, 13] == 0  # exp(-11.4) is under 0.01


def test_an_isolated_node_is_like_another_isolated_one_alone():
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = 1
    np.testing.assert_array_equal(similarity(graph(4, (0, 1))), expected)


def naive_hops(edge_NN, start):
    found, front = {start: 0}, [start]
    while front:
        front = [
            j for i in front for j in np.flatnonzero(edge_NN[i]) if j not in found and found.setdefault(j, found[i] + 1)
        ]
    return found


def naive_dtw(one, other):
    table = {(0, 0): 0.0}
    for i, (a, f) in enumerate(one, 1):
        for j, (b, g) in enumerate(other, 1):
            cost = ((max(a, b) + 0.5) / (min(a, b) + 0.5) - 1) * max(f, g)
            before = (table.get(key, math.inf) for key in ((i - 1, j - 1), (i - 1, j), (i, j - 1)))
            table[i, j] = cost + min(before)
    return table[len(one), len(other)]


def naive_similarity(edge_NN):
    nodes = len(edge_NN)
    degree = edge_NN.sum(1)
    hops = [naive_hops(edge_NN, i) for i in range(nodes)]
    rings, groups = [], {}
    for i in range(nodes):
        around = [[degree[j] for j, r in hops[i].items() if r == ring] for ring in range(max(hops[i].values()) + 1)]
        rings.append([[(d, ring.count(d)) for d in sorted(set(ring))] for ring in around])
        groups.setdefault((degree[i], len(around)), []).append(i)
    result = np.zeros((nodes, nodes))
    for group in groups.values():
        distance = {
            (i, j): sum(naive_dtw(a, b) for a, b in zip(rings[i], rings[j], strict=True)) for i in group for j in group
        }
        distinct = sorted(set(distance.values()))
        for (i, j), d in distance.items():
            p = 1.0 if len(distinct) == 1 or d <= distinct[1] else math.exp(-(d / distinct[1] - 1))
            result[i, j] = p if i != j and p > 0.01 else 0.0
    return result


def random_edges(seed: int, nodes: int):
    rng = np.random.default_rng(seed)
    upper_NN = np.triu(rng.random((nodes, nodes)) < rng.choice([0.1, 0.2, 0.4]), 1)  # sparse ones fall apart
    return upper_NN | upper_NN.T


@given(st.integers(0, 10_000), st.integers(1, 24))
@settings(max_examples=40, deadline=None)
def test_similarity_equals_a_slow_reading_of_the_definition(seed, nodes):
    edge_GNN = np.stack([random_edges(seed, nodes), random_edges(seed + 1, nodes)])
    expected = np.stack([naive_similarity(edge_NN) for edge_NN in edge_GNN])
    np.testing.assert_allclose(structural_similarity(edge_GNN), expected, atol=1e-5)


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_renumbered_nodes_have_the_same_similarity_renumbered(seed):
    edge_NN = random_edges(seed, 20)
    order_N = np.random.default_rng(seed).permutation(20)
    np.testing.assert_array_equal(
        similarity(edge_NN[np.ix_(order_N, order_N)]), similarity(edge_NN)[np.ix_(order_N, order_N)]
    )


def test_the_size_of_a_chunk_changes_nothing(monkeypatch):
    edge_GNN = np.stack([random_edges(seed, 40) for seed in range(4)])
    whole = structural_similarity(edge_GNN)
    monkeypatch.setattr(structural, "PAIRS", 7)
    np.testing.assert_array_equal(structural_similarity(edge_GNN), whole)


def test_the_diagonal_of_the_edges_is_ignored():
    edge_NN = random_edges(3, 12)
    np.testing.assert_array_equal(similarity(edge_NN | np.eye(12, dtype=bool)), similarity(edge_NN))


def test_hop_distance_counts_steps_and_marks_what_is_out_of_reach():
    edge_NN = random_edges(5, 20)
    edge_NN[:7, 7:], edge_NN[7:, :7] = False, False
    expected = np.array([[naive_hops(edge_NN, i).get(j, -1) for j in range(20)] for i in range(20)])
    assert (expected < 0).any()
    np.testing.assert_array_equal(hop_distance(edge_NN[None])[0], expected)
