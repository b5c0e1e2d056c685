from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmray.config import Config, Index, from_dict
from mmray.errors import ConfigError, ResourceError, WorkspaceError
from mmray.index import faiss_index, forget, milvus_index, store
from mmray.index.base import VectorIndex
from mmray.index.build import build_index
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from tests.small_run import built_once

pytest.importorskip("milvus_lite")

WITH_PASSWORD = "http://root:secret@host:19530"  # pragma: allowlist secret


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = str(tmp_path_factory.mktemp("milvus") / "index.db")
    yield place
    milvus_index._client(Index(backend="milvus", milvus_uri=place)).close()
    milvus_index._connected.cache_clear()


def both(
    tmp_path: Path, uri: str, vectors: np.ndarray, kind: str = "flat", name: str = "mmray_test_eeg"
) -> tuple[VectorIndex, VectorIndex]:
    """The same vectors in faiss, exact, and in Milvus."""
    settings = Index(kind=kind, backend="milvus", milvus_uri=uri)  # type: ignore[arg-type]
    faiss_index.write(vectors, settings, "flat", tmp_path / "flat.faiss")
    exact = faiss_index.read(tmp_path / "flat.faiss", settings)
    milvus_index.write(vectors, settings, kind, name)
    return exact, milvus_index.read(settings, kind, name, exact)


def unit(seed: int, rows: int, width: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, uri: str) -> tuple[VectorIndex, VectorIndex]:
    """2500 vectors in a collection of their own, which no test changes."""
    return both(tmp_path_factory.mktemp("many"), uri, unit(0, 2500, 16), name="mmray_test_many")


@pytest.mark.parametrize("k", [1, 10, 3000])
@pytest.mark.parametrize("share", [None, 0.0, 0.02, 0.5, 0.99, 1.0])
def test_milvus_answers_as_faiss_does_whatever_is_filtered(
    many: tuple[VectorIndex, VectorIndex], k: int, share: float | None
) -> None:
    exact, index = many
    query = unit(1, 3, 16)
    allowed = None if share is None else np.random.default_rng(2).random(2500) < share
    expected, answered = exact.search(query, k, allowed), index.search(query, k, allowed)
    np.testing.assert_array_equal(answered[1], expected[1])
    np.testing.assert_allclose(answered[0], expected[0], atol=1e-5)
    np.testing.assert_array_equal(index.vector(7), unit(0, 2500, 16)[7])


def test_equal_vectors_come_back_in_row_order_across_the_cut(tmp_path: Path, uri: str) -> None:
    vectors = np.random.default_rng(0).integers(-1, 2, (80, 3)).astype(np.float32)  # many exact ties
    exact, index = both(tmp_path, uri, vectors)
    query = np.random.default_rng(1).integers(-2, 3, (5, 3)).astype(np.float32)
    for k in (1, 5, 79):
        np.testing.assert_array_equal(index.search(query, k)[1], exact.search(query, k)[1])


def test_a_filter_too_long_for_an_expression_is_answered_from_the_workspace(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, index = both(tmp_path, uri, unit(0, 500, 8))
    monkeypatch.setattr(milvus_index, "_MOST_LISTED", 10)
    monkeypatch.setattr(milvus_index.MilvusIndex, "_ask", lambda *_: pytest.fail("asked"))
    allowed = np.arange(500) % 2 == 0
    np.testing.assert_array_equal(
        index.search(unit(1, 2, 8), 5, allowed)[1], exact.search(unit(1, 2, 8), 5, allowed)[1]
    )


def test_a_graph_in_milvus_finds_at_least_95_percent(tmp_path: Path, uri: str) -> None:
    exact, index = both(tmp_path, uri, unit(0, 2000, 16), kind="hnsw")
    query = unit(1, 20, 16)
    found, best = index.search(query, 10)[1], exact.search(query, 10)[1]
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)]) >= 0.95


def test_a_collection_that_lost_rows_or_is_gone_is_refused(tmp_path: Path, uri: str) -> None:
    exact, _ = both(tmp_path, uri, unit(0, 50, 8))
    settings = Index(backend="milvus", milvus_uri=uri)
    milvus_index.write(unit(0, 49, 8), settings, "flat", "mmray_test_eeg")
    with pytest.raises(WorkspaceError, match="holds 49 of 50 rows"):
        milvus_index.read(settings, "flat", "mmray_test_eeg", exact)
    milvus_index.drop(settings, "mmray_test_eeg")
    with pytest.raises(WorkspaceError, match="holds 0 of 50 rows; run `mmray index` again"):
        milvus_index.read(settings, "flat", "mmray_test_eeg", exact)


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory, ray_session: None, tmp_path: Path, uri: str) -> Config:
    config, _ = built_once(tmp_path_factory)
    shutil.copytree(config.workspace, tmp_path / "ws")
    index = {"backend": "milvus", "milvus_uri": uri}
    return from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws"), "index": index})


def test_an_index_in_milvus_answers_as_the_one_in_files_and_forgetting_drops_its_collections(config: Config) -> None:
    workspace = Workspace(config.workspace)
    files = Retriever.open(workspace)
    summary = build_index(config)
    assert summary.reused == 18
    there = Retriever.open(workspace)
    assert isinstance(there.index.vectors["eeg"], milvus_index.MilvusIndex)
    for query in ("s1-eeg-1", "s5-audio-2"):
        for target in ("eeg", "audio"):
            expected, answered = (r.search_recording(query, target, 20).matches for r in (files, there))
            assert [m.recording_id for m in answered] == [m.recording_id for m in expected]
            np.testing.assert_allclose([m.score for m in answered], [m.score for m in expected], atol=1e-5)
    client = milvus_index._client(config.index)
    held = {milvus_index.collection(summary.version, m) for m in ("eeg", "audio")}
    assert held <= set(client.list_collections())
    # without the settings at hand: the version says where it is
    told = forget.forget(from_dict({**config.model_dump(), "index": {}}), "s6")
    assert not held & set(client.list_collections())
    assert {milvus_index.collection(told.version, m) for m in ("eeg", "audio")} <= set(client.list_collections())
    assert "s6" not in Retriever.open(workspace).index.rows["eeg"]["subject_id"].to_pylist()
    store.delete(workspace, told.version, config.index)
    assert not [name for name in client.list_collections() if told.version in name]


def test_without_the_extra_the_error_says_what_to_install(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    before = store.current(Workspace(config.workspace))
    with pytest.raises(ConfigError, match=r"pip install 'mmray\[milvus\]'"):
        build_index(config)
    assert store.current(Workspace(config.workspace)) == before


def test_a_server_that_does_not_answer_is_a_resource_error_that_names_its_setting() -> None:
    settings = Index(backend="milvus", milvus_uri="http://127.0.0.1:9")
    with pytest.raises(ResourceError, match=r"Milvus at http://127\.0\.0\.1:9 .*index\.milvus_uri"):
        milvus_index.drop(settings, "mmray_test_eeg")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"backend": "milvus"}, "needs index.milvus_uri"),
        ({"backend": "milvus", "milvus_uri": WITH_PASSWORD}, "MMRAY_MILVUS_TOKEN"),
        ({"backend": "milvus", "milvus_uri": "m.db", "kind": "ivfpq"}, "take flat or hnsw"),
    ],
)
def test_settings_that_milvus_cannot_have_are_refused(settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_dict({"index": settings})
