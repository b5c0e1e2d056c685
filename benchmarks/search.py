"""One query against the index: mmray's ordered, filterable search against bare faiss on the same file, in every kind.

Vectors of "people" have the structure of real embeddings: twenty recordings a person near each other, in a space of
few dimensions. "Uniform" ones have none, which no approximate index likes. Queries are stored vectors, perturbed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from benchmarks import harness
from benchmarks.harness import Figure, Outcome
from mmray.config import Index
from mmray.index import faiss_index, recall

faiss: Any = _faiss  # its own type stubs lack half of its names
Array = np.typing.NDArray[Any]

WIDTH, K, QUERIES = 64, recall.K, 20
KINDS = ("flat", "hnsw", "sq", "ivfpq")
_RECALL, _SPEED = 0.99, 0.8


def run(*, quick: bool) -> Outcome:
    """Recall, single queries a second against bare faiss, build time and memory of each kind, one thread."""
    faiss.omp_set_num_threads(1)
    few, many = (10_000, 20_000) if quick else (100_000, 1_000_000)
    outcome = Outcome("search")
    costs: dict[str, dict[str, list[float]]] = {kind: {"build_s": [], "resident_MB": []} for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        for data, rows in (("uniform", few), ("people", few), ("people", many)):
            vector_NE = people(rows) if data == "people" else _uniform(rows)
            query_QE = _near(vector_NE)
            exact = faiss.IndexFlatIP(WIDTH)
            exact.add(vector_NE)
            best_QK = exact.search(query_QE, K)[0]
            for kind in KINDS:
                path = Path(folder) / f"{data}-{rows}-{kind}"
                began = time.process_time()  # one thread; what else runs takes none of it
                faiss_index.write(vector_NE, Index(), kind, path)
                build_s = time.process_time() - began
                told = _measure(outcome, f"{data} {rows:,} {kind}", kind, path, query_QE, best_QK, 5 if quick else 20)
                told |= {"build_s": round(build_s, 2), **_memory(path, told["settings"])}
                outcome.detail[f"{data} {rows:,} {kind}"] = told
                print(f"search: {data} {rows:,} {kind}: {json.dumps(told)}", file=sys.stderr, flush=True)
                if data == "people":
                    costs[kind]["build_s"].append(build_s)
                    costs[kind]["resident_MB"].append(told["resident_MB"])
                path.unlink()
    for kind, by_cost in costs.items():
        # an HNSW's insertion costs a logarithm more than a constant; ivfpq's cells grow with the root of its size
        for cost, bar in (("build_s", 1.6), ("resident_MB", 1.1)):
            label = f"{kind} {cost} growth"
            outcome.figures[label] = harness.growth((few, many), by_cost[cost], bar=bar, unit=cost)
    return outcome


def _measure(
    outcome: Outcome, label: str, kind: str, path: Path, query_QE: Array, best_QK: Array, rounds: int
) -> dict[str, Any]:
    """Recall and speed, as widely searched as `mmray index` would choose."""
    for breadth in faiss_index.breadths(Index(), kind):
        settings = Index().model_copy(update=breadth)
        ours = faiss_index.read(path, settings)
        if kind == "flat" or recall.measured(ours) >= _RECALL:
            break
    found_QK = ours.search(query_QE, K)[0]
    found = float((found_QK >= best_QK[:, -1:] - 1e-6).mean())
    outcome.figures[f"{label} recall@{K}"] = Figure(round(found, 4), _RECALL, (found, found), unit="of exact")
    bare = faiss.read_index(str(path))
    parameters = None if kind == "flat" else ours._parameters(K)
    seconds: dict[str, list[float]] = {"ours": [], "bare faiss": []}
    for round_ in range(rounds):
        # in turn query by query, and the median of a round: what else runs on the machine meets both sides, and few
        took: dict[str, list[float]] = {side: [] for side in seconds}
        for q in range(QUERIES):
            one_1E = query_QE[(round_ * QUERIES + q) % len(query_QE)][None]
            took["ours"].append(harness.timed(partial(ours.search, one_1E, K)))
            took["bare faiss"].append(harness.timed(partial(bare.search, one_1E, K, params=parameters)))
        for side, each in took.items():
            seconds[side].append(float(np.median(each)))
    outcome.rate(f"{label}, queries/s over", seconds, {"bare faiss": _SPEED})
    taken_s = float(np.median(seconds["ours"]))
    size = path.stat().st_size / ours.size
    return {
        "queries_per_s": round(1 / taken_s),
        "file_bytes_a_vector": round(size, 1),
        "hot_bytes_a_vector": round(size if kind in ("flat", "hnsw") else size - 4 * WIDTH, 1),
        "settings": breadth,
    }


def _memory(path: Path, breadth: dict[str, int]) -> dict[str, float]:
    """What a process that maps the file holds after 200 queries; its own is what the page cache cannot take back."""
    told = subprocess.run(
        [sys.executable, "-c", _CHILD, str(path), json.dumps(breadth), str(WIDTH)],
        capture_output=True,
        check=True,
        text=True,
    )
    return dict(json.loads(told.stdout.splitlines()[-1]))


_CHILD = """
import json, re, sys
from pathlib import Path
import numpy as np
from mmray.config import Index
from mmray.index import faiss_index

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1)) / 1e3

def mapped(path):
    blocks = re.findall(rf"{re.escape(path)}\\n(?:.*\\n)*?Rss:\\s+(\\d+) kB", Path("/proc/self/smaps").read_text())
    return sum(map(int, blocks)) / 1e3

path, breadth, width = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(1)
faiss_index.faiss.omp_set_num_threads(1)
before = own()
index = faiss_index.read(Path(path), Index().model_copy(update=breadth))
for _ in range(200):
    query = index.vector(int(rng.integers(index.size)))[None]
    index.search(query / np.linalg.norm(query), 10)
print(json.dumps({"own_MB": round(own() - before, 2), "resident_MB": round(mapped(path) + own() - before, 2)}))
"""


def people(rows: int, each: int = 20, dimensions: int = 12) -> Array:
    """Unit vectors, rows x WIDTH, of `each` recordings a person in a space of few dimensions, and a little noise."""
    rng = np.random.default_rng(0)
    basis_DE = rng.standard_normal((dimensions, WIDTH), dtype=np.float32)
    person_ND = np.repeat(rng.standard_normal((rows // each, dimensions), dtype=np.float32), each, axis=0)
    place_ND = person_ND + 0.3 * rng.standard_normal(person_ND.shape, dtype=np.float32)
    return _unit(place_ND @ basis_DE + 0.1 * rng.standard_normal((rows, WIDTH), dtype=np.float32))


def _uniform(rows: int) -> Array:
    return _unit(np.random.default_rng(0).standard_normal((rows, WIDTH), dtype=np.float32))


def _near(vector_NE: Array, queries: int = 200) -> Array:
    rng = np.random.default_rng(2)
    query_QE = vector_NE[rng.choice(len(vector_NE), queries, replace=False)]
    return _unit(query_QE + 0.1 * _unit(rng.standard_normal(query_QE.shape, dtype=np.float32)))


def _unit(x_NE: Array) -> Array:
    unit: Array = (x_NE / np.linalg.norm(x_NE, axis=1, keepdims=True)).astype(np.float32)
    return unit
