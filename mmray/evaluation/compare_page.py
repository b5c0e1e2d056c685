"""report.html of a comparison: tables and pictures with what to read from them; no network, no script."""

from __future__ import annotations

from html import escape
from string import Template

from mmray.evaluation import compare_sections as sections
from mmray.evaluation import exhibits
from mmray.evaluation.compare_html import Told, arrows, details, files_of, grid, items, said
from mmray.evaluation.explain_page import template


def page(told: Told) -> str:
    """The whole page."""
    parts = [
        ("data", "Data and protocol", _data(told)),
        ("retrieval", "Retrieval", sections.retrieval(told)),
        ("accuracy", "Figure 1: accuracy per epoch", sections.accuracy(told)),
        ("f1", "Figure 2: F1 of folds and seeds", sections.f1(told)),
        ("cross-entropy", "Table 1: cross-entropy by learning rate", sections.cross_entropy(told)),
        ("classification", "Classification", sections.classification(told)),
        ("pairs", "Systems in pairs, on the same people", sections.pairs(told)),
        ("ranks", "Critical differences", sections.ranks(told)),
        ("calibration", "Calibration", sections.calibration(told)),
        ("ablation", "Ablation", sections.ablation(told)),
        ("sensitivity", "Sensitivity", sections.sensitivity(told)),
        ("clips", "Confusion by clip type", sections.clips(told)),
        ("runtime", "Runtime", _runtime(told)),
        ("made", "How this was made", _made(told)),
    ]
    systems = exhibits.systems(told.tables)
    return Template(template("compare.html")).substitute(
        style=template("style.css"),
        sweeps=escape(", ".join(told.sweeps)),
        systems=escape(f"{len(systems)} systems" if len(systems) > 1 else systems[0]),
        subtitle=escape(
            f"Sweep {', '.join(told.sweeps)}. All figures are of people that a fit has not seen; brackets and whiskers "
            "are 95 % intervals over people unless a caption says otherwise."
        ),
        banner=_banner(told),
        verdict=escape(arrows(told.verdict)),
        contents="\n".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in parts),
        sections="\n".join(
            f'<section id="{key}">\n<h2>{escape(title)}</h2>\n{body}\n</section>' for key, title, body in parts
        ),
    )


def _banner(told: Told) -> str:
    tables = told.tables
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
        "here.</strong> A star marks what misses fits. Its figures are of the folds that have all their seeds, or of "
        "the seeds that all folds have, whichever is of more people; a fold and seed picks its learning rate among "
        f"those that finished.</p>{items([*lines, *why])}<p><code>{escape(told.resume)}</code> goes on with it, and "
        "tries failed fits again; where a fit fails for a reason that its settings give, change these.</p></div>"
    )


def _data(told: Told) -> str:
    rows = told.tables["data_card"]
    card = "".join(f"<tr><th>{escape(row['what'])}</th><td>{escape(row['value'])}</td></tr>" for row in rows)
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
    return said(note) + grid(["system", "fits", "median s", "range s", "sum min"], body) + files_of("runtime")


def _made(told: Told) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in told.versions.items())
    settings = "".join(
        details(f"Settings of sweep {sweep}", f"<pre>{escape(text)}</pre>") for sweep, text in told.made.items()
    )
    return f"<pre>{escape(chr(10).join(told.commands))}</pre><p>{escape(versions)}.</p>{settings}"
