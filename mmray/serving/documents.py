"""The OpenAPI document, with an example of every route, and the page at /docs that shows it."""

from __future__ import annotations

import html
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from mmray.serving.answer import NOTE
from mmray.serving.api_types import MOST_FILES
from mmray.serving.problems import MEDIA_TYPE as PROBLEM

JSON = "application/json"
FORM = "multipart/form-data"

_PERSON = {"subject_id": "02010004", "study": "modma", "session": "1", "label": 1, "label_name": "MDD", "age": 31.0}
_STORED = {
    "recording_id": "02010004-eeg",
    **_PERSON,
    "modality": "eeg",
    "task": "rest",
    "role": "test",
    "segments": 74,
}
_VERSION = "5d9f0c7a1e22"  # pragma: allowlist secret
_SERVED = {
    "run_id": "crossmodal_gcn-3f2a91",
    "model": "9c1185a5c5e9fc54612808977ee8f548b2258d31dfadc1d2d2b1a4d3c6d2f0a7",  # pragma: allowlist secret
}
_EVIDENCE = {
    "direction": "eeg->audio",
    "metric": "R@1",
    "value": 0.31,
    "chance": 0.1,
    "p_value": 0.004,
    "ci_low": 0.15,
    "ci_high": 0.5,
    "above_chance": True,
}
_MATCH = {
    "rank": 1,
    "score": 0.8312,
    "recording_id": "02010004-audio-01",
    **_PERSON,
    "modality": "audio",
    "task": "interview",
    "role": "test",
    "seen_in_training": False,
    "start_s": 4.0,
}
_ANSWER = {
    "query": "02010004-eeg",
    "query_modality": "eeg",
    "target": "audio",
    "gallery": 1508,
    "index_version": _VERSION,
    **_SERVED,
    "matches": [_MATCH],
    "evidence": _EVIDENCE,
    "neighbours": [{"recording_id": "02020013", "subject_id": "02020013", "modality": "audio", "weight": 1.0}],
    "modality_weights": {"eeg": 0.71, "audio": 0.29},
}
_ALONE = {**_ANSWER, "evidence": None, "neighbours": [], "modality_weights": None}
_CLASSES = {
    **_SERVED,
    "query": "upload",
    "query_modality": "eeg",
    "classes": [
        {"label": 0, "label_name": "HC", "probability": 0.42},
        {"label": 1, "label_name": "MDD", "probability": 0.58},
    ],
    "modality_weights": {"eeg": 1.0},
    "subject_seen_in_training": None,
    "evidence": {**_EVIDENCE, "direction": "fused", "metric": "balanced_accuracy", "value": 0.55, "chance": 0.5},
    "note": NOTE,
}
_STATUS = {
    "index_version": _VERSION,
    **_SERVED,
    "features": "1c0ffee2b7aa",  # pragma: allowlist secret
    "kind": "hnsw",
    "width": 64,
    "recordings": {"audio": 1508, "eeg": 53},
    "labels": ["HC", "MDD"],
    "evaluation": [],
    "takeover": None,
    "top_k_limit": 1000,
    "max_upload_mb": 200.0,
    "max_recording_s": 3600.0,
    "playback": True,
    "version": "0.1.0",
}
_BY_ID = {"recording_id": "02010004-eeg"}
_FORM = {"file": "@clip.wav"}
# path -> example of the JSON body, of the form, and of the answer
EXAMPLES: dict[str, tuple[Any, Any, Any]] = {
    "/v1/search": ({**_BY_ID, "target": "audio", "top_k": 5, "label": "MDD"}, {**_FORM, "target": "eeg"}, _ANSWER),
    "/v1/search/vector": (
        {"vector": [0.12, -0.4, 0.9], "target": "audio"},
        None,
        {**_ALONE, "query": "vector", "query_modality": None},
    ),
    "/v1/search/batch": (
        {"recording_ids": ["02010004-eeg"], "target": "audio", "top_k": 5},
        None,
        {"index_version": _VERSION, "run_id": "crossmodal_gcn-3f2a91", "answers": [_ALONE]},
    ),
    "/v1/classify": (_BY_ID, _FORM, _CLASSES),
    "/v1/recordings": (None, None, {"total": 1, "recordings": [_STORED]}),
    "/v1/recordings/{recording_id}": (
        None,
        None,
        {**_STORED, "index_version": _VERSION, "segment_start_s": [0.0, 4.0]},
    ),
    "/v1/picture": (None, _FORM, None),
    "/v1/status": (None, None, _STATUS),
    "/healthz": (None, None, {"status": "ok"}),
}
_PROBLEM = {
    "type": "about:blank",
    "title": "Not Found",
    "status": 404,
    "detail": "no recording 'nobody' in index 5d9f0c7a1e22",
}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """A required JSON body."""
    return {"required": True, "content": {JSON: {"schema": model.model_json_schema()}}}


def form_body(form: type[BaseModel], by_id: type[BaseModel]) -> dict[str, Any]:
    """A form with files or stored recordings, or JSON with stored recordings."""
    body = json_body(by_id)
    body["content"][FORM] = {"schema": _with_files(form, MOST_FILES)}
    return body


def files_body() -> dict[str, Any]:
    """A form with one file."""
    schema = {"type": "object", "properties": {"file": _file(1)}, "required": ["file"], "additionalProperties": False}
    return {"required": True, "content": {FORM: {"schema": schema}}}


def binary(media_type: str) -> dict[int | str, dict[str, Any]]:
    """An answer that is a file."""
    return {200: {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}}


def schema(app: FastAPI) -> dict[str, Any]:
    """The document."""
    document = app.openapi()
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "query": {"type": "apiKey", "in": "query", "name": "key"},
    }
    document["security"] = [{"bearer": []}, {"header": []}, {"query": []}]
    for path, methods in document["paths"].items():
        by_json, by_form, answer = EXAMPLES.get(path, (None, None, None))
        for route in methods.values():
            for status, response in route["responses"].items():
                if int(status) >= 400:
                    (shape,) = response["content"].values()
                    response["content"] = {PROBLEM: {**shape, "example": {**_PROBLEM, "status": int(status)}}}
                elif answer is not None:
                    response["content"][JSON]["example"] = answer
            for kind, example in ((JSON, by_json), (FORM, by_form)):
                if example is not None:
                    route["requestBody"]["content"][kind]["example"] = example
    return document


def page(document: dict[str, Any]) -> str:
    """The routes as one page that loads nothing from anywhere."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{path}</code></td>"
        f"<td>{html.escape(route['summary'])}. {html.escape(route.get('description', ''))}</td></tr>"
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>mmray</title>"
        "<style>body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.3rem .8rem .3rem 0;vertical-align:top}pre{white-space:pre-wrap}</style>"
        f"<h1>mmray {html.escape(document['info']['version'])}</h1><p>{html.escape(document['info']['summary'])}</p>"
        f"<table>{rows}</table><pre>curl -H 'X-API-Key: KEY' -F file=@clip.wav -F target=eeg -F top_k=10 URL/v1/search"
        '\ncurl -H \'X-API-Key: KEY\' --json \'{"recording_id": "ID", "target": "audio"}\' URL/v1/search</pre>'
        "<p>The whole description is at <code>/openapi.json</code>.</p></html>"
    )


def _with_files(form: type[BaseModel], most: int) -> dict[str, Any]:
    schema = form.model_json_schema()
    schema["properties"] = {"file": _file(most), **schema["properties"]}
    return schema


def _file(most: int) -> dict[str, Any]:
    one = {"type": "string", "format": "binary", "description": "an EEG or voice recording"}
    if most == 1:
        return one
    return {"type": "array", "items": one, "maxItems": most, "description": "EEG or voice recordings of one person"}
