from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from mmray import cluster
from mmray.config import Cluster
from mmray.errors import RecordingError, ResourceError
from mmray.placement import Want


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


def reported(_: int) -> bool:
    from ray._common.usage.usage_lib import usage_stats_enabled

    return bool(usage_stats_enabled())


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

    def test_ray_tells_its_makers_nothing(self) -> None:
        assert [reported(0), *cluster.map(reported, [0], label="usage")] == [False, False]

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


ENDLESS = """
import sys
from mmray import cluster
from mmray.config import Cluster
from mmray.errors import MmrayError
try:
    with cluster.session(Cluster()):
        import ray
        print("ready", flush=True)
        while True:
            ray.get(ray.put(bytes(1_000_000)))
except MmrayError as error:
    print(f"mmray: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("target", ["raylet", "driver"])
def test_a_session_that_is_killed_says_so_and_leaves_no_folder_or_process(target: str) -> None:
    with tempfile.TemporaryDirectory(prefix="mm-") as folder:  # Ray's sockets allow no long path
        driver = subprocess.Popen(
            [sys.executable, "-c", ENDLESS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"TMPDIR": folder},
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        assert os.listdir(folder)
        family = psutil.Process(driver.pid).children(recursive=True)
        raylet = next(process for process in family if process.name() == "raylet")
        os.kill(driver.pid if target == "driver" else raylet.pid, signal.SIGKILL)
        said = driver.communicate(timeout=120)[1].decode()  # also waits for the keeper, which has stderr as well
        assert driver.returncode != 0
        assert "mmray: cluster: the embedded Ray" in said
        assert "run the same command again" in said
        assert "Traceback" not in said
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not [process.as_dict(["cmdline", "status"]) for process in alive if process.status() != "zombie"]
        assert os.listdir(folder) == []


SCRATCH = """
import sys
from pathlib import Path
from mmray import keeper
with keeper.scratch("mmray-try-") as folder:
    Path(folder, "below").mkdir()
    Path(folder, "below", "file").write_text("something")
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_a_scratch_folder_goes_with_the_process_that_made_it(killed: bool, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRATCH]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert driver.stdout is not None
    assert driver.stdout.readline() == b"ready\n"
    (family,) = psutil.Process(driver.pid).children()
    assert os.listdir(tmp_path)
    if killed:
        driver.kill()
    driver.communicate()
    assert psutil.wait_procs([family], timeout=60)[1] == []
    assert os.listdir(tmp_path) == []


def test_a_ray_that_dies_while_it_starts_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def died(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # the bare class, as Ray raises it

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", died)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # another test's Ray stays
    with pytest.raises(ResourceError, match="did not start: The current node"), cluster.session(Cluster()):
        pass


MAPPING = """
from mmray import cluster
from mmray.config import Cluster
with cluster.session(Cluster()):
    print(list(cluster.map(abs, [-1, -2], label="map")))
"""


def test_a_worker_that_dies_while_it_starts_holds_nothing_up() -> None:
    with tempfile.TemporaryDirectory(prefix="mm-") as folder:
        driver = subprocess.Popen(
            [sys.executable, "-c", MAPPING],
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
            | {"TMPDIR": folder, "RAY_worker_register_timeout_seconds": "5"},  # after which Ray starts another
        )
        starting: list[psutil.Process] = []
        while not starting:
            assert driver.poll() is None
            starting = [p for p in psutil.Process(driver.pid).children(recursive=True) if is_starting_worker(p)]
        starting[0].kill()
        try:
            assert driver.communicate(timeout=90)[0] == b"[1, 2]\n"
        finally:
            driver.kill()
            driver.communicate()


def is_starting_worker(process: psutil.Process) -> bool:
    """Told by one look: between a look at its name and one at its command line a child can have become the raylet."""
    try:
        return any(part.endswith("/default_worker.py") for part in process.cmdline())
    except psutil.Error:
        return False


def test_a_wait_for_nodes_that_is_interrupted_takes_its_word_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The autoscaler keeps what it was asked for when the job has ended, and nodes would stay up for it."""
    asked: list[int] = []

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster, "_ask_for", lambda wants: asked.append(len(wants)))
    with cluster.session(Cluster(num_cpus=2)):
        monkeypatch.setattr(cluster.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cluster.require_room(Cluster(wait_s=60), "train", Want(cpus=64), setting="train.num_workers")
        monkeypatch.undo()
    assert asked == [1, 0]
