"""Subject-disjoint folds: drawn once, written to a file, and only read from then on."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np

from mmray.config import Config, Split
from mmray.errors import ConfigError, WorkspaceError
from mmray.recordings import catalogue
from mmray.schema import MODALITIES, Recording
from mmray.storage import Workspace


@dataclass(frozen=True)
class Fold:
    """Sorted subject ids; the three parts share nobody."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class SplitSummary:
    """What `mmray split` tells: where the file lies, and whether it was there before."""

    path: str
    folds: int
    subjects: int
    kept: bool

    def render(self) -> str:
        """As a line for a terminal."""
        return f"{self.folds} folds of {self.subjects} subjects {'kept' if self.kept else 'written'}: {self.path}"


def make_folds(recordings: list[Recording], config: Split) -> list[Fold]:
    """Draw folds in which every subject is tested once.

    Stratified by label and by whether a subject has every modality: each stratum's count differs by at most one between
    the test parts, and so does their size. Validation is drawn from the rest in the same proportions. The result
    depends on the set of recordings and on the seed, not on their order.

    Raises:
        ConfigError: too few subjects for this many folds.
    """
    strata: dict[str, list[str]] = defaultdict(list)
    for subject, stratum in _stratum_of_subject(recordings).items():
        strata[stratum].append(subject)
    total = sum(len(subjects) for subjects in strata.values())
    if total < config.folds or total - -(-total // config.folds) < 2:
        raise ConfigError(
            f"split.folds = {config.folds}, and there are {total} subjects: every fold needs one to test, one to "
            "validate and one to train on; lower split.folds or add subjects"
        )
    rng = np.random.default_rng(config.seed)
    # strata one after the other, shuffled inside: any regular walk through this order is stratified
    order = [str(subject) for _, subjects in sorted(strata.items()) for subject in rng.permutation(sorted(subjects))]
    folds = []
    for fold in range(config.folds):
        rest = [subject for position, subject in enumerate(order) if position % config.folds != fold]
        wanted = min(max(1, round(config.validation_fraction * len(rest))), len(rest) - 1)
        step = len(rest) / wanted
        offset = rng.random()  # one for all: steps of at least 1 then never meet
        chosen = {rest[int((number + offset) * step)] for number in range(wanted)}
        folds.append(
            Fold(
                train=tuple(sorted(set(rest) - chosen)),
                validation=tuple(sorted(chosen)),
                test=tuple(sorted(order[fold :: config.folds])),
            )
        )
    return folds


def write_split(config: Config) -> SplitSummary:
    """Draw the folds of the workspace's recordings and write splits/<name>.json, unless it stands there already.

    Raises:
        WorkspaceError: there are no recordings, or the file holds other settings or subjects; it is never replaced.
        ConfigError: as `make_folds`.
    """
    workspace = Workspace(config.workspace)
    recordings = catalogue.load(workspace)
    subjects = sorted({recording.subject_id for recording in recordings})
    head = {
        "folds": config.split.folds,
        "validation_fraction": config.split.validation_fraction,
        "seed": config.split.seed,
        "subjects": len(subjects),
        "subjects_sha256": hashlib.sha256(json.dumps(subjects).encode()).hexdigest(),
    }
    place = ("splits", f"{config.split.name}.json")
    kept = workspace.exists(*place)
    if kept:
        load_split(workspace, config.split.name)
        written = workspace.read_json(*place)
        other = [key for key, value in head.items() if written.get(key) != value]
        if other:
            raise WorkspaceError(
                f"workspace {config.workspace}: {'/'.join(place)} was made with other {' and '.join(other)}; "
                "a split is never changed, choose another split.name"
            )
    else:
        folds = make_folds(recordings, config.split)
        workspace.write_json({**head, "parts": [asdict(fold) for fold in folds]}, *place)
    return SplitSummary(workspace.address(*place), config.split.folds, len(subjects), kept)


def load_split(workspace: Workspace, name: str) -> list[Fold]:
    """The folds of splits/<name>.json.

    Raises:
        WorkspaceError: it is missing or damaged, a subject is in two parts of a fold, or is tested twice.
    """
    if not workspace.exists("splits", f"{name}.json"):
        raise WorkspaceError(f"workspace {workspace.root}: splits/{name}.json is not there; run `mmray split` first")
    written = workspace.read_json("splits", f"{name}.json")
    try:
        folds = [
            Fold(train=tuple(part["train"]), validation=tuple(part["validation"]), test=tuple(part["test"]))
            for part in written["parts"]
        ]
    except (KeyError, TypeError) as error:
        raise WorkspaceError(
            f"workspace {workspace.root}: splits/{name}.json is not a split ({error}); choose another split.name"
        ) from error
    for number, fold in enumerate(folds):
        _refuse_repeats([*fold.train, *fold.validation, *fold.test], f"splits/{name}.json: in fold {number}")
    _refuse_repeats([subject for fold in folds for subject in fold.test], f"splits/{name}.json: among the test parts")
    return folds


def _refuse_repeats(subjects: list[str], where: str) -> None:
    seen: set[str] = set()
    for subject in subjects:
        if subject in seen:
            raise WorkspaceError(
                f"{where}, subject {subject} stands twice, which would leak; choose another split.name"
            )
        seen.add(subject)


def _stratum_of_subject(recordings: list[Recording]) -> dict[str, str]:
    labels: dict[str, set[int]] = defaultdict(set)
    modalities: dict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        labels[recording.subject_id].update(() if recording.label is None else (recording.label,))
        modalities[recording.subject_id].add(recording.modality)
    return {
        subject: f"labels {sorted(labels[subject])}, every modality {len(modalities[subject]) == len(MODALITIES)}"
        for subject in modalities
    }
