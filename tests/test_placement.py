"""The rules on nodes that are only described; tests/test_clusters.py has Ray follow them."""

from __future__ import annotations

import pytest

from mmray import placement
from mmray.placement import MARKET, NODE_ID, SPOT, Node, Want

LAPTOP = [Node("me", {"CPU": 4.0, "memory": 8e9}, {})]
CLUSTER = [
    Node("head", {"memory": 4e9}, {}),
    Node("spot", {"CPU": 2.0, "memory": 8e9}, {MARKET: SPOT}),
    Node("steady", {"CPU": 2.0, "memory": 8e9}, {MARKET: "on-demand"}),
    Node("gpu", {"CPU": 8.0, "GPU": 2.0, "memory": 8e9}, {MARKET: "on-demand"}),
]
OFF_GPU = {NODE_ID: "!in(gpu)"}


def allowed(where: placement.Where, nodes: list[Node]) -> list[str]:
    return [node.node_id for node in nodes if placement.room(Want(where=where), [node])]


def test_on_a_laptop_ray_is_told_nothing() -> None:
    assert placement.options(placement.restartable(Want(cpus=1), LAPTOP, "prefer")) == {}
    assert allowed(placement.lasting(), LAPTOP) == ["me"]


def test_a_workstation_with_a_gpu_prepares_on_it() -> None:
    alone = [CLUSTER[3]]
    assert placement.restartable(Want(cpus=1), alone, "prefer") == ({},)


def test_tasks_prefer_spot_nodes_and_stay_off_gpus() -> None:
    where = placement.restartable(Want(cpus=1), CLUSTER, "prefer")
    assert where == ({MARKET: SPOT}, OFF_GPU)
    assert placement.options(where) == {
        "label_selector": {MARKET: SPOT},
        "fallback_strategy": [{"label_selector": OFF_GPU}],
    }


def test_tasks_may_be_held_to_spot_nodes_or_not_mind() -> None:
    assert allowed(placement.restartable(Want(cpus=1), CLUSTER, "require"), CLUSTER) == ["spot"]
    assert placement.restartable(Want(cpus=1), CLUSTER, "ignore") == (OFF_GPU,)
    assert placement.restartable(Want(cpus=1), LAPTOP, "require") == ({MARKET: SPOT},)


def test_a_task_too_large_for_spot_nodes_does_not_ask_for_them_first() -> None:
    assert placement.restartable(Want(cpus=4), CLUSTER, "prefer") == ({},)  # only the GPU node holds it


def test_tasks_that_use_a_gpu_go_where_one_is() -> None:
    encoder = Want(cpus=1, gpus=1)
    assert placement.restartable(encoder, CLUSTER, "prefer") == ({},)
    assert placement.room(encoder, CLUSTER) == 2


def test_replicas_stay_off_spot_nodes() -> None:
    assert allowed(placement.lasting(), CLUSTER) == ["head", "steady", "gpu"]


@pytest.mark.parametrize(("cpus", "held"), [(0.1, 20), (0.3, 6), (1, 2), (2, 1), (3, 0)])
def test_shares_are_counted_as_ray_counts_them(cpus: float, held: int) -> None:
    assert Want(cpus=cpus).held(CLUSTER[1]) == held


def test_memory_counts() -> None:
    assert placement.room(Want(cpus=0.5, memory_bytes=3_000_000_000), CLUSTER) == 6


def test_what_stands_beside_a_group_takes_its_part() -> None:
    exactly = Want(4, cpus=1)
    assert placement.missing([exactly], LAPTOP) is None
    assert placement.missing([exactly], LAPTOP, beside_cpus=0.01) == (exactly, 3)


def test_wants_share_the_nodes() -> None:
    first, second = Want(3, cpus=1), Want(1, cpus=2)
    assert placement.missing([first], LAPTOP) is None
    assert placement.missing([second], LAPTOP) is None
    assert placement.missing([first, second], LAPTOP) == (second, 0)


def test_what_is_missing_is_said_with_where_it_may_stand() -> None:
    where = placement.restartable(Want(cpus=1), CLUSTER, "require")
    assert Want(3, cpus=1, memory_bytes=1 << 30, where=where).describe() == (
        "3 x (1 CPUs, 1024 MiB) must run at once, on nodes labelled mmray/market=spot"
    )
    assert Want(cpus=1, where=placement.lasting()).describe().endswith("on nodes not labelled mmray/market=spot")
    assert Want(cpus=1, where=(OFF_GPU,)).describe().endswith("on nodes without a GPU")
