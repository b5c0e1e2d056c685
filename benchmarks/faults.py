"""Every stage, disturbed at seeded random moments: does it end with the result of an undisturbed run?

On an embedded Ray a worker, the raylet or the command itself is killed (SIGKILL), or the disk is full. On a cluster of
three nodes on this machine (`loopback`) a node's raylet is killed, a node is drained as a spot loss and then gone, or
a node is cut off from the network; a new node is started at once, as an autoscaler would. A command that does not end
well by itself is given again, once. Each fault has a workspace and a TMPDIR of its own.

Moments are drawn over the time in which an undisturbed run had such a process at work. A draw whose process is not
there yet waits for it; one that finds it gone is drawn again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import loopback, stages
from benchmarks.harness import Figure, Outcome
from benchmarks.loopback import BIN, Loopback, Node, free_port
from benchmarks.stages import STAGES, TOLERANCE
from mmray import config, progress
from mmray.config import Config

SEED = 0
COUNT, QUICK = 50, 5
HERE, CLUSTER, APART = ("worker", "raylet", "driver", "disk"), ("node", "drain"), ("cut",)
KINDS = (*HERE, *CLUSTER, *APART)
KEY = "a key of the faults alone"
_NEVER = {
    ("serve", "disk"),  # writes nothing
    ("serve", "cut"),  # on loopback a replica refuses the front of another address, and so mmray refuses the cluster
}
_DRAWS = 4  # of one fault's moment, before it counts as one that met nothing
_LIMIT_S = 240.0  # a command that takes longer hangs
_GRACE_S = 60.0  # for Ray's processes to follow the one that was killed
_POLL_S = 0.1
_QUIET_S = 4.0  # an endpoint that answered well for so long has recovered
_NOTICE_S = 5  # between a drain's announcement and the node's end
_DISK_BYTES = 64 << 20
_FILLER = "filler"

Alive = dict[psutil.Process, tuple[str, str]]
Strike = Callable[[Alive], str]


@dataclass
class Run:
    """One command, and what was seen of it.

    Attributes:
        code: its exit code; None: it hung.
        span_s: target -> when its first process was at work first, and its last one last, s since the start.
        hit: what the fault met; empty: nothing was disturbed.
        hit_s: when, s since the start.
        good_s: when its result was there, s since the start.
        said: its last line for a user, or its last line.
        orphans: processes that outlived the command by more than the grace, and were ended.
        answer: an endpoint's last: recording and score of each match.
    """

    code: int | None = None
    seconds: float = 0.0
    span_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    hit: str = ""
    hit_s: float = 0.0
    good_s: float = 0.0
    said: str = ""
    orphans: list[str] = field(default_factory=list)
    answer: list[list[Any]] | None = None

    @property
    def typed(self) -> bool:
        """Whether it ended well, or with an error that is one line for a user."""
        return self.code == 0 or (self.code in (1, 2, 3, 4, 5, 6) and self.said.startswith("mmray: "))


@dataclass
class Fault:
    """One fault and its consequences.

    Attributes:
        moment: s since the command's start; of a full disk, the bytes that were left.
        runs: the command that was disturbed, and the one after it if there was any.
        differs: names of what is not as the undisturbed run left it -> largest difference.
        lost, doubled: rows of features.
        left: half-written and temporary files that should not be there.
        recovery_s: from the fault to the right result.
    """

    number: int
    stage: str
    kind: str
    moment: float
    runs: list[Run]
    differs: dict[str, float]
    lost: int
    doubled: int
    left: list[str]
    recovery_s: float

    @property
    def landed(self) -> bool:
        """Whether it met anything."""
        return bool(self.runs[0].hit)

    @property
    def same(self) -> bool:
        """Whether the stage ended, and with the undisturbed run's result."""
        return self.runs[-1].code == 0 and not self.differs and not self.lost and not self.doubled

    @property
    def told(self) -> bool:
        """Whether every command that could say how it ended did: well, or in one line."""
        return all(run.typed for run in self.runs[(self.kind == "driver") :])

    @property
    def tidy(self) -> bool:
        """Whether nothing was left: no half-written file, no temporary folder, no process."""
        return not self.left and not any(run.orphans for run in self.runs)


@dataclass
class Undisturbed:
    """What faults are measured against.

    Attributes:
        settings: of the study.
        before: stage -> the workspace as it was before that stage.
        whole: stage -> what it leaves.
        runs: (stage, on a cluster) -> the command.
        bytes_left: stage -> by how much the workspace grows.
        asked: recording that an endpoint is asked with.
    """

    folder: Path
    settings: Config
    before: dict[str, Path] = field(default_factory=dict)
    whole: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[tuple[str, bool], Run] = field(default_factory=dict)
    bytes_left: dict[str, int] = field(default_factory=dict)
    asked: str = ""


def run(*, quick: bool) -> Outcome:
    """Shares of faults, by kind, after which the result is the same, the end was told, and nothing was left."""
    outcome = Outcome("faults")
    folder = Path(tempfile.mkdtemp(prefix="mmf-"))  # short: Ray's sockets lie below
    done: list[Fault] = []
    try:
        undisturbed = measured(folder)
        chosen = drawn(QUICK, HERE) if quick else drawn(COUNT, KINDS)
        with progress.bar("faults", len(chosen)) as advance:
            for kinds in (HERE, CLUSTER, APART):
                part = [one for one in chosen if one[2] in kinds]
                for fault in _disturbed(undisturbed, part, kinds):
                    done.append(fault)
                    print(json.dumps(asdict(fault)), file=sys.stderr, flush=True)
                    advance(note=f"{fault.stage}, {fault.kind}")
        _judge(outcome, done)
        outcome.detail |= {"seed": SEED, "faults": [asdict(fault) for fault in done]}
        outcome.detail["undisturbed_s"] = {
            f"{stage}{' on a cluster' if there else ''}": run.good_s for (stage, there), run in undisturbed.runs.items()
        }
        Console(stderr=True).print(_table(done))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def drawn(count: int, kinds: tuple[str, ...]) -> list[tuple[int, str, str]]:
    """Number, stage and kind of so many faults: every pair once in a drawn order, then again."""
    pairs = [(stage, kind) for stage in STAGES for kind in kinds if (stage, kind) not in _NEVER]
    lot = random.Random(SEED)
    order: list[tuple[str, str]] = []
    while len(order) < count:
        order += lot.sample(pairs, len(pairs))
    return [(number, *pair) for number, pair in enumerate(order[:count])]


def _disturbed(undisturbed: Undisturbed, chosen: list[tuple[int, str, str]], kinds: tuple[str, ...]) -> Iterator[Fault]:
    if not chosen or (kinds is APART and not loopback.can_stand_apart()):
        return
    with ExitStack() as stack:
        there = None if kinds is HERE else stack.enter_context(loopback.cluster(apart=kinds is APART))
        for number, stage, kind in chosen:
            if there is not None and (stage, True) not in undisturbed.runs:
                calm = disturb(undisturbed, number, stage, "", there)
                if not calm.same:
                    raise RuntimeError(f"faults: {stage} undisturbed on a cluster: {calm}")
                undisturbed.runs[stage, True] = calm.runs[0]
            yield disturb(undisturbed, number, stage, kind, there)


def measured(folder: Path, only: tuple[str, ...] = STAGES) -> Undisturbed:
    """Every stage once on an embedded Ray, with nothing in its way.

    Args:
        only: the stages that are wanted, in order, from the first on.

    Raises:
        RuntimeError: one of them fails.
    """
    settings = stages.settings_of(folder)
    found = Undisturbed(folder, settings)
    stages.make_study(settings)
    workspace = Path(settings.workspace)
    for stage in only:
        found.before[stage] = folder / f"before-{stage}"
        if stage == "recordings":
            found.before[stage].mkdir()
        else:
            stages.copied(workspace, found.before[stage])
        place = _place(folder / "calm", found.before[stage])
        given = _given(settings, stage, place)
        ended = _given_once(found, given, stage, _embedded(place))
        left = [*stages.partials(place), *_temporary(place)]
        if ended.code != 0 or ended.orphans or left:
            raise RuntimeError(f"faults: {stage} undisturbed: {ended}, {left}")
        found.runs[stage, False] = ended
        found.whole[stage] = _left_by(stage, given, ended)
        if stage == "serve":
            continue
        found.bytes_left[stage] = _size(place / "ws") - _size(found.before[stage])
        if stage != "recordings":
            shutil.rmtree(workspace)
            shutil.move(place / "ws", workspace)
        if stage == "index":
            found.asked = min(found.whole[stage]["eeg"])
    return found


def disturb(
    undisturbed: Undisturbed,
    number: int,
    stage: str,
    kind: str,
    there: Loopback | None,
    *,
    moment: float | None = None,
    after: str = "",
) -> Fault:
    """One fault of a stage: its command, given again where it did not end well, and what is there then.

    Args:
        kind: one of KINDS; empty: none, for a calm run.
        there: the cluster; None: an embedded Ray.
        moment: s since the command's start, or bytes that a full disk has left; None: drawn by the fault's number.
        after: files of the workspace, as a pattern, of which one must be there before anything happens.
    """
    lot = random.Random(f"{SEED} {number}")
    place = undisturbed.folder / f"{number}"
    around = _embedded(place) if there is None else _joined(place, there)
    for _ in range(_DRAWS):
        at = _drawn_moment(undisturbed, stage, kind, lot) if moment is None else moment
        _place(place, undisturbed.before[stage])
        given = _given(undisturbed.settings, stage, place)
        with ExitStack() as stack:
            if kind == "disk":
                at = stack.enter_context(_small_disk(place / "ws", undisturbed.before[stage], at))
            strike = stack.enter_context(_striker(kind, stage, lot, there))
            ready = (lambda: any((place / "ws").glob(after))) if after else (lambda: True)
            runs = [_given_once(undisturbed, given, stage, around, strike, at, ready)]
            if kind == "disk":
                runs[0].hit = "full" if runs[0].code != 0 else ""
                (place / "ws" / _FILLER).unlink()
            if runs[0].code != 0:
                runs.append(_given_once(undisturbed, given, stage, around))
            found = _left_by(stage, given, runs[-1])
            lost, doubled = (0, 0) if stage == "recordings" else stages.lost_and_doubled(undisturbed.settings, given)
            left = stages.partials(place / "ws")
        if runs[0].hit or not kind:
            break
        if kind != "disk":  # nothing disturbed it, and it has the machine's pace of now
            undisturbed.runs[stage, there is not None].span_s |= runs[0].span_s
    if there is None:
        left += _temporary(place)
    shutil.rmtree(place, ignore_errors=True)
    took_s = runs[-1].good_s if len(runs) == 1 else runs[0].seconds + runs[1].good_s
    return Fault(
        number,
        stage,
        kind,
        round(at, 2),
        runs,
        stages.differing(undisturbed.whole[stage], found),
        lost,
        doubled,
        left,
        round(max(0.0, took_s - runs[0].hit_s), 2),
    )


def _left_by(stage: str, given: Config, ended: Run) -> dict[str, Any]:
    return {"answer": ended.answer} if stage == "serve" else stages.contents(stage, given)


def _drawn_moment(undisturbed: Undisturbed, stage: str, kind: str, lot: random.Random) -> float:
    """Seconds since the start; of a full disk, the bytes that are left of those that the stage would write."""
    share = lot.random()
    if kind == "disk":
        return share * undisturbed.bytes_left[stage]
    calm = undisturbed.runs[stage, kind in (*CLUSTER, *APART)] if kind else Run()
    first_s, last_s = calm.span_s.get(kind if kind in HERE else "worker", (0.0, calm.good_s))
    return first_s + (last_s - first_s) * share


def _given(settings: Config, stage: str, place: Path) -> Config:
    """The stage's settings in its place, and the file that the command reads."""
    given = stages.of_stage(settings, stage, str(place / "ws"))
    if stage == "serve":
        given = config.laid_over(given, {"serve.port": free_port()})
    (place / "config.yaml").write_text(config.to_yaml(given), encoding="utf-8")
    return given


def _place(place: Path, before: Path) -> Path:
    """A workspace as before the stage, and an empty TMPDIR."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "t").mkdir(parents=True)
    stages.copied(before, place / "ws")
    return place


@contextmanager
def _small_disk(workspace: Path, before: Path, room: float) -> Iterator[float]:
    """The workspace on a disk of its own with so many bytes left; needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", workspace], check=True)
    try:
        stages.copied(before, workspace)
        free = os.statvfs(workspace).f_bavail * os.statvfs(workspace).f_frsize
        with (workspace / _FILLER).open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(1, free - int(room)))
        yield float(os.statvfs(workspace).f_bavail * os.statvfs(workspace).f_frsize)
    finally:
        subprocess.run(["umount", "--lazy", workspace], check=True)


@dataclass(frozen=True)
class _Around:
    """Where a command runs.

    Attributes:
        there: None: it starts an embedded Ray.
    """

    place: Path
    environment: dict[str, str]
    there: Loopback | None

    def look(self, driver: psutil.Process) -> Alive:
        """The processes that a fault can meet: what each is, and what it calls itself."""
        return _family(driver) if self.there is None else {driver: ("driver", "driver"), **_members(self.there)}


def _embedded(place: Path) -> _Around:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return _Around(place, environment | {"TMPDIR": str(place / "t"), "MMRAY_KEY": KEY}, None)


def _joined(place: Path, there: Loopback) -> _Around:
    own = {"TMPDIR": str(place / "t"), "MMRAY_KEY": KEY, "RAY_ADDRESS": there.address}
    return _Around(place, there.environment | own, there)


def _family(driver: psutil.Process) -> Alive:
    """The command and its descendants."""
    alive: Alive = {}
    try:
        for process in driver.children(recursive=True):
            with process.oneshot():
                title = " ".join(process.cmdline())
                if process.name() == "raylet" and process.ppid() == driver.pid:
                    alive[process] = "raylet", "raylet"
                elif "/default_worker.py --node" in title or (title.startswith("ray::") and "Agent" not in title):
                    alive[process] = "worker", title[:60].strip()
                else:
                    alive[process] = "other", (title or process.name())[-60:]
    except psutil.Error:
        pass  # one ended while it was looked at; the next look sees the others
    return alive | {driver: ("driver", "driver")}


def _members(there: Loopback) -> Alive:
    """The working nodes' processes that do a stage's work."""
    alive: Alive = {}
    for node in there.workers:
        for process in node.processes():
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if _busy(title):
                    alive[process] = "worker", title[:60].strip()
    return alive


def _busy(title: str) -> bool:
    return title.startswith("ray::") and not title.startswith("ray::IDLE") and "Agent" not in title


@contextmanager
def _striker(kind: str, stage: str, lot: random.Random, there: Loopback | None) -> Iterator[Strike | None]:
    """What makes the fault, once; when the block ends, the cluster is whole again."""
    if kind in ("", "disk"):
        yield None
    elif there is None:
        yield lambda alive: _killed(alive, kind, lot)
    else:
        with _loss(kind, stage, lot, there) as strike:
            yield strike


def _killed(alive: Alive, kind: str, lot: random.Random) -> str:
    """Kill a process of this kind, of workers one at work where there is any; what it was about."""
    chosen = [process for process, (what, _) in alive.items() if what == kind]
    busy = [process for process in chosen if _busy(alive[process][1])]
    if not chosen:
        return ""
    process = lot.choice(sorted(busy or chosen, key=lambda one: one.pid))
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return ""  # it ended by itself just now; another is struck at the next look
    return alive[process][1]


@contextmanager
def _loss(kind: str, stage: str, lot: random.Random, there: Loopback) -> Iterator[Strike]:
    """A node that works is lost, and a new one started."""
    lost: list[Node] = []
    after: list[threading.Thread] = []

    def strike(alive: Alive) -> str:
        needed = {"train": "TrainWorker", "serve": "ServeReplica"}.get(stage, "")
        held = {process: title for process, (what, title) in alive.items() if what == "worker" and needed in title}
        nodes = {node: [held[p] for p in node.processes() if p in held] for node in there.workers}
        chosen = [node for node, work in nodes.items() if work and (node.apart or kind != "cut")]
        if not chosen:
            return ""
        node = lot.choice(chosen)
        lost.append(node)
        if kind == "node":
            there.kill_raylet(node)
        elif kind == "cut":
            there.cut(node)
        else:
            there.drain(node, _NOTICE_S)
            timer = threading.Timer(_NOTICE_S, node.end)
            timer.start()
            after.append(timer)
        there.add()
        return f"{node.name}: {', '.join(sorted(nodes[node]))}"

    try:
        yield strike
    finally:
        for timer in after:
            timer.join()
        for node in lost:
            there.end(node)
            if node.apart:  # who stood in for it makes room for one that can be cut off again
                there.end(there.workers[-1])
                there.add(apart=True)
        there.wait()


def _given_once(
    undisturbed: Undisturbed,
    given: Config,
    stage: str,
    around: _Around,
    strike: Strike | None = None,
    moment_s: float = 0.0,
    ready: Callable[[], bool] = lambda: True,
) -> Run:
    """Run the stage's command, strike once its moment has come, and see how it ends and what it leaves running."""
    command = [str(BIN / "mmray"), stage, "--config", str(around.place / "config.yaml")]
    if around.there is not None:
        command += ["--set", "cluster.worker_cpus=1.5"]  # a node holds one such worker, so that two need two
    found, start = Run(), time.monotonic()
    seen: Alive = {}
    endpoint = _Endpoint(undisturbed, given) if stage == "serve" else None
    with open(around.place / "stderr", "wb") as told:
        driver = psutil.Popen(
            command,
            cwd=around.place,
            env=around.environment,
            stdout=subprocess.DEVNULL,
            stderr=told,
            start_new_session=True,
        )
    while (now_s := time.monotonic() - start) < _LIMIT_S:
        ended = driver.poll() is not None
        if ended and (endpoint is None or driver.returncode != 0 or around.there is None):
            break
        if around.there is None or (strike is not None and not found.hit) or (stage, True) not in undisturbed.runs:
            alive = around.look(driver)
            seen |= alive if around.there is None else {}
            _note_spans(found, alive, now_s)
            if strike is not None and not found.hit and now_s >= moment_s and ready():
                found.hit = strike(alive)
                found.hit_s = round(now_s, 2)
        if endpoint is not None:
            waits = strike is not None and not found.hit and now_s < moment_s + 1
            if endpoint.quiet_s(start, found) >= (_QUIET_S if around.there is None else 2 * _QUIET_S) and not waits:
                break
        time.sleep(_POLL_S)
    found.seconds = round(time.monotonic() - start, 2)
    found.code = driver.poll()
    if endpoint is None:
        found.good_s = found.seconds
    elif found.answer is not None and found.code in (None, 0):
        found.code = _closed(driver, around.there)
    if driver.poll() is None:
        driver.kill()
    driver.wait()
    seen.pop(driver, None)
    found.orphans = _ended(list(seen), seen)
    found.said = _said(around.place)
    return found


def _note_spans(found: Run, alive: Alive, now_s: float) -> None:
    """Of workers, only the time in which one was at work."""
    for kind in {kind for kind, title in alive.values() if kind != "worker" or _busy(title)} & set(HERE):
        found.span_s[kind] = (found.span_s.get(kind, (now_s, now_s))[0], now_s)


class _Endpoint:
    """An endpoint that is asked again and again."""

    def __init__(self, undisturbed: Undisturbed, given: Config) -> None:
        self._wanted = undisturbed.whole.get("serve", {}).get("answer")
        self._url = f"http://127.0.0.1:{given.serve.port}/v1/search"
        self._asked = {"recording_id": undisturbed.asked, "target": "audio", "top_k": "5"}

    def quiet_s(self, start: float, found: Run) -> float:
        """Ask; seconds, of those after the fault, for which every answer was right, the first of them noted."""
        found.answer = self._answer()
        if found.answer is None or (self._wanted and stages.distance(self._wanted, found.answer) > TOLERANCE):
            found.good_s = 0.0
            return 0.0
        now_s = time.monotonic() - start
        found.good_s = found.good_s or round(now_s, 2)
        return now_s - max(found.good_s, found.hit_s)

    def _answer(self) -> list[list[Any]] | None:
        try:
            told = httpx.post(self._url, data=self._asked, headers={"X-API-Key": KEY}, timeout=5)
        except httpx.HTTPError:
            return None
        if told.status_code != 200:
            return None
        return [[match["recording_id"], match["score"]] for match in told.json()["matches"]]


def _closed(driver: psutil.Popen, there: Loopback | None) -> int | None:
    """End an endpoint as its user would; the command's exit code."""
    if there is None:
        driver.send_signal(signal.SIGINT)
    else:
        there.stop_serving()
    with suppress(psutil.TimeoutExpired):
        driver.wait(_GRACE_S)
    code: int | None = driver.poll()
    return code


def _ended(processes: list[psutil.Process], known: Alive) -> list[str]:
    """Those that do not end by themselves within the grace, ended."""
    deadline = time.monotonic() + _GRACE_S
    while (orphans := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for process in orphans:
        with suppress(psutil.Error):
            process.kill()
    return [known[process][1] for process in orphans]


def _said(place: Path) -> str:
    """The last line for a user, or the last line where there is a traceback."""
    lines = (place / "stderr").read_text(errors="replace").strip().splitlines()
    ours = [line for line in lines if line.startswith("mmray: ")]
    traced = any(line.startswith("Traceback") for line in lines)
    return (ours[-1:] if ours and not traced else lines[-1:] or [""])[0][:400].replace(str(place), "...")


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _temporary(place: Path) -> list[str]:
    """What is in TMPDIR, but for the cache that torch keeps there for the next process."""
    return sorted(path.name for path in (place / "t").iterdir() if not path.name.startswith("torchinductor_"))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _judge(outcome: Outcome, faults: list[Fault]) -> None:
    for kind in dict.fromkeys(fault.kind for fault in faults):
        landed = [fault for fault in faults if fault.kind == kind and fault.landed]
        outcome.figures[f"same result, {kind}"] = _share([fault.same for fault in landed])
        outcome.figures[f"ended well or with an error in one line, {kind}"] = _share([fault.told for fault in landed])
        outcome.figures[f"nothing left behind, {kind}"] = _share([fault.tidy for fault in landed])
        outcome.detail[kind] = {
            "faults": len(landed),
            "draws that met nothing": sum(fault.kind == kind for fault in faults) - len(landed),
            "ended well by itself": sum(fault.runs[0].code == 0 for fault in landed),
            "hung": sum(run.code is None for fault in landed for run in fault.runs),
            "ended with": sorted({fault.runs[0].said for fault in landed if fault.runs[0].code}),
        }
    landed = [fault for fault in faults if fault.landed]
    if landed:
        worst = sum(fault.lost + fault.doubled for fault in landed)
        each = [fault.lost + fault.doubled for fault in landed]
        outcome.figures["rows lost or doubled"] = Figure(
            worst, 0, (min(each), max(each)), at_most=True, unit="rows", detail={"faults": len(landed)}
        )


def _share(held: list[bool]) -> Figure:
    if not held:
        return Figure(None, 1.0, None, detail={"not_measured": "no fault met anything"})
    value = round(sum(held) / len(held), 3)
    return Figure(value, 1.0, (value, value), unit=f"of {len(held)} faults", detail={"faults": len(held)})


def _table(faults: list[Fault]) -> Table:
    """By stage and kind, as docs/faults.md has it."""
    shown = Table("stage", "fault", "times", "same result", "by itself", "recovery, s", box=box.MARKDOWN)
    for stage in STAGES:
        for kind in KINDS:
            here = [fault for fault in faults if (fault.stage, fault.kind) == (stage, kind) and fault.landed]
            if here:
                counts = (sum(fault.same for fault in here), sum(fault.runs[0].code == 0 for fault in here))
                recovery = ", ".join(f"{fault.recovery_s:.0f}" for fault in here)
                shown.add_row(stage, kind, str(len(here)), *map(str, counts), recovery)
    return shown
