"""The pictures of a comparison, each from one or two of its tables: `exhibits.tables` in, SVG and PNG out.

A system keeps its colour, its dashes and its marker in every picture; no meaning rests on colour alone.
"""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from mmray.evaluation import compare_plots_fits as fits
from mmray.evaluation import compare_plots_people as people
from mmray.evaluation import exhibit_pairs
from mmray.evaluation.compare_style import STYLE, Look, Picture, png
from mmray.evaluation.exhibits import Tables
from mmray.evaluation.plots import DASHES, MARKERS, SERIES, svg_of


def draw(tables: Tables) -> dict[str, Picture]:
    """Every picture that the tables allow, by name, in the page's order."""
    order = list(dict.fromkeys(row["variant"] for name in ("retrieval", "runtime") for row in tables.get(name, ())))
    looks = {
        variant: Look(SERIES[i % 6], DASHES[i // 6 % len(DASHES)], MARKERS[(i + i // 6) % len(MARKERS)])
        for i, variant in enumerate(order)
    }
    with mpl.rc_context(STYLE):
        found: dict[str, Figure | None] = {"retrieval": people.retrieval(tables.get("retrieval", []), looks)}
        found["accuracy_per_epoch"] = fits.epochs(tables.get("accuracy_per_epoch", []), looks)
        found["f1"] = fits.f1(tables.get("f1", []), looks)
        for metric in exhibit_pairs.COMPARED:
            mine = [row for row in tables.get("pairs", ()) if row["metric"] == metric]
            found[f"pairs_{plain(metric)}"] = people.pairs(mine)
            ranked = [row for row in tables.get("ranks", ()) if row["metric"] == metric]
            found[f"critical_difference_{plain(metric)}"] = people.critical_difference(ranked, mine)
        found["reliability"] = fits.reliability(tables.get("reliability", []), looks)
        found["ablation"] = people.ablation(tables.get("ablation", []))
        found["sensitivity"] = fits.sensitivity(tables.get("sensitivity", []), looks)
        found["search"] = fits.search(tables.get("search", []), tables.get("search_importance", []), looks)
        found["confusion"] = fits.confusion(tables.get("confusion", []))
        return {name: Picture(svg_of(figure), png(figure)) for name, figure in found.items() if figure is not None}


def plain(metric: str) -> str:
    """A metric's name as part of a file's."""
    return metric.lower().replace("@", "")
