"""Every job on a cluster of three nodes on this machine, against one node; and the same stages when a node goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks import faults, loopback, stages
from benchmarks.loopback import Loopback
from mmray import config
from mmray.config import Config
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace

JOBS = ("prepare", "train", "sweep", "index", "serve")
# one Ray for all stages
RUN = """
import sys
from mmray import cli, cluster
from mmray.config import Cluster
with cluster.session(Cluster()):
    for stage in sys.argv[2:]:
        if cli.main([stage, "--config", f"{sys.argv[1]}/{stage}.yaml"]):
            sys.exit(f"{stage} failed")
"""


@pytest.fixture(scope="module")
def there() -> Iterator[Loopback]:
    with loopback.cluster() as three:
        yield three


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The study, and every artefact of a run on one node's embedded Ray; a file of settings for each stage."""
    folder = tmp_path_factory.mktemp("single")
    settings = stages.settings_of(folder)
    for stage in stages.STAGES:
        given = config.laid_over(
            stages.of_stage(settings, stage, settings.workspace), {"study.root": settings.study.root}
        )
        (folder / f"{stage}.yaml").write_text(config.to_yaml(given))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for part in (("recordings", "prepare"), ("train", "sweep", "index")):
        command = [sys.executable, "-c", RUN, str(folder), *part]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr[-2000:]
        if "prepare" in part:
            shutil.copytree(settings.workspace, folder / "prepared")
    return settings


def submitted(there: Loopback, single: Config, workspace: Path, stage: str, *more: str) -> None:
    """The job, on two nodes where it has two workers: neither holds both."""
    told = Path(single.workspace).parent / f"{stage}.yaml"
    place = ("--workspace", str(workspace), "--set", "cluster.worker_cpus=1.5")
    ended = there.submit("python", f"jobs/{stage}.py", "--config", str(told), *place, *more)
    assert ended.returncode == 0, f"{stage}:\n{ended.stdout[-4000:]}\n{ended.stderr[-2000:]}"
    assert "succeeded" in ended.stdout


@pytest.fixture(scope="module")
def on_three(
    there: Loopback, single: Config, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, set[str], list[list[Any]]]:
    """The workspace that the five jobs left, the nodes on which training workers were seen, the endpoint's answer."""
    workspace = tmp_path_factory.mktemp("three") / "ws"
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            seen.update(n.name for n in there.nodes if any("TrainWorker" in title for title in loopback.titles(n)))

    for stage in JOBS[:-1]:
        if stage == "train":
            watcher = threading.Thread(target=watch)
            watcher.start()
        try:
            submitted(there, single, workspace, stage)
        finally:
            if stage == "train":
                over.set()
                watcher.join()
    port = loopback.free_port()
    submitted(there, single, workspace, "serve", "--set", f"serve.port={port}", "--key", faults.KEY)
    asked = {"recording_id": first_recording(single), "target": "audio", "top_k": "5"}
    url = f"http://127.0.0.1:{port}/v1/search"
    answer = httpx.post(url, data=asked, headers={"X-API-Key": faults.KEY}, timeout=60).raise_for_status().json()
    there.stop_serving()  # a replica takes the room that a training worker needs
    told = [[match["recording_id"], match["score"]] for match in answer["matches"]]
    return config.laid_over(single, {"workspace": str(workspace)}), seen, told


def first_recording(settings: Config) -> str:
    return min(Retriever.open(Workspace(settings.workspace)).index.place)


def test_two_training_workers_stood_on_two_nodes(on_three: tuple[Config, set[str], list[list[Any]]]) -> None:
    _, seen, _ = on_three
    assert seen == {"n1", "n2"}


@pytest.mark.parametrize("stage", ["prepare", "train", "sweep", "index"])
def test_a_job_on_three_nodes_leaves_what_one_node_leaves(
    on_three: tuple[Config, set[str], list[list[Any]]], single: Config, stage: str
) -> None:
    settings, _, _ = on_three
    wanted = stages.contents(stage, single)
    assert wanted
    assert stages.differing(wanted, stages.contents(stage, settings)) == {}


def test_the_endpoint_on_three_nodes_answers_as_one_process(
    on_three: tuple[Config, set[str], list[list[Any]]], single: Config
) -> None:
    _, _, told = on_three
    retriever = Retriever.open(Workspace(single.workspace))
    here = retriever.search_recording(first_recording(single), "audio", 5).matches
    assert len(here) == 5
    assert stages.distance([[match.recording_id, match.score] for match in here], told) <= stages.TOLERANCE


@pytest.fixture(scope="module")
def undisturbed(single: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[faults.Undisturbed]:
    folder = Path(single.workspace).parent
    bare = tmp_path_factory.mktemp("bare")
    shutil.copy(folder / "prepared" / "recordings.parquet", bare)
    with tempfile.TemporaryDirectory(prefix="mmf-") as short:  # Ray's sockets lie below
        yield faults.Undisturbed(
            Path(short),
            single,
            before={"prepare": bare, "train": folder / "prepared"},
            whole={stage: stages.contents(stage, single) for stage in ("prepare", "train")},
            runs={(stage, True): faults.Run() for stage in ("prepare", "train")},
        )


def assert_mended(fault: faults.Fault) -> None:
    assert fault.landed, fault
    assert fault.same, fault
    assert fault.told, fault
    assert fault.tidy, fault


def test_training_whose_node_dies_goes_on_to_the_same_run(there: Loopback, undisturbed: faults.Undisturbed) -> None:
    fault = faults.disturb(undisturbed, 1, "train", "node", there, moment=0, after="runs/*/checkpoint.safetensors")
    assert_mended(fault)
    assert len(fault.runs) == 1


def test_preparation_whose_node_is_drained_leaves_the_same_rows(
    there: Loopback, undisturbed: faults.Undisturbed
) -> None:
    assert_mended(faults.disturb(undisturbed, 2, "prepare", "drain", there, moment=0))


def test_a_full_disk_ends_preparation_in_one_line_and_the_next_run_is_whole(
    undisturbed: faults.Undisturbed, tmp_path: Path
) -> None:
    tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True)
    if tried.returncode:
        pytest.skip("this machine mounts nothing for us")
    subprocess.run(["umount", tmp_path], check=True)
    fault = faults.disturb(undisturbed, 3, "prepare", "disk", None, moment=60_000)
    assert_mended(fault)
    assert fault.runs[0].code == 4
