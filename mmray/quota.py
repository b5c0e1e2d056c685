"""How many cores this process has to itself: what a container or `taskset` leaves of the machine's."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy, at least one: of its affinity, and of its cgroups' quota of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(allowed, cgroup_cores())))


def cgroup_cores(own: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> float:
    """The least that the cgroups around this process allow; infinite where none of them limits it.

    Args:
        own: lines of `number:controllers:path`; no controllers are named in version 2.
        root: where they are mounted.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return math.inf
    found = math.inf
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "cpu" if controllers else root
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        place = mount / path.lstrip("/")
        for folder in (place, *place.parents):  # each has a quota of its own; a container may see the outermost alone
            if not folder.is_relative_to(mount):
                break
            try:
                told = " ".join((folder / name).read_text() for name in names)
            except OSError:
                continue
            found = min(found, quota_of(told))
    return found


def quota_of(told: str) -> float:
    """Cores of a quota and its period, both in microseconds; max or -1 is none."""
    words = told.split()
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return math.inf
    return int(words[0]) / int(words[1])
