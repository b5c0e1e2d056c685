"""Interleaved timing of two ways to do one thing. Only ratios leave this file: machines differ, and drift."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Outcome:
    """What a benchmark found: `ratios[label]` is the alternative's time over ours, so more is better for us."""

    name: str
    ratios: dict[str, float] = field(default_factory=dict)
    bars: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    def compare(
        self,
        label: str,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        *,
        rounds: int,
        bar: float,
    ) -> None:
        """Time both sides in turn, each first in every other round, after one warm-up each; keep medians and spread.

        Args:
            label: names the comparison; units of work per call must be equal on both sides.
            ours: the path mmray uses.
            theirs: the alternative.
            rounds: pairs counted.
            bar: the ratio the project asks of itself.
        """
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        sides = [("ours", ours), ("theirs", theirs)]
        for round_ in range(-1, rounds):
            for name, side in sides if round_ % 2 else reversed(sides):
                gc.collect()
                start = time.perf_counter()
                side()
                if round_ >= 0:
                    seconds[name].append(time.perf_counter() - start)
        pairs = [theirs_s / ours_s for ours_s, theirs_s in zip(seconds["ours"], seconds["theirs"], strict=True)]
        self.ratios[label] = round(statistics.median(seconds["theirs"]) / statistics.median(seconds["ours"]), 3)
        self.bars[label] = bar
        self.detail[label] = {
            "ours_s": round(statistics.median(seconds["ours"]), 6),
            "theirs_s": round(statistics.median(seconds["theirs"]), 6),
            "pair_ratio_min": round(min(pairs), 3),
            "pair_ratio_max": round(max(pairs), 3),
            "rounds": rounds,
        }

    def as_json(self) -> dict[str, Any]:
        """The one object that --json prints."""
        return {
            "name": self.name,
            "ratios": self.ratios,
            "bars": self.bars,
            "detail": self.detail,
            "machine": machine(),
        }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cores": os.cpu_count(),
        "system": platform.system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }
