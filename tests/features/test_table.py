from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mmray.errors import WorkspaceError
from mmray.features import table
from mmray.schema import PARTS, features_schema
from mmray.storage import Workspace

NODES, WIDTH, NEIGHBOURS = 3, 2, 1


def rows(recording, subject, value, label=None):
    """Two segments, the later one first."""
    x = np.full((2, NODES, WIDTH), value, np.float32) + np.array([1, 0], np.float32)[:, None, None]
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray
    columns = {
        "segment_id": [f"{recording}@00004000", f"{recording}@00000000"],
        **{name: [recording] * 2 for name in ("recording_id", "session", "task", "source_sha256")},
        **{name: [subject] * 2 for name in ("subject_id", "pair_id")},
        "modality": ["eeg"] * 2,
        "label": pa.array([label] * 2, pa.int8()),
        "start_s": [4.0, 0.0],
        "duration_s": [4.0, 4.0],
        "x": tensor(x),
        "neighbour": tensor(np.ones((2, NODES, NEIGHBOURS), np.int16)),
        "weight": tensor(np.full((2, NODES, NEIGHBOURS), 0.5, np.float32)),
        **{f"quality_{name}": [0.0] * 2 for name in ("bad_channels", "peak_to_peak_uv", "kept_fraction")},
    }
    schema = features_schema("eeg", NODES, WIDTH, NEIGHBOURS)
    return pa.table(
        [
            columns[field.name]
            if isinstance(columns[field.name], pa.Array)
            else pa.array(columns[field.name], field.type)
            for field in schema
        ],
        schema=schema,
    )


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(str(tmp_path))
    published = []
    for recording, subject, value in (("b", "s2", 20), ("a", "s1", 10), ("unlisted", "s3", 30)):
        workspace.write_table(rows(recording, subject, value), "features", "d", "eeg", f"{recording}.parquet")
        if recording != "unlisted":
            part = {"recording_id": recording, "modality": "eeg", "path": f"eeg/{recording}.parquet", "segments": 2}
            published.append(part | {"source_sha256": "x"})
    workspace.write_table(pa.Table.from_pylist(published, schema=PARTS), "features", "d", "parts.parquet")
    return workspace


def test_rows_come_in_segment_order_with_their_tensors(workspace):
    segments = table.load(workspace, "d", "eeg")
    assert segments.segment_id_S.tolist() == ["a@00000000", "a@00004000", "b@00000000", "b@00004000"]
    assert segments.x_SND[:, 0, 0].tolist() == [10, 11, 20, 21]
    assert segments.start_s_S.tolist() == [0, 4, 0, 4]
    assert segments.shape == (NODES, WIDTH)


def test_a_part_that_parts_parquet_does_not_name_is_not_read(workspace):
    assert "unlisted" not in table.load(workspace, "d", "eeg").recording_id_S


def test_only_the_chosen_subjects_are_read(workspace):
    assert set(table.load(workspace, "d", "eeg", {"s2", "s9"}).subject_id_S) == {"s2"}


def test_an_unknown_label_is_minus_one_and_a_known_one_stays(workspace):
    assert set(table.load(workspace, "d", "eeg").label_S) == {-1}
    assert table.from_table(rows("a", "s1", 0, label=0)).label_S.tolist() == [0, 0]


def test_take_keeps_rows_together(workspace):
    taken = table.load(workspace, "d", "eeg").take(np.array([3, 0]))
    assert taken.segment_id_S.tolist() == ["b@00004000", "a@00000000"]
    assert taken.x_SND[:, 0, 0].tolist() == [21, 10]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("other", "eeg"), "run `mmray prepare`"),
        (("d", "audio"), "holds no audio segments"),
        (("d", "eeg", {"s9"}), "of the chosen subjects"),
    ],
)
def test_absent_features_say_what_is_missing(workspace, arguments, message):
    with pytest.raises(WorkspaceError, match=message):
        table.load(workspace, *arguments)
