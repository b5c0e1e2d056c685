"""Vector search over HTTP: the endpoint as `mmray serve` starts it, against bare uvicorn, FastAPI and the same index.

The plain side has no key, no metadata, no filters and nothing in front; one process answers on either side. The load
comes from this process over raw sockets, one request in flight a connection. How busy it was is in the detail: near 1
and it, not the server, was measured.

An HNSW of 10^6 vectors takes minutes to build, so it is kept in the user's cache folder. It is built by all cores with
fewer candidates than `mmray index` takes: both sides search the same file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import selectors
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.harness import Figure, Outcome
from benchmarks.loopback import free_port
from mmray import config, progress
from mmray.config import Config
from mmray.features import pipeline
from mmray.index import segments, store
from mmray.index.base import METADATA, Manifest
from mmray.recordings import catalogue, splits, synthetic
from mmray.serving import app
from mmray.storage import Workspace
from mmray.training import trainer
from mmray.training.checkpoint import fingerprint

faiss: Any = _faiss

WIDTH, LINKS, EF, TOP_K = 64, 16, 64, 10
IN_FLIGHT = (1, 8, 32)
KEY = "a key of the benchmark"


@dataclass(frozen=True)
class Loaded:
    """One side under one load."""

    latency_R: NDArray[np.float64]
    seconds: float
    busy: float

    @property
    def rate(self) -> float:
        return len(self.latency_R) / self.seconds

    def ms(self, percent: float) -> float:
        return float(np.percentile(self.latency_R, percent) * 1e3)


def run(*, quick: bool) -> Outcome:
    """Requests a second and latency at 1, 8 and 32 in flight, both sides in turn."""
    rows, rounds, seconds = (20_000, 3, 1.0) if quick else (1_000_000, 5, 4.0)
    outcome = Outcome("serve")
    folder = tempfile.mkdtemp(prefix="mmray-benchmark-")
    try:
        vectors = _index(rows)
        settings = _workspace(folder, rows, vectors)
        with _plain(vectors) as theirs, app.running(settings, KEY) as endpoint:
            ours = int(endpoint.url.rpartition(":")[2])
            taken = _measured({"ours": ours, "plain": theirs}, rounds, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _told(outcome, taken, rows)
    return outcome


def _measured(ports: dict[str, int], rounds: int, seconds: float) -> dict[tuple[str, int], list[Loaded]]:
    rng = np.random.default_rng(1)
    requests = [_request(vector_E) for vector_E in _unit(rng, 200)]
    taken: dict[tuple[str, int], list[Loaded]] = {}
    with progress.bar("serve: loads", (rounds + 1) * len(IN_FLIGHT)) as advance:
        for round_ in range(-1, rounds):  # the first one warms up
            for count in IN_FLIGHT:
                for side in sorted(ports, reverse=bool(round_ % 2)):
                    found = load(ports[side], requests, count, seconds)
                    if round_ >= 0:
                        taken.setdefault((side, count), []).append(found)
                advance()
    return taken


def _told(outcome: Outcome, taken: dict[tuple[str, int], list[Loaded]], rows: int) -> None:
    for count in IN_FLIGHT:
        pairs = list(zip(taken["ours", count], taken["plain", count], strict=True))
        rates = [ours.rate / plain.rate for ours, plain in pairs]
        p50s = [ours.ms(50) / plain.ms(50) for ours, plain in pairs]
        if count == max(IN_FLIGHT):
            outcome.figures[f"requests/s at {count} in flight, of plain"] = _figure(rates, 0.3, at_most=False)
        if count == min(IN_FLIGHT):
            outcome.figures[f"p50 at {count} in flight, of plain"] = _figure(p50s, 4.0, at_most=True)
        for side in ("ours", "plain"):
            every = taken[side, count]
            outcome.detail[f"{side} at {count}"] = {
                "requests_s": round(statistics.median(one.rate for one in every), 1),
                "p50_ms": round(statistics.median(one.ms(50) for one in every), 3),
                "p99_ms": round(statistics.median(one.ms(99) for one in every), 3),
                "load_busy": round(max(one.busy for one in every), 2),
            }
    outcome.detail["vectors"] = f"{rows} x {WIDTH}"


def _figure(pairs: list[float], bar: float, at_most: bool) -> Figure:
    spread = (round(min(pairs), 3), round(max(pairs), 3))
    return Figure(round(statistics.median(pairs), 3), bar, spread, at_most=at_most, detail={"rounds": len(pairs)})


def load(port: int, requests: list[bytes], count: int, seconds: float) -> Loaded:
    """Keep `count` requests in flight, each connection asking again once it is answered.

    Raises:
        RuntimeError: an answer is no 200.
    """
    waiting = selectors.DefaultSelector()
    sent_at: dict[int, float] = {}
    held: dict[int, bytes] = {}
    latency: list[float] = []
    turn = 0
    end = time.perf_counter() + seconds
    start, busy = time.perf_counter(), time.process_time()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        waiting.register(connection, selectors.EVENT_READ)
        held[connection.fileno()] = b""
        sent_at[connection.fileno()] = time.perf_counter()
        connection.sendall(requests[(turn := turn + 1) % len(requests)])
    while time.perf_counter() < end:
        for ready, _ in waiting.select(1.0):
            connection = ready.fileobj  # type: ignore[assignment]
            number = ready.fd
            held[number] += connection.recv(65536)
            if not _whole(held[number]):
                continue
            latency.append(time.perf_counter() - sent_at[number])
            held[number] = b""
            sent_at[number] = time.perf_counter()
            connection.sendall(requests[(turn := turn + 1) % len(requests)])
    took, used = time.perf_counter() - start, time.process_time() - busy
    for selected in list(waiting.get_map().values()):
        selected.fileobj.close()  # type: ignore[union-attr]
    waiting.close()
    return Loaded(np.asarray(latency), took, used / took)


def _whole(held: bytes) -> bool:
    head, found, body = held.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"serve: {head[:60]!r}")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return length is not None and len(body) >= int(length[1])


def _request(vector_E: NDArray[np.float32]) -> bytes:
    ask = {"vector": [round(float(x), 6) for x in vector_E], "target": "audio", "top_k": TOP_K}
    body = json.dumps(ask).encode()
    head = f"POST /v1/search/vector HTTP/1.1\r\nHost: here\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def _plain(vectors: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.plain_serve", str(vectors), str(EF), str(port)]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError("serve: the plain side did not start") from None
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def _index(rows: int) -> Path:
    """The file both sides search, built once."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmray" / "benchmarks"
    path = root / f"hnsw-{rows}-{WIDTH}-{LINKS}.faiss"
    if path.is_file():
        return path
    root.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexHNSWFlat(WIDTH, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 40
    rng = np.random.default_rng(0)
    with progress.bar("serve: index", rows) as advance:
        for start in range(0, rows, 10_000):
            index.add(_unit(rng, min(10_000, rows - start)))
            for _ in range(min(10_000, rows - start)):
                advance()
    partial = path.with_suffix(f".partial-{os.getpid()}")
    faiss.write_index(index, str(partial))
    partial.rename(path)
    return path


def _unit(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Unit vectors around a few hundred directions, as embeddings of people lie."""
    centre_CE = np.random.default_rng(7).standard_normal((500, WIDTH), dtype=np.float32)
    x_NE = centre_CE[rng.integers(0, 500, rows)] + 0.7 * rng.standard_normal((rows, WIDTH), dtype=np.float32)
    unit: NDArray[np.float32] = x_NE / np.linalg.norm(x_NE, axis=1, keepdims=True)
    return unit


def _workspace(folder: str, rows: int, vectors: Path) -> Config:
    """A workspace with a run, and an index version of which the file is the vectors."""
    settings = config.from_dict(
        {
            "workspace": f"{folder}/ws",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": 9, "eeg_seconds": 16, "clips": 2},
            "split": {"folds": 3, "validation_fraction": 0.4},
            "model": {"name": "gcn", "embedding": WIDTH},
            "train": {"epochs": 1, "passes": 1},
            "serve": {"port": free_port(), "max_ongoing_requests": 64, "max_queued_requests": 64},
        }
    )
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    pipeline.prepare(settings)
    splits.write_split(settings)
    run_id = trainer.train(settings).run_id
    workspace = Workspace(settings.workspace)
    version = "benchmark"
    place = Path(settings.workspace) / "index" / version
    place.mkdir(parents=True)
    shutil.copyfile(vectors, place / "vectors-audio.faiss")
    workspace.write_table(_metadata(rows), "index", version, "metadata.parquet")
    _segments(place / "segments-audio.safetensors", vectors)
    files = {path.name: _digest(path) for path in place.iterdir()}
    manifest = Manifest(
        version=version,
        run_id=run_id,
        model=fingerprint(workspace, run_id),
        features="",
        kind="hnsw",
        settings=config.Index(kind="hnsw", hnsw_links=LINKS, hnsw_ef=EF).model_dump(mode="json"),
        width=WIDTH,
        counts={"audio": rows},
        breadth={},
        recall={},
        files=files,
        created="",
        created_by="benchmarks",
    )
    workspace.write_json(manifest.to_dict(), "index", version, "manifest.json")
    store.point_to(workspace, version)
    return settings


def _segments(path: Path, vectors: Path) -> None:
    """One a recording, the recording's own vector."""
    index = faiss.read_index(str(vectors), faiss.IO_FLAG_MMAP_IFC)  # owns the storage
    stored = faiss.downcast_index(index.storage)
    made = segments.create(path, np.ones(stored.ntotal, dtype=np.int64), WIDTH)
    for start in range(0, stored.ntotal, 100_000):
        count = min(100_000, stored.ntotal - start)
        made.z_SE[start : start + count] = stored.reconstruct_n(start, count)


def _metadata(rows: int) -> pa.Table:
    columns: dict[str, Any] = {}
    for field in METADATA:
        if field.name in ("recording_id", "subject_id", "pair_id", "source_sha256"):
            columns[field.name] = [f"{field.name}-{row}" for row in range(rows)]
        elif field.name == "modality":
            columns[field.name] = ["audio"] * rows
        else:
            columns[field.name] = ["some" if pa.types.is_string(field.type) else 1] * rows
    return pa.table(columns, schema=METADATA)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
