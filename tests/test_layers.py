"""The layout's two rules, read from the source: dependencies point one way, and few files know Ray."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "mmray"
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
BASE = {"__init__", "errors", "schema", "config", "storage", "progress", "cluster", "keeper", "placement", "quota"}
LAYERS = ("recordings", "graphs", "features", "models", "evaluation", "training", "index", "serving")
TOP = {"cli", "client", "demo", "doctor", "submission"}
MAY_IMPORT_RAY = {
    "cluster.py",
    "submission.py",
    "features/pipeline.py",
    "training/trainer.py",
    "training/power.py",
    "training/search.py",
    "training/sweep.py",
    "training/tuning.py",
}


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def layer_of(module: str) -> int:
    if module in BASE:
        return 0
    return LAYERS.index(module) + 1 if module in LAYERS else len(LAYERS) + 1


def violations(path: Path, imported: set[str]) -> list[str]:
    own = layer_of(path.parts[0].removesuffix(".py"))
    parts = (name.split(".")[1] for name in imported if name.startswith("mmray."))
    known = BASE | set(LAYERS) | TOP
    return sorted({part for part in parts if part in known and layer_of(part) > own})


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_imports_a_later_layer(path: Path) -> None:
    assert violations(path, imports_of(path)) == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_ray_is_imported_only_where_the_design_allows(path: Path) -> None:
    uses_ray = any(name == "ray" or name.startswith("ray.") for name in imports_of(path))
    assert not uses_ray or path.as_posix() in MAY_IMPORT_RAY or path.parts[0] == "serving"


def test_the_layer_rule_sees_an_upward_import() -> None:
    assert violations(Path("recordings/modma.py"), {"mmray.features.eeg"}) == ["features"]


def test_every_package_stands_in_the_layer_rule() -> None:
    packages = {path.parts[0] for path in FILES if len(path.parts) > 1}
    modules = {path.stem for path in FILES if len(path.parts) == 1}
    assert packages <= set(LAYERS)
    assert modules <= BASE | TOP
