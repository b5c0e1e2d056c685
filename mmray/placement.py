"""Where work may run: what a piece of it takes of a node, and which nodes it keeps to. Pure; `cluster` asks Ray.

A node is known by its resources and by one label, which cluster.yaml gives it: mmray/market, spot or on-demand. Where
no node has the label and none has a GPU, as on a laptop, every rule below allows every node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmray.config import Spot

MARKET, SPOT = "mmray/market", "spot"
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node itself
Selector = dict[str, str]  # label -> value, !value, in(a, b) or !in(a, b), as Ray reads it
Where = tuple[Selector, ...]  # in order of preference
ANYWHERE: Where = ({},)


@dataclass(frozen=True)
class Node:
    """One node as Ray counts it: CPU, GPU and memory (bytes) among its resources."""

    node_id: str
    resources: dict[str, float]
    labels: dict[str, str]

    @property
    def is_spot(self) -> bool:
        """Whether it may be taken away at short notice."""
        return self.labels.get(MARKET) == SPOT

    @property
    def has_gpu(self) -> bool:
        """Whether it was started with a GPU, taken or not."""
        return self.resources.get("GPU", 0) > 0


@dataclass(frozen=True)
class Want:
    """What a stage must have at once: `count` tasks, workers or replicas of one size.

    Attributes:
        where: the nodes that each may stand on.
    """

    count: int = 1
    cpus: float = 0.0
    gpus: float = 0.0
    memory_bytes: int = 0
    where: Where = field(default=ANYWHERE)

    def resources(self) -> dict[str, float]:
        """Of one, as Ray names them."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in named.items() if amount}

    def held(self, node: Node) -> int:
        """How many an idle node holds, wherever they may stand."""
        amounts = self.resources().items()
        # Ray counts in ten-thousandths; three tenths hold three of a tenth
        held = ((node.resources.get(name, 0.0) + 1e-5) // amount for name, amount in amounts)
        return int(min(held, default=self.count))

    def describe(self) -> str:
        """Count, size and nodes, as an error says them."""
        size = f"{self.cpus:g} CPUs" + (f", {self.gpus:g} GPUs" if self.gpus else "")
        size += f", {self.memory_bytes >> 20} MiB" if self.memory_bytes else ""
        last = self.where[-1]
        on = [f"labelled {MARKET}={last[MARKET]}"] if last.get(MARKET) == SPOT else []
        on += [f"not labelled {MARKET}={SPOT}"] if last.get(MARKET) == f"!{SPOT}" else []
        on += ["without a GPU"] if NODE_ID in last else []
        return f"{self.count} x ({size}) must run at once" + (f", on nodes {' and '.join(on)}" if on else "")


def restartable(want: Want, nodes: Sequence[Node], spot: Spot) -> Where:
    """For tasks that are simply run again after a loss: spot nodes first, or alone; off GPUs unless they use one.

    Args:
        want: size of a task; its own `where` does not count.
        nodes: that are up.
        spot: prefer, require or ignore nodes labelled spot.
    """
    on_spot = [node for node in nodes if node.is_spot]
    wherever = _off_gpus(want, nodes)
    if spot == "ignore" or (spot == "prefer" and not any(want.held(node) for node in on_spot)):
        return (wherever,)
    first = {MARKET: SPOT} | _off_gpus(want, on_spot)
    return (first,) if spot == "require" else (first, wherever)


def lasting() -> Where:
    """For what answers requests: never on a spot node."""
    return ({MARKET: f"!{SPOT}"},)


def _off_gpus(want: Want, nodes: Sequence[Node]) -> Selector:
    """Every node but those with a GPU, where the others hold what is wanted."""
    with_gpu = [node.node_id for node in nodes if node.has_gpu]
    held = sum(want.held(node) for node in nodes if not node.has_gpu)
    return {NODE_ID: f"!in({', '.join(with_gpu)})"} if with_gpu and not want.gpus and held >= want.count else {}


def room(want: Want, nodes: Iterable[Node], beside_cpus: float = 0.0) -> int:
    """How many of a size the nodes hold when idle, where each may stand.

    Args:
        beside_cpus: taken by something else, on whichever node; the worst is assumed.
    """
    total = 0
    for node in nodes:
        if any(_matches(node.labels, selector) for selector in want.where):
            less = {"CPU": node.resources.get("CPU", 0.0) - beside_cpus}
            total += max(0, want.held(Node(node.node_id, node.resources | less, node.labels)))
    return total


def missing(wants: Sequence[Want], nodes: Sequence[Node], beside_cpus: float = 0.0) -> tuple[Want, int] | None:
    """The first want that idle nodes do not hold beside those before it, and how many of it they hold; None: all fit.

    Each goes to the nodes without a GPU first, and to the fullest of them.
    """
    left = {node.node_id: dict(node.resources) for node in nodes}
    for want in wants:
        allowed = [node for node in nodes if any(_matches(node.labels, selector) for selector in want.where)]
        now = [Node(node.node_id, left[node.node_id], node.labels) for node in allowed]
        held = room(want, now, beside_cpus)
        if held < want.count:
            return want, held
        todo = want.count
        for node in sorted(now, key=lambda n: (n.has_gpu, n.resources.get("CPU", 0.0))):
            taken = min(todo, max(0, room(want, [node], beside_cpus)))
            for name, amount in want.resources().items():
                left[node.node_id][name] = left[node.node_id].get(name, 0.0) - taken * amount
            todo -= taken
    return None


def options(where: Where) -> dict[str, Any]:
    """As tasks, actors and Ray Data take it; nothing where every node will do."""
    first, *others = where
    if not first:
        return {}
    fallback = [{"label_selector": other or _EVERY_NODE} for other in others]
    return {"label_selector": first} | ({"fallback_strategy": fallback} if fallback else {})


_EVERY_NODE = {NODE_ID: "!none"}  # Ray takes no empty selector here


def _matches(labels: dict[str, str], selector: Selector) -> bool:
    """Whether Ray lets a node with these labels take the work; a label that is not there differs from any value."""
    for name, condition in selector.items():
        values = re.sub(r"^!?(in\()?|\)$", "", condition).split(", ")
        if (labels.get(name) in values) == condition.startswith("!"):
            return False
    return True
