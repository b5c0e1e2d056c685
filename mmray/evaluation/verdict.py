"""A comparison in one paragraph, as plainly where nothing was found."""

from __future__ import annotations

from mmray.evaluation import exhibit_pairs, exhibits
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.table import SIGNIFICANT, number, p_text


def verdict(tables: Tables) -> str:
    """What the first system finds, in words: R@1 both ways against chance, its rivals, and the classes."""
    first = exhibits.systems(tables)[0]
    claims = []
    for row in tables.get("retrieval", ()):
        if (row["variant"], row["metric"]) != (first, "R@1"):
            continue
        asked, found = ("an EEG", "voice") if row["direction"] == "eeg->audio" else ("a voice", "EEG")
        claim = f"the right {found} for {asked} first for {100 * row['value']:.0f} % of {row['people']} unseen people"
        claim += f" (R@1 {number(row['value'])}, chance {number(row['chance'])}, p = {p_text(row['p'])}"
        if row["share_of_ceiling"] is not None:
            claim += f", {100 * row['share_of_ceiling']:.0f} % of the way to what can be known"
        claims.append(f"{claim}): {'above chance' if row['p'] < SIGNIFICANT else 'not distinguishable from chance'}")
    text = f"{first} finds {'; '.join(claims)}."
    if not claims:
        text = f"{first}: whom it finds cannot be told, since every fold tests one person."
    rivals = [
        row for row in tables.get("pairs", ()) if row["metric"] == "MRR" and first in (row["first"], row["second"])
    ]
    if rivals:
        gain = {
            (row["second"] if row["first"] == first else row["first"]): row["difference"]
            * (-1) ** (row["first"] != first)
            for row in rivals
            if row["p_holm"] < exhibit_pairs.LEVEL
        }
        better, worse = [v for v, d in gain.items() if d > 0], [v for v, d in gain.items() if d < 0]
        said = [f"ahead of {', '.join(better)}"] * bool(better) + [f"behind {', '.join(worse)}"] * bool(worse)
        text += (
            f" On MRR, on the same people and after Holm, it is {' and '.join(said) or 'neither ahead of nor behind'}"
        )
        text += "." if gain else f" {'any other system' if len(rivals) > 1 else 'the other system'}."
    for row in tables.get("classification", ()):
        if (row["variant"], row["metric"]) == (first, "balanced_accuracy"):
            told = "above chance" if row["p"] < SIGNIFICANT else "not distinguishable from chance"
            text += f" It tells the classes apart with balanced accuracy {number(row['value'])}, chance "
            text += f"{number(row['chance'])}, p = {p_text(row['p'])}: {told}."
    return text
