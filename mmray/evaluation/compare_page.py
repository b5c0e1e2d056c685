"""report.html of a comparison: tables and pictures with what to read from them; no network, no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from string import Template

from mmray.evaluation import exhibit_classes, exhibit_pairs, plots
from mmray.evaluation.classification import LOWER_IS_BETTER
from mmray.evaluation.compare_plots import DIRECTIONS, NAMES, Picture, plain
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.explain_page import template
from mmray.evaluation.table import number, p_text
from mmray.evaluation.trials import Row

_METRICS = {"median_rank": "median rank", "balanced_accuracy": "balanced accuracy", "cross_entropy": "cross-entropy"}


@dataclass(frozen=True)
class Told:
    """Everything that the page says.

    Attributes:
        card: (what, how many) of the data card.
        left_out: exhibit -> why it is not there.
        commands: that made sweep and report.
        made: the resolved settings as YAML, by sweep.
        versions: of software.
    """

    sweeps: list[str]
    verdict: str
    card: list[tuple[str, str]]
    tables: Tables
    pictures: Mapping[str, Picture]
    left_out: Mapping[str, str]
    commands: list[str]
    made: Mapping[str, str]
    versions: Mapping[str, str]


def page(told: Told) -> str:
    """The whole page."""
    sections = [
        ("data", "Data and protocol", _data(told)),
        ("retrieval", "Retrieval", _retrieval(told)),
        ("accuracy", "Figure 1: accuracy per epoch", _accuracy(told)),
        ("f1", "Figure 2: F1 of folds and seeds", _f1(told)),
        ("cross-entropy", "Table 1: cross-entropy by learning rate", _cross_entropy(told)),
        ("classification", "Classification", _classification(told)),
        ("pairs", "Systems in pairs, on the same people", _pairs(told)),
        ("ranks", "Critical differences", _ranks(told)),
        ("calibration", "Calibration", _calibration(told)),
        ("ablation", "Ablation", _ablation(told)),
        ("sensitivity", "Sensitivity", _sensitivity(told)),
        ("clips", "Confusion by clip type", _clips(told)),
        ("runtime", "Runtime", _runtime(told)),
        ("made", "How this was made", _made(told)),
    ]
    systems = list(dict.fromkeys(row["variant"] for row in told.tables["retrieval"]))
    return Template(template("compare.html")).substitute(
        style=template("style.css"),
        sweeps=escape(", ".join(told.sweeps)),
        systems=escape(f"{len(systems)} systems" if len(systems) > 1 else systems[0]),
        subtitle=escape(
            f"Sweep {', '.join(told.sweeps)}. All figures are of people that a fit has not seen; brackets and whiskers "
            "are 95 % intervals over people unless a caption says otherwise."
        ),
        banner=_banner(told.tables),
        verdict=escape(_arrows(told.verdict)),
        contents="\n".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections),
        sections="\n".join(
            f'<section id="{key}">\n<h2>{escape(title)}</h2>\n{body}\n</section>' for key, title, body in sections
        ),
    )


def _banner(tables: Tables) -> str:
    short = [row for row in tables["status"] if row["failed"] or row["missing"]]
    if not short:
        return ""
    planned = sum(row["planned"] for row in tables["status"])
    finished = sum(row["finished"] for row in tables["status"])
    lines = [
        f"{row['variant']}*: {row['finished']} of {row['planned']} fits finished, {row['missing']} missing, "
        f"{row['failed']} failed"
        for row in short
    ]
    reasons: dict[str, int] = {}
    for row in tables.get("failures", ()):
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    why = [f"{count} failed: {reason}" for reason, count in reasons.items()]
    return (
        f'<div class="banner" role="note"><p><strong>This sweep is unfinished: {finished} of {planned} fits are '
        "here.</strong> A star marks what misses fits. Its figures are of the folds that have all their seeds, so of "
        "fewer people; a fold and seed picks its learning rate among those that finished.</p>"
        f"{_items([*lines, *why])}<p>mmray sweep --resume goes on with it.</p></div>"
    )


def _data(told: Told) -> str:
    card = "".join(f"<tr><th>{escape(what)}</th><td>{escape(value)}</td></tr>" for what, value in told.card)
    protocol = (
        "Nobody is in two groups: the people are split into outer folds before anything is fitted, and each person is "
        "tested in one fold only, by fits that never saw them, nor their voice, nor their EEG. Inside a fold, "
        "validation people pick the epoch (by MRR) and the learning rate (by MRR for retrieval, by cross-entropy for "
        "classification), each fold and seed its own; test people only report. Seeds are averaged before people are "
        "resampled or permuted, so copies of a fit make nothing surer."
    )
    return (
        f'<div class="wide" tabindex="0"><table class="settings"><tbody>{card}</tbody></table></div><p>{protocol}</p>'
    )


def _retrieval(told: Told) -> str:
    rows = told.tables["retrieval"]
    with_ceiling = any(row["ceiling"] is not None for row in rows)
    head = ["system", "figure", "95 %", "chance", "p", "95 % of chance", "gallery", "people"]
    body = []
    for row in rows:
        digits = 1 if row["metric"] == "median_rank" else 3
        cells = [_name(row), number(row["value"], digits)]
        cells += [_between(row, digits), number(row["chance"], digits), p_text(row["p"]), _between(row, digits, "band")]
        cells += [_gallery(row), str(row["people"])]
        if with_ceiling:
            share = row["fraction_of_ceiling"]
            cells += [number(row["ceiling"], digits), "-" if share is None else f"{100 * share:.0f} %"]
        body.append((f"{_called(row)}, {DIRECTIONS[row['direction']]}", cells))
    note = (
        "A query is one person's recordings of one modality, the gallery every test person of their fold in the other. "
        "Ties count against the query. p: pairings (for mAP: labels) permuted between people of a fold. mAP ranks "
        "other people of the same label. Median rank: of people's mean rank over seeds, small is good."
    )
    if with_ceiling:
        note += " Ceiling: what knowing the traits that made the synthetic recordings would reach."
        head += ["ceiling", "of it"]
    caption = (
        "R@1 of each system. The grey box is the middle 95 % of what chance gives; a marker whose box it leaves is "
        "above or below chance. The upright stroke, where there is one, is the ceiling."
    )
    return _figure(told, "retrieval", caption) + _said(note) + _grouped(head, body) + _files("retrieval")


def _accuracy(told: Told) -> str:
    rows = told.tables.get("accuracy_per_epoch", [])
    if not rows:
        return _absent(told, "accuracy_per_epoch")
    epochs: dict[str, int] = {}
    for row in rows:
        epochs[row["variant"]] = epochs.get(row["variant"], 0) + 1
    closed = [variant for variant, count in epochs.items() if count == 1]
    note = f"Solved in closed form, so without epochs, and drawn as level lines: {', '.join(closed)}." if closed else ""
    caption = (
        "Median validation accuracy per epoch (line) and its quartiles (band) over folds x seeds, each fit at the "
        "learning rate that its inner fold picks; the other systems in grey. A fit that stopped early keeps its last "
        "value. Validation accuracy picks nothing here, and it is not the test result: read from it how fast a system "
        "learns and whether it overfits."
    )
    return _figure(told, "accuracy_per_epoch", caption) + _said(note) + _files("accuracy_per_epoch")


def _f1(told: Told) -> str:
    if "f1" not in told.pictures:
        return _absent(told, "f1")
    caption = (
        "F1 on the test people of each fold and seed (points; box: quartiles and median), rate and epoch picked by the "
        "inner fold. F1 is that of class 1 for two classes and the macro mean for more. Points of one fold are the "
        "same people, so the box says how much fits and folds vary, not how sure the figure is."
    )
    return _figure(told, "f1", caption) + _said(told.left_out.get("f1 of some folds", "")) + _files("f1")


def _cross_entropy(told: Told) -> str:
    rows = told.tables.get("cross_entropy_by_rate", [])
    if not rows:
        return _absent(told, "cross_entropy_by_rate")
    rates: list[float | None] = sorted(
        {r["learning_rate"] for r in rows if r["learning_rate"] is not None}, reverse=True
    )
    columns = [*rates, None]
    papers = [rate for rate in rates if any(row["paper"] for row in rows if row["learning_rate"] == rate)]
    cell = {(row["variant"], row["learning_rate"]): row for row in rows}
    body = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [variant]
        for rate in columns:
            row = cell.get((variant, rate))
            star = "" if row is None or row["complete"] else "*"
            mine.append("-" if row is None else f"{number(row['value'], 3)}{star} ({_between(row, 2)})")
        mine += [number(exhibit_classes.printed(variant, rate), 3) for rate in papers]
        body.append(mine)
    head = ["system", *(f"{rate:g}" for rate in rates), "picked", *(f"paper, {rate:g}" for rate in papers)]
    chance = [r["chance"] for r in told.tables.get("classification", ()) if r["metric"] == "cross_entropy"]
    note = (
        "Cross-entropy of test people in nats, seeds averaged, with 95 % intervals over people; small is good. Picked: "
        "each fold and seed at the rate its inner fold prefers, which is the figure to quote. A coin earns ln 2 = "
        f"{math.log(2):.3f}"
    )
    if chance:
        note += f", and the classes' shares as probabilities {number(chance[0], 3)}"
    note += (
        ". The paper's figures, as printed in its Table 1 (doi 10.20944/preprints202501.0405.v1), came from other data "
        "that is not published, under a protocol that it does not state: the two sides are not comparable, and stand "
        "side by side only so that nobody has to look them up."
    )
    return _said(note) + _grid(head, body) + _files("cross_entropy_by_rate")


def _classification(told: Told) -> str:
    rows = told.tables.get("classification", [])
    if not rows:
        return _absent(told, "classification")
    chosen = [row for row in rows if row["metric"] not in ("Brier", "ECE")]
    note = (
        f"{rows[0]['people']} labelled people, both modalities of each. Chance is the best constant answer that knows "
        "the classes' shares; p: labels permuted between people."
    )
    if not any(row["metric"] == "F1" for row in rows):
        note += " All are of one class, so balanced accuracy, F1 and AUC are undefined."
    return _said(note) + _figures(chosen) + _files("classification")


def _pairs(told: Told) -> str:
    rows = told.tables.get("pairs", [])
    if not rows:
        return _absent(told, "pairs")
    pictures = ""
    for metric in dict.fromkeys(row["metric"] for row in rows):
        good = "small is good" if metric in LOWER_IS_BETTER else "large is good"
        pictures += _figure(
            told,
            f"pairs_{plain(metric)}",
            f"{NAMES[metric]}, system of the row less that of the column: {good}. Blue: the row's system is better, "
            f"orange: worse; a star and a strong ground: the two differ, p < {exhibit_pairs.LEVEL} after Holm.",
        )
    body = [
        (
            NAMES[row["metric"]],
            [
                f"{row['first']} less {row['second']}{'' if row['complete'] else '*'}",
                f"{row['difference']:+.3f}",
                _signed(row),
                p_text(row["p"]),
                p_text(row["p_holm"]),
                str(row["people"]),
            ],
        )
        for row in rows
    ]
    note = (
        "Differences of the same people's values, seeds averaged, by sign flips (two-sided), corrected after Holm "
        "(1979) over all pairs of a metric. No star is not equality: with this many people a difference as wide as the "
        "interval may stay unseen."
    )
    table = _grouped(["difference of", "mean", "95 %", "p", "after Holm", "people"], body)
    return _said(note) + pictures + _details("All pairs", table) + _files("pairs")


def _ranks(told: Told) -> str:
    rows = told.tables.get("ranks", [])
    if not rows:
        return _absent(told, "ranks")
    parts = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        mine = [row for row in rows if row["metric"] == metric]
        p_value = mine[0]["friedman_p"]
        friedman = (
            "Friedman's test is left out: it takes three systems that do not all tie"
            if p_value is None
            else f"Friedman's test of no difference among them: p = {p_text(p_value)}"
        )
        caption = (
            f"Systems by their average rank over {mine[0]['people']} people on {NAMES[metric]} (1 is best, ties "
            "averaged). A bar joins systems no two of which differ by the paired tests above after Holm. "
            f"{friedman}. After Demsar (2006), with people as blocks."
        )
        parts.append(_figure(told, f"critical_difference_{plain(metric)}", caption))
    return "".join(parts) + _files("ranks")


def _calibration(told: Told) -> str:
    rows = told.tables.get("reliability", [])
    if not rows:
        return _absent(told, "reliability")
    caption = (
        "Of the people to whom a system gives its answer with this probability (across), the share for whom it is "
        f"right (up), in {exhibit_classes.BINS} bins with their numbers of people, seeds averaged. On the dashed line "
        "it is as right as it claims to be; below, it claims too much."
    )
    chosen = [row for row in told.tables.get("classification", []) if row["metric"] in ("Brier", "ECE")]
    note = (
        "ECE takes ten bins of the largest probability; small is good. With few people even a perfect system has some."
    )
    return _figure(told, "reliability", caption) + _said(note) + _figures(chosen) + _files("reliability")


def _ablation(told: Told) -> str:
    rows = told.tables.get("ablation", [])
    if not rows:
        return _absent(told, "ablation")
    body = [
        (
            NAMES[row["metric"]],
            [
                f"{row['first']} less {row['second']}{'' if row['complete'] else '*'}",
                f"{row['difference']:+.3f}",
                _signed(row),
                p_text(row["p"]),
                p_text(row["p_holm"]),
                str(row["people"]),
            ],
        )
        for row in rows
    ]
    caption = (
        "Each variant less the system that it changes, on the same people; an orange square differs, p < "
        f"{exhibit_pairs.LEVEL} after Holm over the variants of a metric. For cross-entropy, right of 0 is worse."
    )
    table = _grouped(["difference of", "mean", "95 %", "p", "after Holm", "people"], body)
    return _figure(told, "ablation", caption) + table + _files("ablation")


def _sensitivity(told: Told) -> str:
    parts = []
    if "sensitivity" in told.pictures:
        parts.append(
            _figure(
                told,
                "sensitivity",
                "Each system at each learning rate, test people, 95 % intervals over them. A flat line does not care; "
                "a rate chosen from this picture would be chosen on the test people, so none is.",
            )
        )
    else:
        parts.append("<p>Left out: there is one learning rate only.</p>")
    if "search" in told.pictures:
        parts.append(
            _figure(
                told,
                "search",
                "The hyperparameter search: validation MRR of each trial against each parameter; the share is what the "
                "parameter explains of the variance between trials. No test person was asked.",
            )
        )
    if "search_importance" in told.tables:
        body = [[row["parameter"], f"{100 * row['share']:.0f} %"] for row in told.tables["search_importance"]]
        parts.append(_grid(["parameter", "share"], body))
    names = [name for name in ("sensitivity", "search", "search_importance") if name in told.tables]
    return "".join(parts) + _files(*names)


def _clips(told: Told) -> str:
    rows = told.tables.get("confusion", [])
    if not rows:
        return _absent(told, "confusion")
    caption = (
        f"{rows[0]['variant']}: people of each class (down) by the class they are given (across) from all of their EEG "
        "and the voice of one clip type. Counts are averaged over seeds, so a row sums to the people of that class; "
        "a stronger ground is a larger share of the row."
    )
    by_task = told.tables.get("balanced_accuracy_by_task", [])
    tasks = list(dict.fromkeys(row["task"] for row in by_task))
    cell = {(row["variant"], row["task"]): row for row in by_task}
    body = []
    for variant in dict.fromkeys(row["variant"] for row in by_task):
        mine = [cell.get((variant, task)) for task in tasks]
        star = "" if all(row is None or row["complete"] for row in mine) else "*"
        told_of = ["-" if row is None else f"{number(row['value'])} ({_between(row, 2)})" for row in mine]
        body.append([variant + star, *told_of])
    table = _grid(["balanced accuracy", *tasks], body) if body else _absent(told, "balanced_accuracy_by_task")
    return _figure(told, "confusion", caption) + table + _files("confusion", "balanced_accuracy_by_task")


def _runtime(told: Told) -> str:
    rows = told.tables["runtime"]
    body = [
        [
            row["variant"],
            str(row["fits"]),
            f"{row['median_s']:.1f}",
            f"{row['shortest_s']:.1f}-{row['longest_s']:.1f}",
            f"{row['total_s'] / 60:.1f}",
        ]
        for row in rows
    ]
    total = sum(row["total_s"] for row in rows)
    note = (
        f"{sum(row['fits'] for row in rows)} finished fits took {total / 60:.1f} minutes added up; several ran at "
        "once, and they shared the machine with whatever else it did, so compare these times with care."
    )
    return _said(note) + _grid(["system", "fits", "median s", "range s", "sum min"], body) + _files("runtime")


def _made(told: Told) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    settings = "".join(
        _details(f"Settings of sweep {sweep}", f"<pre>{escape(text)}</pre>") for sweep, text in told.made.items()
    )
    return f"<pre>{escape(chr(10).join(told.commands))}</pre><p>{escape(versions)}.</p>{settings}"


def _figures(rows: Iterable[Row]) -> str:
    head = ["system", "value", "95 %", "chance", "p", "95 % of chance", "people"]
    body = []
    for row in rows:
        cells = [_name(row), number(row["value"], 3), _between(row, 3)]
        cells += [number(row["chance"], 3), p_text(row["p"]), _between(row, 3, "band"), str(row["people"])]
        body.append((_called(row), cells))
    return _grouped(head, body)


def _figure(told: Told, name: str, caption: str) -> str:
    picture = told.pictures.get(name)
    if picture is None:
        return ""
    text = escape(caption)
    return f'<figure id="figure-{name}">{plots.inline(picture.svg, text)}<figcaption>{text}</figcaption></figure>'


def _absent(told: Told, name: str) -> str:
    return f"<p>Left out: {escape(told.left_out.get(name, 'no fit has what it takes'))}.</p>"


def _files(*names: str) -> str:
    files = ", ".join(f"tables/{name}.csv" for name in names)
    return f'<p class="soft">{escape(files)}, and as Parquet.</p>'


def _grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    return _grouped(head, [("", cells) for cells in body])


def _grouped(head: Sequence[str], body: Iterable[tuple[str, Sequence[str]]]) -> str:
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


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _items(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _said(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def _name(row: Row) -> str:
    return f"{row['variant']}{'' if row['complete'] else '*'}"


def _called(row: Row) -> str:
    return str(_METRICS.get(row["metric"], row["metric"]))


def _between(row: Row, digits: int, of: str = "ci") -> str:
    low, high = row[f"{of}_low"], row[f"{of}_high"]
    return "-" if low is None else f"{low:.{digits}f}-{high:.{digits}f}"


def _signed(row: Row) -> str:
    return "-" if row["ci_low"] is None else f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}"


def _gallery(row: Row) -> str:
    low, high = row["gallery_smallest"], row["gallery_largest"]
    return str(low) if low == high else f"{low}-{high}"


def _arrows(text: str) -> str:
    return text.replace("->", "\u2192")
