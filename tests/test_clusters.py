"""Stages on a real cluster of several nodes: where they run, and what they say where there is no room."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loopback
from benchmarks.loopback import Loopback, Node
from mmray import config as configuration
from mmray.config import Config
from mmray.storage import Workspace
from mmray.training import trainer
from mmray.training.checkpoint import Checkpoint, read_checkpoint
from tests import small_run
from tests.training.conftest import write_prepared

# names on labels of their own; three nodes, one of which a group of two workers leaves free
NODES = {
    "spot": ("--num-cpus=2", "--labels=mmray/market=spot,mmray/name=spot"),
    "steady": ("--num-cpus=2", "--labels=mmray/market=on-demand,mmray/name=steady"),
    "gpu": ("--num-cpus=3", "--num-gpus=2", "--labels=mmray/market=on-demand,mmray/name=gpu"),
}
MEMORY = 4 << 30  # what each says it has
EPOCHS = 4
NOTICE_S = 8
DEADLINE_S = 240


@pytest.fixture(scope="module")
def nodes() -> Iterator[Loopback]:
    """A spot node, a steady one, and one that says it has GPUs; quick to see who goes."""
    with loopback.cluster(workers=0) as made:
        made.environment["RAY_ADDRESS"] = made.address
        made.environment["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.2"
        for options in NODES.values():
            made.add(*options, f"--memory={MEMORY}")
        made.wait()
        yield made


def drive(nodes: Loopback, code: str, *arguments: str) -> dict[str, Any]:
    """What a driver of the cluster prints last."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=nodes.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def trained_on(folder: Path, num_workers: int | list[int]) -> Config:
    """A study at feature level, and epochs of seconds, so that a node goes inside one."""
    train = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "passes": 75, "num_workers": num_workers}
    config = configuration.from_dict(
        {
            "workspace": str(folder / "ws"),
            "model": {"hidden": 8, "embedding": 8},
            "train": train,
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 20, "permutations": 99},
            "cluster": {"worker_cpus": 1, "worker_gib": 3},  # one a node
        }
    )
    write_prepared(config.workspace, config, subjects=24, segments=3)
    return config


PLACES = """
import json, sys, time
import ray
from mmray import cluster, config, placement
from mmray.placement import Want

def here(_):
    time.sleep(0.3)
    mine = ray.get_runtime_context().get_node_id()
    return next(n["Labels"]["mmray/name"] for n in ray.nodes() if n["NodeID"] == mine)

def rows(row):
    return {"name": here(row)}

told = {}
with cluster.session(config.Cluster()):
    for spot in ("prefer", "require", "ignore"):
        hardware = config.Cluster(spot=spot)
        told[spot] = sorted(set(cluster.map(here, range(12), label=spot, config=hardware)))
    want = cluster.task_want(config.Cluster(), Want(cpus=1))
    data = cluster.data().from_items(list(range(12)), override_num_blocks=12)
    data = data.map(rows, num_cpus=1, **placement.options(want.where))
    told["ray data"] = sorted({row["name"] for row in data.iter_rows()})
    group = ray.util.placement_group([{"GPU": 1}] * 2, strategy="PACK")
    ray.get(group.ready(), timeout=30)
print(json.dumps(told))
"""


def test_tasks_keep_off_gpu_nodes_and_go_to_spot_nodes_as_told(nodes: Loopback) -> None:
    told = drive(nodes, PLACES)
    assert told["require"] == ["spot"]
    assert "spot" in told["prefer"]
    assert {*told["prefer"], *told["ignore"], *told["ray data"]} <= {"spot", "steady"}


REFUSALS = """
import contextlib, io, json, sys, time
from mmray import cli

told = {}
for name, arguments in json.loads(sys.argv[1]).items():
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(arguments)
    told[name] = {"code": code, "said": said.getvalue(), "seconds": time.monotonic() - began}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_run.make_workspace(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def at_feature_level(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return trained_on(tmp_path_factory.mktemp("features"), 0)


def overrides(**settings: object) -> list[str]:
    pairs = {name.replace("__", "."): value for name, value in settings.items()}
    return [part for name, value in pairs.items() for part in ("--set", configuration.override(name, value))]


def test_every_stage_says_in_one_line_what_a_small_cluster_lacks(
    nodes: Loopback, small: Config, at_feature_level: Config, tmp_path: Path
) -> None:
    for name, config in (("small", small), ("features", at_feature_level)):
        (tmp_path / f"{name}.yaml").write_text(configuration.to_yaml(config))
    on_files, on_features = (["--config", str(tmp_path / f"{name}.yaml")] for name in ("small", "features"))
    asked = {
        "train": ["train", *on_features, *overrides(train__num_workers=9, cluster__worker_gib=0)],
        "train, a range": ["train", *on_features, *overrides(train__num_workers=[9, 12], cluster__worker_gib=0)],
        "train on GPUs": [
            "train",
            *on_features,
            *overrides(train__num_workers=3, cluster__worker_gib=0, cluster__gpus_per_worker=1),
        ],
        "train, memory": ["train", *on_features, *overrides(train__num_workers=2, cluster__worker_gib=5)],
        # seven fit, but for the fit itself
        "sweep": ["sweep", *on_features, *overrides(train__num_workers=7, cluster__worker_gib=0)],
        "prepare": ["prepare", *on_files, *overrides(cluster__task_cpus=3, cluster__spot="require")],
        "index": ["index", *on_files, *overrides(cluster__task_cpus=4)],
        "index, as it is": ["index", *on_files],
        "serve": ["serve", *on_files, *overrides(serve__replicas=6, serve__host="0.0.0.0")],
    }
    told = drive(nodes, REFUSALS, json.dumps(asked))
    assert told.pop("index, as it is")["code"] == 0  # serving wants one
    del asked["index, as it is"]
    lines = {name: one["said"].strip().splitlines() for name, one in told.items()}
    assert {name: one["code"] for name, one in told.items()} == dict.fromkeys(asked, 5), lines
    assert all(len(said) == 1 for said in lines.values()), lines
    expected = {
        "train": "train: 9 x (1 CPUs) must run at once, and the nodes that are up hold 7",
        "train, a range": "train: 9 x (1 CPUs) must run at once, and the nodes that are up hold 7",
        "train on GPUs": "train: 3 x (1 CPUs, 1 GPUs) must run at once, and the nodes that are up hold 2",
        "train, memory": "train: 2 x (1 CPUs, 5120 MiB) must run at once, and the nodes that are up hold 0",
        "sweep": "sweep: 7 x (1 CPUs) must run at once, and the nodes that are up hold 4",
        "prepare": "on nodes labelled mmray/market=spot, and the nodes that are up hold 0 (1 on other nodes)",
        "index": "index: 1 x (4 CPUs) must run at once, and the nodes that are up hold 0",
        "serve": "on nodes not labelled mmray/market=spot, and the nodes that are up hold 5 (2 on other nodes)",
    }
    assert {name for name, part in expected.items() if part not in lines[name][0]} == set(), lines
    assert max(one["seconds"] for one in told.values()) < 60


def test_a_stage_that_may_wait_goes_on_when_the_node_that_it_misses_comes(
    nodes: Loopback, small: Config, tmp_path: Path
) -> None:
    workspace = tmp_path / "ws"
    shutil.copytree(small.workspace, workspace, ignore=shutil.ignore_patterns("index"))
    over = {"workspace": str(workspace), "cluster.task_cpus": 4, "cluster.wait_s": DEADLINE_S}
    (tmp_path / "config.yaml").write_text(configuration.to_yaml(configuration.laid_over(small, over)))
    command = [str(loopback.BIN / "mmray"), "index", "--config", str(tmp_path / "config.yaml")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=nodes.environment, stdout=log, stderr=log)
    try:
        while "waiting up to 240 s for more nodes" not in (tmp_path / "log").read_text():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        large = nodes.add("--num-cpus=4")
        assert process.wait(DEADLINE_S) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    nodes.end(large)
    nodes.wait()


def test_no_replica_stands_on_a_spot_node(nodes: Loopback, small: Config, tmp_path: Path) -> None:
    over = {"cluster.task_cpus": 1, "cluster.spot": "ignore", "serve.replicas": 4, "serve.replicas_max": 4}
    over |= {"serve.port": loopback.free_port()}
    (tmp_path / "config.yaml").write_text(configuration.to_yaml(configuration.laid_over(small, over)))
    for stage in ("index", "serve"):
        command = [str(loopback.BIN / "mmray"), stage, "--config", str(tmp_path / "config.yaml")]
        ended = subprocess.run(command, env=nodes.environment, capture_output=True, text=True, timeout=DEADLINE_S)
        assert ended.returncode == 0, ended.stderr
    held = [sum("ServeReplica" in title for title in loopback.titles(node)) for node in nodes.workers]
    nodes.stop_serving()
    assert held[0] == 0  # the spot node
    assert sum(held) == 4


class Running:
    """`mmray train` on the cluster, watched from here."""

    def __init__(self, nodes: Loopback, settings: Config, folder: Path) -> None:
        self.nodes, self.workspace, self.log = nodes, Workspace(settings.workspace), folder / "train.log"
        (folder / "config.yaml").write_text(configuration.to_yaml(settings))
        command = [str(loopback.BIN / "mmray"), "train", "--config", str(folder / "config.yaml")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=nodes.environment, stdout=log, stderr=log)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *failure: object) -> None:
        self.process.kill()
        self.process.wait()

    def state(self) -> Checkpoint | None:
        runs = self.workspace.names("runs") if self.workspace.exists("runs") else []
        return read_checkpoint(self.workspace, "runs", runs[0], trainer.CHECKPOINT) if runs else None

    def wait_for(self, seen: Callable[[Checkpoint], bool]) -> Checkpoint:
        while True:
            assert self.process.poll() is None, self.log.read_text()
            state = self.state()
            if state is not None and seen(state):
                return state
            time.sleep(0.05)

    def nodes_of_workers(self) -> list[Node]:
        """Where the group stands."""
        return [node for node in self.nodes.workers if any("RayTrainWorker" in t for t in loopback.titles(node))]

    def ended(self) -> str:
        assert self.process.wait(timeout=DEADLINE_S) == 0, self.log.read_text()
        return self.log.read_text()


def figures(running: Running) -> list[float]:
    table = running.workspace.read_table("runs", running.workspace.names("runs")[0], "metrics.parquet")
    return table["value"].to_pylist()


def workers(running: Running) -> list[int]:
    table = running.workspace.read_table("runs", running.workspace.names("runs")[0], "history.parquet")
    return table["workers"].to_pylist()


def test_a_group_whose_node_is_announced_to_go_ends_with_the_figures_of_an_undisturbed_one(
    nodes: Loopback, tmp_path: Path
) -> None:
    folders = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in folders:
        folder.mkdir()
    with Running(nodes, trained_on(folders[0], 2), folders[0]) as undisturbed:
        undisturbed.ended()
    with Running(nodes, trained_on(folders[1], 2), folders[1]) as running:
        running.wait_for(lambda state: len(state.history) == 1)
        goes = running.nodes_of_workers()[-1]
        nodes.drain(goes, NOTICE_S)
        running.wait_for(lambda state: state.step > 0)
        time.sleep(NOTICE_S)
        nodes.end(goes)
        told = running.ended()
    assert "on 2 worker(s), cpu" in told
    assert workers(running) == [2] * EPOCHS
    assert figures(running) == pytest.approx(figures(undisturbed), abs=1e-6)


def test_a_group_that_may_shrink_goes_on_without_a_node_that_is_lost(nodes: Loopback, tmp_path: Path) -> None:
    with Running(nodes, trained_on(tmp_path, [1, 2]), tmp_path) as running:
        running.wait_for(lambda state: len(state.history) == 1)
        nodes.end(running.nodes_of_workers()[-1])
        told = running.ended()
    assert "on 2, then 1 worker(s), cpu" in told
    assert "number of workers changed" in told
    assert sorted(workers(running), reverse=True) == workers(running)
    assert set(workers(running)) == {1, 2}
