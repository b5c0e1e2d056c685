"""explain.html of one recording, and the part of a run's report that shows what was explained; no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from string import Template
from typing import Any
from urllib.parse import quote

from mmray.storage import Workspace

CAUTION = (
    "Attention is not explanation: a weight tells what the network mixed, and other weights could have given the same "
    "answer. None of these numbers is a cause or says why a person is ill; where the run is at chance, they describe "
    "chance."
)
CAPTIONS = {
    "scalp": "Electrodes seen from above, nose up; the circle is the head's equator. Attributions (red pushes the "
    "score up, blue down) summed over features, the five largest named; and the share of segments in which each "
    "pooling keeps an electrode.",
    "spectrogram": "Log-mel spectrogram of the recording (darker is louder, 70 dB in all), and on the same time axis "
    "how far each frame of the explained segments pushed a score, as a share of the largest.",
    "nodes": "Standardised node features, mean over the explained segments, and how far each frame pushed a score.",
    "features": "Attributions summed over nodes: the features that moved a score most.",
    "fusion": "Attention of row to column on the fused path, mean and SD over segments; and the gate's share of each "
    "fused feature, mean over segments.",
}
_TOP = 10


def page(explanation: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of one recording.

    Args:
        explanation: fields of `training.explain.Explanation`.
        pictures: PNGs by name.
    """
    fused = [f"class probabilities {', '.join(f'{p:.2f}' for p in explanation['probability'])}"]
    if explanation["attention"]:
        weights = [(i, j, share) for i, row in explanation["attention"].items() for j, share in row.items()]
        fused.append("attention " + ", ".join(f"{i} to {j} {_share(share)}" for i, j, share in weights))
    if explanation["gate"]:
        fused.append("gate " + ", ".join(f"{m} {_share(share)}" for m, share in explanation["gate"].items()))
    return Template(template("explain.html")).substitute(
        style=template("style.css"),
        recording_id=escape(explanation["recording_id"]),
        run_id=escape(explanation["run_id"]),
        subtitle=escape(
            f"{explanation['modality']}, {explanation['segments']} segments explained; the subject's part in the run: "
            f"{explanation['role']}."
        ),
        verdict=escape("; ".join(fused) + "."),
        scores=_scores(explanation),
        nodes=_nodes(explanation),
        pictures="\n".join(figure(name, png, explanation["recording_id"]) for name, png in pictures.items()),
        caution=escape(CAUTION),
    )


def report_part(workspace: Workspace, run_id: str) -> str:
    """What `mmray explain` left in a run, by recording, as a part of the run's report; nothing before it was called."""
    folder = ("runs", run_id, "explain")
    blocks = []
    for recording_id in workspace.names(*folder):
        files = workspace.names(*folder, recording_id)
        if "explanation.json" not in files:
            continue
        pictures = "".join(
            figure(name, workspace.read_bytes(*folder, recording_id, f"{name}.png"), recording_id)
            for name in CAPTIONS
            if f"{name}.png" in files
        )
        link = f'<a href="explain/{quote(recording_id)}/explain.html">{escape(recording_id)}</a>'
        blocks.append(f"<h3>{link}</h3>{pictures}")
    if not blocks:
        return ""
    return f'<h2>Explanations</h2><p class="soft">{escape(CAUTION)}</p>{"".join(blocks)}'


def figure(name: str, png: bytes, recording_id: str) -> str:
    """A picture with its caption, the bytes inside the page."""
    data, text = base64.b64encode(png).decode(), escape(CAPTIONS[name])
    alt = escape(f"{name} of {recording_id}")
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def template(name: str) -> str:
    """A file that lies beside this one."""
    return resources.files("mmray.evaluation").joinpath(name).read_text(encoding="utf-8")


def _scores(explanation: Mapping[str, Any]) -> str:
    titles = {"classification": "predicted class", "retrieval": "cosine with the own partner"}
    rows = [
        [title, f"{score['score']:.4f}", f"{score['baseline']:.4f}", f"{score['residual']:+.4f}"]
        for title, score in ((title, explanation[name]) for name, title in titles.items())
        if score is not None
    ]
    return _table(["score", "of the recording", "of the training mean", "not attributed"], rows)


def _nodes(explanation: Mapping[str, Any]) -> str:
    classification, retrieval, pooling = (explanation[name] for name in ("classification", "retrieval", "pooling"))
    head = ["node", "class score", *(["match"] if retrieval else [])]
    head += [f"{what} {depth}" for depth, _ in enumerate(pooling or [], 1) for what in ("kept by pooling", "score")]
    order = sorted(range(len(explanation["nodes"])), key=lambda n: -abs(classification["node_N"][n]))
    rows = []
    for n in order[:_TOP]:
        row = [explanation["nodes"][n], f"{classification['node_N'][n]:+.4f}"]
        row += [f"{retrieval['node_N'][n]:+.4f}"] if retrieval else []
        for layer in pooling or []:
            score = layer["score_N"][n]
            row += [f"{layer['kept_N'][n]:.2f}", "-" if score is None else f"{score:+.2f}"]
        rows.append(row)
    note = (
        f"The {len(rows)} of {len(explanation['nodes'])} that moved the class score most, by integrated gradients. "
        "Kept: share of segments."
    )
    return f'<p class="soft">{note}</p>{_table(head, rows)}'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _share(share: Mapping[str, float]) -> str:
    return f"{share['mean']:.2f} (SD {share['sd']:.2f})"
