"""The files for `ray up`: Ray's own check takes them, their labels are ours, and their security group stays closed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
import yaml

from mmray.serving import front

REPOSITORY = Path(__file__).parents[2]
FILES = ("cluster.yaml", "cluster-gcp.yaml")
CHECK = """
import sys, yaml
from ray.autoscaler._private.util import prepare_config, validate_config
for name in sys.argv[1:]:
    validate_config(prepare_config(yaml.safe_load(open(name))))
"""


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / name).read_text())


def test_rays_own_check_takes_the_cluster_files() -> None:
    ended = subprocess.run([sys.executable, "-c", CHECK, *FILES], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", FILES)
def test_only_preparation_is_on_spot_nodes_and_each_node_says_which_it_is(name: str) -> None:
    kinds = read(name)["available_node_types"]
    assert set(kinds) == {"head", "prepare", "train", "serve"}
    for kind, node in kinds.items():
        assert node["labels"] == {"mmray/market": "spot" if kind == "prepare" else "on-demand"}
        config = node["node_config"]
        spot = "InstanceMarketOptions" in config or config.get("scheduling", {}).get("provisioningModel") == "SPOT"
        assert spot == (kind == "prepare")
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert "GPU" in kinds["train"]["resources"]
    assert sum(node.get("max_workers", 0) for node in kinds.values()) == read(name)["max_workers"]


@pytest.mark.parametrize("name", FILES)
def test_the_two_clouds_differ_in_their_nodes_alone(name: str) -> None:
    ours, aws = read(name), read("cluster.yaml")
    for part in ("provider", "available_node_types"):
        ours.pop(part), aws.pop(part)
    assert ours == aws


@pytest.mark.parametrize("name", FILES)
def test_every_ray_start_asks_for_a_token_and_the_dashboard_is_the_heads_alone(name: str) -> None:
    config = read(name)
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in command
    for command in (config["head_start_ray_commands"][1], config["worker_start_ray_commands"][1]):
        assert "RAY_USAGE_STATS_ENABLED=0" in command
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


@pytest.mark.parametrize("name", FILES)
def test_every_ray_start_gives_serves_front_what_an_embedded_one_has(name: str) -> None:
    for command in (read(name)["head_start_ray_commands"][1], read(name)["worker_start_ray_commands"][1]):
        words = shlex.split(command)
        assert {f"{key}={value}" for key, value in front.ANYWHERE.items()} <= set(words[: words.index("start")])


def rules(group: Any) -> list[tuple[int | None, list[str], list[str]]]:
    """Port, addresses and groups of every way in."""
    group.reload()
    return [
        (
            rule.get("FromPort"),
            [address["CidrIp"] for address in rule["IpRanges"]],
            [pair["GroupId"] for pair in rule["UserIdGroupPairs"]],
        )
        for rule in group.ip_permissions
    ]


@pytest.mark.parametrize("made_before", [True, False])
def test_ray_leaves_a_security_group_that_has_rules_as_it_is_and_opens_ssh_in_its_own(
    monkeypatch: pytest.MonkeyPatch, made_before: bool
) -> None:
    from ray.autoscaler._private.aws.config import _configure_security_group
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.setenv("AWS_DEFAULT_REGION", read("cluster.yaml")["provider"]["region"])
    with moto.mock_aws():
        cloud = boto3.resource("ec2")
        (network,) = cloud.vpcs.all()
        config = prepare_config(read("cluster.yaml"))
        for node in config["available_node_types"].values():
            node["node_config"]["SubnetIds"] = [next(iter(network.subnets.all())).id]
        if made_before:  # as docs/cluster.md does
            group = network.create_security_group(GroupName="mmray", Description="mmray")
            group.authorize_ingress(
                IpPermissions=[
                    {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]},
                    {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.7/32"}]},
                ]
            )
        ready = _configure_security_group(config)["available_node_types"]
        (identity,) = {one for node in ready.values() for one in node["node_config"]["SecurityGroupIds"]}
        ways = rules(cloud.SecurityGroup(identity))
    assert [way for way in ways if way[2]] == [(ways[0][0], [], [identity])]
    assert [way[:2] for way in ways if not way[2]] == [(22, ["192.0.2.7/32" if made_before else "0.0.0.0/0"])]
