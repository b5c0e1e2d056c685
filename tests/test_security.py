"""What SECURITY.md says of the code, read from the source: nothing is unpickled, evaluated or given to a shell."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[1]
FILES = [path for folder in ("mmray", "jobs") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
PIN = re.compile(r"([A-Za-z0-9._-]+)==[A-Za-z0-9.!+]+")
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput"),
    *("subprocess.getstatusoutput", "torch.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load", "yaml.full_load_all"),
}


def findings(source: str) -> list[str]:
    """What of a source could run what a file, a setting or a request says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names if name.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.partition(".")[0] in MODULES else []
            found += [f"{module}.{name.name}" for name in node.names if f"{module}.{name.name}" in CALLS]
            found += [f"{module}.{name.name}" for name in node.names if name.name in MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] if called in CALLS else []
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            for name in ("shell", "allow_pickle", "trust_remote_code"):
                value = given.get(name)
                if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(f"{called}({name}=...)")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_a_file_runs_nothing_that_users_supply(path: Path) -> None:
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import cloudpickle",
        "import torch\ntorch.load('x')",
        "from torch import load",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import yaml\nyaml.load(text, Loader=loader)",
        "eval(text)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
    ],
)
def test_the_rule_sees(source: str) -> None:
    assert findings(source)


def test_the_rule_lets_a_safe_loader_pass() -> None:
    source = "import yaml, numpy as np\nyaml.safe_load(text)\nnp.load(path, allow_pickle=False)\nmodel.eval()"
    assert findings(source) == []


@pytest.fixture(scope="module")
def verdict() -> Callable[..., Any]:
    return runpy.run_path(str(REPOSITORY / ".ci" / "audit.py"))["verdict"]


# as pip-audit 2.10 writes them
CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
UNKNOWN = {"name": "safetensors", "skip_reason": "Dependency not found on PyPI and could not be audited: safetensors"}
HOLE = {"id": "PYSEC-2026-1", "fix_versions": ["9.9"], "aliases": ["CVE-2026-1"], "description": "a hole"}


def test_an_audit_that_nobody_answered_says_so_and_is_no_finding(verdict: Callable[..., Any]) -> None:
    assert verdict([]) == verdict([UNKNOWN]) == (["audit: not checked: no answer"], 0)


def test_an_audit_counts_what_was_checked_and_names_what_was_not(verdict: Callable[..., Any]) -> None:
    assert verdict([CLEAN, UNKNOWN]) == (["audit: 1 of 2 packages checked", "audit: not checked: safetensors"], 0)


def test_a_known_vulnerability_fails_the_audit(verdict: Callable[..., Any]) -> None:
    lines, code = verdict([{**CLEAN, "vulns": [HOLE, {**HOLE, "fix_versions": []}]}])
    assert code == 1
    assert lines[:2] == [
        "audit: torch 2.13.0: PYSEC-2026-1, mended in 9.9",
        "audit: torch 2.13.0: PYSEC-2026-1, mended in no version",
    ]


def test_every_pin_is_exact_and_there_once() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    parsed = [PIN.fullmatch(line) for line in lines]
    assert all(parsed)
    names = [re.sub(r"[-_.]+", "-", found[1]).lower() for found in parsed if found]
    assert len(set(names)) == len(names)
