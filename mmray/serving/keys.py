"""API keys: serving/keys/NAME.json of the workspace, which replicas read again while they serve.

A key is printed once, when it is made; the file holds a digest that opens nothing. Two entries of one name are a
rotation: the older one ends when the overlap does.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from mmray.errors import ConfigError, MmrayError, WorkspaceError
from mmray.storage import Workspace

logger = logging.getLogger("ray.serve")

STARTED = "started"  # the name of the key given to, or made by, `mmray serve`
_PLACE = ("serving", "keys")  # a file a name: whoever changes one name cannot undo what another does to another
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
_DAY_S = 86400.0
_MOST_DAYS = 36_500  # a hundred years; a calendar ends, and NaN never comes


@dataclass(frozen=True)
class Key:
    """One entry.

    Attributes:
        sha256: of the key's `proof`, in hexadecimal digits.
        rate: requests a minute over all replicas; None for no limit.
        made: seconds of the epoch.
        expires: likewise; None for never.
    """

    name: str
    sha256: str
    rate: int | None = None
    made: float = 0.0
    expires: float | None = None

    def holds(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires


@dataclass(frozen=True)
class KeyList:
    """What `mmray keys list` prints."""

    keys: list[Key]

    def render(self) -> str:
        """A line a key."""
        if not self.keys:
            return "no keys; `mmray keys add NAME` makes one"
        now = time.time()
        return "\n".join(
            f"{key.name:<20} {'no limit' if key.rate is None else f'{key.rate}/min':<10} made {_date(key.made)}, "
            f"{_end(key, now)}, digest {key.sha256[:12]}"
            for key in self.keys
        )


@dataclass(frozen=True)
class MadeKey:
    """A key that was just made; nothing keeps it."""

    name: str
    key: str

    def render(self) -> str:
        """The key, and that it is told this once."""
        return f"{self.key}\nthe key of {self.name}; it is not shown again. Endpoints of this workspace take it at once"


@dataclass(frozen=True)
class Revoked:
    """What `mmray keys revoke` prints."""

    name: str

    def render(self) -> str:
        """One line."""
        return f"{self.name} is revoked; endpoints of this workspace refuse it within serve.refresh_s"


def proof(key: bytes) -> bytes:
    """What the page's cookie holds in place of the key: it opens this endpoint and tells nothing of the key."""
    return hmac.new(key, b"mmray page", hashlib.sha256).hexdigest().encode()


def digest(key: str) -> str:
    """What is kept of a key, from which neither it nor its cookie can be told; no file or store of Ray's has more."""
    return hashlib.sha256(proof(key.encode())).hexdigest()


def read(workspace: Workspace) -> list[Key]:
    """The workspace's keys, also expired ones.

    Raises:
        WorkspaceError: the file is not one of ours.
    """
    files = [name for name in workspace.names(*_PLACE) if name.endswith(".json")]
    return [key for name in files for key in _read(workspace, name.removesuffix(".json"))]


def _read(workspace: Workspace, name: str) -> list[Key]:
    """The entries of one name; none where it has none, or was revoked a moment ago."""
    place = _place(name)
    try:
        keys = [Key(**entry) for entry in workspace.read_json(*place)["keys"]]
        if any(key.name != name or len(bytes.fromhex(key.sha256)) != 32 for key in keys):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise WorkspaceError(
            f"workspace {workspace.root}: {'/'.join(place)} is damaged; remove it and make the key anew"
        ) from None
    except WorkspaceError:
        if not workspace.exists(*place):
            return []
        raise
    return keys


def _place(name: str) -> tuple[str, ...]:
    return (*_PLACE, f"{name}.json")


def add(workspace: Workspace, name: str, rate: int | None = None, expires_days: float | None = None) -> MadeKey:
    """Make a key.

    Args:
        rate: requests a minute; None for no limit.
        expires_days: from now; None for never.

    Raises:
        ConfigError: the name is taken or not of letters, digits, _ and -, or a number is out of range.
    """
    if not _NAME.fullmatch(name) or name == STARTED:
        raise ConfigError(f"keys: the name {name[:40]!r} is not 1 to 40 letters, digits, _ or -, or is {STARTED!r}")
    if (rate is not None and rate < 1) or (expires_days is not None and not 0 < expires_days <= _MOST_DAYS):
        raise ConfigError(f"keys: a rate is at least 1/min, and an expiry more than 0 and at most {_MOST_DAYS} days")
    if workspace.exists(*_place(name)):
        raise ConfigError(
            f"keys: {name} is there already; see `mmray keys rotate {name}` and `mmray keys revoke {name}`"
        )
    now = time.time()
    expires = None if expires_days is None else now + expires_days * _DAY_S
    return _write(workspace, [], Key(name, "", rate, now, expires))


def rotate(workspace: Workspace, name: str, overlap_hours: float = 24.0) -> MadeKey:
    """Make another key of a name, and let the old one end after the overlap; the new one lives as long as the old did.

    Raises:
        ConfigError: there is no key of this name, or the overlap is out of range.
    """
    if not 0 <= overlap_hours <= 24 * _MOST_DAYS:
        raise ConfigError(f"keys: an overlap of {overlap_hours:g} hours; it must be from 0 to {24 * _MOST_DAYS}")
    now = time.time()
    of_name = _read(workspace, name) if _NAME.fullmatch(name) else []
    if not of_name:
        raise ConfigError(f"keys: there is no key {name[:40]!r}; see `mmray keys list`")
    newest = of_name[-1]
    life_s = None if newest.expires is None else newest.expires - newest.made
    end = now + overlap_hours * 3600
    kept = [replace(key, expires=end if key.expires is None else min(end, key.expires)) for key in of_name]
    fresh = Key(name, "", newest.rate, now, None if life_s is None else now + life_s)
    return _write(workspace, [key for key in kept if key.holds(now)], fresh)


def revoke(workspace: Workspace, name: str) -> Revoked:
    """Remove every key of a name.

    Raises:
        ConfigError: there is none.
    """
    if not _NAME.fullmatch(name) or not workspace.exists(*_place(name)):
        raise ConfigError(f"keys: there is no key {name[:40]!r}; see `mmray keys list`")
    workspace.delete(*_place(name))
    return Revoked(name)


def listed(workspace: Workspace) -> KeyList:
    """What there is."""
    return KeyList(read(workspace))


class Bucket:
    """A token bucket that holds a minute's requests.

    Args:
        rate: requests a minute.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = max(1.0, rate)
        self._at = clock()

    def take(self) -> float:
        """Take one request's token: 0, or how many seconds until there is one."""
        now = self._clock()
        self._tokens = min(max(1.0, self.rate), self._tokens + (now - self._at) * self.rate / 60)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) * 60 / self.rate


class Keyring:
    """The keys a replica takes now: those it was started with, and the workspace's.

    Args:
        started: digest of the key the endpoint was started with; None where only the workspace's count.
        workspace: whose keys are read, now and at every `refresh`; None for none.
        replicas: how many share a key's rate.
    """

    def __init__(self, started: str | None, workspace: Workspace | None = None, replicas: int = 1) -> None:
        self._started = [] if started is None else [Key(STARTED, started)]
        self._workspace = workspace
        self._replicas = replicas
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()
        self._failed = ""
        self._keys: Sequence[tuple[bytes, Key]] = ()
        self._take_over([] if workspace is None else read(workspace))

    def refresh(self) -> None:
        """Read the workspace's keys again. Where they cannot be read, those read last stay."""
        if self._workspace is None:
            return
        try:
            self._take_over(read(self._workspace))
            self._failed = ""
        except (MmrayError, OSError) as error:
            if str(error) != self._failed:
                logger.error("keys not read again: %s", type(error).__name__)
            self._failed = str(error)

    def _take_over(self, keys: Sequence[Key]) -> None:
        every = [*self._started, *keys]
        with self._lock:
            for key in every:
                if key.rate is None:
                    self._buckets.pop(key.name, None)
                    continue
                share = key.rate / self._replicas
                if key.name not in self._buckets or self._buckets[key.name].rate != share:
                    self._buckets[key.name] = Bucket(share)
        self._keys = [(bytes.fromhex(key.sha256), key) for key in every]

    def find(self, given: Sequence[bytes], cookie: bytes) -> Key | None:
        """Whose key one of the given is, or whose cookie; every candidate is compared with every key.

        Args:
            given: what came where a key may stand.
            cookie: what came as the page's cookie.
        """
        proofs = [proof(candidate) for candidate in given if candidate] + ([cookie] if cookie else [])
        digests = [hashlib.sha256(one).digest() for one in proofs]
        now = time.time()
        found: Key | None = None
        for stored, key in self._keys:
            right = [hmac.compare_digest(candidate, stored) for candidate in digests]
            if any(right) and key.holds(now):
                found = key
        return found

    def wait_s(self, key: Key) -> float:
        """Count a request against the key's rate: 0, or in how many seconds to come back."""
        if key.rate is None:
            return 0.0
        with self._lock:
            bucket = self._buckets.get(key.name)
            return 0.0 if bucket is None else bucket.take()


def _write(workspace: Workspace, kept: list[Key], fresh: Key) -> MadeKey:
    key = secrets.token_urlsafe(32)
    entries = [asdict(entry) for entry in (*kept, replace(fresh, sha256=digest(key)))]
    workspace.write_json({"keys": entries}, *_place(fresh.name))
    return MadeKey(fresh.name, key)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _end(key: Key, now: float) -> str:
    if key.expires is None:
        return "no end"
    return f"{'ends' if key.holds(now) else 'EXPIRED'} {_date(key.expires)}"
