"""The manifests of deploy/kuberay/, one for each stage that a template has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kuberay"
STAGES = {"rayjob-cpu": ("prepare", "compare", "index"), "rayjob-gpu": ("train", "sweep")}


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        for stage in STAGES.get(path.stem, ("",)):
            yield f"{path.stem} {stage}".strip(), yaml.safe_load(path.read_text().replace("STAGE", stage))


MANIFESTS = dict(manifests())
