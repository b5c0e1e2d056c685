from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmray import cluster
from mmray.config import Cluster
from mmray.errors import RecordingError


def square(number: int) -> int:
    return number * number


def refuse_three(number: int) -> int:
    if number == 3:
        raise RecordingError("three.mat: unreadable")
    return number


def die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "second life"


def threads(_: int) -> tuple[str, int]:
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


@pytest.mark.usefixtures("ray_session")
class TestMap:
    def test_results_come_in_the_order_of_the_items(self) -> None:
        assert list(cluster.map(square, range(50), label="squares", cpus=0.5)) == [n * n for n in range(50)]

    def test_an_items_error_arrives_as_its_own_type(self) -> None:
        with pytest.raises(RecordingError, match=r"^three\.mat: unreadable$"):
            list(cluster.map(refuse_three, range(6), label="refuse"))

    def test_an_item_whose_worker_is_killed_runs_again(self, tmp_path: Path) -> None:
        assert list(cluster.map(die_once, [tmp_path / "marker"], label="kill")) == ["second life"]

    def test_a_task_uses_no_more_threads_than_its_share(self) -> None:
        assert list(cluster.map(threads, [0], label="threads", cpus=1)) == [("1", 1)]

    def test_sessions_nest_and_the_inner_one_closes_nothing(self) -> None:
        with cluster.session(Cluster()):
            pass
        assert list(cluster.map(square, [3], label="after")) == [9]


def test_an_address_where_no_ray_answers_is_a_resource_error() -> None:
    code = "from mmray import cluster, config\nwith cluster.session(config.Cluster(address='127.0.0.1:1')): pass"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = ended.stderr.strip().splitlines()[-1]
    assert "ResourceError" in last
    assert "ray start --head" in last
