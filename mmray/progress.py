"""A progress bar on stderr: live on a terminal, a line every tenth where nobody watches (job logs, CI)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_AT_ONCE_S = 0.5


class Advance(Protocol):
    """Report that work was done."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """Move the bar by `steps`; `note` replaces the text behind it."""


@contextmanager
def bar(label: str, total: int) -> Iterator[Advance]:
    """Show progress of `total` steps while the block runs."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(label, total=total, note="")

            def advance(steps: int = 1, note: str = "") -> None:
                progress.update(task, advance=steps, note=note)

            yield advance
        return

    done, shown, kept, started = 0, 0, 0, time.monotonic()

    def advance_plain(steps: int = 1, note: str = "") -> None:
        nonlocal done, shown, kept
        done += steps
        elapsed = time.monotonic() - started
        if elapsed < _AT_ONCE_S:
            kept = done  # was there before; it says nothing of the pace
        tenth = 10 * done // max(total, 1)
        if tenth > shown and elapsed > 2:
            shown = tenth
            left = elapsed * (total - done) / (done - kept)
            pace = f"{note}{', ' if note else ''}{_span(left)} left" if done < total else note
            print(f"{label}: {done}/{total} {pace}".rstrip(), file=sys.stderr, flush=True)

    yield advance_plain


def _span(seconds: float) -> str:
    """A time in the unit that one would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
