"""Ask a served index from Python, in the same terms and with the same answers as in process.

    with Client("https://retrieval.example", key) as client:
        answer = client.search(Path("rest.edf"), Path("interview.wav"), target="audio")

Busy endpoints and lost connections are asked again, later each time, until the time limit.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from mmray.errors import EndpointError, MmrayError, RecordingError
from mmray.schema import Modality
from mmray.serving.answer import (
    BatchAnswer,
    Classification,
    Filters,
    QueryError,
    SearchAnswer,
    StoredList,
    StoredRecording,
    UnknownRecordingError,
)
from mmray.serving.api_types import Status

_Answer = TypeVar("_Answer")
_BUSY = (429, 503)
_MOST_LOST = 6  # tries of an endpoint that does not answer: a wrong address is not waited for
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 8.0
_LOST = (httpx.TransportError, httpx.DecodingError)
_ERRORS: dict[int, type[MmrayError]] = {404: UnknownRecordingError, 422: QueryError}

_SEARCH = TypeAdapter(SearchAnswer)
_BATCH = TypeAdapter(BatchAnswer)
_CLASSES = TypeAdapter(Classification)
_LIST = TypeAdapter(StoredList)
_ONE = TypeAdapter(StoredRecording)
_STATUS = TypeAdapter(Status)


@dataclass(frozen=True)
class _Ask(Generic[_Answer]):
    """One call: what is sent, and how its answer is read."""

    method: str
    path: str
    adapter: TypeAdapter[_Answer]
    content: dict[str, Any] = field(default_factory=dict)  # json, data, files or params, as httpx calls them


class _Tries:
    """When one call is tried again, and when it is given up."""

    def __init__(self, url: str, limit_s: float) -> None:
        self._url = url
        self._limit_s = limit_s
        self._end = time.monotonic() + limit_s
        self._done = 0

    @property
    def left_s(self) -> float:
        """Until the time limit."""
        return max(self._end - time.monotonic(), 0.001)

    def wait_s(self, outcome: httpx.Response | Exception) -> float | None:
        """How long to wait before the next try; None where the outcome is an answer.

        Raises:
            MmrayError: it is a refusal, or the time is up.
        """
        self._done += 1
        if isinstance(outcome, httpx.Response):
            if outcome.is_success:
                return None
            if outcome.status_code not in _BUSY:
                raise self._refusal(outcome)
        backoff_s = min(_FIRST_WAIT_S * 2.0 ** (self._done - 1), _LONGEST_WAIT_S)
        # so that many clients do not come back together
        wait_s = random.uniform(0.5, 1.0) * backoff_s  # nosec B311 # nobody gains by guessing it
        if isinstance(outcome, httpx.Response):
            wait_s += _retry_after_s(outcome)
        lost = not isinstance(outcome, httpx.Response) and self._done == _MOST_LOST
        if time.monotonic() + wait_s < self._end and not lost:
            return wait_s
        tried = (
            f"after {self._done} tries within {self._limit_s:g} s" if self._done > 1 else f"within {self._limit_s:g} s"
        )
        if isinstance(outcome, httpx.Response):
            raise EndpointError(f"{self._url} is busy ({_detail(outcome)}), {tried}; try later", outcome.status_code)
        reason = str(outcome) or type(outcome).__name__
        raise EndpointError(f"{self._url} did not answer ({reason}), {tried}; see that it runs") from outcome

    def _refusal(self, answer: httpx.Response) -> MmrayError:
        kind = _ERRORS.get(answer.status_code)
        detail = _detail(answer)
        return kind(detail) if kind else EndpointError(f"{self._url}: {detail}", answer.status_code)


class _Connection:
    """What both clients know of an endpoint."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"x-api-key": key, "accept": "application/json, application/problem+json"}
        try:
            parsed = httpx.URL(self._url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise httpx.InvalidURL("no scheme or no host")
        except httpx.InvalidURL:
            raise EndpointError(
                f"{url!r} is no address of an endpoint; write it as https://host or http://host:port"
            ) from None
        if not (key.isascii() and key.isprintable()):
            raise EndpointError("the key holds characters that no key has; copy it again")

    def _read(self, ask: _Ask[_Answer], answer: httpx.Response) -> _Answer:
        try:
            return ask.adapter.validate_json(answer.content)
        except ValidationError as error:
            raise EndpointError(
                f"{self._url}{ask.path} answered what this mmray cannot read ({error.error_count()} fields); "
                "see that it is an mmray of the same version",
                answer.status_code,
            ) from error


class Client(_Connection):
    """A blocking client. One can be used by several threads.

    Args:
        url: of the endpoint, without a path.
        key: what `mmray serve` printed.
        timeout_s: of a whole call, waiting and trying again included.
        verify: False trusts any certificate; a context, whom it trusts.

    Raises (every method):
        QueryError: the endpoint says what is wrong with the query or the file.
        UnknownRecordingError: no such recording.
        RecordingError: a file cannot be read here.
        EndpointError: it refused (no key, too large), stayed busy, or did not answer in time.
    """

    def __init__(self, url: str, key: str, timeout_s: float = 120.0, verify: bool | ssl.SSLContext = True) -> None:
        super().__init__(url, key, timeout_s)
        self._http = httpx.Client(base_url=self._url, headers=self._headers, verify=verify)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(
        self,
        *asked: str | Path,
        target: Modality,
        top_k: int = 10,
        filters: Filters | None = None,
        explain: bool = True,
    ) -> SearchAnswer:
        """The recordings most like the asked ones together: ids as text, files as Path."""
        return self._send(_search(asked, target, top_k, filters, explain))

    def search_vector(
        self, vector: Sequence[float], target: Modality, top_k: int = 10, filters: Filters | None = None
    ) -> SearchAnswer:
        """The recordings most like an embedding."""
        return self._send(_search_vector(vector, target, top_k, filters))

    def search_batch(
        self, recording_ids: Sequence[str], target: Modality, top_k: int = 10, filters: Filters | None = None
    ) -> BatchAnswer:
        """One search a stored recording, all of one index version."""
        return self._send(_search_batch(recording_ids, target, top_k, filters))

    def classify(self, *asked: str | Path) -> Classification:
        """Class probabilities of one person's recordings: ids as text, files as Path."""
        return self._send(_classify(asked))

    def recordings(
        self,
        modality: Modality | None = None,
        subject: str | None = None,
        contains: str | None = None,
        limit: int = 50,
    ) -> StoredList:
        """Which recordings the index holds."""
        return self._send(_recordings(modality, subject, contains, limit))

    def recording(self, recording_id: str) -> StoredRecording:
        """One recording of the index."""
        return self._send(_recording(recording_id))

    def status(self) -> Status:
        """What is served."""
        return self._send(_Ask("GET", "/v1/status", _STATUS))

    def _send(self, ask: _Ask[_Answer]) -> _Answer:
        tries = _Tries(self._url, self._timeout_s)
        while True:
            outcome: httpx.Response | Exception
            try:
                outcome = self._http.request(ask.method, ask.path, timeout=tries.left_s, **ask.content)
            except _LOST as error:
                outcome = error
            wait_s = tries.wait_s(outcome)
            if wait_s is None:
                assert isinstance(outcome, httpx.Response)
                return self._read(ask, outcome)
            time.sleep(wait_s)


class AsyncClient(_Connection):
    """As Client, for asyncio; every method is awaited."""

    def __init__(self, url: str, key: str, timeout_s: float = 120.0, verify: bool | ssl.SSLContext = True) -> None:
        super().__init__(url, key, timeout_s)
        self._http = httpx.AsyncClient(base_url=self._url, headers=self._headers, verify=verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def search(
        self,
        *asked: str | Path,
        target: Modality,
        top_k: int = 10,
        filters: Filters | None = None,
        explain: bool = True,
    ) -> SearchAnswer:
        """As Client.search."""
        return await self._send(_search(asked, target, top_k, filters, explain))

    async def search_vector(
        self, vector: Sequence[float], target: Modality, top_k: int = 10, filters: Filters | None = None
    ) -> SearchAnswer:
        """As Client.search_vector."""
        return await self._send(_search_vector(vector, target, top_k, filters))

    async def search_batch(
        self, recording_ids: Sequence[str], target: Modality, top_k: int = 10, filters: Filters | None = None
    ) -> BatchAnswer:
        """As Client.search_batch."""
        return await self._send(_search_batch(recording_ids, target, top_k, filters))

    async def classify(self, *asked: str | Path) -> Classification:
        """As Client.classify."""
        return await self._send(_classify(asked))

    async def recordings(
        self,
        modality: Modality | None = None,
        subject: str | None = None,
        contains: str | None = None,
        limit: int = 50,
    ) -> StoredList:
        """As Client.recordings."""
        return await self._send(_recordings(modality, subject, contains, limit))

    async def recording(self, recording_id: str) -> StoredRecording:
        """As Client.recording."""
        return await self._send(_recording(recording_id))

    async def status(self) -> Status:
        """As Client.status."""
        return await self._send(_Ask("GET", "/v1/status", _STATUS))

    async def _send(self, ask: _Ask[_Answer]) -> _Answer:
        tries = _Tries(self._url, self._timeout_s)
        while True:
            outcome: httpx.Response | Exception
            try:
                async with asyncio.timeout(tries.left_s):  # httpx limits each read, not all of them
                    outcome = await self._http.request(ask.method, ask.path, timeout=tries.left_s, **ask.content)
            except (*_LOST, TimeoutError) as error:
                outcome = error
            wait_s = tries.wait_s(outcome)
            if wait_s is None:
                assert isinstance(outcome, httpx.Response)
                return self._read(ask, outcome)
            await asyncio.sleep(wait_s)


def _search(
    asked: Iterable[str | Path], target: Modality, top_k: int, filters: Filters | None, explain: bool
) -> _Ask[SearchAnswer]:
    fields = {**_fields(target, top_k, filters), "explain": explain}
    return _Ask("POST", "/v1/search", _SEARCH, _form(asked, fields))


def _search_vector(
    vector: Sequence[float], target: Modality, top_k: int, filters: Filters | None
) -> _Ask[SearchAnswer]:
    fields = {**_fields(target, top_k, filters), "vector": [float(number) for number in vector]}
    return _Ask("POST", "/v1/search/vector", _SEARCH, {"json": fields})


def _search_batch(
    recording_ids: Sequence[str], target: Modality, top_k: int, filters: Filters | None
) -> _Ask[BatchAnswer]:
    fields = {**_fields(target, top_k, filters), "recording_ids": list(recording_ids)}
    return _Ask("POST", "/v1/search/batch", _BATCH, {"json": fields})


def _classify(asked: Iterable[str | Path]) -> _Ask[Classification]:
    return _Ask("POST", "/v1/classify", _CLASSES, _form(asked, {}))


def _recordings(modality: Modality | None, subject: str | None, contains: str | None, limit: int) -> _Ask[StoredList]:
    wanted = {"modality": modality, "subject": subject, "contains": contains, "limit": limit}
    params = {name: value for name, value in wanted.items() if value is not None}
    return _Ask("GET", "/v1/recordings", _LIST, {"params": params})


def _recording(recording_id: str) -> _Ask[StoredRecording]:
    return _Ask("GET", f"/v1/recordings/{quote(recording_id, safe='')}", _ONE)


def _fields(target: Modality, top_k: int, filters: Filters | None) -> dict[str, Any]:
    chosen = {name: value for name, value in asdict(filters or Filters()).items() if value is not None}
    return {"target": target, "top_k": top_k, **chosen}


def _form(asked: Iterable[str | Path], fields: dict[str, Any]) -> dict[str, Any]:
    """Ids alone as JSON; with files, a form. No file is sent under its own name, which may say whose it is."""
    asked = list(asked)
    ids = [one for one in asked if isinstance(one, str)]
    if len(ids) == len(asked):
        return {"json": {**fields, "recording_id": ids}}
    parts = [("file", ("recording", _content(one))) for one in asked if isinstance(one, Path)]
    text = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()}
    return {"data": {**text, "recording_id": ids}, "files": parts}


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read: {error.strerror}") from error


def _detail(answer: httpx.Response) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(answer.json()["detail"])
    return f"status {answer.status_code} {answer.reason_phrase}".rstrip()


def _retry_after_s(answer: httpx.Response) -> float:
    """What the answer asks to wait, in seconds or as a date; 0 where it asks nothing."""
    asked = answer.headers.get("retry-after", "")
    if asked.isdigit():
        return float(asked)
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    return 0.0
