from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import mmray
from mmray import config as configuration
from mmray.config import Config, Index, from_dict
from mmray.errors import ConfigError, WorkspaceError
from mmray.features import table
from mmray.index import build, milvus_index, recall, store
from mmray.index.base import METADATA
from mmray.index.build import IndexSummary, build_index
from mmray.storage import Workspace
from mmray.training import reference
from mmray.training.checkpoint import LoadedRun, fingerprint, load_run, newest_run
from tests.embedding import embedded
from tests.half_written import half_written, leave_half
from tests.small_run import RUN, SUBJECTS, built_once, make_run


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Config, IndexSummary]:
    return built_once(tmp_path_factory)


@pytest.fixture
def copy(built: tuple[Config, IndexSummary], tmp_path: Path) -> tuple[Workspace, str]:
    config, summary = built
    shutil.copytree(config.workspace, tmp_path / "ws")
    return Workspace(str(tmp_path / "ws")), summary.version


def test_each_vector_is_the_normalised_mean_of_its_recordings_segments(built: tuple[Config, IndexSummary]) -> None:

    config, summary = built
    workspace = Workspace(config.workspace)
    run = load_run(workspace, RUN)
    opened = store.open_index(workspace)
    for modality in ("eeg", "audio"):
        segments = table.load(workspace, run.features_digest, modality)
        z_SE = embedded(run.model, segments)
        for row, recording_id in enumerate(opened.rows[modality]["recording_id"].to_pylist()):
            mean_E = z_SE[segments.recording_id_S == recording_id].mean(0)
            expected_E = mean_E / np.linalg.norm(mean_E)
            np.testing.assert_allclose(opened.vectors[modality].vector(row), expected_E, atol=1e-5)
    assert summary.counts == {"audio": 12, "eeg": 6}


def test_each_recording_has_its_segments_and_the_best_of_them_is_where_a_match_starts(
    built: tuple[Config, IndexSummary],
) -> None:
    workspace = Workspace(built[0].workspace)
    run = load_run(workspace, RUN)
    opened = store.open_index(workspace)
    query_E = np.random.default_rng(0).normal(size=16).astype(np.float32)
    for modality in ("eeg", "audio"):
        segments = table.load(workspace, run.features_digest, modality)
        z_SE = embedded(run.model, segments)
        rows = opened.rows[modality].to_pylist()
        starts = []
        for row, told in enumerate(rows):
            own_S = segments.recording_id_S == told["recording_id"]
            np.testing.assert_array_equal(opened.segments[modality].start_s(row), segments.start_s_S[own_S])
            np.testing.assert_allclose(opened.segments[modality].vectors(row), z_SE[own_S], atol=1e-3)
            starts.append(segments.start_s_S[own_S][np.argmax(z_SE[own_S] @ query_E)])
            assert (told["segments"], told["study"]) == (own_S.sum(), run.config.study.kind)
        asked_K = np.array([3, 0, 5, 3])
        np.testing.assert_array_equal(opened.segments[modality].best(asked_K, query_E), np.array(starts)[asked_K])
        assert len(set(starts)) > 1


def test_the_metadata_tells_each_subjects_part_in_the_run_and_no_path(built: tuple[Config, IndexSummary]) -> None:
    opened = store.open_index(Workspace(built[0].workspace))
    rows = opened.rows["eeg"]
    assert dict(zip(rows["subject_id"].to_pylist(), rows["role"].to_pylist(), strict=True)) == dict(
        zip(SUBJECTS, ["train"] * 3 + ["validation", "test", "unseen"], strict=True)
    )
    assert "path" not in rows.schema.names
    assert "/study" not in json.dumps(rows.to_pylist())  # the folder


def test_building_twice_publishes_once(built: tuple[Config, IndexSummary]) -> None:
    config, first = built
    manifest = Path(config.workspace, "index", first.version, "manifest.json")
    before = manifest.stat().st_mtime_ns
    again = build_index(config)
    assert (again.version, again.built) == (first.version, False)
    assert manifest.stat().st_mtime_ns == before
    assert "already published" in again.render()


def test_other_index_settings_make_another_version_beside_the_first(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str]
) -> None:
    workspace, version = copy
    config = from_dict({**built[0].model_dump(), "workspace": workspace.root, "index": {"kind": "hnsw"}})
    summary = build_index(config)
    assert summary.version != version
    assert store.current(workspace) == summary.version
    assert store.open_index(workspace, version).manifest.kind == "flat"
    assert store.open_index(workspace).manifest.kind == "hnsw"


def settings_for(built: tuple[Config, IndexSummary], workspace: Workspace, **index: object) -> Config:
    return from_dict({**built[0].model_dump(), "workspace": workspace.root, "index": index})


def test_an_index_that_finds_too_little_is_not_published_and_says_what_to_raise(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, version = copy
    before = sorted(Path(workspace.root).rglob("*"))
    monkeypatch.setattr(recall, "measured", lambda index: 0.94)
    with pytest.raises(ConfigError, match=r"hnsw finds 0\.940 .*nothing was published; raise index\.hnsw_ef"):
        build_index(settings_for(built, workspace, kind="hnsw"))
    assert store.current(workspace) == version
    assert sorted(Path(workspace.root).rglob("*")) == before
    monkeypatch.setattr(recall, "measured", lambda index: 0.95)
    summary = build_index(settings_for(built, workspace, kind="hnsw"))
    assert summary.recall == {"audio": 0.95, "eeg": 0.95}
    assert store.read_manifest(workspace, summary.version).recall == summary.recall


def test_a_search_is_only_as_wide_as_it_must_be_to_find_enough_and_readers_take_that(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _ = copy
    found = {64: 0.5, 128: 0.98, 256: 0.99, 512: 1.0}
    monkeypatch.setattr(recall, "measured", lambda index: found[index._parameters(1).efSearch])
    summary = build_index(settings_for(built, workspace, kind="hnsw"))
    assert summary.recall == {"audio": 0.99, "eeg": 0.99}
    assert store.open_index(workspace).vectors["eeg"]._parameters(1).efSearch == 256
    told = build_index(settings_for(built, workspace, kind="hnsw", hnsw_ef=128))  # what is asked for is not changed
    assert told.recall == {"audio": 0.98, "eeg": 0.98}
    assert store.open_index(workspace).vectors["eeg"]._parameters(1).efSearch == 128


def drop(workspace: Workspace, config: Config, recording_ids: set[str]) -> None:
    """Let recordings be gone, as `mmray recordings` and `mmray prepare` do."""
    place = ("features", configuration.digest(config.features), "parts.parquet")
    for parts in (place, ("recordings.parquet",)):
        kept = workspace.read_table(*parts).to_pylist()
        schema = workspace.read_table(*parts).schema
        rows = [row for row in kept if row["recording_id"] not in recording_ids]
        workspace.write_table(pa.Table.from_pylist(rows, schema=schema), *parts)


def change(workspace: Workspace, config: Config, recording_id: str) -> None:
    """Let a recording be prepared anew with another outcome, under another part's name."""
    folder = ("features", configuration.digest(config.features))
    rows = workspace.read_table(*folder, "parts.parquet").to_pylist()
    (row,) = (row for row in rows if row["recording_id"] == recording_id)
    fewer = workspace.read_table(*folder, row["path"]).slice(0, row["segments"] - 1)
    row["path"], row["segments"] = f"{row['modality']}/{recording_id}-anew.parquet", fewer.num_rows
    workspace.write_table(fewer, *folder, row["path"])
    schema = workspace.read_table(*folder, "parts.parquet").schema
    workspace.write_table(pa.Table.from_pylist(rows, schema=schema), *folder, "parts.parquet")


@pytest.mark.parametrize("kind", ["flat", "hnsw", "sq"])
def test_only_new_and_changed_recordings_are_embedded_and_the_files_equal_those_from_scratch(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    workspace, _ = copy
    config = settings_for(built, workspace, kind=kind)
    every = {name: workspace.read_bytes(*name) for name in all_tables(workspace, config)}
    drop(workspace, config, {"s2-audio-1", "s5-eeg-1"})
    workspace.delete_tree("index")
    build_index(config)  # the version before
    for name, data in every.items():
        workspace.write_bytes(data, *name)
    drop(workspace, config, {"s1-audio-2"})
    change(workspace, config, "s3-audio-1")

    embedded_parts = []
    real = build._embedded

    def spy(config: Config, run: LoadedRun, model: str, items: pa.Table) -> Iterator[dict[str, Any]]:
        embedded_parts.extend(items["part"].to_pylist())
        return real(config, run, model, items)

    monkeypatch.setattr(build, "_embedded", spy)
    leave_half(Path(workspace.path("index")))
    grown = build_index(config)
    assert not half_written(workspace.root)
    assert sorted(embedded_parts) == [
        "audio/s2-audio-1.parquet",
        "audio/s3-audio-1-anew.parquet",
        "eeg/s5-eeg-1.parquet",
    ]
    assert (grown.reused, grown.counts) == (14, {"audio": 11, "eeg": 6})
    manifest = store.open_index(workspace).manifest
    workspace.delete_tree("index")
    embedded_parts.clear()
    scratch = build_index(config)
    assert (len(embedded_parts), scratch.reused) == (17, 0)
    assert scratch.version == grown.version
    assert store.open_index(workspace).manifest.files == manifest.files


def test_another_mmray_makes_a_version_of_its_own_and_the_one_before_stays_whole(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, version = copy
    monkeypatch.setattr(mmray, "__version__", "99.0")
    summary = build_index(settings_for(built, workspace))
    assert (summary.built, summary.reused) == (True, 0)
    assert summary.version != version
    assert store.open_index(workspace).manifest.created_by == "mmray 99.0"
    assert store.open_index(workspace, version).manifest.created_by != "mmray 99.0"


def test_another_milvus_is_filled_although_the_one_before_still_answers(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, _ = copy
    held: dict[str | None, list[str]] = {}
    monkeypatch.setattr(
        milvus_index, "write", lambda v, asked, kind, n: held.setdefault(asked.milvus_uri, []).append(n)
    )
    monkeypatch.setattr(milvus_index, "read", lambda asked, kind, name, exact: exact)
    monkeypatch.setattr(milvus_index, "drop", lambda asked, name: held[asked.milvus_uri].remove(name))
    old, new = (
        build_index(settings_for(built, workspace, backend="milvus", milvus_uri=f"http://{host}:19530"))
        for host in ("old", "new")
    )
    assert (old.built, new.built) == (True, True)
    assert len(held["http://old:19530"]) == len(held["http://new:19530"]) == 2
    store.delete(workspace, old.version, Index())  # each version still says where its own collections are
    assert held["http://old:19530"] == []
    assert len(held["http://new:19530"]) == 2


def test_a_worker_that_is_used_again_takes_the_reference_set_that_was_rewritten_since(
    copy: tuple[Workspace, str],
) -> None:
    workspace, _ = copy
    first = build._run(workspace.root, RUN, fingerprint(workspace, RUN))
    held = first.model.reference
    assert held is not None
    weights = hashlib.sha256(workspace.read_bytes("runs", RUN, "model.safetensors")).hexdigest()
    other = replace(held, vector_RME=-held.vector_RME)
    workspace.write_bytes(reference.to_bytes(other, weights), "runs", RUN, reference.FILE)
    again = build._run(workspace.root, RUN, fingerprint(workspace, RUN))
    assert again.model.reference is not None
    torch.testing.assert_close(again.model.reference.vector_RME, other.vector_RME)
    assert build._run(workspace.root, RUN, fingerprint(workspace, RUN)) is again


def described(rows: int) -> pa.Table:
    """Metadata of so many recordings."""
    text = {name: [f"{name}-{row}" for row in range(rows)] for name in METADATA.names}
    numbers = {"label": [None, 1] * (rows // 2), "age": [30.0] * rows, "segments": [3] * rows}
    few = {"modality": ["audio", "eeg"] * (rows // 2), "role": ["test"] * rows}
    return pa.table({**text, **numbers, **few}).cast(METADATA)


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[pa.Table], str]:
    """The version that rows are published as, where it is there already."""
    monkeypatch.setattr(build, "fingerprint", lambda *_: "weights")
    monkeypatch.setattr(
        build, "_published", lambda workspace, version: SimpleNamespace(version=version, kind="", recall={})
    )
    monkeypatch.setattr(store, "point_to", lambda *_: None)
    run: Any = SimpleNamespace(run_id=RUN, features_digest="f", config=Config())
    return lambda metadata: build.publish_rows(Config(workspace=str(tmp_path)), run, metadata).version


def test_equal_rows_are_one_version_however_their_table_is_put_together(settled: Callable[[pa.Table], str]) -> None:
    table = described(10_000)
    whole = settled(table)
    pieces = pa.concat_tables([table.slice(0, 1), table.slice(1, 5000), table.slice(5001)])
    copied = pa.Table.from_pylist(table.to_pylist(), schema=METADATA)
    assert settled(pieces) == settled(copied) == settled(pa.concat_tables([table, table]).slice(10_000)) == whole
    ages = pa.array([30.0] * 9_999 + [31.0], pa.float32())
    at = METADATA.get_field_index("age")
    assert settled(table.set_column(at, METADATA.field(at), ages)) != whole
    assert settled(table.take(list(range(9_999, -1, -1)))) != whole


def test_what_publishing_holds_in_python_does_not_grow_with_the_recordings(
    settled: Callable[[pa.Table], str],
) -> None:
    peaks = []
    for rows in (10_000, 40_000):
        table = described(rows)
        tracemalloc.start()
        settled(table)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def all_tables(workspace: Workspace, config: Config) -> list[tuple[str, ...]]:
    return [("recordings.parquet",), ("features", configuration.digest(config.features), "parts.parquet")]


def test_another_runs_vectors_are_not_reused(built: tuple[Config, IndexSummary], copy: tuple[Workspace, str]) -> None:
    workspace, _ = copy
    config = settings_for(built, workspace)
    make_run(config, "run-b", seed=1)
    assert build_index(config, "run-b").reused == 0


def test_the_newest_finished_run_is_taken_and_an_unfinished_one_is_not(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str]
) -> None:
    workspace, _ = copy
    config = from_dict({**built[0].model_dump(), "workspace": workspace.root})
    make_run(config, "run-b", seed=1)
    make_run(config, "run-c", seed=2)
    Path(workspace.path("runs", "run-c", "run.json")).unlink()
    assert newest_run(workspace) == "run-b"


def test_a_workspace_without_a_finished_run_says_to_train(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="mmray train"):
        build_index(from_dict({"workspace": str(tmp_path)}))


@pytest.mark.parametrize(
    "name", ["vectors-eeg.faiss", "vectors-audio.faiss", "segments-eeg.safetensors", "metadata.parquet"]
)
def test_one_flipped_bit_in_any_file_is_refused_by_name(copy: tuple[Workspace, str], name: str) -> None:
    workspace, version = copy
    path = Path(workspace.path("index", version, name))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkspaceError, match=f"{name} is damaged.*mmray index"):
        store.open_index(workspace)


def test_a_lost_file_is_refused_by_name(copy: tuple[Workspace, str]) -> None:
    workspace, version = copy
    Path(workspace.path("index", version, "vectors-eeg.faiss")).unlink()
    with pytest.raises(WorkspaceError, match=r"vectors-eeg\.faiss"):
        store.open_index(workspace)


def test_building_again_repairs_a_damaged_version(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str]
) -> None:
    workspace, version = copy
    Path(workspace.path("index", version, "vectors-eeg.faiss")).write_bytes(b"rot")
    summary = build_index(from_dict({**built[0].model_dump(), "workspace": workspace.root}))
    assert (summary.version, summary.built) == (version, True)
    store.open_index(workspace)


def test_a_version_without_its_manifest_is_not_seen(copy: tuple[Workspace, str]) -> None:
    workspace, version = copy
    Path(workspace.path("index", version, "manifest.json")).unlink()
    with pytest.raises(WorkspaceError, match="not there whole"):
        store.open_index(workspace, version)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("dies_at", range(8))
def test_a_publication_killed_at_any_write_leaves_the_former_version_in_place(
    built: tuple[Config, IndexSummary], copy: tuple[Workspace, str], monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    workspace, version = copy
    opened = store.open_index(workspace)
    vectors = {m: np.stack([v.vector(row) for row in range(v.size)]) for m, v in opened.vectors.items()}
    metadata = pa.concat_tables([opened.rows[m] for m in vectors])
    manifest = type(opened.manifest)(**{**opened.manifest.to_dict(), "version": "next", "files": {}})
    writes = 0
    real = Workspace.writing

    def writing(self: Workspace, *parts: str) -> AbstractContextManager[Path]:
        nonlocal writes
        if writes == dies_at:
            raise KilledError
        writes += 1
        return real(self, *parts)

    behind = {m: Path(workspace.path("index", version, f"segments-{m}.safetensors")) for m in vectors}
    monkeypatch.setattr(Workspace, "writing", writing)
    with pytest.raises(KilledError):
        store.publish(workspace, manifest, vectors, metadata, behind)
    monkeypatch.undo()
    assert store.open_index(workspace).manifest.version == (version if dies_at < 7 else "next")
    if dies_at < 6:  # after that the pointer alone was missing, or only the history
        with pytest.raises(WorkspaceError):
            store.open_index(workspace, "next")


class _Remote(Workspace):
    """A workspace whose files cannot be mapped in place."""

    @property
    def is_local(self) -> bool:
        return False


def test_an_object_stores_index_is_copied_once_and_a_rotten_copy_is_fetched_again(
    copy: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace, version = _Remote(copy[0].root), copy[1]
    first = store.open_index(workspace)
    (cached,) = (tmp_path / "cache" / "mmray" / "index").iterdir()
    (cached / "vectors-eeg.faiss").unlink()
    (cached / "vectors-eeg.faiss").write_bytes(b"rot")
    again = store.open_index(workspace)
    np.testing.assert_array_equal(again.vectors["eeg"].vector(3), first.vectors["eeg"].vector(3))
    assert [path.name for path in cached.parent.iterdir()] == [cached.name]
    assert version in cached.name


def test_an_object_stores_index_is_never_read_whole_into_memory(
    copy: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real, read = Workspace.read_bytes, []

    def read_bytes(self: Workspace, *parts: str) -> bytes:
        read.append(parts[-1])
        return real(self, *parts)

    monkeypatch.setattr(Workspace, "read_bytes", read_bytes)
    store.open_index(_Remote(copy[0].root))
    assert sorted(read) == ["current", "manifest.json"]


def test_copies_long_unused_make_room_and_a_deleted_version_leaves_no_piece(
    copy: tuple[Workspace, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    workspace, version = _Remote(copy[0].root), copy[1]
    cache = tmp_path / "cache" / "mmray" / "index"
    for name, days in (("old-0123", 8), ("young-0123", 6), (".partial-killed", 0)):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (time.time() - days * 86400,) * 2)
    store.open_index(workspace)
    names = {path.name for path in cache.iterdir()}
    assert {"young-0123", ".partial-killed"} < names
    assert "old-0123" not in names
    (fetched,) = names - {"young-0123", ".partial-killed"}
    os.utime(cache / fetched, (0, 0))
    store.open_index(workspace)
    assert (cache / fetched).stat().st_mtime > time.time() - 60  # in use
    store.delete(workspace, version, Index())
    assert [path.name for path in cache.iterdir()] == ["young-0123"]
