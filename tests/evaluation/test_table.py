from __future__ import annotations

from dataclasses import replace

from mmray.evaluation.table import share_of_ceiling, verdict
from mmray.schema import Metric

FIGURE = Metric("retrieval", "eeg->audio", "subject", "R@1", 0.25, queries=8, chance=0.125, p_value=0.2, gallery=8)


def test_a_figure_is_told_as_a_share_of_a_ceiling_above_chance() -> None:
    assert share_of_ceiling(replace(FIGURE, ceiling=0.5)) == 0.5
    assert "50 % of the oracle's 0.50" in verdict([replace(FIGURE, ceiling=0.5)])


def test_an_oracle_at_chance_is_no_ceiling_to_share() -> None:
    assert share_of_ceiling(replace(FIGURE, ceiling=0.125)) is None
    assert "oracle" not in verdict([replace(FIGURE, ceiling=0.125)])


def test_a_verdict_names_chance_and_significance() -> None:
    assert "chance 0.12: not distinguishable from chance, p = 0.2" in verdict([FIGURE])
    assert "above chance, p = 0.001" in verdict([replace(FIGURE, p_value=0.001)])
