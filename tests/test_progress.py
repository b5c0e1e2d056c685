"""Where nobody watches: a line every tenth, with the time left by the pace of what was done in this run."""

from __future__ import annotations

import pytest

from mmray import progress


def lines(monkeypatch, capsys, total: int, kept: int, seconds_each: float) -> list[str]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bar("sweep", total) as advance:
        advance(kept)
        for _ in range(total - kept):
            now[0] += seconds_each
            advance(1, "best 0.5")
    return capsys.readouterr().err.splitlines()


def test_a_line_every_tenth_says_how_long_it_takes(monkeypatch, capsys):
    told = lines(monkeypatch, capsys, 20, 0, 60.0)
    assert len(told) == 10
    assert told[0] == "sweep: 2/20 best 0.5, 18 min left"
    assert told[-2] == "sweep: 18/20 best 0.5, 2 min left"
    assert told[-1] == "sweep: 20/20 best 0.5"


def test_what_was_there_before_makes_no_pace(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, 20, 10, 60.0)[0] == "sweep: 11/20 best 0.5, 9 min left"


@pytest.mark.parametrize(("each", "told"), [(4.0, "32 s left"), (1e4, "22.2 h left")])
def test_it_is_told_in_a_fitting_unit(monkeypatch, capsys, each, told):
    assert lines(monkeypatch, capsys, 10, 1, each)[0].endswith(told)
