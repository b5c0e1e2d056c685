from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from mmray.errors import WorkspaceError
from mmray.index import segments
from tests.index.full_disk import room_for


def made(path: Path, counts: list[int], rng: np.random.Generator) -> segments.SegmentVectors:
    file = segments.create(path, np.array(counts), 3)
    for row, count in enumerate(counts):
        z = rng.integers(-2, 3, (count, 3)).astype("<f2")  # many exact ties
        segments.fill(file, row, z.tobytes(), np.arange(count, dtype="<f4").tobytes())
    return segments.read(path)


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(1, 6), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_best_segment_equals_a_naive_search_and_of_equal_ones_the_earliest(
    tmp_path_factory: pytest.TempPathFactory, seed: int, counts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    file = made(tmp_path_factory.mktemp("segments") / "s", counts, rng)
    query = rng.integers(-2, 3, 3).astype(np.float32)
    asked = rng.integers(0, len(counts), 5)
    expected = []
    for row in asked.tolist():
        scores = [float(np.dot(z, query)) for z in file.vectors(row).astype(np.float32)]
        expected.append(scores.index(max(scores)))
    assert file.best(asked, query).tolist() == expected


def test_no_rows_have_no_best_segment(tmp_path: Path) -> None:
    file = made(tmp_path / "s", [2], np.random.default_rng(0))
    assert file.best(np.empty(0, dtype=np.int64), np.ones(3, dtype=np.float32)).shape == (0,)


def test_the_file_is_safetensors_that_others_read(tmp_path: Path) -> None:
    file = made(tmp_path / "s", [2, 3], np.random.default_rng(0))
    tensors = load_file(tmp_path / "s")
    np.testing.assert_array_equal(tensors["first"], [0, 2, 5])
    np.testing.assert_array_equal(tensors["z"], file.z_SE)


def test_more_segments_than_were_announced_are_refused(tmp_path: Path) -> None:
    file = segments.create(tmp_path / "s", np.array([1, 1]), 3)
    with pytest.raises(WorkspaceError, match="mmray prepare"):
        segments.fill(file, 0, np.zeros((2, 3), "<f2").tobytes(), np.zeros(2, "<f4").tobytes())


def test_a_file_that_holds_no_segments_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"not segments")
    with pytest.raises(WorkspaceError, match=r"s\.safetensors"):
        segments.read(tmp_path / "s.safetensors")


def test_a_files_room_is_taken_before_anything_is_filled_in(tmp_path: Path) -> None:
    segments.create(tmp_path / "s", np.array([100_000]), 8)
    told = (tmp_path / "s").stat()
    assert told.st_size > 1_600_000
    assert told.st_blocks * 512 >= told.st_size  # a hole takes none


def test_a_folder_without_room_for_the_segments_is_named_with_what_is_needed(tmp_path: Path) -> None:
    with room_for(500_000), pytest.raises(WorkspaceError, match=r"does not hold s, 1\.9 MiB .*TMPDIR") as refused:
        segments.create(tmp_path / "s", np.array([100_000]), 8)
    assert str(tmp_path) in str(refused.value)
