from __future__ import annotations

import io
import re
from dataclasses import replace

from rich.console import Console

from mmray.evaluation.table import render, share_of_ceiling, verdict
from mmray.schema import Metric

FIGURE = Metric("retrieval", "eeg->audio", "subject", "R@1", 0.25, queries=8, chance=0.125, p_value=0.2, gallery=8)


def test_a_figure_is_told_as_a_share_of_a_ceiling_above_chance() -> None:
    assert share_of_ceiling(replace(FIGURE, ceiling=0.625)) == 0.25
    assert share_of_ceiling(replace(FIGURE, value=FIGURE.chance, ceiling=0.625)) == 0
    assert "25 % of the way to the oracle's 0.62" in verdict([replace(FIGURE, ceiling=0.625)])


def test_an_oracle_at_chance_is_no_ceiling_to_share() -> None:
    assert share_of_ceiling(replace(FIGURE, ceiling=0.125)) is None
    assert "oracle" not in verdict([replace(FIGURE, ceiling=0.125)])


def test_a_verdict_names_chance_and_significance() -> None:
    assert "chance 0.12: not distinguishable from chance, p = 0.2" in verdict([FIGURE])
    assert "above chance, p = 0.001" in verdict([replace(FIGURE, p_value=0.001)])


def test_each_row_of_the_terminal_states_its_own_gallery() -> None:
    among_all = replace(FIGURE, level="pair", queries=600, gallery=600)
    own = replace(FIGURE, level="within", queries=590, gallery=120)
    console = Console(file=io.StringIO(), width=80)
    console.print(render([among_all, own]))
    text = console.file.getvalue()
    assert re.search(r"pair n=600 [^\n]*\n *gallery 600 ", text)
    assert re.search(r"within n=590 [^\n]*\n *gallery 120 ", text)
