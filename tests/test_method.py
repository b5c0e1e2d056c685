"""What the page of the method says stands where it says, and its figures are those that its code gives."""

from __future__ import annotations

import ast
import contextlib
import io
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
import typer
from torch.nn.functional import normalize

from mmray import cli, config
from mmray.training.losses import retrieval_loss

PAGE = Path(__file__).parents[1] / "docs" / "method.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", TEXT)


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, and methods as Class.method."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tops = [node for node in tree.body if isinstance(node, kinds)]
    methods = {
        f"{top.name}.{node.name}"
        for top in tops
        if isinstance(top, ast.ClassDef)
        for node in top.body
        if isinstance(node, ast.FunctionDef)
    }
    return {top.name for top in tops} | methods


def rows(first: str) -> list[list[str]]:
    """The cells after a table row's first one, of every row that begins with it."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line[:1] == "|"]
    return [row[1:] for row in cells if row[0] == first]


def test_every_link_of_the_page_names_what_it_leads_to():
    assert len(LINKS) == len(re.findall(r"\]\(", TEXT))
    assert len(LINKS) > 50


@pytest.mark.parametrize(("name", "target"), sorted(set(LINKS)))
def test_a_name_of_the_page_is_defined_where_its_link_leads(name: str, target: str):
    path = (PAGE.parent / target).resolve()
    assert path.is_file()
    assert name in names_in(path)


def test_every_test_of_the_page_is_linked():
    assert set(re.findall(r"\btest_\w+(?!\w*\.py)\b", re.sub(r"\([^)]*\)", "", TEXT))) == {
        name for name, _ in LINKS if name.startswith("test_")
    }


def test_every_trained_system_has_its_place():
    assert [key for key in get_args(config.System) if f"`{key}`" not in TEXT and key != "crossmodal_gcn"] == []


def test_every_setting_of_the_page_exists():
    named = {key for key in re.findall(r"`((?:model|train)\.\w+)", TEXT)}
    assert named
    assert [key for key in named if f"`{key}`" not in config.reference()] == []


def test_what_is_not_built_yet_is_not_there():
    part = TEXT[TEXT.index("## Not built yet") : TEXT.index("## The equations")]
    verbs = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    stale = set(re.findall(r"`mmray (\w+)`", part)) & set(verbs)
    stale |= set(re.findall(r"`(\w+)`", part)) & set(get_args(config.System))
    assert not stale, "built by now: move it from 'Not built yet' to its table"


def test_an_untrained_network_finds_noise_as_often_as_the_page_says():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})
    recall = {name: float(value) for name, value in re.findall(r"(.+): R@1 (\S+)", printed.getvalue())}
    stated = {name: float(rows(name)[0][0]) for name in recall}
    assert recall == pytest.approx(stated, abs=0.03)
    assert recall["as recorded"] > 0.85
    assert recall["our lone path"] < 0.01


def test_the_table_of_floors_is_its_formulas():
    (count,) = rows("N")
    for name, floor in {
        "one query, at least": lambda n: math.log1p((n - 1) * math.exp(-2)),
        "mean of a batch, at least": lambda n: math.log1p((n - 1) * math.exp(-n / (n - 1))),
        "guessing, log N": math.log,
    }.items():
        assert rows(name) == [[f"{floor(int(n)):.3f}" for n in count]]


def test_the_floor_of_our_batch_is_that_of_the_size_it_has():
    ((size, fewer, least, largest, full),) = re.findall(
        r"`train.batch_size` = (\d+) pairs.*?some (\d+) of.*?below (\S+) is.*?below (\S+) for (\d+)\.", TEXT, re.DOTALL
    )
    assert int(size) == int(full) == config.Train().batch_size
    for count, floor in ((fewer, least), (full, largest)):
        n = int(count)
        assert floor == f"{math.log1p((n - 1) * math.exp(-n / (n - 1))):.3f}"


def test_the_loss_of_a_simplex_is_the_floor_of_a_batch_and_no_descent_goes_below_it():
    rows_in_batch = 8
    floor = math.log1p((rows_in_batch - 1) * math.exp(-rows_in_batch / (rows_in_batch - 1)))
    present_BM = torch.ones(rows_in_batch, 2, dtype=torch.bool)

    def loss(eeg_BE: torch.Tensor, audio_BE: torch.Tensor) -> torch.Tensor:
        z = {"eeg": normalize(eeg_BE, dim=-1), "audio": normalize(audio_BE, dim=-1)}
        return retrieval_loss(z, present_BM, torch.arange(rows_in_batch), torch.tensor(1.0))

    simplex = torch.eye(rows_in_batch, dtype=torch.float64) - 1 / rows_in_batch
    assert float(loss(simplex, simplex)) == pytest.approx(floor, abs=1e-9)
    torch.manual_seed(0)
    free = torch.randn(2, rows_in_batch, rows_in_batch, dtype=torch.float64, requires_grad=True)
    for _ in range(100):
        reached = loss(*free)
        (gradient,) = torch.autograd.grad(reached, free)
        free = (free - 10 * gradient).detach().requires_grad_()
    assert floor - 1e-9 <= reached.item() < floor + 0.05
