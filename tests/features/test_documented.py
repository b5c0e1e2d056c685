"""The table of docs/features.md lists the families and names that the code has, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from mmray.config import EEG, Audio, AudioFamily, EEGFamily, Similarity
from mmray.features import audio_nodes, eeg_nodes

PAGE = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")


def listed(title: str) -> dict[str, list[str]]:
    """Family -> names, of a section's table; a row without a family goes on with the one above."""
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    found: dict[str, list[str]] = {}
    for line in part.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and "`" in cells[1]:
            if cells[0]:
                family = cells[0].split("`")[1]
            found.setdefault(family, []).extend(re.findall(r"`([^`]+)`( \.\.\.)?", cells[1]))
    return {family: [name + more for name, more in names] for family, names in found.items()}


def marked(title: str) -> list[str]:
    part = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"\| `(\w+)` \(default\)", part)


def shortened(names: tuple[str, ...]) -> list[str]:
    """A numbered run as its first name and dots."""
    short: list[str] = []
    for name in names:
        stem = re.sub(r"_\d\d+", "_#", name)
        if stem == name:
            short.append(name)
        elif re.sub(r"_#", "_00", stem) in (name, name.replace("_000", "_00")):
            short.append(f"{name} ...")
    return short


@pytest.mark.parametrize("family", get_args(EEGFamily))
def test_names_of_an_eeg_family_are_those_of_the_page(family):
    assert listed("EEG")[family] == shortened(eeg_nodes.names(EEG(families=(family,))))


@pytest.mark.parametrize("family", get_args(AudioFamily))
def test_names_of_a_voice_family_are_those_of_the_page(family):
    assert listed("Voice")[family] == shortened(audio_nodes.names(Audio(families=(family,))))


def test_the_page_lists_no_family_and_no_similarity_that_is_not_there():
    assert list(listed("EEG")) == list(get_args(EEGFamily))
    assert list(listed("Voice")) == list(get_args(AudioFamily))
    assert (marked("EEG"), marked("Voice")) == (list(EEG().families), list(Audio().families))
    edges = PAGE.split("\n## Edges\n")[1]
    rows = re.findall(r"^\| (`.*?) \|", edges, re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(get_args(Similarity))
