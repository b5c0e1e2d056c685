"""The manifests for Kubernetes: each field is one of its kind, no secret is in them, what they name exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from mmray.serving import front
from tests.deploy.manifests import MANIFESTS

REPOSITORY = Path(__file__).parents[2]
FIELDS = yaml.safe_load((Path(__file__).parent / "kuberay_fields.yaml").read_text())
KINDS = {"string": str, "integer": int, "boolean": bool}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?-?")  # what Kubernetes appends to generateName follows


CLUSTERS = {
    name: given["spec"].get("rayClusterSpec") or given["spec"]["rayClusterConfig"]
    for name, given in MANIFESTS.items()
    if given["kind"] != "NetworkPolicy"
}


def problems(value: Any, kind: str, place: str) -> list[str]:
    """What of a value is not of its kind, by its place in the manifest."""
    if kind in KINDS:
        return [] if type(value) is KINDS[kind] else [f"{place} is {value!r}, not a {kind}"]
    if kind.startswith("["):
        if not isinstance(value, list):
            return [f"{place} is no list"]
        return [each for n, item in enumerate(value) for each in problems(item, kind[1:-1], f"{place}[{n}]")]
    if not isinstance(value, dict):
        return [f"{place} is no mapping"]
    of = dict.fromkeys(value, kind[1:-1]) if kind.startswith("{") else FIELDS[kind]
    unknown = [f"{place}.{key} is no field of {kind}" for key in value if key not in of]
    return unknown + [each for key in value if key in of for each in problems(value[key], of[key], f"{place}.{key}")]


def pods(name: str) -> list[dict[str, Any]]:
    cluster = CLUSTERS[name]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_field_of_a_manifest_is_one_that_its_kind_has(name: str) -> None:
    given = MANIFESTS[name]
    assert problems(given, given["kind"], given["kind"]) == []
    (called,) = given["metadata"].values()
    assert NAME.fullmatch(called)
    assert len(called) <= 40


def test_a_misspelt_field_and_a_number_for_a_string_are_found() -> None:
    given = {"authOption": {}, "rayVersion": 2.6, "workerGroupSpecs": [{"minReplicas": "1"}]}
    assert problems(given, "RayClusterSpec", "it") == [
        "it.authOption is no field of RayClusterSpec",
        "it.rayVersion is 2.6, not a string",
        "it.workerGroupSpecs[0].minReplicas is '1', not a integer",
    ]


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_asks_for_a_token_and_holds_none(name: str) -> None:
    assert CLUSTERS[name]["authOptions"] == {"mode": "token"}
    for pod in pods(name):
        (container,) = pod["containers"]
        assert {entry["name"] for entry in container.get("env", ())} <= {"RAY_SERVE_ENABLE_HA_PROXY"}
        assert all(set(source) == {"secretRef"} for source in container["envFrom"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_cluster_is_of_our_ray_its_head_runs_no_work_and_nothing_is_root(name: str) -> None:
    pins = (REPOSITORY / "constraints.txt").read_text().splitlines()
    assert f"ray=={CLUSTERS[name]['rayVersion']}" in pins
    assert CLUSTERS[name]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for pod in pods(name):
        (container,) = pod["containers"]
        assert container["image"].removesuffix("-cuda") == f"mmray:{version[1]}"
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize("name", CLUSTERS)
def test_only_cpu_stages_run_on_spot_nodes_and_say_so_to_ray(name: str) -> None:
    (group,) = CLUSTERS[name]["workerGroupSpecs"]
    spot = group["labels"] == {"mmray/market": "spot"}
    assert spot == name.startswith("rayjob-cpu")
    assert (group["template"]["spec"].get("nodeSelector") == {"mmray/market": "spot"}) == spot


@pytest.mark.parametrize("name", [name for name in MANIFESTS if name.startswith("rayjob")])
def test_a_jobs_entrypoint_is_a_script_that_the_image_has(name: str) -> None:
    stage = name.split()[1]
    assert MANIFESTS[name]["spec"]["entrypoint"] == f"python /opt/mmray/jobs/{stage}.py --config /etc/mmray/study.yaml"
    assert (REPOSITORY / "jobs" / f"{stage}.py").is_file()
    assert "COPY jobs /opt/mmray/jobs\n" in (REPOSITORY / "deploy" / "Dockerfile").read_text()


def test_the_service_serves_as_the_file_for_serve_deploy_does() -> None:
    told = yaml.safe_load(MANIFESTS["rayservice"]["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(told)
    file = yaml.safe_load((REPOSITORY / "jobs" / "serve_config.yaml").read_text())
    (ours,), (theirs,) = told["applications"], file["applications"]
    assert ours.pop("args") == {"config": "/etc/mmray/study.yaml", "settings": theirs.pop("args")["settings"]}
    assert told == file


def test_the_image_gives_serves_front_what_an_embedded_one_has() -> None:
    text = (REPOSITORY / "deploy" / "Dockerfile").read_text().replace("\\\n", "")
    told = [word for line in text.splitlines() if line.startswith("ENV ") for word in shlex.split(line)[1:]]
    assert {f"{key}={value}" for key, value in front.ANYWHERE.items()} <= set(told)


def test_what_the_image_copies_exists_and_it_ends_as_no_root() -> None:
    lines = (REPOSITORY / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    admitted = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in (name for names in copied for name in names):
        assert (REPOSITORY / source).exists()
        assert source in admitted
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 1000"
