"""What is looked up is what would have been worked out."""

from __future__ import annotations

import numpy as np

from mmray.graphs import structural_memo
from mmray.graphs.structural import structural_similarity
from mmray.graphs.structural_memo import StructuralMemo, topologies
from tests.graphs.test_structural import random_edges

EDGES = np.stack([random_edges(seed, 15) for seed in (1, 2, 1)])


def test_a_memo_gives_what_the_definition_gives():
    memo = StructuralMemo()
    expected = structural_similarity(EDGES)
    np.testing.assert_array_equal(memo.dense(EDGES, keep=True), expected)
    np.testing.assert_array_equal(memo.dense(EDGES[::-1], keep=True), expected[::-1])


def test_a_topology_is_worked_out_once(monkeypatch):
    memo = StructuralMemo()
    memo.dense(EDGES, keep=True)
    monkeypatch.setattr(structural_memo, "work_out", lambda edges: 1 / 0)
    memo.dense(EDGES, keep=True)
    assert len(memo.entries) == 2


def test_nothing_is_kept_unless_asked():
    memo = StructuralMemo()
    memo.dense(EDGES, keep=False)
    assert not memo.entries


def test_a_topology_is_named_by_its_edges():
    first, second, again = topologies(EDGES)
    assert first == again != second
