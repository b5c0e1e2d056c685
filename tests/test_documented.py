"""What the docs say exists, exists; what exists is in the docs."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from mmray import cli, config

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CLUSTER = (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    lines = (line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines())
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMANDS = sorted({command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))})


def parse(arguments: list[str]) -> None:
    """Let the command line read its arguments without running the verb."""
    group = typer.main.get_command(cli.app)
    verb = group.commands[arguments[0]]  # type: ignore[attr-defined]
    verb.make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("mmray ") and "$verb" not in c])
def test_a_command_of_the_pages_is_one_that_mmray_takes(command: str) -> None:
    parse(shlex.split(command.split(" > ")[0].removesuffix(" &"), comments=True)[1:])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("ray job submit")])
def test_a_job_of_the_pages_exists_with_its_config(command: str) -> None:
    words = shlex.split(command)
    entry = words[words.index("--") + 1 :]
    assert entry[0] == "python"
    assert (REPOSITORY / entry[1]).is_file()
    config.load(REPOSITORY / entry[entry.index("--config") + 1])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_a_target_of_the_readme_is_in_the_makefile(command: str) -> None:
    ended = subprocess.run(["make", "--dry-run", command.split()[1]], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_relative_link_of_a_page_leads_somewhere(page: Path) -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")) if "://" not in t]
    assert [t for t in targets if not t.startswith("#") and not (page.parent / t.split("#")[0]).exists()] == []


def test_the_settings_of_the_page_on_clusters_are_taken() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", CLUSTER, re.DOTALL)
    config.from_dict(yaml.safe_load(block))


def test_what_the_page_on_clusters_quotes_is_what_mmray_says() -> None:
    source = "\n".join(path.read_text() for path in (REPOSITORY / "mmray").rglob("*.py"))
    rows = CLUSTER[CLUSTER.index("| it says |") :].splitlines()[2:]
    quoted = [found[1] for row in rows if (found := re.match(r"\| `(.+?)`", row))]
    assert len(quoted) > 5
    assert [phrase for phrase in quoted if phrase not in source] == []


def test_the_page_of_settings_is_what_the_code_says() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == config.reference(), "write it anew: mmray settings > docs/configuration.md"


def test_every_setting_says_what_it_is() -> None:
    silent = [line for line in config.reference().splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert silent == []


def test_no_job_is_longer_than_sixty_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (REPOSITORY / "jobs").glob("*.py")}
    assert lengths
    assert max(lengths.values()) < 60
