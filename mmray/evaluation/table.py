"""Figures in words and as a terminal table, chance beside every figure."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mmray.schema import Metric

SIGNIFICANT = 0.05
_COLUMNS = ("R@1", "R@5", "R@10", "MRR", "median_rank", "mAP")


def render(metrics: list[Metric]) -> RenderableType:
    """Retrieval and classification tables that fit 80 columns; the lower, dim line of a cell is its chance level.

    Below a row's direction stand its queries and its own gallery: a person's own pairs are fewer than everybody's.
    """
    parts: list[RenderableType] = [Text(verdict(metrics), style="bold")]
    if any(metric.task == "retrieval" for metric in metrics):
        parts.append(_retrieval(metrics))
    if any(metric.task == "classification" for metric in metrics):
        parts.append(_classification(metrics))
    return Group(*parts)


def verdict(metrics: list[Metric]) -> str:
    """One sentence on R@1 of unseen subjects in each direction: the figure, chance, and whether they differ.

    Of a study that pairs trials or windows, ranked among all of them and among each subject's own.
    """
    found = [m for m in metrics if (m.task, m.metric) == ("retrieval", "R@1") and m.level != "segment"]
    if not found:
        return "No retrieval figure: fewer than two test subjects have both modalities."
    return "; ".join(_claim(metric) for metric in found) + "."


def share_of_ceiling(metric: Metric) -> float | None:
    """How far the figure is from chance, at 0, to the oracle's, at 1; None without one that beats chance."""
    return of_the_way(metric.value, metric.chance, metric.ceiling)


def of_the_way(value: float, chance: float | None, ceiling: float | None) -> float | None:
    """(value - chance) / (ceiling - chance): a system at chance has nothing, which a plain ratio would hide."""
    floor = chance or 0.0
    return None if ceiling is None or ceiling <= floor else (value - floor) / (ceiling - floor)


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table cell; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(metric: Metric | None, digits: int = 2) -> str:
    """The 95 % interval for a table cell."""
    if metric is None or metric.ci_low is None:
        return "-"
    return f"{number(metric.ci_low, digits)}-{number(metric.ci_high, digits)}"


def p_text(p_value: float | None) -> str:
    """A p-value to two significant digits."""
    return "-" if p_value is None else f"{p_value:.2g}"


def groups(metrics: Iterable[Metric]) -> dict[tuple[str, str, str], dict[str, Metric]]:
    """Figures by (task, direction, level), then by name, in the order they came."""
    found: dict[tuple[str, str, str], dict[str, Metric]] = {}
    for metric in metrics:
        found.setdefault((metric.task, metric.direction, metric.level), {})[metric.metric] = metric
    return found


def _claim(metric: Metric) -> str:
    text = f"{metric.direction} R@1 {number(metric.value)}"
    if metric.ci_low is not None:
        text += f" (95 % {interval(metric)})"
    among = "among a person's own" if metric.level == "within" else "in a gallery of"
    text += f" {among} {metric.gallery}, chance {number(metric.chance)}"
    share = share_of_ceiling(metric)
    if share is not None:
        text += f", {100 * share:.0f} % of the way to the oracle's {number(metric.ceiling)}"
    if metric.p_value is None:
        return f"{text}: not tested"
    above = metric.p_value < SIGNIFICANT
    return f"{text}: {'above chance' if above else 'not distinguishable from chance'}, p = {p_text(metric.p_value)}"


def _retrieval(metrics: list[Metric]) -> Table:
    table = Table(
        title="Retrieval of unseen subjects (below: chance; 95 %, p, oracle: R@1)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("query", "R@1", "95 %", "p", "R@5", "R@10", "MRR", "median", "mAP", "oracle"):
        table.add_column(name, justify="left" if name == "query" else "right", no_wrap=True)
    for (task, direction, level), found in groups(metrics).items():
        if task != "retrieval":
            continue
        first = found.get("R@1")
        cells = [_over(direction, f"{level} n={first.queries}\ngallery {first.gallery}" if first else level)]
        for name in _COLUMNS:
            metric = found.get(name)
            digits = 1 if name == "median_rank" else 2
            value = number(metric.value if metric else None, digits)
            cells.append(_over(value, number(metric.chance if metric else None, digits)))
            if name == "R@1":
                cells += [Text(interval(metric)), Text(p_text(metric.p_value if metric else None))]
        share = share_of_ceiling(first) if first else None
        ceiling = number(first.ceiling if first else None)
        cells.append(_over(ceiling, "" if share is None else f"{100 * share:.0f} %"))
        table.add_row(*cells)
    return table


def _classification(metrics: list[Metric]) -> Table:
    found = [metric for metric in metrics if metric.task == "classification"]
    table = Table(
        title=f"Classification of {found[0].queries} unseen subjects",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("figure", "value", "95 %", "chance", "p"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for m in found:
        name = m.metric.replace("_", " ")
        table.add_row(name, number(m.value), interval(m), Text(number(m.chance), style="dim"), p_text(m.p_value))
    return table


def _over(upper: str, lower: str) -> Text:
    return Text.assemble(upper, "\n", (lower, "dim"))
