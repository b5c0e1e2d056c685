"""What a replica counts, and one page of it for all replicas.

A scrape meets whichever replica the front picks. So every replica leaves its figures in the cluster's store of small
values, and the one that is asked answers for all, each under its own label `replica`. No label holds an id of a
recording, a person or a key.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from mmray.serving.live import Live

REGISTRY = CollectorRegistry()
disable_created_metrics()  # a series more for each, which no panel asks
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("mmray_requests", "Requests answered", ["route", "method", "status"], registry=REGISTRY)
SECONDS = Histogram(
    "mmray_request_seconds", "From a request's arrival to its answer", ["route"], buckets=_SECONDS, registry=REGISTRY
)
IN_FLIGHT = Gauge("mmray_requests_in_flight", "Requests being answered", registry=REGISTRY)
REFUSED = Counter("mmray_refused", "Requests refused before any route", ["reason"], registry=REGISTRY)
ENCODE_SECONDS = Histogram(
    "mmray_encode_seconds", "From an uploaded recording to its vector", buckets=_SECONDS, registry=REGISTRY
)
INDEX = Gauge("mmray_index", "1 for what answers now", ["index_version", "run_id", "kind"], registry=REGISTRY)
RECORDINGS = Gauge("mmray_index_recordings", "Recordings in the index", ["modality"], registry=REGISTRY)
NOT_TAKEN_OVER = Gauge("mmray_takeover_refused", "1 while the published index cannot be taken over", registry=REGISTRY)


class Board(Protocol):
    """Where replicas leave their figures."""

    def put(self, name: str, text: str) -> None:
        """Leave a replica's."""

    def others(self, name: str) -> dict[str, str]:
        """Every other replica's."""


class ClusterBoard:
    """The key-value store of Ray's head. Figures that were not renewed for a while are of a replica that is gone.

    Args:
        renewed_s: how often a replica leaves its own.
    """

    _SPACE = b"mmray-metrics"

    def __init__(self, renewed_s: float) -> None:
        self._kept_s = max(30.0, 5 * renewed_s)

    def put(self, name: str, text: str) -> None:
        """Leave a replica's figures."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(name, json.dumps([time.time(), text]), namespace=self._SPACE)

    def others(self, name: str) -> dict[str, str]:
        """Every other live replica's."""
        from ray.experimental import internal_kv

        found = {}
        for key in internal_kv._internal_kv_list(b"", namespace=self._SPACE):
            other = key.decode()
            held = internal_kv._internal_kv_get(key, namespace=self._SPACE) if other != name else None
            if held is None:
                continue
            at, text = json.loads(held)
            if time.time() - at < self._kept_s:
                found[other] = text
            else:
                internal_kv._internal_kv_del(key, namespace=self._SPACE)
        return found


class Page:
    """Answers GET /metrics for all replicas, and passes everything else on. Plain ASGI; it stands behind the guard.

    Args:
        app: what lies behind.
        name: this replica's.
        live: what it serves.
        board: where the others' figures are; None for a replica that is alone.
    """

    def __init__(self, app: ASGIApp, name: str, live: Live, board: Board | None = None) -> None:
        self._app = app
        self._name = name
        self._live = live
        self._board = board
        self._lock = threading.Lock()

    def publish(self) -> None:
        """Leave this replica's figures for the others."""
        if self._board is not None:
            self._board.put(self._name, self._own())

    def render(self) -> bytes:
        """The page."""
        others = {} if self._board is None else self._board.others(self._name)
        return merged({self._name: self._own(), **others})

    def _own(self) -> str:
        serving = self._live.serving
        with self._lock:
            INDEX.clear()
            RECORDINGS.clear()
            if serving is not None:
                manifest = serving.index.manifest
                INDEX.labels(manifest.version, manifest.run_id, manifest.kind).set(1)
                for modality, count in manifest.counts.items():
                    RECORDINGS.labels(modality).set(count)
            NOT_TAKEN_OVER.set(self._live.refused is not None)
            return generate_latest(REGISTRY).decode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != "/metrics" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        scope["mmray.route"] = "/metrics"
        body = await asyncio.to_thread(self.render)
        headers = [
            (b"content-type", CONTENT_TYPE_PLAIN_0_0_4.encode()),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def merged(texts: dict[str, str]) -> bytes:
    """One exposition of several replicas', each sample under its replica's label."""
    families: dict[str, Metric] = {}
    for replica, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            into.samples += [s._replace(labels={**s.labels, "replica": replica}) for s in family.samples]
    return generate_latest(_Families(families.values()))


class _Families(CollectorRegistry):
    """What generate_latest takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        super().__init__()
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        return self._families
