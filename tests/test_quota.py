"""What a cgroup's files say of cores, in both versions."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from mmray import cluster, doctor, quota
from mmray.config import Cluster


@pytest.mark.parametrize(
    ("told", "cores"),
    [
        ("max 100000\n", math.inf),
        ("200000 100000\n", 2.0),
        ("150000 100000\n", 1.5),
        ("50000 100000\n", 0.5),
        ("-1\n 100000\n", math.inf),
        ("400000\n 100000\n", 4.0),
        ("100000 0\n", math.inf),
        ("100000\n", math.inf),
        ("", math.inf),
        ("nonsense here\n", math.inf),
    ],
)
def test_a_quotas_text_says_how_many_cores_it_is(told: str, cores: float) -> None:
    assert quota.quota_of(told) == cores


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "200000 100000\n"}, 1.0),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/../out\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a\n", {}, math.inf),
        ("2:memory:/a\n1:cpu,cpuacct:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "-1\n"}, math.inf),
        (
            "2:memory:/m\n1:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "1:cpuset:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
    ],
)
def test_the_tightest_of_the_cgroups_around_a_process_counts(
    own: str, files: dict[str, str], cores: float, tmp_path: Path
) -> None:
    write(tmp_path / "sys", files)
    (tmp_path / "own").write_text(own)
    assert quota.cgroup_cores(tmp_path / "own", tmp_path / "sys") == cores


def test_where_there_are_no_cgroups_nothing_is_limited(tmp_path: Path) -> None:
    assert quota.cgroup_cores(tmp_path / "none", tmp_path) == math.inf


@pytest.mark.parametrize(("affinity", "limit", "usable"), [(8, math.inf, 8), (8, 2.9, 2), (2, 4.0, 2), (8, 0.25, 1)])
def test_cores_are_those_of_the_affinity_and_no_more_than_the_quota(
    affinity: int, limit: float, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(quota, "cgroup_cores", lambda: limit)
    monkeypatch.setattr(cluster, "logical_cpus", lambda: 64.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert quota.usable_cores() == usable
    assert cluster.cores(Cluster()) == usable
    assert doctor._cores().found == str(usable)
