from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import signal

from mmray.config import Similarity
from mmray.errors import ConfigError
from mmray.graphs import similarity as sim

# eighths are exact in float32, and give ties
ROWS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(8, 12)),
    elements=st.integers(-40, 40).map(lambda i: i / 8),
)


def pairwise(function, x_SND):
    """The definition, pair by pair."""
    return np.array([[[function(a, b) for b in rows] for a in rows] for rows in x_SND.astype(float)])


def naive_cosine(a, b):
    norm = np.sqrt(sum(a * a)) * np.sqrt(sum(b * b))
    return sum(a * b) / norm if norm else 0.0


def naive_pearson(a, b):
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return np.corrcoef(a, b)[0, 1]


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_cosine_is_the_definition_for_every_pair(x_SND):
    np.testing.assert_allclose(sim.cosine(x_SND), pairwise(naive_cosine, x_SND), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_pearson_is_numpys_coefficient_for_every_pair_and_0_for_a_constant_row(x_SND):
    np.testing.assert_allclose(sim.pearson(x_SND), pairwise(naive_pearson, x_SND), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_gaussian_kernel_uses_each_segments_median_distance(x_SND):
    expected = []
    for rows in x_SND.astype(float):
        distances = [np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        width = np.median(distances) or 1.0
        expected.append([[np.exp(-(np.linalg.norm(a - b) ** 2) / (2 * width**2)) for b in rows] for a in rows])
    np.testing.assert_allclose(sim.gaussian_kernel(x_SND), expected, atol=1e-4)


@pytest.mark.parametrize("samples", [64, 101])
def test_phase_locking_is_scipys_analytic_phase_difference_averaged(samples):
    x_SNT = np.random.default_rng(0).normal(size=(2, 5, samples)).astype(np.float32)
    phase = np.angle(signal.hilbert(x_SNT.astype(float)))
    expected = [[[abs(np.mean(np.exp(1j * (a - b)))) for b in rows] for a in rows] for rows in phase]
    np.testing.assert_allclose(sim.phase_locking_value(x_SNT), expected, atol=1e-5)


def test_a_delayed_sine_locks_fully_and_another_frequency_does_not():
    t = np.arange(512) / 128
    rows = np.array([[np.sin(20 * np.pi * t), np.sin(20 * np.pi * t + 1.0), np.sin(26 * np.pi * t)]], dtype=np.float32)
    locking = sim.phase_locking_value(rows)[0]
    assert locking[0, 1] > 0.999
    assert locking[0, 2] < 0.1


def test_phase_locking_of_a_silent_electrode_is_0():
    rows = np.stack([np.zeros(64), np.sin(np.arange(64))])[None].astype(np.float32)
    assert sim.phase_locking_value(rows)[0, 0, 1] == 0


def test_opposite_electrodes_correlate_fully_but_opposite_features_not_at_all():
    rows = np.random.default_rng(1).normal(size=(1, 1, 50)).astype(np.float32) * np.array([[[1.0], [-1.0]]], np.float32)
    features = np.stack([np.arange(8.0), -np.arange(8.0), np.ones(8)])[None].astype(np.float32)
    assert sim.similarity("pearson", features, rows)[0, 0, 1] == pytest.approx(1)
    assert sim.similarity("pearson", features)[0, 0, 1] == 0


def test_distance_makes_the_nearest_electrode_the_most_similar():
    position_N3 = np.array([[0, 0, 0.09], [0, 0.01, 0.09], [0.09, 0, 0]])
    alike = sim.similarity("distance", np.zeros((4, 3, 2), np.float32), position_NX=position_N3)
    assert alike.shape == (4, 3, 3)
    assert (alike[:, 0, 1] > alike[:, 0, 2]).all()


@settings(max_examples=20, deadline=None)
@given(ROWS, st.sampled_from(get_args(Similarity)))
def test_every_similarity_is_symmetric_and_within_0_and_1(x_SND, kind):
    alike = sim.similarity(kind, x_SND, x_SND, np.arange(3.0 * x_SND.shape[1]).reshape(-1, 3) + 1, 8.0, (0.0, 5.0))
    assert ((alike >= 0) & (alike <= 1)).all()
    np.testing.assert_allclose(alike, alike.swapaxes(1, 2), atol=1e-6)


def test_a_feature_in_large_units_does_not_rule_the_similarity():
    x_SND = np.random.default_rng(2).normal(size=(2, 6, 4)).astype(np.float32)
    scaled = x_SND * np.array([1, 1000, 1, 1], np.float32) + np.array([0, 0, 50, 0], np.float32)
    np.testing.assert_allclose(sim.similarity("cosine", scaled), sim.similarity("cosine", x_SND), atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 3), st.just(6), st.just(6)), elements=st.sampled_from([0, 0.25, 1])
    ),
    st.integers(1, 5),
)
def test_top_k_is_a_sort_by_weight_then_index_without_the_node_itself(alike_SNN, k):
    neighbour, weight = sim.top_k(alike_SNN.copy(), k)
    for s, alike_NN in enumerate(alike_SNN):
        for node, row in enumerate(alike_NN):
            expected = sorted((i for i in range(6) if i != node), key=lambda i: (-row[i], i))[:k]
            assert neighbour[s, node].tolist() == expected
            assert weight[s, node].tolist() == row[expected].tolist()
    assert (neighbour.dtype, weight.dtype) == (np.int16, np.float32)


def test_top_k_refuses_as_many_neighbours_as_nodes():
    with pytest.raises(ConfigError, match="at most 3"):
        sim.top_k(np.zeros((1, 4, 4), np.float32), 4)


def test_a_similarity_without_its_input_is_a_config_error():
    with pytest.raises(ConfigError, match="phase_locking"):
        sim.similarity("phase_locking", np.zeros((1, 4, 4), np.float32))


def test_rows_that_are_constant_but_for_rounding_correlate_with_nothing():
    x = np.full((1, 3, 1000), 0.1, dtype=np.float32)
    x[0, 1] = 0.3
    x[0, 2] = np.random.default_rng(0).normal(size=1000)
    assert x[0, :2].mean(-1).tolist() != x[0, :2, 0].tolist()
    r = sim.pearson(x)[0]
    np.testing.assert_array_equal(r[:2], 0)
