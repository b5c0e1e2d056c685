"""What a comparison's page says of each exhibit: the picture, what to read from it, the table."""

from __future__ import annotations

import math

from mmray.evaluation import exhibit_classes, exhibit_pairs
from mmray.evaluation.classification import LOWER_IS_BETTER
from mmray.evaluation.compare_html import (
    Told,
    absent,
    between,
    called,
    details,
    differences,
    figure,
    figures,
    files_of,
    gallery,
    grid,
    grouped,
    said,
    starred,
    unequal,
)
from mmray.evaluation.compare_plots import plain
from mmray.evaluation.compare_style import DIRECTIONS, NAMES
from mmray.evaluation.table import number, p_text


def retrieval(told: Told) -> str:
    """Retrieval, every figure beside its chance."""
    rows = told.tables.get("retrieval", [])
    if not rows:
        return absent(told, "retrieval")
    with_ceiling = any(row["ceiling"] is not None for row in rows)
    head = ["system", "figure", "95 %", "chance", "p", "95 % of chance", "gallery", "people"]
    body = []
    for row in rows:
        digits = 1 if row["metric"] == "median_rank" else 3
        cells = [starred(row), number(row["value"], digits)]
        cells += [between(row, digits), number(row["chance"], digits), p_text(row["p"]), between(row, digits, "band")]
        cells += [gallery(row), str(row["people"])]
        if with_ceiling:
            share = row["share_of_ceiling"]
            cells += [number(row["ceiling"], digits), "-" if share is None else f"{100 * share:.0f} %"]
        body.append((f"{called(row)}, {DIRECTIONS[row['direction']]}", cells))
    note = (
        "A query is one person's recordings of one modality, the gallery every test person of their fold in the other. "
        "Ties count against the query. p: pairings (for mAP: labels) permuted between people of a fold, and of several "
        "folds spread by the root of 2, since each fold's answers taught the others' fits. mAP ranks "
        "other people of the same label. Median rank: of people's mean rank over seeds, small is good."
    )
    if with_ceiling:
        note += (
            " Ceiling: what knowing the traits that made the synthetic recordings would reach; of the way: how far a "
            "figure is from chance, 0 %, to it, 100 %."
        )
        head += ["ceiling", "of the way"]
    caption = (
        "R@1 of each system. The grey box is the middle 95 % of what chance gives; a marker whose box it leaves is "
        "above or below chance. The upright stroke, where there is one, is the ceiling."
    )
    return figure(told, "retrieval", caption) + said(note) + grouped(head, body) + files_of("retrieval")


def accuracy(told: Told) -> str:
    """Figure 1."""
    rows = told.tables.get("accuracy_per_epoch", [])
    if not rows:
        return absent(told, "accuracy_per_epoch")
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
    return figure(told, "accuracy_per_epoch", caption) + said(note) + files_of("accuracy_per_epoch")


def f1(told: Told) -> str:
    """Figure 2."""
    if "f1" not in told.pictures:
        return absent(told, "f1")
    caption = (
        "F1 on the test people of each fold and seed (points; box: quartiles and median), rate and epoch picked by the "
        "inner fold. F1 is that of class 1 for two classes and the macro mean for more. Points of one fold are the "
        "same people, so the box says how much fits and folds vary, not how sure the figure is."
    )
    return figure(told, "f1", caption) + said(told.left_out.get("f1 of some folds", "")) + files_of("f1")


def cross_entropy(told: Told) -> str:
    """Table 1, the paper's printed figures beside ours."""
    rows = told.tables.get("cross_entropy_by_rate", [])
    if not rows:
        return absent(told, "cross_entropy_by_rate")
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
            mine.append("-" if row is None else f"{number(row['value'], 3)}{star} ({between(row, 2)})")
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
    return said(note) + grid(head, body) + files_of("cross_entropy_by_rate")


def classification(told: Told) -> str:
    """Every classification figure but the calibration."""
    rows = told.tables.get("classification", [])
    if not rows:
        return absent(told, "classification")
    chosen = [row for row in rows if row["metric"] not in ("Brier", "ECE")]
    note = (
        f"{rows[0]['people']} labelled people, both modalities of each. Chance is the best constant answer that knows "
        "the classes' shares. p and the last interval ask something else: labels are permuted between people, so a "
        "small p says that answers follow the labels, not that they beat the constant answer. Who is right more often "
        "than not, but far too sure, has a small p and a cross-entropy worse than chance. Of several folds, permuted "
        "figures are spread by the root of 2, since each fold's answers taught the others' fits."
    )
    if not any(row["metric"] == "F1" for row in rows):
        note += " All are of one class, so balanced accuracy, F1 and AUC are undefined."
    return said(note) + figures(chosen) + files_of("classification")


def pairs(told: Told) -> str:
    """Every two systems."""
    rows = told.tables.get("pairs", [])
    if not rows:
        return absent(told, "pairs")
    pictures = ""
    for metric in dict.fromkeys(row["metric"] for row in rows):
        good = "small is good" if metric in LOWER_IS_BETTER else "large is good"
        pictures += figure(
            told,
            f"pairs_{plain(metric)}",
            f"{NAMES[metric]}, system of the row less that of the column: {good}. Blue: the row's system is better, "
            f"orange: worse; a star and a strong ground: the two differ, p < {exhibit_pairs.LEVEL} after Holm.",
        )
    note = (
        "Differences of the same people's values, seeds averaged, by sign flips (two-sided), corrected after Holm "
        "(1979) over all pairs of a metric. No star is not equality: with this many people a difference as wide as the "
        "interval may stay unseen. A star is of these fits on other people; other seeds are other fits."
    )
    return said(note) + pictures + details("All pairs", differences(rows)) + unequal(rows) + files_of("pairs")


def ranks(told: Told) -> str:
    """Critical differences."""
    rows = told.tables.get("ranks", [])
    if not rows:
        return absent(told, "ranks")
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
        parts.append(figure(told, f"critical_difference_{plain(metric)}", caption))
    return "".join(parts) + files_of("ranks")


def calibration(told: Told) -> str:
    """Reliability, Brier and ECE."""
    rows = told.tables.get("reliability", [])
    if not rows:
        return absent(told, "reliability")
    caption = (
        "Of the people to whom a system gives its answer with this probability (across), the share for whom it is "
        f"right (up), in {exhibit_classes.BINS} bins with their numbers of people, seeds averaged. On the dashed line "
        "it is as right as it claims to be; below, it claims too much."
    )
    chosen = [row for row in told.tables.get("classification", []) if row["metric"] in ("Brier", "ECE")]
    note = (
        "ECE takes ten bins of the largest probability; small is good. With few people even a perfect system has some."
    )
    return figure(told, "reliability", caption) + said(note) + figures(chosen) + files_of("reliability")


def ablation(told: Told) -> str:
    """Variants against the systems that they change."""
    rows = told.tables.get("ablation", [])
    if not rows:
        return absent(told, "ablation")
    caption = (
        "Each variant less the system that it changes, on the same people; an orange square differs, p < "
        f"{exhibit_pairs.LEVEL} after Holm over the variants of a metric. For cross-entropy, right of 0 is worse."
    )
    return figure(told, "ablation", caption) + differences(rows) + unequal(rows) + files_of("ablation")


def sensitivity(told: Told) -> str:
    """Learning rates, and a search where one was made."""
    parts = []
    if "sensitivity" in told.pictures:
        parts.append(
            figure(
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
            figure(
                told,
                "search",
                "The hyperparameter search: validation MRR of each trial against each parameter; the share is what the "
                "parameter explains of the variance between trials. A fold's own test people take no part in its MRR, "
                "but they may validate in other folds: settings taken from here need another split, or other people, "
                "before they are reported.",
            )
        )
    if "search_importance" in told.tables:
        body = [[row["parameter"], f"{100 * row['share']:.0f} %"] for row in told.tables["search_importance"]]
        parts.append(grid(["parameter", "share"], body))
    failed = told.tables.get("search_failures", [])
    if failed:
        parts.append(said(f"{len(failed)} samples of the search could not be fitted, as: {failed[0]['error']}"))
    kept = ("sensitivity", "search", "search_failures", "search_importance")
    names = [name for name in kept if name in told.tables]
    return "".join(parts) + files_of(*names)


def clips(told: Told) -> str:
    """Confusion and balanced accuracy by clip type."""
    rows = told.tables.get("confusion", [])
    if not rows:
        return absent(told, "confusion")
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
        told_of = ["-" if row is None else f"{number(row['value'])} ({between(row, 2)})" for row in mine]
        body.append([variant + star, *told_of])
    table = grid(["balanced accuracy", *tasks], body) if body else absent(told, "balanced_accuracy_by_task")
    return figure(told, "confusion", caption) + table + files_of("confusion", "balanced_accuracy_by_task")
