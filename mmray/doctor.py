"""`mmray doctor`: what this machine has, what is wrong with it for mmray, and what to do."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mmray import __version__, cluster
from mmray.config import Cluster
from mmray.errors import ResourceError
from mmray.quota import usable_cores

_PACKAGES = ("ray", "torch", "torch-geometric", "mne", "librosa", "pyarrow", "numpy", "faiss-cpu", "fastapi")
_MEMORY_BYTES = 4 * 2**30  # an embedded Ray, two training workers and one recording of MODMA's size
_DISK_BYTES = 5 * 2**30


@dataclass(frozen=True)
class Check:
    """One line of the report; `advice` is empty where nothing is wrong."""

    name: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """Every check."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """0, or 5 where something is wrong."""
        return ResourceError.exit_code if any(check.advice for check in self.checks) else 0

    def render(self) -> Table:
        """A table for a terminal."""
        table = Table(box=None, title=f"mmray {__version__}", title_justify="left")
        for column in ("", "check", "found", "what to do"):
            table.add_column(column)
        for check in self.checks:
            table.add_row("[red]✗[/]" if check.advice else "[green]✓[/]", check.name, check.found, check.advice)
        return table


def examine() -> Report:
    """Run every check; none of them raises."""
    return Report((_python(), *map(_package, _PACKAGES), _cores(), _memory(), _gpu(), _disk(), _temporary(), _ray()))


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    return Check("python", found, "" if sys.version_info >= (3, 11) else "mmray needs Python 3.11 or newer")


def _package(name: str) -> Check:
    pins = Path(__file__).parents[1] / "constraints.txt"
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "missing", "install mmray again: make clean test")
    pinned = dict(line.split("==") for line in pins.read_text().splitlines() if "==" in line) if pins.exists() else {}
    expected = pinned.get(name, found)
    same = found.split("+")[0] == expected
    return Check(name, found, "" if same else f"tested with {expected}: install under constraints.txt")


def _cores() -> Check:
    cores = usable_cores()
    return Check("cores", str(cores), "" if cores >= 2 else "two cores at least: Ray and a worker share them")


def _memory() -> Check:
    import psutil

    free = psutil.virtual_memory().available
    advice = "" if free >= _MEMORY_BYTES else f"free {_gib(_MEMORY_BYTES)}, or set cluster.num_cpus lower"
    return Check("memory", f"{_gib(free)} free", advice)


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check("gpu", "none; training runs on the CPU")
    return Check("gpu", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")


def _disk() -> Check:
    free = shutil.disk_usage(".").free
    return Check(
        "disk here", f"{_gib(free)} free", "" if free >= _DISK_BYTES else "choose a --workspace with more room"
    )


def _temporary() -> Check:
    import tempfile

    folder = tempfile.gettempdir()
    # Ray puts sockets some 60 bytes below it, and AF_UNIX allows 107
    advice = "" if len(folder.encode()) <= 40 else "set TMPDIR to a shorter path, such as /tmp"
    return Check("temporary folder", folder, advice)


def _ray() -> Check:
    try:
        with cluster.session(Cluster()):
            answer = list(cluster.map(_double, [21], label="ray"))
            cpus = cluster.logical_cpus()
    except ResourceError as error:
        return Check("ray", "does not start", str(error))
    return Check(
        "ray", f"runs tasks on {cpus:.0f} logical CPUs", "" if answer == [42] else "a task gave a wrong answer"
    )


def _double(number: int) -> int:
    return 2 * number


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
