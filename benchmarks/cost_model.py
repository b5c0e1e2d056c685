"""What a study of any size costs: laws fitted to measured costs, the nodes they ask for, and a simulation.

    python -m benchmarks.cost_model docs/scaling.json --subjects 1000 100000 10000000

A law is a sum of terms with coefficients that are not negative, fitted to relative error. What cannot be run here, many
nodes and spot losses, is simulated with the laws' task times.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

Size = Mapping[str, float]

TERMS: dict[str, Callable[[Size], float]] = {
    "once": lambda size: 1.0,
    "EEG recording": lambda size: size["eeg_recordings"],
    "voice recording": lambda size: size["voice_recordings"],
    "EEG hour": lambda size: size["eeg_h"],
    "voice hour": lambda size: size["voice_h"],
    "subject": lambda size: size["subjects"],
    "pair of subjects": lambda size: size["subjects"] ** 2,
    "segment": lambda size: size["segments"],
    "vector": lambda size: size["vectors"],
    # by theory a logarithm; measured, each step of the search also finds less of the graph in a cache
    "vector to the 5/4": lambda size: size["vectors"] ** 1.25,
    "task": lambda size: size["tasks"],
}
_SPREAD = 64  # tasks a slot at which a simulation stands for any larger one
_MOST_TASKS = 200_000


@dataclass(frozen=True)
class Law:
    """A cost as a sum of terms.

    Attributes:
        unit: "s" or "bytes".
        coefficients: name of a term of TERMS -> unit a term.
    """

    unit: str
    coefficients: dict[str, float]

    def __call__(self, size: Size) -> float:
        """The cost of a size, which needs only the quantities that the law's terms use."""
        return sum(value * TERMS[name](size) for name, value in self.coefficients.items() if value)


def fit(terms: Sequence[str], sizes: Sequence[Size], costs: Sequence[float], unit: str) -> Law:
    """The law of these terms with the least squared relative error, no coefficient below zero.

    Args:
        terms: names of TERMS; no more than there are sizes.
        costs: positive, one a size.

    Raises:
        ValueError: fewer sizes than terms, or a cost that is not positive.
    """
    if len(sizes) < len(terms):
        raise ValueError(f"{len(terms)} terms need as many sizes, and there are {len(sizes)}")
    if min(costs) <= 0:
        raise ValueError("a cost is not positive")
    design_ST = np.array([[TERMS[term](size) for term in terms] for size in sizes]) / np.array(costs)[:, None]
    scale_T = np.linalg.norm(design_ST, axis=0)
    scale_T[scale_T == 0] = 1.0
    found_T, _ = nnls(design_ST / scale_T, np.ones(len(sizes)))
    values = (float(f"{value:.6g}") for value in found_T / scale_T)
    return Law(unit, dict(zip(terms, values, strict=True)))


@dataclass(frozen=True)
class Nodes:
    """What a stage runs on, and what is assumed of it.

    Attributes:
        cores: a node's, each as fast as one of the machine that was measured.
        start_s: from asking for a node to its first task.
        life_h: mean time until a spot node is taken away; None: it is not.
        price: of a node-hour, in the reader's own money.
    """

    cores: int = 16
    start_s: float = 180.0
    life_h: float | None = None
    price: float = 1.0


@dataclass(frozen=True)
class Simulated:
    """A stage of independent tasks on nodes that come, and may go.

    Attributes:
        hours: until the last task ended.
        node_hours: paid for.
        efficiency: useful core-hours over paid ones.
        lost: tasks that had to run again.
    """

    hours: float
    node_hours: float
    efficiency: float
    lost: int


def simulate(tasks: int, task_s: float, nodes: int, kind: Nodes, dispatch_s: float, seed: int = 0) -> Simulated:
    """Run tasks of one length on nodes that all start at once; one driver hands them out, one after another.

    A node that is taken away loses what runs on it; another takes its place after a start. A task that was lost is
    handed out again. With more than 200,000 tasks, time and tasks are both scaled, while each core still has many.

    Args:
        dispatch_s: the driver's time a task.
    """
    rng = np.random.default_rng(seed)
    slots = nodes * kind.cores
    whole = tasks
    tasks = min(whole, max(_MOST_TASKS, _SPREAD * slots))
    task_s, dispatch_s = task_s * whole / tasks, dispatch_s * whole / tasks
    ends = [_end_s(kind.start_s, kind, rng) for _ in range(nodes)]  # of each node's life
    born = [0.0] * nodes
    paid_s = 0.0
    free = [(kind.start_s, node) for node in range(nodes) for _ in range(kind.cores)]
    heapq.heapify(free)
    driver_s = last_s = 0.0
    todo, lost = tasks, 0
    while todo:
        at_s, node = heapq.heappop(free)
        if at_s >= ends[node] + kind.start_s and ends[node] < math.inf:  # a slot of the node's next life
            paid_s += ends[node] - born[node]
            born[node] = ends[node]
            ends[node] = _end_s(ends[node] + kind.start_s, kind, rng)
        start_s = max(at_s, driver_s)
        if start_s >= ends[node]:  # it was taken away while the slot waited
            heapq.heappush(free, (ends[node] + kind.start_s, node))
            continue
        driver_s = start_s + dispatch_s
        if driver_s + task_s > ends[node]:
            lost += 1
            heapq.heappush(free, (ends[node] + kind.start_s, node))
            continue
        todo -= 1
        last_s = max(last_s, driver_s + task_s)
        heapq.heappush(free, (driver_s + task_s, node))
    paid_s += sum(max(0.0, last_s - start) for start in born)
    useful_s = tasks * task_s
    return Simulated(last_s / 3600, paid_s / 3600, useful_s / (paid_s * kind.cores), round(lost * whole / tasks))


def _end_s(from_s: float, kind: Nodes, rng: np.random.Generator) -> float:
    return math.inf if kind.life_h is None else from_s + float(rng.exponential(kind.life_h * 3600))


def epoch_s(one_s: float, workers: int, serial: float, gradient_bytes: float, steps: float, link: Link) -> float:
    """An epoch on several workers: the part that is shared, the part that each does whole, and a ring all-reduce.

    Args:
        one_s: on one worker.
        serial: share of it that does not get less with workers.
        steps: optimiser steps of the epoch.
    """
    if workers == 1:
        return one_s
    reduced_s = 2 * (workers - 1) * (gradient_bytes / workers / link.bytes_s + link.latency_s)
    return one_s * (serial + (1 - serial) / workers) + steps * reduced_s


@dataclass(frozen=True)
class Link:
    """A network between nodes, as assumed."""

    bytes_s: float = 1.25e9
    latency_s: float = 50e-6


@dataclass(frozen=True)
class Study:
    """What one subject brings; MODMA's by default.

    Attributes:
        eeg_s: of EEG, one recording.
        clips: voice recordings.
        clip_s: of each.
    """

    eeg_s: float = 316.0
    clips: int = 29
    clip_s: float = 15.0

    def size(self, subjects: float) -> dict[str, float]:
        """The quantities of TERMS for so many subjects; a recording is a vector, and eight clips share a task."""
        recordings = subjects * (1 + self.clips)
        return {
            "subjects": subjects,
            "eeg_recordings": subjects,
            "voice_recordings": subjects * self.clips,
            "tasks": subjects * (1 + math.ceil(self.clips / 8)),
            "eeg_h": subjects * self.eeg_s / 3600,
            "voice_h": subjects * self.clips * self.clip_s / 3600,
            "vectors": recordings,
            "segments": subjects * (self.eeg_s / 4 + self.clips * self.clip_s / 4),
        }


@dataclass(frozen=True)
class Need:
    """What a stage asks for at a size.

    Attributes:
        core_hours: of work.
        nodes: that end it within the days asked for; None: no number of them does.
        bound: by what: "work" is what more nodes shorten.
        price: of the node-hours.
    """

    stage: str
    core_hours: float
    nodes: int | None
    hours: float
    node_hours: float
    price: float
    bound: str
    bytes: float


def plan(laws: Mapping[str, Law], facts: Mapping[str, float], subjects: float, days: float, kind: Nodes) -> list[Need]:
    """Every stage of a study like MODMA, on as few nodes as end it within the days.

    Args:
        laws: by name, as `benchmarks scaling` fits them.
        facts: constants: serial_share and gradient_bytes as measured, subjects_a_step and epochs of the settings.
    """
    size = Study().size(subjects)
    return [
        _preparation(laws, size, days, kind),
        _training(laws, facts, size, days, kind),
        _indexing(laws, size, days, kind),
    ]


def _preparation(laws: Mapping[str, Law], size: Size, days: float, kind: Nodes) -> Need:
    tasks = int(size["tasks"])
    core_s = laws["prepare: core-seconds"](size)
    dispatch_s = laws["dispatch: seconds"].coefficients["task"]
    task_s = core_s / tasks
    spot = Nodes(kind.cores, kind.start_s, kind.life_h or 24.0, kind.price)
    held = laws["prepare: bytes written"](size)
    if tasks * dispatch_s / 3600 > 24 * days:
        # one driver cannot hand out so many: as many studies side by side, each with its own
        drivers = math.ceil(tasks * dispatch_s / 3600 / (24 * days) / 0.8)
        bound = f"one driver's hand, {tasks * dispatch_s / 3600:.0f} h: {drivers} jobs, each a share of the recordings"
    else:
        drivers, bound = 1, "work"
    share = math.ceil(tasks / drivers)
    nodes, found = _fewest(lambda count: simulate(share, task_s, count, spot, dispatch_s), core_s / drivers, days, spot)
    hours, node_hours = found.hours, found.node_hours * drivers
    return Need("prepare", core_s / 3600, nodes * drivers, hours, node_hours, node_hours * kind.price, bound, held)


def _fewest(run: Callable[[int], Simulated], core_s: float, days: float, kind: Nodes) -> tuple[int, Simulated]:
    """As few nodes as end in time, from the least that could."""
    nodes = max(1, math.ceil(core_s / 3600 / (24 * days) / kind.cores))
    while (found := run(nodes)).hours > 24 * days:
        nodes = math.ceil(1.05 * nodes + 0.5)
    return nodes, found


def _training(laws: Mapping[str, Law], facts: Mapping[str, float], size: Size, days: float, kind: Nodes) -> Need:
    one_s = laws["train: seconds an epoch"](size)
    steps = size["subjects"] / facts["subjects_a_step"]
    held = laws["train: bytes of a worker"](size)
    epochs = facts["epochs"]

    def hours(workers: int) -> float:
        taken_s = epoch_s(one_s, workers, facts["serial_share"], facts["gradient_bytes"], steps, Link())
        return epochs * taken_s / 3600

    # a worker a core and as many as still help by a tenth
    workers = 1
    while hours(workers) > 24 * days and hours(2 * workers) < 0.9 * hours(workers):
        workers *= 2
    nodes = math.ceil(workers / kind.cores)
    taken = hours(workers)
    fits = taken <= 24 * days
    bound = "work" if fits else f"what each worker does whole ({100 * facts['serial_share']:.0f} % of an epoch)"
    node_hours = taken * nodes
    core_hours = epochs * one_s / 3600
    return Need(
        "train", core_hours, nodes if fits else None, taken, node_hours, node_hours * kind.price, bound, held * workers
    )


def _indexing(laws: Mapping[str, Law], size: Size, days: float, kind: Nodes) -> Need:
    embed_s = laws["index: seconds of embedding"](size)
    build_s = laws["index: seconds of an HNSW's build"](size)
    nodes = max(1, math.ceil(embed_s / 3600 / (24 * days) / kind.cores))
    hours = embed_s / 3600 / nodes / kind.cores + build_s / 3600  # one thread builds, so that the bytes are the same
    bound = "the build's one thread" if build_s > embed_s / nodes / kind.cores else "work"
    fits = hours <= 24 * days
    node_hours = embed_s / 3600 / kind.cores + build_s / 3600
    held = laws["index: bytes"](size)
    core_hours = (embed_s + build_s) / 3600
    return Need("index", core_hours, nodes if fits else None, hours, node_hours, node_hours * kind.price, bound, held)


def main(arguments: list[str]) -> int:
    """Print the laws, and the plan of every size asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("fitted", help="what `python -m benchmarks scaling --json` printed")
    parser.add_argument("--subjects", type=float, nargs="+", default=[1e3, 1e5, 1e7])
    parser.add_argument("--days", type=float, default=1.0, help="that a stage may take")
    parser.add_argument("--cores", type=int, default=16, help="of a node")
    parser.add_argument("--price", type=float, default=1.0, help="of a node-hour, in your money")
    parser.add_argument("--spot-life-h", type=float, default=24.0, help="mean hours until a spot node is taken away")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    whole = json.loads(Path(options.fitted).read_text().splitlines()[-1])
    laws = {name: Law(**law) for name, law in whole["detail"]["laws"].items()}
    kind = Nodes(options.cores, life_h=options.spot_life_h, price=options.price)
    found = {f"{n:g}": plan(laws, whole["detail"]["facts"], n, options.days, kind) for n in options.subjects}
    if options.json:
        print(json.dumps({size: [asdict(need) for need in needs] for size, needs in found.items()}))
        return 0
    print(_table(("cost", "law", "held out", "predicted", "measured", "off"), _law_rows(whole, laws)))
    head = ("subjects", "stage", "core-hours", "nodes", "hours", "price", "bytes", "bound by")
    print("\n" + _table(head, [_row(size, need) for size, needs in found.items() for need in needs]))
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _law_rows(whole: Mapping[str, Any], laws: Mapping[str, Law]) -> list[list[str]]:
    rows = []
    for name, law in laws.items():
        figure = whole["figures"][f"{name}, error at the held-out size"]
        told = figure["detail"]
        terms = [f"{value:.3g} a {term}" for term, value in law.coefficients.items() if value and term != "once"]
        once = [f"{law.coefficients['once']:.3g}"] if law.coefficients.get("once") else []
        held = ", ".join(f"{value:,.4g} {quantity.replace('_', ' ')}" for quantity, value in told["held_out"].items())
        verdict = f"{100 * figure['value']:.0f} %" + ("" if figure["met"] else ", missed")
        rows.append(
            [name, " + ".join([*once, *terms]), held, f"{told['predicted']:.4g}", f"{told['measured']:.4g}", verdict]
        )
    return rows


def _row(size: str, need: Need) -> list[str]:
    nodes = "none is enough" if need.nodes is None else f"{need.nodes:,}"
    cells = [f"{need.core_hours:,.3g}", nodes, f"{need.hours:,.3g}", f"{need.price:,.4g}", _bytes(need.bytes)]
    return [size, need.stage, *cells, need.bound]


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def as_json(laws: Mapping[str, Law]) -> dict[str, Any]:
    """The laws, for a file that `main` reads."""
    return {name: asdict(law) for name, law in laws.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
