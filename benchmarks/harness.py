"""Interleaved timing of two ways to do one thing. Only ratios and exponents are judged: machines differ, and drift."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmray import progress
from mmray.quota import usable_cores


@dataclass(frozen=True)
class Figure:
    """One figure and the bar it has to reach.

    Attributes:
        value: None where this machine cannot measure it; `detail` then says why.
        at_most: the bar is an upper one.
        spread: least and greatest of the figure over its pairs.
        note: what the line of text says besides.
    """

    value: float | None
    bar: float
    spread: tuple[float, float] | None
    at_most: bool = False
    unit: str = "x"
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.bar if self.at_most else self.value >= self.bar

    def as_json(self) -> dict[str, Any]:
        """Every figure has these keys, measured or not."""
        return {
            "value": self.value,
            "bar": self.bar,
            "bar_is": "at most" if self.at_most else "at least",
            "met": self.met,
            "spread": None if self.spread is None else list(self.spread),
            "unit": self.unit,
            "detail": self.detail,
        }

    def as_text(self) -> str:
        """One line."""
        bar = f"bar at {'most' if self.at_most else 'least'} {self.bar:.2f}"
        if self.value is None or self.spread is None:
            return f"not measured ({self.detail['not_measured']}), {bar}"
        least, most = self.spread
        verdict = "met" if self.met else "MISSED"
        return f"{self.value:.2f} {self.unit} (pairs {least:.2f} to {most:.2f}), {bar}: {verdict}{self.note}"


@dataclass
class Outcome:
    """What a benchmark found."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    def compare(
        self,
        label: str,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        *,
        rounds: int,
        bar: float,
        names: tuple[str, str] = ("ours", "theirs"),
    ) -> None:
        """Time both sides in turn, each first in every other round, after one warm-up each; keep medians and spread.

        The figure is the alternative's time over ours, so more is better for us.

        Args:
            label: names the comparison; units of work per call must be equal on both sides.
            ours: the path mmray uses.
            theirs: the alternative.
            rounds: pairs counted.
            bar: the ratio the project asks of itself.
            names: of both sides, in the detail.
        """
        seconds: tuple[list[float], list[float]] = ([], [])
        with progress.bar(f"{self.name}: {label}", rounds + 1) as advance:
            for round_ in range(-1, rounds):
                for side in (0, 1) if round_ % 2 else (1, 0):
                    gc.collect()
                    took = timed((ours, theirs)[side])
                    if round_ >= 0:
                        seconds[side].append(took)
                advance()
        pairs = [theirs_s / ours_s for ours_s, theirs_s in zip(*seconds, strict=True)]
        medians = [statistics.median(side) for side in seconds]
        self.figures[label] = Figure(
            round(medians[1] / medians[0], 3),
            bar,
            (round(min(pairs), 3), round(max(pairs), 3)),
            detail={f"{name}_s": round(median, 6) for name, median in zip(names, medians, strict=True)}
            | {"rounds": rounds},
        )

    def rate(self, label: str, seconds: Mapping[str, Sequence[float]], bars: Mapping[str, float]) -> None:
        """A figure an alternative, from times taken round by round: its median time over that of the side "ours".

        Args:
            label: of the figures, before the alternative's name.
            seconds: side -> seconds of each round.
            bars: alternative -> the ratio the project asks of itself.
        """
        for side, bar in bars.items():
            pairs = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[side], strict=True)]
            value = statistics.median(seconds[side]) / statistics.median(seconds["ours"])
            spread = (round(min(pairs), 3), round(max(pairs), 3))
            self.figures[f"{label} {side}"] = Figure(round(value, 3), bar, spread, detail={"rounds": len(pairs)})

    def as_json(self) -> dict[str, Any]:
        """The one object that --json prints."""
        return {
            "name": self.name,
            "figures": {label: figure.as_json() for label, figure in self.figures.items()},
            "detail": self.detail,
            "machine": machine(),
        }


def growth(sizes: Sequence[float], costs: Sequence[float], *, bar: float, unit: str) -> Figure:
    """How a cost grows with a size: the exponent of the power law through all points, and in detail a straight line.

    The spread is of the exponents between neighbouring sizes: a constant part, which hides a quadratic one from the
    whole fit, hides it least between the largest two.

    Args:
        sizes: ascending, at least two.
        costs: positive, one a size.
        bar: the largest exponent that passes; 1 is linear.
        unit: of the costs.
    """
    size_C, cost_C = np.asarray(sizes, float), np.asarray(costs, float)
    exponent, factor = np.polyfit(np.log(size_C), np.log(cost_C), 1)
    slope, intercept = np.polyfit(size_C, cost_C, 1)
    power_r2 = _r2(np.log(cost_C), exponent * np.log(size_C) + factor)
    line_r2 = _r2(cost_C, slope * size_C + intercept)
    steps_C = np.diff(np.log(cost_C)) / np.diff(np.log(size_C))
    shown = ", ".join(f"{size:g}: {cost:.4g}" for size, cost in zip(sizes, costs, strict=True))
    return Figure(
        round(float(exponent), 3),
        bar,
        (round(float(steps_C.min()), 3), round(float(steps_C.max()), 3)),
        at_most=True,
        unit="exponent",
        note=f"; R2 {power_r2:.4f}; line {intercept:.3g} + {slope:.3g} n, R2 {line_r2:.4f}; {unit} at {shown}",
        detail={
            "costs": {f"{size:g}": round(cost, 4) for size, cost in zip(sizes, costs, strict=True)},
            "cost_unit": unit,
            "power_law_r2": round(power_r2, 4),
            "line": {"slope": float(f"{slope:.4g}"), "intercept": float(f"{intercept:.4g}"), "r2": round(line_r2, 4)},
        },
    )


def timed(work: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What the figures were taken on, and how busy it is: a load beyond this process's own takes from both sides."""
    return {
        "cores": usable_cores(),
        "load_1min": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "processor": platform.machine(),
        "python": platform.python_version(),
    }


def _r2(found: np.typing.NDArray[np.float64], fitted: np.typing.NDArray[np.float64]) -> float:
    return float(1 - ((found - fitted) ** 2).sum() / ((found - found.mean()) ** 2).sum())
