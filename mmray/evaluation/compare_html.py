"""Pieces of a comparison's page: tables that scroll in their own box, figures that say what to read from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from mmray.evaluation import plots
from mmray.evaluation.compare_style import NAMES, Picture
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.table import number, p_text
from mmray.evaluation.trials import Row

_METRICS = {"median_rank": "median rank", "balanced_accuracy": "balanced accuracy", "cross_entropy": "cross-entropy"}


@dataclass(frozen=True)
class Told:
    """Everything that the page says.

    Attributes:
        left_out: exhibit -> why it is not there.
        commands: that made sweep and report; `resume` goes on with a sweep.
        made: the resolved settings as YAML, by sweep.
        versions: of software.
    """

    sweeps: list[str]
    verdict: str
    tables: Tables
    pictures: Mapping[str, Picture]
    left_out: Mapping[str, str]
    commands: list[str]
    resume: str
    made: Mapping[str, str]
    versions: Mapping[str, str]


def figure(told: Told, name: str, caption: str) -> str:
    """A picture of the report with its caption, which is its description too; empty where there is none."""
    picture = told.pictures.get(name)
    if picture is None:
        return ""
    text = escape(caption)
    return f'<figure id="figure-{name}">{plots.inline(picture.svg, text)}<figcaption>{text}</figcaption></figure>'


def absent(told: Told, name: str) -> str:
    """Why an exhibit is not there."""
    return f"<p>Left out: {escape(told.left_out.get(name, 'no fit has what it takes'))}.</p>"


def files_of(*names: str) -> str:
    """Where the numbers lie."""
    files = ", ".join(f"tables/{name}.csv" for name in names)
    return f'<p class="soft">{escape(files)}, and as Parquet.</p>'


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table without groups."""
    return grouped(head, [("", cells) for cells in body])


def grouped(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table that scrolls inside its own box; rows of one group stand under its name."""
    groups: dict[str, list[str]] = {}
    for group, cells in body:
        data = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
        groups.setdefault(group, []).append(f"<tr><th>{escape(cells[0])}</th>{data}</tr>")
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    bodies = ""
    for group, rows in groups.items():
        name = f'<tr><th class="group" colspan="{len(head)}">{escape(group)}</th></tr>' if group else ""
        bodies += f"<tbody>{name}{''.join(rows)}</tbody>"
    return f'<div class="wide" tabindex="0"><table><thead><tr>{top}</tr></thead>{bodies}</table></div>'


def details(title: str, body: str) -> str:
    """A part that opens."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def items(lines: Iterable[str]) -> str:
    """A list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def said(text: str) -> str:
    """A note; empty where there is nothing to say."""
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def starred(row: Row) -> str:
    """A row's system, with a star where it misses fits."""
    return f"{row['variant']}{'' if row['complete'] else '*'}"


def called(row: Row) -> str:
    """A row's metric in words."""
    return str(_METRICS.get(row["metric"], row["metric"]))


def between(row: Row, digits: int, of: str = "ci") -> str:
    """A row's interval, or with `of` band that of chance."""
    low, high = row[f"{of}_low"], row[f"{of}_high"]
    return "-" if low is None else f"{low:.{digits}f}-{high:.{digits}f}"


def signed(row: Row) -> str:
    """The interval of a difference."""
    return "-" if row["ci_low"] is None else f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}"


def gallery(row: Row) -> str:
    """How many rows a query searches, from fold to fold."""
    low, high = row["gallery_smallest"], row["gallery_largest"]
    return str(low) if low == high else f"{low}-{high}"


def arrows(text: str) -> str:
    """Directions that do not break at a hyphen."""
    return text.replace("->", "\u2192")


def figures(rows: Iterable[Row]) -> str:
    """Classification figures, a group a metric."""
    head = ["system", "value", "95 %", "chance", "p", "95 %, labels permuted", "people"]
    body = []
    for row in rows:
        cells = [starred(row), number(row["value"], 3), between(row, 3)]
        cells += [number(row["chance"], 3), p_text(row["p"]), between(row, 3, "band"), str(row["people"])]
        body.append((called(row), cells))
    return grouped(head, body)


def differences(rows: Sequence[Row]) -> str:
    """Paired differences, a group a metric."""
    body = []
    for row in rows:
        cells = [f"{row['first']} less {row['second']}{'' if row['complete'] else '*'}", f"{row['difference']:+.3f}"]
        cells += [signed(row), p_text(row["p"]), p_text(row["p_holm"]), str(row["people"])]
        body.append((NAMES[row["metric"]], cells))
    return grouped(["difference of", "mean", "95 %", "p", "after Holm", "people"], body)


def unequal(rows: Sequence[Row]) -> str:
    """Who had more learning rates to pick from than whom it is compared with; that is an advantage."""
    unequal = dict.fromkeys(f"{row['first']} and {row['second']}" for row in rows if not row["same_rates"])
    note = "Picked from other learning rates, so the difference is of these as well: "
    return said(f"{note}{'; '.join(unequal)}.") if unequal else ""
