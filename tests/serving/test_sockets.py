"""In loopback mode nothing of the process tree answers anyone else: every listening socket is found and asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress

import grpc
import httpx
import psutil
import pytest

from tests.serving.served import Served

PATHS = (
    *("/", "/metrics", "/stats", "/stats;csv", "/healthz", "/v1/status", "/v1/search", "/docs", "/openapi.json"),
    *("/-/healthz", "/-/routes", "/api/version", "/api/local_raylet_healthz", "/api/jobs/", "/logs/", "/nowhere"),
)
ASK = """
import http.client, sys
for port in sys.argv[2].split(","):
    for path in sys.argv[3].split(","):
        connection = http.client.HTTPConnection(sys.argv[1], int(port), timeout=3)
        try:
            connection.request("GET", path, headers=dict([sys.argv[4].split("=", 1)] if len(sys.argv) > 4 else []))
            print(port, path, connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            print(port, path, type(error).__name__)
        finally:
            connection.close()
"""


def listening(served: Served) -> dict[int, list[tuple[str, str]]]:
    """Port -> the addresses it is bound to and whose it is, over the whole process tree."""
    found: dict[int, list[tuple[str, str]]] = {}
    for process in served.processes():
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.setdefault(connection.laddr.port, []).append((connection.laddr.ip, process.name()))
    return found


def other_address() -> str:
    """An address of this machine that is not loopback."""
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            if address.family == socket.AF_INET and not address.address.startswith("127."):
                return address.address
    pytest.skip("this machine has loopback alone")


def asked(address: str, ports: list[int], key: str | None = None, prefix: tuple[str, ...] = ()) -> list[str]:
    """What each port says to each path: `port path status` or the error's name in the status's place."""
    command = [*prefix, sys.executable, "-I", "-c", ASK, address, ",".join(map(str, ports)), ",".join(PATHS)]
    command += [] if key is None else [f"X-API-Key={key}"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout.splitlines()


def answered(lines: list[str]) -> list[str]:
    assert lines
    return [line for line in lines if line.split()[2][0] in "23" and line.split()[2].isdigit()]


@pytest.fixture(scope="module")
def ports(served: Served) -> dict[int, list[tuple[str, str]]]:
    with served.client() as client:
        assert client.get("/healthz").status_code == 200
    end = time.monotonic() + 60
    while True:
        found = listening(served)
        owners = {name for places in found.values() for _, name in places}
        # a front that reads its configuration anew is a process that gives way to the next, and Ray's agent calls
        # itself python at first: the tree is looked at again
        if served.port in found and any(name.startswith("ray::Dashboard") for name in owners):
            break
        assert time.monotonic() < end, found
        time.sleep(0.5)
    assert "haproxy" in owners  # else the tree was not whole, and the test would show nothing
    assert "raylet" in owners
    assert any(name.startswith("ray::ServeRep") for name in owners)
    return found


@pytest.fixture
def namespace() -> Iterator[tuple[str, str]]:
    """A second network namespace with a cable to this one: the command that enters it, and our end's address."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    name = f"mm{uuid.uuid4().hex[:8]}"
    host, guest = "198.51.100.1", "198.51.100.2"
    steps = [
        ["ip", "netns", "add", name],
        ["ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b"],
        ["ip", "link", "set", f"{name}b", "netns", name],
        ["ip", "addr", "add", f"{host}/30", "dev", f"{name}a"],
        ["ip", "link", "set", f"{name}a", "up"],
        ["ip", "-n", name, "addr", "add", f"{guest}/30", "dev", f"{name}b"],
        ["ip", "-n", name, "link", "set", f"{name}b", "up"],
    ]
    try:
        for step in steps:
            ended = subprocess.run(step, capture_output=True, text=True)
            if ended.returncode:
                pytest.skip(f"{' '.join(step)}: {ended.stderr.strip()}")
        yield name, host
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], capture_output=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_haproxy_listens_for_the_endpoint_alone(ports: dict[int, list[tuple[str, str]]], served: Served) -> None:
    fronts = {port for port, places in ports.items() for _, name in places if name == "haproxy"}
    assert fronts == {served.port}


def test_what_listens_on_more_than_loopback_is_a_replicas_own_grpc(ports: dict[int, list[tuple[str, str]]]) -> None:
    open_ = {
        (name, ip)
        for places in ports.values()
        for ip, name in places
        if not ip.removeprefix("::ffff:").startswith("127.") and ip != "::1"
    }
    assert {name[:13] for name, _ in open_} <= {"ray::ServeRep"}, open_


def test_no_port_answers_the_machines_other_address_with_or_without_the_key(
    ports: dict[int, list[tuple[str, str]]], served: Served
) -> None:
    address = other_address()
    assert answered(asked(address, sorted(ports))) == []
    assert answered(asked(address, sorted(ports), served.key)) == []


def test_no_port_answers_a_second_network_namespace(
    ports: dict[int, list[tuple[str, str]]], served: Served, namespace: tuple[str, str]
) -> None:
    name, host = namespace
    enter = ("ip", "netns", "exec", name)
    with socket.create_server((host, 0)) as there:  # the cable carries: without this, silence would prove nothing
        port = there.getsockname()[1]
        reach = f"import socket; socket.create_connection(({host!r}, {port}), timeout=5)"
        assert subprocess.run([*enter, sys.executable, "-I", "-c", reach]).returncode == 0
    assert answered(asked(host, sorted(ports), served.key, enter)) == []


def test_on_loopback_only_liveness_and_rays_own_metrics_answer_without_the_key(
    ports: dict[int, list[tuple[str, str]]], served: Served
) -> None:
    said = [line.split()[:2] for line in answered(asked("127.0.0.1", sorted(ports)))]
    agents = {port for port, places in ports.items() if places[0][1].startswith("ray::Dashboard")}
    assert {path for port, path in said if int(port) not in agents} == {"/-/healthz", "/-/routes"}
    for port in {port for port, _ in said if int(port) in agents}:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert served.config.workspace not in text
        assert served.key not in text
        assert "s1-eeg" not in text


def test_a_replicas_grpc_port_refuses_a_call_without_rays_token(ports: dict[int, list[tuple[str, str]]]) -> None:
    faced = [port for port, places in ports.items() if any(ip == "::" for ip, _ in places)]
    for port in faced:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
