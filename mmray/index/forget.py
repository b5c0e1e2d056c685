"""`mmray index forget SUBJECT`: a person leaves every artefact of a workspace.

What answers is replaced first: an index without them, from the vectors that are there. Then all that names or shows
them goes. What was found is noted before anything is removed and the note removed last, so that a run that was killed
at any moment is finished by the same command. The study's own files are not ours to delete; weights that were fitted
on somebody cannot unlearn them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from mmray.config import Config
from mmray.errors import ConfigError, MmrayError, RecordingError, WorkspaceError
from mmray.evaluation import trials
from mmray.evaluation.report import write_report
from mmray.evaluation.trials import Row
from mmray.graphs.population import Reference
from mmray.index import build, store
from mmray.schema import MODALITIES
from mmray.storage import Workspace
from mmray.training import reference
from mmray.training.checkpoint import load_run
from mmray.training.trainer import CHECKPOINT

_REMOVED = "a reason that named somebody who was forgotten"


@dataclass(frozen=True)
class _Person:
    """What a workspace knows of somebody; kept in forgetting-<digest>.json until they are gone.

    Attributes:
        fitted: runs whose weights they had a part in, as training or validation subject.
        asked: of them, the runs whose reference set holds their samples.
        removed: of these, the runs that could ask nobody any more once their samples were gone.
    """

    subject: str
    recordings: list[str]
    sources: list[str]
    fitted: list[str]
    asked: list[str]
    removed: list[str]

    @property
    def names(self) -> set[str]:
        return {self.subject, *self.recordings}

    def is_named_in(self, text: str | None) -> bool:
        """Whether a sentence holds one of the ids as a word, or a source file."""
        if text is None:
            return False
        words = (rf"(?<![\w-]){re.escape(name)}(?![\w-])" for name in self.names)
        return any(re.search(word, text) for word in words) or any(path in text for path in self.sources)


@dataclass(frozen=True)
class ForgetSummary:
    """What `mmray index forget` did.

    Attributes:
        version: the index that is current now; None where there is none.
        published: whether it was made for this.
        removed_versions: index versions that held them, or were made with their samples.
        fitted: runs whose weights they had a part in, which cannot forget them.
        removed_runs: runs that could ask nobody any more once their samples were gone.
        sources: the study's files of theirs, which are not deleted.
    """

    subject: str
    recordings: int
    version: str | None
    published: bool
    removed_versions: list[str]
    fitted: list[str]
    removed_runs: list[str]
    sources: list[str]

    def render(self) -> str:
        """As lines for a terminal."""
        current = "no index is left" if self.version is None else f"index {self.version} answers"
        lines = [
            f"{self.subject}: {self.recordings} recordings are gone from the workspace; {current}, "
            f"{len(self.removed_versions)} versions removed"
        ]
        if self.fitted:
            runs = ", ".join(self.fitted)
            lines.append(
                f"NOT forgotten: the weights of {runs}, which were fitted with this person's data. Train again (`mmray "
                "prepare`, `mmray split` with another split.name, `mmray train`, `mmray index`), then delete "
                + ", ".join(f"runs/{run}" for run in self.fitted)
            )
        if self.removed_runs:
            lines.append(f"removed, as too few people are left in their reference sets: {', '.join(self.removed_runs)}")
        if self.sources:
            lines.append(
                "NOT deleted, because the study is not mmray's; while they are there, `mmray recordings` lists "
            )
            lines[-1] += "them again:"
            lines += [f"  {path}" for path in self.sources]
        lines.append("next: mmray prepare, which takes note of the fewer recordings, before any other fit")
        return "\n".join(lines)


def forget(config: Config, subject: str) -> ForgetSummary:
    """Remove a person from every artefact of the workspace.

    Raises:
        RecordingError: the workspace knows nobody of this id; nothing is changed.
        WorkspaceError: a file is damaged or cannot be written; the same command goes on from there.
        ResourceError: a run has to embed anew and Ray cannot start.
    """
    workspace = Workspace(config.workspace)
    digest = hashlib.sha256(subject.encode(errors="surrogatepass")).hexdigest()[:12]
    note = f"forgetting-{digest}.json"
    # ids in the workspace are UTF-8, which bytes of a command line need not be
    person = None if any("\ud800" <= c <= "\udfff" for c in subject) else _known(workspace, subject, note)
    if person is None:
        raise RecordingError(
            f"forget: workspace {workspace.root} holds nothing of subject {subject[:80]!r}; ids are those of the "
            "column subject_id in recordings.parquet"
        )
    workspace.write_json(asdict(person), note)
    for run in person.asked:
        if run not in person.removed and not _forget_reference(workspace, run, subject):
            person.removed.append(run)
    workspace.write_json(asdict(person), note)  # before they go: half a run does not tell what it was
    for run in person.removed:
        workspace.delete_tree("runs", run)
    published = _replace_current(config, workspace, person)
    removed_versions = _delete_versions(config, workspace, person)
    for run in workspace.names("runs"):
        _forget_in_run(workspace, run, person)
    for sweep in workspace.names("sweeps"):
        _forget_in_sweep(workspace, sweep, person)
    for digest in workspace.names("features"):
        _forget_features(workspace, ("features", digest), person)
    for name in workspace.names("splits"):
        _forget_in_split(workspace, name, person)
    _forget_unplaced(workspace, person)
    _drop(workspace, ("recordings.parquet",), "subject_id", [subject])
    workspace.delete_partials()
    workspace.delete(note)
    return ForgetSummary(
        subject,
        len(person.recordings),
        store.current(workspace) if workspace.exists("index", "current") else None,
        published,
        removed_versions,
        [run for run in person.fitted if run not in person.removed],
        person.removed,
        person.sources,
    )


def _known(workspace: Workspace, subject: str, note: str) -> _Person | None:
    """What every artefact that names subjects says of this one, and what a killed run had found; None: nothing."""
    found: dict[str, set[str]] = {name: set() for name in ("recordings", "sources", "fitted", "asked", "removed")}
    if workspace.exists(note):
        before = workspace.read_json(note)
        for name, values in found.items():
            values.update(before[name])
    tables: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(("recordings.parquet",), ("recording_id", "path"))]
    tables += [(("index", v, "metadata.parquet"), ("recording_id",)) for v in workspace.names("index")]
    for digest in workspace.names("features"):
        tables.append((("features", digest, "quality.parquet"), ("recording_id",)))
        tables.append((("features", digest, "quarantine.parquet"), ("recording_id", "path")))
    for parts, columns in tables:
        for row in _rows_of(workspace, parts, subject, columns):
            found["recordings"].add(row["recording_id"])
            found["sources"].update([row["path"]] if "path" in row else [])
    for run in workspace.names("runs"):
        rows = _rows_of(workspace, ("runs", run, "embeddings.parquet"), subject, ("recording_id", "role"))
        found["recordings"].update(row["recording_id"] for row in rows)
        found["fitted"].update(run for row in rows if row["role"] != "test")
        if subject in _asked(workspace, run):
            found["fitted"].add(run)
            found["asked"].add(run)
    if not any(found.values()) and not _is_listed(workspace, subject):
        return None
    return _Person(subject, **{name: sorted(values) for name, values in found.items()})


def _is_listed(workspace: Workspace, subject: str) -> bool:
    """Whether a split or a sweep knows somebody of whom nothing else is left."""
    for name in workspace.names("splits"):
        parts = workspace.read_json("splits", name)["parts"]
        if any(subject in who for fold in parts for who in fold.values()):
            return True
    for sweep in workspace.names("sweeps"):
        for name in workspace.names("sweeps", sweep, "trials.parquet"):
            held = workspace.read_table("sweeps", sweep, "trials.parquet", name, columns=["subject_id"])
            if any(subject in (who or ()) for who in held["subject_id"].to_pylist()):
                return True
    return False


def _rows_of(
    workspace: Workspace, parts: tuple[str, ...], subject: str, columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    if not workspace.exists(*parts):
        return []
    table = workspace.read_table(*parts, columns=["subject_id", *columns])
    rows: list[dict[str, Any]] = table.filter(pc.equal(table["subject_id"], subject)).to_pylist()
    return rows


def _asked(workspace: Workspace, run_id: str) -> Collection[str]:
    """The subjects of a run's reference set."""
    if not workspace.exists("runs", run_id, reference.FILE):
        return ()
    data = workspace.read_bytes("runs", run_id, reference.FILE)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    subjects: list[str] = json.loads(header["__metadata__"]["about"])["subjects"]
    return subjects


def _forget_reference(workspace: Workspace, run_id: str, subject: str) -> bool:
    """Take somebody's samples out of a run's reference set. False where too few others are in it for the run to ask."""
    if not workspace.exists("runs", run_id, "run.json"):
        workspace.delete("runs", run_id, reference.FILE)  # not finished: it will be made again
        return True
    model = load_run(workspace, run_id).model
    held = model.reference
    if held is None or subject not in held.subjects:
        return True  # by a run that was killed afterwards
    kept_R = held.subject_R != held.subjects.index(subject)
    others = tuple(name for name in held.subjects if name != subject)
    code = torch.tensor([others.index(name) if name != subject else -1 for name in held.subjects], dtype=torch.int64)
    fewer = Reference(held.vector_RME[kept_R], held.present_RM[kept_R], code[held.subject_R[kept_R]], others)
    if not others or fewer.room() < model.neighbours:
        return False
    data = workspace.read_bytes("runs", run_id, "model.safetensors")
    content = reference.to_bytes(fewer, hashlib.sha256(data).hexdigest())
    workspace.write_bytes(content, "runs", run_id, reference.FILE)
    return True


def _replace_current(config: Config, workspace: Workspace, person: _Person) -> bool:
    """Publish the current index again without this person, where it holds them or was made with their samples."""
    if not workspace.exists("index", "current"):
        return False
    manifest = store.read_manifest(workspace, store.current(workspace))
    if manifest.run_id in person.removed or not workspace.exists("runs", manifest.run_id, "run.json"):
        workspace.delete("index", "current")
        return False
    opened = store.open_index(workspace)
    table = pa.concat_tables(opened.rows.values()).sort_by("recording_id")
    rest = table.filter(pc.not_equal(table["subject_id"], person.subject))
    if rest.num_rows == table.num_rows and build.is_of_its_run(workspace, manifest):
        return False
    if rest.num_rows == 0:
        workspace.delete("index", "current")
        return False
    run, settings = load_run(workspace, manifest.run_id), store.settings_of(manifest)
    again = config.model_copy(update={"index": settings})
    try:
        build.publish_rows(again, run, rest)
    except ConfigError:  # what is left is too little for this kind; exact is always right
        exact = settings.model_copy(update={"kind": "flat"})
        build.publish_rows(config.model_copy(update={"index": exact}), run, rest)
    return True


def _delete_versions(config: Config, workspace: Workspace, person: _Person) -> list[str]:
    """Every version that holds the person, is of a run whose reference set did, or was never finished."""
    removed = []
    for version in workspace.names("index"):
        if version in ("current", store.HISTORY):
            continue
        place = ("index", version, "metadata.parquet")
        whole = workspace.exists("index", version, "manifest.json") and workspace.exists(*place)
        try:
            manifest = store.read_manifest(workspace, version) if whole else None
        except WorkspaceError:  # of another mmray: no reader takes it
            manifest = None
        stale = manifest is not None and (
            manifest.run_id in person.asked and not build.is_of_its_run(workspace, manifest)
        )
        if manifest is None or stale or _rows_of(workspace, place, person.subject, ()):
            store.delete(workspace, version, config.index)
            removed.append(version)
    past = store.history(workspace)
    kept = [version for version in past if workspace.exists("index", version, "manifest.json")]
    if kept != past:
        store.write_history(workspace, kept)
    return removed


def _forget_in_run(workspace: Workspace, run_id: str, person: _Person) -> None:
    run = ("runs", run_id)
    there = set(workspace.names(*run, "explain"))
    for recording in there & set(person.recordings):
        workspace.delete_tree(*run, "explain", recording)
    finished = workspace.exists(*run, "fitted.json") or workspace.exists(*run, "run.json")
    if run_id in person.fitted or not finished:
        workspace.delete(*run, CHECKPOINT)  # holds samples of training subjects; nothing can go on from it any more
    held = any(
        _rows_of(workspace, (*run, name), person.subject, ()) for name in ("predictions.parquet", "embeddings.parquet")
    )
    had_report = workspace.exists(*run, "report.html")
    if held or there & set(person.recordings):
        workspace.delete(*run, "report.html")
        workspace.delete_tree(*run, "figures")
        for name in ("predictions.parquet", "embeddings.parquet"):
            _drop(workspace, (*run, name), "subject_id", [person.subject])
    # the report of a run that was killed between is not made again; its figures stay in metrics.parquet
    if had_report and not workspace.exists(*run, "report.html"):
        try:
            write_report(workspace, run_id)
        except (MmrayError, ValueError):  # of too few people
            workspace.delete(*run, "report.html")


def _forget_in_sweep(workspace: Workspace, sweep_id: str, person: _Person) -> None:
    place = ("sweeps", sweep_id)
    for name in workspace.names(*place, "trials.parquet"):
        (row,) = workspace.read_table(*place, "trials.parquet", name).to_pylist()
        subjects = row["subject_id"] or []
        kept = [position for position, subject in enumerate(subjects) if subject != person.subject]
        of_task = [one for one in row["by_task"] or [] if one["subject_id"] != person.subject]
        named = person.is_named_in(row["error"])
        if len(kept) == len(subjects) and len(of_task) == len(row["by_task"] or []) and not named:
            continue
        workspace.delete_tree(*place, "report")
        fewer: Row = {column: [row[column][p] for p in kept] for column in _A_SUBJECT if row[column] is not None}
        fewer |= {"by_task": None if row["by_task"] is None else of_task, "error": _REMOVED if named else row["error"]}
        table = pa.Table.from_pylist([row | fewer], schema=trials.TRIALS)
        workspace.write_table(table, *place, "trials.parquet", name)
    if workspace.exists(*place, "summary.json"):
        told = workspace.read_json(*place, "summary.json")
        before = json.dumps(told)
        for figures in told["figures"].values():
            for figure in figures:
                figure["per_subject"].pop(person.subject, None)
        told["failed"] = {t: _REMOVED if person.is_named_in(why) else why for t, why in told["failed"].items()}
        if json.dumps(told) != before:
            workspace.write_json(told, *place, "summary.json")


_A_SUBJECT = ("subject_id", "label", *MODALITIES, "probability")  # columns of a trial with one entry a test subject


def _forget_features(workspace: Workspace, folder: tuple[str, ...], person: _Person) -> None:
    """A preparation: parts.parquet first, so that no reader asks for a part that is gone."""
    workspace.delete_tree(*folder, "report")
    for name in workspace.names(*folder):
        if name.startswith("structural-"):  # of everybody's graphs, without names; worked out again when needed
            workspace.delete(*folder, name)
    _drop(workspace, (*folder, "parts.parquet"), "recording_id", person.recordings)
    for modality in MODALITIES:
        for name in workspace.names(*folder, modality):
            if _is_part_of(workspace, (*folder, modality, name), set(person.recordings)):
                workspace.delete(*folder, modality, name)
    _drop(workspace, (*folder, "quarantine.parquet"), "subject_id", [person.subject])
    if workspace.exists(*folder, "quarantine.parquet"):
        table = workspace.read_table(*folder, "quarantine.parquet")
        reasons = table["reason"].to_pylist()
        unnamed = [_REMOVED if person.is_named_in(why) else why for why in reasons]  # a copy names its original
        if unnamed != reasons:
            at = table.schema.get_field_index("reason")
            table = table.set_column(at, table.schema.field(at), pa.array(unnamed, pa.string()))
            workspace.write_table(table, *folder, "quarantine.parquet")
    _drop(workspace, (*folder, "quality.parquet"), "subject_id", [person.subject])


def _forget_unplaced(workspace: Workspace, person: _Person) -> None:
    """Files that no reader knew; one that may be theirs by its name is listed no more."""
    if not workspace.exists("unplaced.parquet"):
        return
    table = workspace.read_table("unplaced.parquet")
    names = (*person.names, *person.sources)
    keep = [not any(name in row["path"] or name in row["reason"] for name in names) for row in table.to_pylist()]
    if not all(keep):
        workspace.write_table(table.filter(pa.array(keep, pa.bool_())), "unplaced.parquet")


def _is_part_of(workspace: Workspace, place: tuple[str, ...], recordings: set[str]) -> bool:
    """Whether a part file is of one of these recordings; ids may be the beginning of others."""
    stem = place[-1].removesuffix(".parquet")
    if not any(stem == recording or stem.startswith(f"{recording}-") for recording in recordings):
        return False
    held = workspace.read_table(*place, columns=["recording_id"])["recording_id"]
    return held[0].as_py() in recordings if len(held) else True


def _forget_in_split(workspace: Workspace, name: str, person: _Person) -> None:
    written = workspace.read_json("splits", name)
    parts = [{r: [s for s in who if s != person.subject] for r, who in fold.items()} for fold in written["parts"]]
    if parts == written["parts"]:
        return
    subjects = sorted({subject for fold in parts for who in fold.values() for subject in who})
    digest = hashlib.sha256(json.dumps(subjects).encode()).hexdigest()  # as splits.write_split
    head = {"subjects": len(subjects), "subjects_sha256": digest}
    workspace.write_json({**written, **head, "parts": parts}, "splits", name)


def _drop(workspace: Workspace, parts: tuple[str, ...], column: str, values: Collection[str]) -> None:
    """Rewrite a table without some rows; untouched where it has none of them."""
    if not workspace.exists(*parts):
        return
    table = workspace.read_table(*parts)
    gone = pc.is_in(table[column], pa.array(sorted(values), pa.string()))
    if pc.any(gone).as_py():
        workspace.write_table(table.filter(pc.invert(gone)), *parts)
