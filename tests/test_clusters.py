"""Stages on a real cluster of several nodes: where they run, and what they say where there is no room."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmray import config as configuration
from mmray.config import Config
from tests import loopback, small_run
from tests.loopback import Loopback
from tests.training.conftest import write_prepared

SPOT = {"market": "spot"}
STEADY = {"market": "on-demand"}
EPOCHS = 30


@pytest.fixture(scope="module")
def nodes() -> Iterator[Loopback]:
    """A spot node, a steady one, and one that says it has GPUs."""
    with loopback.cluster() as made:
        made.start("spot", cpus=2, **SPOT)
        made.start("steady", cpus=2, **STEADY)
        made.start("gpu", cpus=4, gpus=2, **STEADY)
        made.wait_for("spot", "steady", "gpu")
        yield made


def trained_on(folder: Path, **train: object) -> Config:
    return configuration.from_dict(
        {
            "workspace": str(folder),
            "model": {"hidden": 8, "embedding": 8},
            "train": {"epochs": EPOCHS, "patience": EPOCHS, "batch_size": 8, "passes": 20, **train},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "evaluate": {"bootstraps": 20, "permutations": 99},
            "cluster": {"worker_cpus": 1},
        }
    )


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
    ended = nodes.python(PLACES)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["require"] == ["spot"]
    assert "spot" in told["prefer"]
    assert {*told["prefer"], *told["ignore"], *told["ray data"]} <= {"spot", "steady"}


REFUSALS = """
import contextlib, io, json, sys, time
from mmray import cli

told = {}
for name, arguments in json.loads(sys.argv[1]).items():
    began, said = time.monotonic(), io.StringIO()
    with contextlib.redirect_stderr(said):
        code = cli.main(arguments)
    told[name] = {"code": code, "said": said.getvalue(), "seconds": time.monotonic() - began}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_run.make_workspace(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def at_feature_level(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = trained_on(tmp_path_factory.mktemp("features"))
    write_prepared(config.workspace, config, subjects=24, segments=3)
    return config


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
        "train": ["train", *on_features, *overrides(train__num_workers=9, cluster__worker_cpus=1)],
        "train, a range": ["train", *on_features, *overrides(train__num_workers=[9, 12], cluster__worker_cpus=1)],
        "train on GPUs": ["train", *on_features, *overrides(train__num_workers=3, cluster__gpus_per_worker=1)],
        "train, memory": ["train", *on_features, *overrides(train__num_workers=2, cluster__worker_gib=5)],
        # eight fit, but for the fit itself
        "sweep": ["sweep", *on_features, *overrides(train__num_workers=8, cluster__worker_cpus=1)],
        "prepare": ["prepare", *on_files, *overrides(cluster__task_cpus=3, cluster__spot="require")],
        "index": ["index", *on_files, *overrides(cluster__task_cpus=5)],
        "serve": ["serve", *on_files, *overrides(serve__replicas=7, serve__host="0.0.0.0")],
    }
    ended = nodes.python(REFUSALS, json.dumps(asked))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    lines = {name: one["said"].strip().splitlines() for name, one in told.items()}
    assert {name: one["code"] for name, one in told.items()} == dict.fromkeys(asked, 5), lines
    assert all(len(said) == 1 for said in lines.values()), lines
    expected = {
        "train": "train: 9 x (1 CPUs) must run at once, and the nodes that are up hold 8",
        "train, a range": "train: 9 x (1 CPUs) must run at once, and the nodes that are up hold 8",
        "train on GPUs": "train: 3 x (0.5 CPUs, 1 GPUs) must run at once, and the nodes that are up hold 2",
        "train, memory": "train: 2 x (0.5 CPUs, 5120 MiB) must run at once, and the nodes that are up hold 0",
        "sweep": "sweep: 8 x (1 CPUs) must run at once, and the nodes that are up hold 5",
        "prepare": "on nodes labelled mmray/market=spot, and the nodes that are up hold 0 (1 on other nodes)",
        "index": "index: 1 x (5 CPUs) must run at once, and the nodes that are up hold 0",
        "serve": "on nodes not labelled mmray/market=spot, and the nodes that are up hold 6 (2 on other nodes)",
    }
    assert {name for name, part in expected.items() if part not in lines[name][0]} == set(), lines
    assert max(one["seconds"] for one in told.values()) < 60
