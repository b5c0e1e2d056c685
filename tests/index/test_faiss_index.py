from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmray.config import Index
from mmray.errors import WorkspaceError
from mmray.index import faiss_index


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
    faiss_index.write(vectors, config, path)
    return faiss_index.read(path, config.hnsw_ef)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
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


def test_hnsw_finds_at_least_95_percent_of_the_exact_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors, query = unit(rng, 3000, 32), unit(rng, 50, 32)
    exact = build(tmp_path, vectors, "flat").search(query, 10)[1]
    found = build(tmp_path, vectors, "hnsw").search(query, 10)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, found, strict=True)])
    assert recall >= 0.95


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_the_same_vectors_give_the_same_bytes(tmp_path: Path, kind: str) -> None:
    vectors = unit(np.random.default_rng(0), 4000, 8)
    config = Index(kind=kind)  # type: ignore[arg-type]
    for name in ("a", "b"):
        faiss_index.write(vectors, config, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_stored_vector_comes_back_as_it_went_in(tmp_path: Path, kind: str) -> None:
    vectors = unit(np.random.default_rng(0), 20, 8)
    np.testing.assert_array_equal(build(tmp_path, vectors, kind).vector(7), vectors[7])


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc to see what is mapped")
@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_an_open_index_is_mapped_and_not_copied(tmp_path: Path, kind: str) -> None:
    index = build(tmp_path, unit(np.random.default_rng(0), 500, 8), kind)
    assert f"{kind}.faiss" in Path("/proc/self/maps").read_text()
    assert index.size == 500


def test_a_file_that_is_not_faiss_is_a_workspace_error(tmp_path: Path) -> None:
    (tmp_path / "x.faiss").write_bytes(b"not an index")
    with pytest.raises(WorkspaceError, match=r"x\.faiss"):
        faiss_index.read(tmp_path / "x.faiss", 64)
