from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Index
from mmray.errors import ConfigError, WorkspaceError
from mmray.index import faiss_index, recall
from mmray.index.base import VectorIndex
from tests.index.full_disk import room_for


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    vectors = rng.normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def naive(query: np.ndarray, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[int]:
    """Sort every allowed row by falling score, then by row."""
    rows = [row for row in range(len(vectors)) if allowed is None or allowed[row]]
    return sorted(rows, key=lambda row: (-float(np.dot(query, vectors[row])), row))[:k]


def build(tmp_path: Path, vectors: np.ndarray, kind: str) -> faiss_index.FaissIndex:
    path = tmp_path / f"{kind}.faiss"
    config = Index(kind=kind)  # type: ignore[arg-type]
    faiss_index.write(vectors, config, kind, path)
    return faiss_index.read(path, config)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq"])
@given(seed=st.integers(0, 10_000), k=st.integers(1, 40), share=st.sampled_from([0.0, 0.1, 0.9, 1.0]))
@settings(max_examples=15, deadline=None)
def test_a_filtered_search_equals_a_naive_sort_even_with_ties(
    tmp_path_factory: pytest.TempPathFactory, kind: str, seed: int, k: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (30, 4)).astype(np.float32)  # many exact ties
    index = build(tmp_path_factory.mktemp("index"), vectors, kind)
    allowed = rng.random(30) < share
    query = rng.integers(-2, 3, (3, 4)).astype(np.float32)
    score, row = index.search(query, k, allowed)
    assert [list(r) for r in row] == [naive(q, vectors, k, allowed) for q in query]
    np.testing.assert_array_equal(score, np.take_along_axis(query @ vectors.T, row, axis=1))


@pytest.mark.parametrize("k", [1, 5, 30, 100])
def test_an_unfiltered_flat_search_equals_a_naive_sort_with_ties(tmp_path: Path, k: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-1, 2, (80, 3)).astype(np.float32)
    index = build(tmp_path, vectors, "flat")
    query = rng.integers(-2, 3, (25, 3)).astype(np.float32)  # above faiss's switch to BLAS at 20 queries
    _, row = index.search(query, k)
    assert [list(r) for r in row] == [naive(q, vectors, k) for q in query]


def people(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Ten recordings a person, near each other on a plane of few dimensions."""
    basis = rng.normal(size=(6, width))
    vectors = (np.repeat(rng.normal(size=(rows // 10, 6)), 10, 0) + 0.3 * rng.normal(size=(rows, 6))) @ basis
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", ["hnsw", "sq", "ivfpq"])
def test_an_approximate_kind_finds_at_least_95_percent_of_the_exact_neighbours(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors = people(rng, 10_000, 32)
    index, query = build(tmp_path, vectors, kind), vectors[:50] + 0.02 * unit(rng, 50, 32)
    score, found = index.search(query, 10)
    exact = build(tmp_path, vectors, "flat").search(query, 10)[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)]) >= 0.95
    # whatever the codes say, scores are of the vectors themselves
    np.testing.assert_allclose(score, np.einsum("qe,qke->qk", query, vectors[found]), atol=1e-5)
    assert recall.measured(index) >= 0.95


@pytest.mark.parametrize("kind", ["sq", "ivfpq"])
def test_a_compressed_search_comes_back_in_order_and_with_as_many_as_asked(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors = people(rng, 10_000, 32)
    path = tmp_path / "one-cell"
    settings_ = Index(kind=kind, ivf_probe=1)  # type: ignore[arg-type]
    faiss_index.write(vectors, settings_, kind, path)
    score, row = faiss_index.read(path, settings_).search(vectors[:3], 2000)  # more than a cell holds
    assert row.shape == (3, 2000)
    assert row.min() >= 0
    assert (np.diff(score, axis=1) <= 0).all()


def test_where_all_cells_are_looked_into_and_codes_tell_too_little_more_candidates_are_compared(tmp_path: Path) -> None:
    vectors = unit(np.random.default_rng(0), 10_000, 32)  # no structure for codes to learn
    settings_ = Index(kind="ivfpq", pq_bytes=4)
    path = tmp_path / "coarse"
    faiss_index.write(vectors, settings_, "ivfpq", path)
    found = {
        json.dumps(breadth): recall.measured(faiss_index.read(path, settings_.model_copy(update=breadth)))
        for breadth in faiss_index.breadths(settings_, "ivfpq")
    }
    cells, *_, widest = found
    assert found[json.dumps({"ivf_probe": 2048})] < 0.95
    assert found[cells] < 0.95
    assert json.loads(widest)["rerank"] > 20
    assert found[widest] >= 0.99
    assert all("rerank" not in breadth for breadth in faiss_index.breadths(Index(rerank=20), "ivfpq"))


@pytest.mark.parametrize("kind", ["hnsw", "sq", "ivfpq"])
def test_equal_vectors_come_back_in_row_order(tmp_path: Path, kind: str) -> None:
    vectors = people(np.random.default_rng(0), 10_000, 32)
    vectors[[7, 5000, 9000]] = vectors[42]
    _, row = build(tmp_path, vectors, kind).search(vectors[42:43], 4)
    assert row[0].tolist() == [7, 42, 5000, 9000]


def test_auto_is_exact_below_its_size_and_a_graph_from_there_on() -> None:
    settings_ = Index(exact_below=100)
    assert faiss_index.resolved(settings_, {"eeg": 5, "audio": 99}, 8) == "flat"
    assert faiss_index.resolved(settings_, {"eeg": 5, "audio": 100}, 8) == "hnsw"


def test_too_few_vectors_to_learn_codes_from_are_refused_with_the_number_needed() -> None:
    settings_ = Index(kind="ivfpq")
    assert faiss_index.resolved(settings_, {"eeg": 9984, "audio": 20_000}, 64) == "ivfpq"
    with pytest.raises(ConfigError, match=r"at least 9984 vectors, and there are 9983 of eeg; set index\.kind=auto"):
        faiss_index.resolved(settings_, {"eeg": 9983, "audio": 20_000}, 64)
    with pytest.raises(ConfigError, match=r"at least 39000 .* or lower index\.ivf_lists"):
        faiss_index.resolved(Index(kind="ivfpq", ivf_lists=1000), {"eeg": 20_000}, 64)


def test_codes_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"index\.pq_bytes = 7 does not divide model\.embedding = 64"):
        faiss_index.resolved(Index(kind="ivfpq", pq_bytes=7), {"eeg": 20_000}, 64)


class _Forgetful:
    """Finds the best half of the exact answer."""

    def __init__(self, index: VectorIndex) -> None:
        self._index, self.size, self.width, self.vector = index, index.size, index.width, index.vector

    def search(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        score, row = self._index.search(query, 2 * k)
        return (score[:, :k], row[:, :k]) if allowed is not None else (score[:, k // 2 :][:, :k], row[:, k // 2 :])


def test_measured_recall_is_the_share_of_the_exact_ten_that_is_found(tmp_path: Path) -> None:
    index = build(tmp_path, unit(np.random.default_rng(0), 500, 16), "flat")
    assert recall.measured(index) == 1.0
    assert recall.measured(_Forgetful(index)) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq", "ivfpq"])
def test_the_same_vectors_give_the_same_bytes(tmp_path: Path, kind: str) -> None:
    vectors = unit(np.random.default_rng(0), 10_000, 8)
    config = Index(kind=kind)  # type: ignore[arg-type]
    for name in ("a", "b"):
        faiss_index.write(vectors, config, kind, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq", "ivfpq"])
def test_a_stored_vector_comes_back_as_it_went_in(tmp_path: Path, kind: str) -> None:
    vectors = unit(np.random.default_rng(0), 10_000, 8)
    np.testing.assert_array_equal(build(tmp_path, vectors, kind).vector(7), vectors[7])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq", "ivfpq"])
def test_an_open_index_is_mapped_and_not_copied(tmp_path: Path, kind: str) -> None:
    index = build(tmp_path, unit(np.random.default_rng(0), 10_000, 8), kind)
    assert f"{kind}.faiss" in Path("/proc/self/maps").read_text()
    assert index.size == 10_000


def test_a_file_that_is_not_faiss_is_a_workspace_error(tmp_path: Path) -> None:
    (tmp_path / "x.faiss").write_bytes(b"not an index")
    with pytest.raises(WorkspaceError, match=r"x\.faiss"):
        faiss_index.read(tmp_path / "x.faiss", Index())


@pytest.mark.parametrize("lacking", [10, 40_000])  # of the last bytes that do not fit, faiss itself says nothing
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_folder_without_room_for_the_vectors_is_named_with_what_is_needed(
    tmp_path: Path, kind: str, lacking: int
) -> None:
    vectors = unit(np.random.default_rng(0), 10_000, 16)
    faiss_index.write(vectors, Index(), kind, tmp_path / "v")
    size = (tmp_path / "v").stat().st_size
    with (
        room_for(size - lacking),
        pytest.raises(WorkspaceError, match=r"does not hold v, 0\.6 MiB .*TMPDIR") as refused,
    ):
        faiss_index.write(vectors, Index(), kind, tmp_path / "v")
    assert str(tmp_path) in str(refused.value)
