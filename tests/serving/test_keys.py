"""Keys of a workspace: made once, kept as digests, ended by time, by rotation and by revocation."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from mmray.cli import main
from mmray.errors import ConfigError, WorkspaceError
from mmray.serving import keys
from mmray.serving.keys import Bucket, Key, Keyring
from mmray.storage import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


def name_of(ring: Keyring, key: str) -> str | None:
    found = ring.find([key.encode()], b"")
    return None if found is None else found.name


def test_no_file_of_the_workspace_holds_the_key_itself(workspace: Workspace, tmp_path: Path) -> None:
    made = keys.add(workspace, "clinic")
    assert len(made.key) >= 40
    text = (tmp_path / "serving" / "keys" / "clinic.json").read_text()
    assert made.key not in text
    assert json.loads(text)["keys"][0]["sha256"] == keys.digest(made.key)


def test_a_running_ring_takes_a_new_key_and_refuses_a_revoked_one_after_it_read_again(workspace: Workspace) -> None:
    ring = Keyring(keys.digest("the key at start"), workspace)
    made = keys.add(workspace, "clinic")
    assert name_of(ring, made.key) is None
    ring.refresh()
    assert name_of(ring, made.key) == "clinic"
    keys.revoke(workspace, "clinic")
    ring.refresh()
    assert name_of(ring, made.key) is None
    assert name_of(ring, "the key at start") == keys.STARTED


def test_both_keys_of_a_rotation_open_until_the_overlap_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = keys.add(workspace, "clinic", rate=60)
    new = keys.rotate(workspace, "clinic", overlap_hours=2)
    ring = Keyring(None, workspace)
    assert name_of(ring, old.key) == name_of(ring, new.key) == "clinic"
    assert [key.rate for key in keys.read(workspace)] == [60, 60]
    later = keys.time.time() + 2 * 3600 + 1
    monkeypatch.setattr(keys.time, "time", lambda: later)
    assert name_of(ring, old.key) is None
    assert name_of(ring, new.key) == "clinic"


def test_a_rotation_without_overlap_ends_the_old_key_at_once(workspace: Workspace) -> None:
    old = keys.add(workspace, "clinic")
    keys.rotate(workspace, "clinic", overlap_hours=0)
    assert name_of(Keyring(None, workspace), old.key) is None


def test_a_rotation_never_lengthens_the_old_keys_life(workspace: Workspace) -> None:
    keys.add(workspace, "clinic", expires_days=0.01)
    before = keys.read(workspace)[0].expires
    keys.rotate(workspace, "clinic", overlap_hours=48)
    old, new = keys.read(workspace)
    assert old.expires == before
    assert new.expires is not None
    assert new.expires - new.made == pytest.approx(0.01 * 86400)


def test_an_expired_key_opens_nothing(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = keys.add(workspace, "clinic", expires_days=1)
    ring = Keyring(None, workspace)
    assert name_of(ring, made.key) == "clinic"
    later = keys.time.time() + 86401
    monkeypatch.setattr(keys.time, "time", lambda: later)
    assert name_of(ring, made.key) is None
    assert "EXPIRED" in keys.listed(workspace).render()


def test_the_cookie_opens_and_is_neither_the_key_nor_its_digest(workspace: Workspace) -> None:
    made = keys.add(workspace, "clinic")
    ring = Keyring(None, workspace)
    cookie = keys.proof(made.key.encode())
    found = ring.find([], cookie)
    assert found is not None
    assert found.name == "clinic"
    assert made.key.encode() not in cookie
    assert ring.find([cookie], b"") is None  # as a key it opens nothing
    assert ring.find([], b"") is None


def test_who_reads_the_file_of_keys_can_make_neither_key_nor_cookie_of_it(workspace: Workspace) -> None:
    keys.add(workspace, "clinic")
    ring = Keyring(None, workspace)
    stored = keys.read(workspace)[0].sha256
    for kept in (stored.encode(), bytes.fromhex(stored)):
        for made in (kept, keys.proof(kept), keys.digest(stored).encode(), b"clinic." + keys.proof(kept)):
            assert ring.find([], made) is None
            assert ring.find([made], b"") is None


@pytest.mark.parametrize("number", ["nan", "inf", "9999999", "0", "-1"])
def test_an_end_that_no_calendar_has_is_refused(workspace: Workspace, number: str) -> None:
    with pytest.raises(ConfigError, match="an expiry more than 0"):
        keys.add(workspace, "clinic", expires_days=float(number))
    keys.add(workspace, "clinic")
    if number != "0":
        with pytest.raises(ConfigError, match="an overlap of"):
            keys.rotate(workspace, "clinic", overlap_hours=float(number))
    assert "clinic" in keys.listed(workspace).render()


def test_a_bucket_fills_again_at_its_rate() -> None:
    now = [0.0]
    bucket = Bucket(60 / 2, clock=lambda: now[0])
    assert [bucket.take() for _ in range(30)] == [0.0] * 30
    assert bucket.take() == pytest.approx(2.0)
    now[0] += 2
    assert bucket.take() == 0.0
    assert bucket.take() > 0


def test_a_replica_of_two_lets_half_of_a_keys_rate_through(workspace: Workspace) -> None:
    keys.add(workspace, "clinic", rate=4)
    ring = Keyring(None, workspace, replicas=2)
    (key,) = keys.read(workspace)
    assert [ring.wait_s(key) > 0 for _ in range(3)] == [False, False, True]


def test_a_bucket_that_rests_holds_no_more_than_a_minutes_requests() -> None:
    now = [0.0]
    bucket = Bucket(10, clock=lambda: now[0])
    now[0] += 3600
    assert sum(bucket.take() == 0 for _ in range(50)) == 10


def test_reading_again_gives_a_key_no_new_requests(workspace: Workspace) -> None:
    keys.add(workspace, "clinic", rate=2)
    ring = Keyring(None, workspace)
    (key,) = keys.read(workspace)
    assert [ring.wait_s(key) > 0 for _ in range(3)] == [False, False, True]
    ring.refresh()
    assert ring.wait_s(key) > 0
    assert ring.wait_s(Key("other", key.sha256)) == 0


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"keys": [{"name": "x"}]}', '{"keys": [{"name": "x", "sha256": "zz"}]}']
)
def test_a_damaged_file_refuses_the_start_and_leaves_a_running_ring_as_it_was(
    workspace: Workspace, content: str
) -> None:
    made = keys.add(workspace, "clinic")
    ring = Keyring(None, workspace)
    workspace.write_text(content, "serving", "keys", "clinic.json")
    ring.refresh()
    assert name_of(ring, made.key) == "clinic"
    with pytest.raises(WorkspaceError, match=r"keys/clinic\.json"):
        Keyring(None, workspace)


def test_those_who_make_and_revoke_at_once_undo_nothing_of_one_another(workspace: Workspace) -> None:
    left, gone = [f"left{n}" for n in range(40)], [f"gone{n}" for n in range(40)]
    for name in gone:
        keys.add(workspace, name)
    with ThreadPoolExecutor(8) as pool:
        for done in [*pool.map(partial(keys.add, workspace), left), *pool.map(partial(keys.revoke, workspace), gone)]:
            assert done
    assert {key.name for key in keys.read(workspace)} == set(left)


@pytest.mark.parametrize("name", ["../clinic", "serving/keys/clinic", ""])
def test_a_name_that_no_key_has_revokes_and_rotates_nothing(workspace: Workspace, name: str) -> None:
    keys.add(workspace, "clinic")
    for change in (keys.revoke, keys.rotate):
        with pytest.raises(ConfigError, match="there is no key"):
            change(workspace, name)
    assert [key.name for key in keys.read(workspace)] == ["clinic"]


@pytest.mark.parametrize("name", ["", "a b", "a.b", "../x", keys.STARTED, "x" * 41])
def test_a_name_that_would_not_fit_a_cookie_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(ConfigError, match="keys: "):
        keys.add(workspace, name)
    assert keys.read(workspace) == []


def test_the_command_line_makes_lists_rotates_and_revokes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--workspace", str(tmp_path)]
    assert main(["keys", "add", "clinic", "--rate", "60", "--expires", "30", "--json", *place]) == 0
    first = json.loads(capsys.readouterr().out)["key"]
    assert main(["keys", "add", "clinic", *place]) == 2
    assert main(["keys", "rotate", "clinic", "--overlap", "1", *place]) == 0
    second = capsys.readouterr().out.splitlines()[0]
    assert first != second
    assert main(["keys", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert listed.count("clinic") == 2
    assert "60/min" in listed
    assert first not in listed
    assert main(["keys", "revoke", "clinic", *place]) == 0
    assert main(["keys", "revoke", "clinic", *place]) == 2
    assert main(["keys", "rotate", "nobody", *place]) == 2
    assert keys.read(Workspace(str(tmp_path))) == []
