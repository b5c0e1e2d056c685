"""`mmray explain`: what a run looked at in one recording. Attention and gate, pooling, and integrated gradients.

None of these proves a cause. Attention weights and pooling scores tell what the network mixed and kept; integrated
gradients (Sundararajan et al. 2017, doi 10.48550/arXiv.1703.01365) tell how a score is made up of the features,
beginning at the training subjects' mean: IG_nd = (x_nd - mean_nd) * mean over a of df/dx_nd at mean + a (x - mean).
Their sum is f(x) - f(mean), up to the steps taken; what is missing is told as `residual`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from mmray.config import Config
from mmray.errors import RecordingError, WorkspaceError
from mmray.evaluation import explain_plots
from mmray.evaluation.report import write_report
from mmray.features import audio, eeg
from mmray.features.table import Segments
from mmray.features.table import load as load_segments
from mmray.models.crossmodal_gcn import GraphEncoder
from mmray.models.system import Encoder, System
from mmray.recordings import catalogue
from mmray.schema import MODALITIES
from mmray.storage import Workspace
from mmray.training import batches
from mmray.training.checkpoint import LoadedRun, load_run

STEPS = 64
MAX_SEGMENTS = 16
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Importance:
    """Integrated gradients of one score, averaged over segments.

    Attributes:
        score: f(x), of the recording; `baseline`: of the training subjects' mean.
        residual: f(x) - f(mean) less the sum of all attributions. Steps of the path add to it, and so do jumps that no
            gradient sees: which nodes a pooling keeps, whom a query asks.
        node_SN: of each explained segment.
        node_N: summed over features; positive pushes the score up.
        feature_D: summed over nodes.
    """

    score: float
    baseline: float
    residual: float
    node_SN: list[list[float]]
    node_N: list[float]
    feature_D: list[float]


@dataclass(frozen=True)
class Explanation:
    """What `mmray explain` tells of one recording.

    Attributes:
        attention: modality -> modality -> mean weight on the fused path; None where the system has none.
        gate: modality -> mean share of the fused features; None likewise.
        kept: for each pooling, the share of segments in which a node stays; None likewise.
        classification: of the predicted class's score, the partner held fixed.
        retrieval: of the cosine with the own partner; None without one.
    """

    recording_id: str
    run_id: str
    modality: str
    segments: int
    nodes: list[str]
    features: list[str]
    probability: list[float]
    attention: dict[str, dict[str, float]] | None
    gate: dict[str, float] | None
    kept: list[list[float]] | None
    classification: Importance
    retrieval: Importance | None
    folder: str

    def render(self) -> RenderableType:
        """The ten nodes that moved the scores most."""
        shown = Table(box=box.SIMPLE, caption="integrated gradients; kept: share of segments in which pooling keeps it")
        for column in ("node", "class score", "match", "kept"):
            shown.add_column(column)
        top = np.argsort(-np.abs(self.classification.node_N), kind="stable")[:10]
        for n in top.tolist():
            match = "-" if self.retrieval is None else f"{self.retrieval.node_N[n]:+.4f}"
            kept = "-" if self.kept is None else " ".join(f"{layer[n]:.2f}" for layer in self.kept)
            shown.add_row(self.nodes[n], f"{self.classification.node_N[n]:+.4f}", match, kept)
        lines = [f"{self.recording_id}, {self.segments} segments, run {self.run_id}"]
        lines.append(f"class probabilities {', '.join(f'{p:.2f}' for p in self.probability)}")
        if self.attention:
            weights = (f"{i}>{j} {w:.2f}" for i, row in self.attention.items() for j, w in row.items())
            lines.append(f"attention {', '.join(weights)}")
        if self.gate:
            lines.append(f"gate {', '.join(f'{m} {share:.2f}' for m, share in self.gate.items())}")
        lines.append("Weights tell what the network used, not why a person is ill.")
        return Group(Text("\n".join(lines)), shown, Text(f"All files: {self.folder}"))


def explain(settings: Config, recording_id: str, run_id: str) -> Explanation:
    """Explain one prepared recording and draw it into runs/<id>/explain/<recording_id>/ and the run's report.

    Raises:
        WorkspaceError: no such run or recording, or the recording was quarantined.
    """
    workspace = Workspace(settings.workspace)
    run = load_run(workspace, run_id)
    recording = _recording(workspace, run, recording_id)
    both = {
        m: load_segments(workspace, run.features_digest, m, {recording.subject_id})
        for m in MODALITIES
        if m in _modalities_of(workspace, run, recording.subject_id)
    }
    own = both[recording.modality].take(both[recording.modality].recording_id_S == recording_id)
    rows = np.linspace(0, len(own) - 1, min(MAX_SEGMENTS, len(own))).round().astype(int)
    partners = {
        m: part.take(np.isin(part.pair_id_S, own.pair_id_S)) for m, part in both.items() if m != recording.modality
    }
    found = explained(run, own.take(np.unique(rows)), {m: p for m, p in partners.items() if len(p)})
    folder = ("runs", run_id, "explain", recording_id)
    nodes, names = _names(run.config, recording.modality)
    explanation = Explanation(
        recording_id=recording_id,
        run_id=run_id,
        modality=recording.modality,
        nodes=nodes,
        features=names,
        folder=workspace.path(*folder),
        **found,
    )
    for name, png in explain_plots.draw(
        asdict(explanation), run.config, recording, own.start_s_S[np.unique(rows)]
    ).items():
        workspace.write_bytes(png, *folder, f"{name}.png")
    workspace.write_json(asdict(explanation), *folder, "explanation.json")
    write_report(workspace, run_id)
    return explanation


def explained(run: LoadedRun, own: Segments, partners: dict[str, Segments]) -> dict[str, Any]:
    """The numbers of an explanation, by field name.

    Args:
        own: the recording's segments.
        partners: the person's segments of other modalities; absent where there are none.
    """
    model = run.model.requires_grad_(False)
    graphs = batches.graphs(own, CPU)
    row_S = torch.arange(len(own))
    x_SND, weight_SNN = graphs.take(row_S)
    encoded = {m: _mean(model, m, part) for m, part in partners.items()}
    for m, (nodes, width) in run.shapes.items():
        if m != own.modality and m not in encoded:  # an absent slot has its width
            encoded[m] = torch.zeros_like(
                model.encode(m, torch.zeros(1, nodes, width), torch.zeros(1, nodes, nodes))[0]
            )
    modality = own.modality
    present_M = torch.tensor([m == modality or m in partners for m in model.modalities])

    def fused(x_SND: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        own_SE = model.encode(modality, x_SND, weight_SNN)
        slots = {m: own_SE if m == modality else encoded[m].expand(len(own_SE), -1) for m in model.modalities}
        return model.fuse(slots, present_M.expand(len(own_SE), -1))

    fused_SE, alpha_SMM, gate_SME = fused(x_SND)
    probability_C = model.classify(fused_SE).softmax(-1).mean(0)
    predicted = int(probability_C.argmax())
    encoder = model.encoders[modality]
    assert isinstance(encoder, Encoder)
    found: dict[str, Any] = {
        "segments": len(own),
        "probability": probability_C.tolist(),
        "attention": None,
        "gate": None,
        "kept": kept(model, modality, x_SND, weight_SNN),
        "classification": integrated_gradients(
            lambda x: model.classify(fused(x)[0])[:, predicted], x_SND, encoder.mean_ND
        ),
        "retrieval": None,
    }
    here = [m for m, there in zip(model.modalities, present_M.tolist(), strict=True) if there]
    if alpha_SMM is not None:
        mean_MM = alpha_SMM.mean(0)
        at = {m: i for i, m in enumerate(model.modalities)}
        found["attention"] = {i: {j: float(mean_MM[at[i], at[j]]) for j in here} for i in here}
    if gate_SME is not None:
        share_M = gate_SME.mean((0, 2))
        found["gate"] = {m: float(share_M[i]) for i, m in enumerate(model.modalities) if m in here}
    if partners:
        codes_S = _codes(model, own)
        target_E = torch.nn.functional.normalize(
            torch.stack([_lone(model, m, part).mean(0) for m, part in partners.items()]).mean(0), dim=-1
        )
        found["retrieval"] = integrated_gradients(
            lambda x: model.embed(modality, x, weight_SNN, codes_S) @ target_E, x_SND, encoder.mean_ND
        )
    return found


def integrated_gradients(
    score: Callable[[Tensor], Tensor], x_SND: Tensor, baseline_ND: Tensor, steps: int = STEPS
) -> Importance:
    """Attributions of a score to node features, by the midpoint rule, averaged over segments.

    Args:
        score: S x N x D features -> S scores, each of its own segment alone.
        x_SND: the segments.
        baseline_ND: where the path begins.
        steps: of the path.
    """
    way_SND = x_SND - baseline_ND
    total_SND = torch.zeros_like(x_SND)
    for step in range(steps):
        at_SND = (baseline_ND + (step + 0.5) / steps * way_SND).requires_grad_()
        score_S = score(at_SND)
        if not score_S.requires_grad:
            continue  # a constant score has no gradient
        total_SND += torch.autograd.grad(score_S.sum(), at_SND)[0]
    attribution_SND = way_SND * total_SND / steps
    attribution_ND = attribution_SND.mean(0)
    with torch.no_grad():
        end, start = float(score(x_SND).mean()), float(score(baseline_ND.expand_as(x_SND)).mean())
    return Importance(
        score=end,
        baseline=start,
        residual=end - start - float(attribution_ND.sum()),
        node_SN=attribution_SND.sum(2).tolist(),
        node_N=attribution_ND.sum(1).tolist(),
        feature_D=attribution_ND.sum(0).tolist(),
    )


def kept(model: System, modality: str, x_SND: Tensor, weight_SNN: Tensor) -> list[list[float]] | None:
    """For each pooling layer, the share of segments in which every node of the input stays; None without pooling."""
    encoder = model.encoders[modality]
    if not isinstance(encoder, GraphEncoder) or not len(encoder.pools):
        return None
    index_of_layer: list[Tensor] = []
    hooks = [
        pool.register_forward_pre_hook(lambda pool, given: index_of_layer.append(pool.chosen(given[0], given[2])[1]))
        for pool in encoder.pools
    ]
    try:
        model.encode(modality, x_SND, weight_SNN)
    finally:
        for hook in hooks:
            hook.remove()
    return survival(index_of_layer, x_SND.shape[1])


def survival(index_of_layer: list[Tensor], nodes: int) -> list[list[float]]:
    """Share of segments in which each of `nodes` survives, layer by layer.

    Args:
        index_of_layer: for each pooling S x K, positions kept among those of the layer before.
    """
    original_SK = torch.arange(nodes).expand(len(index_of_layer[0]), -1)
    shares = []
    for index_SK in index_of_layer:
        original_SK = original_SK.gather(1, index_SK)
        count_N = torch.bincount(original_SK.flatten(), minlength=nodes)
        shares.append((count_N / len(original_SK)).tolist())
    return shares


def _mean(model: System, modality: str, part: Segments) -> Tensor:
    graphs = batches.graphs(part, CPU)
    return torch.cat([model.encode(modality, *graphs.take(row)) for row in _rows(part)]).mean(0)


def _lone(model: System, modality: str, part: Segments) -> Tensor:
    graphs, code_S = batches.graphs(part, CPU), _codes(model, part)
    return torch.cat([model.embed(modality, *graphs.take(row), code_S[row]) for row in _rows(part)])


def _rows(part: Segments) -> tuple[Tensor, ...]:
    return torch.split(torch.arange(len(part)), 256)


def _codes(model: System, part: Segments) -> Tensor:
    if model.reference is None:
        return torch.full((len(part),), -1)
    return model.reference.codes(part.subject_id_S.tolist())


def _modalities_of(workspace: Workspace, run: LoadedRun, subject_id: str) -> set[str]:
    """What a person has prepared recordings of."""
    parts = workspace.read_table("features", run.features_digest, "parts.parquet").to_pylist()
    prepared = {part["recording_id"] for part in parts if part["segments"] > 0}
    return {r.modality for r in catalogue.load(workspace) if r.subject_id == subject_id and r.recording_id in prepared}


def _recording(workspace: Workspace, run: LoadedRun, recording_id: str) -> Any:
    folder = ("features", run.features_digest)
    for row in (
        workspace.read_table(*folder, "quarantine.parquet").to_pylist()
        if workspace.exists(*folder, "quarantine.parquet")
        else []
    ):
        if row["recording_id"] == recording_id:
            raise RecordingError(f"{recording_id} was quarantined: {row['reason']}")
    parts = workspace.read_table(*folder, "parts.parquet")
    prepared = parts.filter(pc.greater(parts["segments"], 0))["recording_id"].to_pylist()
    if recording_id not in prepared:
        near = difflib.get_close_matches(recording_id, prepared, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see recordings.parquet for the ids"
        raise WorkspaceError(f"recording {recording_id[:80]!r} is not among those that run {run.run_id} knows; {hint}")
    return next(r for r in catalogue.load(workspace) if r.recording_id == recording_id)


def _names(settings: Config, modality: str) -> tuple[list[str], list[str]]:
    """Names of a modality's nodes and of their features."""
    if modality == "eeg":
        return list(eeg.node_names(settings.features.eeg)), list(eeg.FEATURES)
    chosen = settings.features.audio
    step_s = chosen.segment_s / chosen.nodes
    nodes = [f"{(n + 0.5) * step_s:.2f} s" for n in range(chosen.nodes)]
    return nodes, list(audio.names(chosen))
