"""The same pipeline with its workspace on an S3-compatible store, on loopback, against a folder."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from mmray import cli
from mmray.errors import WorkspaceError
from mmray.index import store
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace

CONFIG = str(Path(__file__).parents[1] / "jobs" / "configs" / "synthetic.yaml")
STAGES = ("recordings", "prepare", "quality", "train", "sweep", "compare", "index")
# one Ray for all stages, started where the credentials are: its workers ask the store, too
RUN = """
import sys
from mmray import cli, cluster
from mmray.config import Cluster
with cluster.session(Cluster()):
    for stage in sys.argv[1].split(","):
        if cli.main([stage, *sys.argv[2:]]):
            sys.exit(f"{stage} failed")
"""
SMALL = {
    "synth.subjects": 9,
    "synth.eeg_seconds": 16,
    "synth.clips": 2,
    "split.folds": 3,
    "split.validation_fraction": 0.4,
    "train.epochs": 2,
    "train.passes": 1,
    "train.num_workers": 0,
    "model.population_neighbours": 2,  # few people train
    "sweep.systems": "[ridge]",
    "sweep.learning_rates": "[0.001]",
    "sweep.seeds": 1,
    "evaluate.permutations": 99,
    "evaluate.bootstraps": 99,
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A store's address and bucket; its credentials are this process's and its children's while the module runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    host, port = place.split(":")
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patch = pytest.MonkeyPatch()
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("REGION", "us-east-1")):
        patch.setenv(f"AWS_{name}", value)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    try:
        end = time.monotonic() + 60
        while True:
            assert server.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            assert time.monotonic() < end
            time.sleep(0.1)
        pafs.S3FileSystem(endpoint_override=place, scheme="http", allow_bucket_creation=True).create_dir("study")
        yield f"s3://study/ws?endpoint_override={place}&scheme=http"
    finally:
        patch.undo()
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def both(ray_session: None, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Workspace]:
    """The workspace in the store and the one in a folder, every stage run in both through the command line."""
    folder = tmp_path_factory.mktemp("object store")
    settings = [f"--set={key}={value}" for key, value in {**SMALL, "study.root": folder / "study"}.items()]
    arguments = ["--config", CONFIG, *settings, "--workspace"]
    command = [sys.executable, "-c", RUN, ",".join(STAGES), *arguments, bucket]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for stage in STAGES:
        assert cli.main([stage, *arguments, str(folder / "ws")]) == 0, stage
    return Workspace(bucket), Workspace(str(folder / "ws"))


def files(workspace: Workspace, *parts: str) -> set[str]:
    """Every file below a folder, relative to the workspace."""
    selector = pafs.FileSelector(workspace.path(*parts), recursive=True)
    found = workspace.filesystem.get_file_info(selector)
    root = workspace.path()
    return {info.path.removeprefix(root) for info in found if info.type == pafs.FileType.File}


def same(a: pa.Table, b: pa.Table) -> bool:
    return bool(a.equals(b))


class TestBoth:
    def test_every_stage_leaves_the_same_files(self, both: tuple[Workspace, Workspace]) -> None:
        in_store, in_folder = (files(workspace) for workspace in both)
        assert in_store == in_folder
        assert not [name for name in in_store if ".partial" in name]

    def test_the_rows_of_every_stage_are_the_same(self, both: tuple[Workspace, Workspace]) -> None:
        tables = sorted(name for name in files(both[0]) if name.endswith(".parquet"))
        assert len(tables) > 30
        for name in tables:
            if "/sweeps/" in name:
                continue  # holds how long each fit took
            in_store, in_folder = (workspace.read_table(*name.strip("/").split("/")) for workspace in both)
            assert same(in_store, in_folder), name

    def test_the_weights_are_the_same(self, both: tuple[Workspace, Workspace]) -> None:
        (name,) = (name for name in files(both[0], "runs") if name.endswith("model.safetensors"))
        in_store, in_folder = (workspace.read_bytes(*name.strip("/").split("/")) for workspace in both)
        assert in_store == in_folder

    def test_an_index_in_the_store_answers_as_one_in_a_folder(
        self, both: tuple[Workspace, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        in_store, in_folder = (Retriever.open(workspace) for workspace in both)
        query = next(iter(in_folder.index.place))
        for target in ("eeg", "audio"):
            a, b = (retriever.search_recording(query, target, 5) for retriever in (in_store, in_folder))
            assert a == b
        assert np.array_equal(in_store.index.vectors["eeg"].vector(0), in_folder.index.vectors["eeg"].vector(0))

    def test_a_store_that_cannot_be_reached_is_said_in_one_line(self, both: tuple[Workspace, Workspace]) -> None:
        gone = Workspace("s3://study/ws?endpoint_override=127.0.0.1:9&scheme=http")
        with pytest.raises(WorkspaceError, match="reachable from this machine"):
            store.current(gone)
        with pytest.raises(WorkspaceError, match="reachable from this machine"):
            gone.names("runs")
        with pytest.raises(WorkspaceError, match=r"cannot read|cannot write"):
            gone.read_bytes("index", "current")
        with pytest.raises(WorkspaceError, match="cannot write"):
            gone.write_text("x", "index", "current")
