"""`mmray prepare` whose worker, raylet or driver is killed (SIGKILL) at random moments: are the rows the same?

Each kill has a workspace and a TMPDIR of its own. Moments are drawn evenly over the time in which an undisturbed run
had such a process, one in each of as many equal stretches as there are kills. Where the command does not end well by
itself, it is given again. A draw whose process is not there yet waits for it; one that finds it gone is drawn again,
over the times of the run that so went undisturbed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import Figure, Outcome
from mmray import config, progress
from mmray.config import Config, digest
from mmray.recordings import catalogue, synthetic
from mmray.storage import Workspace

TARGETS = ("worker", "raylet", "driver")
SEED = 0
_DRAWS = 4  # of one kill's moment, before it counts as one that met nothing
_PATIENCE = 8  # times an undisturbed run's seconds; a run that takes longer hangs
_LEAST_PATIENCE_S = 120.0  # Ray gives a raylet that does not answer 30 s
_GRACE_S = 60.0  # for Ray's processes to follow the one that was killed
_POLL_S = 0.05


@dataclass
class Run:
    """One `mmray prepare`, and what was seen of it.

    Attributes:
        code: its exit code; None: it hung.
        span_s: target -> when its first process was first seen, and its last one last, s since the start.
        killed: what the killed process was about; empty: none was.
        published: "before", "while" or "after" parts came to be: when the kill hit.
        orphans: processes that outlived the command by more than the grace, and were ended.
    """

    code: int | None = None
    seconds: float = 0.0
    span_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    killed: str = ""
    published: str = ""
    said: str = ""
    orphans: list[str] = field(default_factory=list)

    @property
    def typed(self) -> bool:
        """Whether it ended well, or with an error that is one line for a user."""
        return self.code == 0 or (self.code in (1, 2, 3, 4, 5) and self.said.startswith("mmray: "))


@dataclass
class Kill:
    """One kill and its consequences; `left` are files that should not be there, `differs` those that are not equal."""

    target: str
    moment_s: float
    first: Run
    second: Run | None
    differs: list[str]
    left: list[str]

    @property
    def runs(self) -> list[Run]:
        """The one that was killed, and the one after it if there was any."""
        return [self.first] if self.second is None else [self.first, self.second]

    @property
    def same(self) -> bool:
        """Whether preparation ended, and with the same rows."""
        return self.runs[-1].code == 0 and not self.differs


def run(*, quick: bool) -> Outcome:
    """Shares of kills, by target, after which the rows are the same, the end was told, and nothing was left."""
    outcome = Outcome("kills")
    folder = Path(tempfile.mkdtemp(prefix="mmk-"))  # short: Ray's sockets lie below
    try:
        settings = _settings(folder)
        _study(settings)
        undisturbed, contents = _undisturbed(folder, settings)
        count = 1 if quick else 10
        kills: list[Kill] = []
        with progress.bar("kills", count * len(TARGETS)) as advance:
            for target in TARGETS:
                draws = random.Random(f"{SEED} {target}")
                for number in range(count):
                    place = folder / f"{target[0]}{number}"
                    kills.append(_kill(place, settings, target, (number, count), draws, undisturbed, contents))
                    print(json.dumps(asdict(kills[-1])), file=sys.stderr, flush=True)
                    advance(note=target)
        _told(outcome, kills)
        outcome.detail |= {"seed": SEED, "undisturbed_s": undisturbed.seconds}
        outcome.detail["kills"] = [asdict(kill) for kill in kills]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _told(outcome: Outcome, kills: list[Kill]) -> None:
    for target in TARGETS:
        landed = [kill for kill in kills if kill.target == target and kill.first.killed]
        outcome.figures[f"same rows, {target} killed"] = _share([kill.same for kill in landed])
        if target != "driver":
            told = [kill.first.typed for kill in landed]
            outcome.figures[f"ended well or with an error in one line, {target} killed"] = _share(told)
        tidy = [not kill.left and not any(run.orphans for run in kill.runs) for kill in landed]
        outcome.figures[f"no file or process left, {target} killed"] = _share(tidy)
        outcome.detail[target] = {
            "kills": len(landed),
            "draws that met no process": sum(kill.target == target for kill in kills) - len(landed),
            "parts came to be": dict(Counter(kill.first.published for kill in landed)),
            "ended well by itself": sum(kill.first.code == 0 for kill in landed),
            "hung": sum(run.code is None for kill in landed for run in kill.runs),
            "ended with": dict(Counter(kill.first.said for kill in landed if kill.first.code)),
        }


def _share(held: list[bool]) -> Figure:
    if not held:
        return Figure(None, 1.0, None, detail={"not_measured": "no kill met a process"})
    value = round(sum(held) / len(held), 3)
    return Figure(value, 1.0, (value, value), unit=f"of {len(held)} kills", detail={"kills": len(held)})


def _settings(folder: Path) -> Config:
    return config.from_dict(
        {
            "workspace": f"{folder}/catalogued",
            "study": {"kind": "synthetic", "root": f"{folder}/study"},
            "synth": {"subjects": 4, "eeg_seconds": 8, "clips": 2, "clip_seconds": 4},
        }
    )


def _study(settings: Config) -> None:
    """Small recordings of both modalities, and a clip that was cut short."""
    synthetic.generate(settings.study.root, settings.synth, settings.seed, settings.cluster)
    catalogue.catalogue(settings)
    recordings = catalogue.load(Workspace(settings.workspace))
    os.truncate(next(recording.path for recording in recordings if recording.modality == "audio"), 4096)
    catalogue.catalogue(settings)


def _undisturbed(folder: Path, settings: Config) -> tuple[Run, dict[str, Any]]:
    place = _place(folder / "whole", settings)
    whole = _prepare(place, settings)
    if whole.code != 0 or whole.orphans or (left := _left(place)):
        raise RuntimeError(f"kills: an undisturbed run ended with {whole.code}, {whole.orphans}, {left}: {whole.said}")
    return whole, _contents(place, settings)


def _kill(
    place: Path,
    settings: Config,
    target: str,
    stretch: tuple[int, int],
    draws: random.Random,
    undisturbed: Run,
    contents: dict[str, Any],
) -> Kill:
    limit_s = max(_LEAST_PATIENCE_S, _PATIENCE * undisturbed.seconds)
    number, count = stretch
    for draw in range(_DRAWS):
        _place(place, settings)
        share = draws.random()
        first_s, last_s = undisturbed.span_s[target]
        moment_s = first_s + (last_s - first_s) * (share if draw else (number + share) / count)
        first = _prepare(place, settings, target, moment_s, draws, limit_s)
        if first.killed:
            break
        undisturbed.span_s |= first.span_s  # nothing disturbed this run either, and it has the machine's pace of now
    second = None if first.code == 0 else _prepare(place, settings, limit_s=limit_s)
    found = _contents(place, settings)
    differs = sorted(name for name in contents.keys() | found.keys() if contents.get(name) != found.get(name))
    return Kill(target, round(moment_s, 3), first, second, differs, _left(place))


def _place(place: Path, settings: Config) -> Path:
    """A workspace that holds the catalogue alone, and an empty TMPDIR."""
    shutil.rmtree(place, ignore_errors=True)
    (place / "t").mkdir(parents=True)
    (place / "ws").mkdir()
    shutil.copy(Path(settings.workspace, "recordings.parquet"), place / "ws")
    return place


def _prepare(
    place: Path,
    settings: Config,
    target: str = "",
    moment_s: float = 0.0,
    draws: random.Random | None = None,
    limit_s: float = 600.0,
) -> Run:
    """Run the command, kill one process of the target's once its moment has come, and see what is left running."""
    command = [str(Path(sys.executable).parent / "mmray"), "prepare", "--workspace", str(place / "ws")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    found, start = Run(), time.monotonic()
    seen: dict[psutil.Process, tuple[str, str]] = {}
    with open(place / "stderr", "wb") as told:
        driver = psutil.Popen(
            command,
            env=environment | {"TMPDIR": str(place / "t")},
            stdout=subprocess.DEVNULL,
            stderr=told,
            start_new_session=True,
        )
    while driver.poll() is None and time.monotonic() - start < limit_s:
        alive = _family(driver)
        now_s = time.monotonic() - start
        seen |= alive
        for kind in {kind for kind, _ in alive.values()} & set(TARGETS):
            found.span_s[kind] = (found.span_s.get(kind, (now_s, now_s))[0], now_s)
        if target and not found.killed and now_s >= moment_s:
            _strike(found, alive, target, draws or random.Random(), place, settings)
        time.sleep(_POLL_S)
    found.code, found.seconds = driver.poll(), round(time.monotonic() - start, 2)
    if found.code is None:
        driver.kill()
    driver.wait()
    seen.pop(driver, None)
    deadline = time.monotonic() + _GRACE_S
    while (orphans := [process for process in seen if _alive(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    found.orphans = [seen[process][1] for process in orphans]
    for process in orphans:
        if _alive(process):
            process.kill()
    lines = (place / "stderr").read_text(errors="replace").strip().splitlines()
    ours = [line for line in lines if line.startswith("mmray: ")]
    traced = any(line.startswith("Traceback") for line in lines)
    found.said = (ours[-1:] if ours and not traced else lines[-1:] or [""])[0][:400].replace(str(place), "...")
    return found


def _family(driver: psutil.Process) -> dict[psutil.Process, tuple[str, str]]:
    """The driver and its descendants: what each is, and what it calls itself."""
    alive: dict[psutil.Process, tuple[str, str]] = {}
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


def _strike(
    found: Run,
    alive: dict[psutil.Process, tuple[str, str]],
    target: str,
    draws: random.Random,
    place: Path,
    settings: Config,
) -> None:
    """Kill one process of the target's, of workers one at work where there is any."""
    chosen = [process for process, (kind, _) in alive.items() if kind == target]
    busy = [p for p in chosen if alive[p][1].startswith("ray::") and not alive[p][1].startswith("ray::IDLE")]
    if not chosen:
        return
    process = draws.choice(sorted(busy or chosen, key=lambda p: p.pid))
    features = place / "ws" / "features" / digest(settings.features)
    stage = "while" if any(features.glob("*/[!.]*.parquet")) else "before"
    found.published = "after" if (features / "parts.parquet").exists() else stage
    try:
        process.kill()
        found.killed = alive[process][1]
    except psutil.NoSuchProcess:
        return  # it ended by itself just now; another will be struck at the next look


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _contents(place: Path, settings: Config) -> dict[str, Any]:
    """Every file of the preparation, byte for byte; only provenance's counts differ rightly."""
    folder = place / "ws" / "features" / digest(settings.features)
    found: dict[str, Any] = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    if "provenance.json" in found:
        found["provenance.json"] = json.loads(found["provenance.json"])
        del found["provenance.json"]["counts"]
    return found


def _left(place: Path) -> list[str]:
    """Half-written files of the workspace, what is in TMPDIR, and Ray's shared memory that still has a name."""
    partials = [path.name for path in (place / "ws").rglob(".partial-*")]
    temporary = [str(path.relative_to(place)) for path in (place / "t").iterdir()]
    shared = [path.name for path in Path("/dev/shm").glob("plasma*")]
    return sorted([*partials, *temporary, *shared])
