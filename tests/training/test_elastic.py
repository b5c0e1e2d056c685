"""`mmray train` on a cluster whose nodes go: announced, as spot machines are, or without a word. Real raylets."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mmray import config as configuration
from mmray.config import Config
from mmray.storage import Workspace
from mmray.training import trainer
from mmray.training.checkpoint import Checkpoint, read_checkpoint
from tests import loopback
from tests.loopback import Loopback
from tests.training.conftest import write_prepared

EPOCHS = 4
DEADLINE_S = 240
NOTICE_S = 8


@pytest.fixture(scope="module")
def nodes() -> Iterator[Loopback]:
    """Room for one worker on each of three."""
    with loopback.cluster() as made:
        for name in "abc":
            made.start(name, cpus=1)
        made.wait_for(*"abc")
        yield made


def settings_in(folder: Path, num_workers: int | list[int]) -> Config:
    """Epochs of seconds, so that a node goes inside one."""
    train = {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "passes": 150, "num_workers": num_workers}
    config = configuration.from_dict(
        {
            "workspace": str(folder / "ws"),
            "model": {"hidden": 8, "embedding": 8},
            "train": train,
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 20, "permutations": 99},
            "cluster": {"worker_cpus": 1},
        }
    )
    write_prepared(config.workspace, config, subjects=24, segments=3)
    return config


class Running:
    """`mmray train` on the cluster, watched from here."""

    def __init__(self, nodes: Loopback, settings: Config, folder: Path) -> None:
        self.nodes, self.workspace, self.log = nodes, Workspace(settings.workspace), folder / "train.log"
        (folder / "config.yaml").write_text(configuration.to_yaml(settings))
        command = [str(loopback.BIN / "mmray"), "train", "--config", str(folder / "config.yaml")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=nodes.environment, stdout=log, stderr=log)

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

    def on(self) -> list[str]:
        """Nodes with a worker of the group."""
        return [name for name in "abc" if name in self.nodes.processes and works(self.nodes.processes[name].pid)]

    def ended(self) -> str:
        assert self.process.wait(timeout=DEADLINE_S) == 0, self.log.read_text()
        return self.log.read_text()


def works(node: int) -> bool:
    lines = []
    for process in psutil.Process(node).children(recursive=True):
        try:
            lines.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return any("RayTrainWorker" in line for line in lines)


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
    undisturbed = Running(nodes, settings_in(folders[0], 2), folders[0])
    undisturbed.ended()
    running = Running(nodes, settings_in(folders[1], 2), folders[1])
    running.wait_for(lambda state: len(state.history) == 1)
    goes = running.on()[-1]
    nodes.drain(nodes.nodes()[goes], NOTICE_S)
    running.wait_for(lambda state: state.step > 0)
    time.sleep(NOTICE_S)
    if goes in nodes.processes:
        nodes.kill(goes)
    told = running.ended()
    assert "on 2 worker(s), cpu" in told
    assert workers(running) == [2] * EPOCHS
    assert figures(running) == pytest.approx(figures(undisturbed), abs=1e-6)


def test_a_group_that_may_shrink_goes_on_without_a_node_that_is_lost(nodes: Loopback, tmp_path: Path) -> None:
    running = Running(nodes, settings_in(tmp_path, [1, 2]), tmp_path)
    running.wait_for(lambda state: len(state.history) == 1)
    nodes.kill(running.on()[-1])
    told = running.ended()
    assert "on 2, then 1 worker(s), cpu" in told
    assert "number of workers changed" in told
    assert sorted(workers(running), reverse=True) == workers(running)
    assert set(workers(running)) == {1, 2}
