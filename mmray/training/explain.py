"""`mmray explain`: what a run looked at in one recording. Attention and gate, pooling, and integrated gradients.

None of these proves a cause. Attention weights and pooling scores tell what the network mixed and kept, attributions
how a score is made up; where the network is at chance, they describe chance.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mmray import progress
from mmray.config import Config
from mmray.errors import RecordingError, WorkspaceError
from mmray.evaluation import explain_page, explain_plots
from mmray.evaluation.report import write_report
from mmray.features import eeg
from mmray.features.extract import feature_names
from mmray.features.table import Segments
from mmray.features.table import load as load_segments
from mmray.models.system import Encoder, System
from mmray.recordings import catalogue
from mmray.schema import MODALITIES, Recording
from mmray.storage import Workspace
from mmray.training import batches, structure
from mmray.training.attribution import STEPS, Importance, Pooling, integrated_gradients, pooled
from mmray.training.checkpoint import LoadedRun, load_run, newest_run

MAX_SEGMENTS = 16
TOP = 10
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Share:
    """A weight in [0, 1]: its mean and its standard deviation, over segments, and for the gate over features too."""

    mean: float
    sd: float


@dataclass(frozen=True)
class Explanation:
    """What `mmray explain` tells of one recording.

    Attributes:
        role: the part of the recording's subject in the run: train, validation, test, or unseen.
        attention: modality -> modality -> weight on the fused path; None where the system has none.
        gate: modality -> share of the fused features, and in `gate_E` of each; None likewise.
        pooling: one entry a pooling layer; None likewise.
        classification: of the predicted class's score, the partner held fixed.
        retrieval: of the cosine with the own partner; None without one.
    """

    recording_id: str
    run_id: str
    role: str
    modality: str
    segments: int
    nodes: list[str]
    features: list[str]
    probability: list[float]
    attention: dict[str, dict[str, Share]] | None
    gate: dict[str, Share] | None
    gate_E: dict[str, list[float]] | None
    pooling: list[Pooling] | None
    classification: Importance
    retrieval: Importance | None
    folder: str

    def render(self) -> RenderableType:
        """The ten nodes that moved the class score most."""
        shown = Table(
            box=box.SIMPLE, caption="integrated gradients; kept: share of segments that each pooling keeps it in"
        )
        for column in ("node", "class score", "match", "kept", "pooling score"):
            shown.add_column(column)
        for n in np.argsort(-np.abs(self.classification.node_N), kind="stable")[:TOP].tolist():
            match = "-" if self.retrieval is None else f"{self.retrieval.node_N[n]:+.4f}"
            kept = " ".join(f"{layer.kept_N[n]:.2f}" for layer in self.pooling or []) or "-"
            score = " ".join(_signed(layer.score_N[n]) for layer in self.pooling or []) or "-"
            shown.add_row(self.nodes[n], f"{self.classification.node_N[n]:+.4f}", match, kept, score)
        lines = [
            f"{self.recording_id}, {self.segments} segments; run {self.run_id}, subject's part in it: {self.role}",
            f"class probabilities {', '.join(f'{p:.2f}' for p in self.probability)}",
        ]
        if self.attention:
            weights = (f"{i}>{j} {_spread(w)}" for i, row in self.attention.items() for j, w in row.items())
            lines.append(f"attention {', '.join(weights)}")
        if self.gate:
            lines.append(f"gate {', '.join(f'{m} {_spread(share)}' for m, share in self.gate.items())}")
        lines.append(f"class score {_rise(self.classification)}")
        if self.retrieval:
            lines.append(f"match with the own partner {_rise(self.retrieval)}")
        lines.append("Weights tell what the network used, not why a person is ill.")
        return Group(Text("\n".join(lines)), shown, Text(f"page, numbers and pictures: {self.folder}/explain.html"))


def explain(settings: Config, recording_id: str, run_id: str | None = None) -> Explanation:
    """Explain one prepared recording and draw it into runs/<id>/explain/<recording_id>/ and the run's report.

    Args:
        run_id: the run; None takes the newest finished one.

    Raises:
        WorkspaceError: no such run or recording, or the run knows nothing of the recording's modality.
        RecordingError: the recording was quarantined.
    """
    workspace = Workspace(settings.workspace)
    run = load_run(workspace, run_id or newest_run(workspace))
    recording = _recording(workspace, run, recording_id)
    segments = _of_subject(workspace, run, recording.subject_id)
    own = segments.pop(recording.modality)
    own = own.take(own.recording_id_S == recording_id)
    rows = np.linspace(0, len(own) - 1, min(MAX_SEGMENTS, len(own))).round().astype(int)
    partners = {m: part.take(np.isin(part.pair_id_S, own.pair_id_S)) for m, part in segments.items()}
    own, partners = own.take(rows), {m: part for m, part in partners.items() if len(part)}
    with progress.bar("explain", STEPS * (1 + bool(partners))) as advance:
        found = explained(run, own, partners, lambda: advance())
    folder = ("runs", run.run_id, "explain", recording_id)
    nodes, names = _names(run.config, recording.modality)
    explanation = Explanation(
        recording_id=recording_id,
        run_id=run.run_id,
        role=_role(workspace, run.run_id, recording.subject_id),
        modality=recording.modality,
        nodes=nodes,
        features=names,
        folder=workspace.address(*folder),
        **found,
    )
    told = asdict(explanation)
    encoder = _encoder(run.model, recording.modality)
    x_SND = encoder.standardised(torch.tensor(own.x_SND)).numpy()
    pictures = explain_plots.draw(told, run.config, recording, own.start_s_S, x_SND)
    for old in (name for name in workspace.names(*folder) if name.endswith(".png")):
        workspace.delete(*folder, old)  # of another version of the run
    for name, png in pictures.items():
        workspace.write_bytes(png, *folder, f"{name}.png")
    workspace.write_json(told, *folder, "explanation.json")
    workspace.write_text(explain_page.page(told, pictures), *folder, "explain.html")
    write_report(workspace, run.run_id)
    return explanation


def explained(
    run: LoadedRun, own: Segments, partners: dict[str, Segments], advance: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The numbers of an explanation, by field name.

    Args:
        own: the recording's segments.
        partners: the person's segments of other modalities; absent where there are none.
        advance: called after each step of a path.
    """
    model, modality = run.model.requires_grad_(False), own.modality
    x_SND, weight_SNN = batches.graphs(own, CPU).take(torch.arange(len(own)))
    structure.remember(model, modality, weight_SNN)
    encoded = {m: _encode(model, m, part).mean(0) for m, part in partners.items()}
    for m in model.modalities:
        if m != modality and m not in encoded:  # an absent slot has its width
            nodes, width = run.shapes[m]
            nobody_1E = model.encode(m, torch.zeros(1, nodes, width), torch.zeros(1, nodes, nodes))
            encoded[m] = torch.zeros_like(nobody_1E[0])
    present_M = torch.tensor([m == modality or m in partners for m in model.modalities])

    def fused(x_SND: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        own_SE = model.encode(modality, x_SND, weight_SNN)
        slots = {m: own_SE if m == modality else encoded[m].expand(len(own_SE), -1) for m in model.modalities}
        return model.fuse(slots, present_M.expand(len(own_SE), -1))

    fused_SE, alpha_SMM, gate_SME = fused(x_SND)
    probability_C = model.classify(fused_SE).softmax(-1).mean(0)
    predicted = int(probability_C.argmax())
    baseline_ND = _encoder(model, modality).mean_ND

    def path(score: Callable[[Tensor], Tensor]) -> Importance:
        return integrated_gradients(score, x_SND, baseline_ND, advance=advance)

    here = {m: i for i, m in enumerate(model.modalities) if present_M[i]}
    attention = gate = gate_E = retrieval = None
    if alpha_SMM is not None:
        attention = {a: {b: _share(alpha_SMM[:, i, j]) for b, j in here.items()} for a, i in here.items()}
    if gate_SME is not None:
        gate = {m: _share(gate_SME[:, i]) for m, i in here.items()}
        gate_E = {m: gate_SME[:, i].mean(0).tolist() for m, i in here.items()}
    if partners:
        code_S = _codes(model, own)
        partner_E = torch.stack([_lone(model, m, part).mean(0) for m, part in partners.items()]).mean(0)
        target_E = torch.nn.functional.normalize(partner_E, dim=-1)
        retrieval = path(lambda x: model.embed(modality, x, weight_SNN, code_S) @ target_E)
    return {
        "segments": len(own),
        "probability": probability_C.tolist(),
        "attention": attention,
        "gate": gate,
        "gate_E": gate_E,
        "pooling": pooled(model, modality, x_SND, weight_SNN),
        "classification": path(lambda x: model.classify(fused(x)[0])[:, predicted]),
        "retrieval": retrieval,
    }


def _share(weight: Tensor) -> Share:
    return Share(float(weight.mean()), float(weight.std(correction=0)))


def _encoder(model: System, modality: str) -> Encoder:
    encoder = model.encoders[modality]
    assert isinstance(encoder, Encoder)
    return encoder


def _encode(model: System, modality: str, part: Segments) -> Tensor:
    graphs = batches.graphs(part, CPU)
    return torch.cat([model.encode(modality, *graphs.take(row)) for row in _rows(part)])


def _lone(model: System, modality: str, part: Segments) -> Tensor:
    graphs, code_S = batches.graphs(part, CPU), _codes(model, part)
    return torch.cat([model.embed(modality, *graphs.take(row), code_S[row]) for row in _rows(part)])


def _rows(part: Segments) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(part)), 256)


def _codes(model: System, part: Segments) -> Tensor:
    if model.reference is None:
        return torch.full((len(part),), -1)
    return model.reference.codes(part.subject_id_S.tolist())


def _of_subject(workspace: Workspace, run: LoadedRun, subject_id: str) -> dict[str, Segments]:
    """A person's prepared segments, of each modality that the run knows and they have."""
    prepared = _prepared(workspace, run)
    held = {r.modality for r in catalogue.load(workspace) if r.subject_id == subject_id and r.recording_id in prepared}
    return {
        m: load_segments(workspace, run.features_digest, m, {subject_id})
        for m in MODALITIES
        if m in held and m in run.shapes
    }


def _prepared(workspace: Workspace, run: LoadedRun) -> set[str]:
    """Ids of the recordings that have segments."""
    parts = workspace.read_table("features", run.features_digest, "parts.parquet").to_pylist()
    return {str(part["recording_id"]) for part in parts if part["segments"]}


def _recording(workspace: Workspace, run: LoadedRun, recording_id: str) -> Recording:
    """The recording's row, where the run can say something about it."""
    found = next((r for r in catalogue.load(workspace) if r.recording_id == recording_id), None)
    prepared = _prepared(workspace, run)
    if found is not None and found.modality not in run.shapes:
        raise WorkspaceError(
            f"recording {recording_id} is {found.modality}, and run {run.run_id} knows only {', '.join(run.shapes)}; "
            "choose another --run"
        )
    if found is not None and recording_id in prepared:
        return found
    folder = ("features", run.features_digest)
    if workspace.exists(*folder, "quarantine.parquet"):
        for row in workspace.read_table(*folder, "quarantine.parquet").to_pylist():
            if row["recording_id"] == recording_id:
                raise RecordingError(f"recording {recording_id} was quarantined: {row['reason']}")
    near = difflib.get_close_matches(recording_id, sorted(prepared), n=1)
    hint = f"did you mean '{near[0]}'?" if near else "see recordings.parquet for the ids, and run `mmray prepare`"
    raise WorkspaceError(f"recording {recording_id[:80]!r} is not among those that run {run.run_id} knows; {hint}")


def _role(workspace: Workspace, run_id: str, subject_id: str) -> str:
    played = workspace.read_table("runs", run_id, "embeddings.parquet", columns=["subject_id", "role"])
    roles = zip(played["subject_id"].to_pylist(), played["role"].to_pylist(), strict=True)
    return next((str(role) for subject, role in roles if subject == subject_id), "unseen")


def _names(settings: Config, modality: str) -> tuple[list[str], list[str]]:
    """Names of a modality's nodes and of their features."""
    if modality == "eeg":
        return list(eeg.node_names(settings.features.eeg)), list(feature_names("eeg", settings.features))
    chosen = settings.features.audio
    step_s = chosen.segment_s / chosen.nodes
    nodes = [f"{(n + 0.5) * step_s:.2f} s" for n in range(chosen.nodes)]
    return nodes, list(feature_names("audio", settings.features))


def _spread(share: Share) -> str:
    return f"{share.mean:.2f} (SD {share.sd:.2f})"


def _rise(importance: Importance) -> str:
    return (
        f"{importance.score:+.3f}, at the training mean {importance.baseline:+.3f}; "
        f"of the difference {importance.residual:+.3f} is not attributed"
    )


def _signed(score: float | None) -> str:
    return "-" if score is None else f"{score:+.2f}"
