"""Every route, in process: what it answers, and what it says of each field that is wrong."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from pydantic import TypeAdapter
from starlette.types import ASGIApp

from mmray.config import Config, Serve, from_dict
from mmray.errors import ResourceError
from mmray.schema import MODALITIES
from mmray.serving import api_types, documents, problems, questions
from mmray.serving.answer import BatchAnswer, Classification, SearchAnswer, StoredList, StoredRecording
from mmray.serving.http import routes
from mmray.serving.live import Live
from mmray.serving.retriever import Retriever
from mmray.storage import Workspace
from tests.serving.asgi import app_of, ask, parts


@pytest.fixture(scope="module")
def app(config: Config) -> ASGIApp:
    return app_of(config)


@pytest.fixture(scope="module")
def retriever(config: Config) -> Retriever:
    return Retriever.open(Workspace(config.workspace))


def study(config: Config) -> Path:
    return Path(config.workspace).parent / "study"


def post(app: ASGIApp, path: str, body: Any) -> httpx.Response:
    return ask(app, "POST", path, json=body)


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [match["recording_id"] for match in answer.json()["matches"]]


def scores(answer: httpx.Response) -> list[float]:
    return [match["score"] for match in answer.json()["matches"]]


# search


@pytest.mark.parametrize(
    "names", [["s5-eeg-1.mat"], ["s5-eeg-1.mat", "s5-audio-2.wav"], ["s5-audio-1.wav", "s5-audio-2.wav"]]
)
def test_uploads_answer_what_their_stored_recordings_answer(app: ASGIApp, config: Config, names: list[str]) -> None:
    files = parts(*(study(config) / name for name in names))
    fields = {"target": "audio", "top_k": 12, "exclude_subject": "s5"}
    uploaded = ask(app, "POST", "/v1/search", files=files, data=fields)
    stored = post(app, "/v1/search", {**fields, "recording_id": [Path(name).stem for name in names]})
    assert ids(uploaded) == ids(stored)
    assert scores(uploaded) == pytest.approx(scores(stored), abs=1e-6)
    told, expected = uploaded.json(), stored.json()
    assert [n["recording_id"] for n in told["neighbours"]] == [n["recording_id"] for n in expected["neighbours"]]
    assert told["modality_weights"] == pytest.approx(expected["modality_weights"], abs=1e-6)
    assert (told["query_modality"], told["evidence"]) == (expected["query_modality"], expected["evidence"])


def test_several_recordings_are_asked_with_as_the_mean_of_their_unit_vectors(
    app: ASGIApp, retriever: Retriever
) -> None:
    asked = ["s5-eeg-1", "s6-eeg-1", "s5-audio-1"]
    mean = np.mean([query.vector_E for query in retriever.stored(*asked)], axis=0)
    joined = post(app, "/v1/search", {"recording_id": asked, "target": "audio", "top_k": 12})
    by_vector = post(app, "/v1/search/vector", {"vector": mean.tolist(), "target": "audio", "top_k": 12})
    assert ids(joined) == [name for name in ids(by_vector) if name not in asked]
    assert joined.json()["gallery"] == by_vector.json()["gallery"] - 1
    assert joined.json()["query_modality"] == "eeg+audio"
    assert joined.json()["evidence"] is None


def test_a_file_and_an_id_can_be_asked_with_together(app: ASGIApp, config: Config) -> None:
    form = {"target": "audio", "top_k": 5, "recording_id": ["s5-audio-1"], "explain": "false"}
    mixed = ask(app, "POST", "/v1/search", files=parts(study(config) / "s5-eeg-1.mat"), data=form)
    both = post(app, "/v1/search", {"recording_id": ["s5-eeg-1", "s5-audio-1"], "target": "audio", "top_k": 5})
    assert ids(mixed) == ids(both)
    assert mixed.json()["neighbours"] == []


@pytest.mark.parametrize(
    ("asked", "target", "value"),
    [("s1-eeg-1", "audio", 0.4), ("s1-audio-1", "eeg", 0.1), ("s1-eeg-1", "eeg", None)],
)
def test_evidence_is_the_runs_own_figure_of_this_direction(
    app: ASGIApp, asked: str, target: str, value: float | None
) -> None:
    told = post(app, "/v1/search", {"recording_id": asked, "target": target}).json()["evidence"]
    if value is None:
        assert told is None
        return
    assert (told["metric"], told["value"], told["chance"]) == ("R@1", value, 0.05)
    assert told["above_chance"] is (value == 0.4)


def test_a_run_that_was_not_evaluated_has_no_evidence(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config.workspace, tmp_path / "ws")
    (tmp_path / "ws" / "runs" / "run-a" / "metrics.parquet").unlink()
    app = app_of(from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")}))
    assert post(app, "/v1/search", {"recording_id": "s1-eeg-1", "target": "audio"}).json()["evidence"] is None
    assert ask(app, "GET", "/v1/status").json()["evaluation"] == []


def test_neighbours_are_other_training_people_and_their_weights_sum_to_one(app: ASGIApp) -> None:
    for subject, person in (("s1", "trained on"), ("s5", "held out")):
        told = post(app, "/v1/search", {"recording_id": f"{subject}-eeg-1", "target": "audio"}).json()
        people = {neighbour["subject_id"] for neighbour in told["neighbours"]}
        assert people <= {"s1", "s2", "s3"} - {subject}, person
        assert sum(neighbour["weight"] for neighbour in told["neighbours"]) == pytest.approx(1)
        assert {neighbour["modality"] for neighbour in told["neighbours"]} == {"audio"}
        assert sum(told["modality_weights"].values()) == pytest.approx(1)
        assert 0 < told["modality_weights"]["audio"] < 0.5  # A^(inter) of the small run is 0.5


def test_a_stored_recording_whose_features_are_gone_is_found_and_unexplained(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config.workspace, tmp_path / "ws")
    shutil.rmtree(tmp_path / "ws" / "features")
    app = app_of(from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")}))
    told = post(app, "/v1/search", {"recording_id": "s1-eeg-1", "target": "audio", "top_k": 3})
    assert len(ids(told)) == 3
    assert (told.json()["neighbours"], told.json()["modality_weights"]) == ([], None)
    refused = post(app, "/v1/classify", {"recording_id": "s1-eeg-1"})
    assert refused.status_code == 404
    assert str(tmp_path) not in refused.text


def test_a_match_starts_where_its_segment_most_like_the_query_starts(app: ASGIApp, retriever: Retriever) -> None:
    (query,) = retriever.stored("s1-eeg-1")
    answer = post(app, "/v1/search", {"recording_id": "s1-eeg-1", "target": "audio", "top_k": 12}).json()
    for match in answer["matches"]:
        (held,) = retriever.stored(match["recording_id"])
        assert held.row is not None
        score_S = retriever.index.segments["audio"].vectors(held.row).astype(np.float32) @ query.vector_E
        assert match["start_s"] == retriever.index.segments["audio"].start_s(held.row)[score_S.argmax()]
    assert len({match["start_s"] for match in answer["matches"]}) > 1


@pytest.mark.parametrize("least", [None, 31, 33.5])
@pytest.mark.parametrize("most", [None, 33, 34.5])
def test_ages_are_filtered_as_a_naive_scan_does(app: ASGIApp, least: float | None, most: float | None) -> None:
    body = {"recording_id": "s1-eeg-1", "target": "audio", "top_k": 12, "age_min": least, "age_max": most}
    answer = post(app, "/v1/search", {name: value for name, value in body.items() if value is not None})
    if least == 33.5 and most == 33:
        assert answer.status_code == 422
        return
    kept = {f"s{n}" for n in range(1, 7) if (least or 0) <= 29 + n <= (most or 99)}
    assert {match["subject_id"] for match in answer.json()["matches"]} == kept
    assert answer.json()["gallery"] == 2 * len(kept)


def test_a_batch_answers_what_each_id_alone_answers_in_the_order_asked(app: ASGIApp) -> None:
    asked = ["s4-eeg-1", "s1-audio-2", "s4-eeg-1"]
    batch = post(app, "/v1/search/batch", {"recording_ids": asked, "target": "audio", "top_k": 4, "task": "reading"})
    assert batch.status_code == 200, batch.text
    for one, answer in zip(asked, batch.json()["answers"], strict=True):
        alone = post(app, "/v1/search", {"recording_id": one, "target": "audio", "top_k": 4, "task": "reading"}).json()
        assert answer == {**alone, "neighbours": [], "modality_weights": None}
    assert batch.json()["index_version"] == batch.json()["answers"][0]["index_version"]


# classify


def test_all_recordings_of_a_person_classify_as_the_run_itself_classified_them(app: ASGIApp, config: Config) -> None:
    """One code path with training: the fused probabilities of predictions.parquet, by stored ids and by files."""
    from mmray.features import table
    from mmray.training.checkpoint import load_run
    from mmray.training.results import encoded_by, predictions_table
    from tests.small_run import FOLD

    run = load_run(Workspace(config.workspace), "run-a")
    subjects = [*FOLD.train, *FOLD.validation, *FOLD.test]
    segments = {m: table.load(Workspace(config.workspace), run.features_digest, m, subjects) for m in MODALITIES}
    rows = predictions_table(run.model, encoded_by(run.model, segments), segments, FOLD).to_pylist()
    (expected,) = (row["probability"] for row in rows if row["subject_id"] == "s5")
    names = ["s5-eeg-1.mat", "s5-audio-1.wav", "s5-audio-2.wav"]
    stored = post(app, "/v1/classify", {"recording_id": [Path(name).stem for name in names]}).json()
    uploaded = ask(app, "POST", "/v1/classify", files=parts(*(study(config) / name for name in names))).json()
    for told in (stored, uploaded):
        assert [one["probability"] for one in told["classes"]] == pytest.approx(expected, abs=1e-6)
        assert [(one["label"], one["label_name"]) for one in told["classes"]] == [(0, "HC"), (1, "MDD")]
        assert told["subject_seen_in_training"] is False
        assert sum(told["modality_weights"].values()) == pytest.approx(1)
        assert (told["evidence"]["metric"], told["evidence"]["value"]) == ("balanced_accuracy", 0.6)
        assert told["note"].startswith("not a diagnosis")


def test_a_lone_modality_has_all_weight_and_a_training_subject_is_told(app: ASGIApp, config: Config) -> None:
    told = post(app, "/v1/classify", {"recording_id": "s1-audio-1"}).json()
    assert told["modality_weights"] == {"audio": pytest.approx(1)}
    assert told["subject_seen_in_training"] is True
    own = ask(app, "POST", "/v1/classify", files=parts(study(config) / "s1-audio-1.wav")).json()
    assert own["subject_seen_in_training"] is True


def test_a_strangers_file_is_of_nobody_known(app: ASGIApp, tmp_path: Path) -> None:
    from tests.small_run import write_voice

    write_voice(tmp_path / "new.wav", seed=77)
    told = ask(app, "POST", "/v1/classify", files=parts(tmp_path / "new.wav")).json()
    assert told["subject_seen_in_training"] is None
    assert told["query"] == "upload"


# stored recordings


def test_recordings_are_listed_in_order_and_filtered(app: ASGIApp) -> None:
    everything = ask(app, "GET", "/v1/recordings").json()
    named = [row["recording_id"] for row in everything["recordings"]]
    assert everything["total"] == len(named) == 18
    assert named == sorted(name for name in named if "eeg" in name) + sorted(name for name in named if "audio" in name)
    page = ask(app, "GET", "/v1/recordings?modality=audio&contains=AUDIO-2&limit=2").json()
    assert (page["total"], [row["recording_id"] for row in page["recordings"]]) == (6, ["s1-audio-2", "s2-audio-2"])
    assert (
        ask(app, "GET", "/v1/recordings?subject=s3&modality=eeg").json()["recordings"][0]["recording_id"] == "s3-eeg-1"
    )
    assert ask(app, "GET", "/v1/recordings?subject=nobody").json() == {"total": 0, "recordings": []}
    # a text is looked for as it is, not as a pattern
    assert ask(app, "GET", "/v1/recordings?contains=s.-eeg").json()["total"] == 0


def test_a_recording_is_told_with_where_its_segments_begin(app: ASGIApp) -> None:
    told = ask(app, "GET", "/v1/recordings/s6-audio-2").json()
    assert (told["subject_id"], told["age"], told["role"], told["task"]) == ("s6", 35.0, "unseen", "reading")
    assert told["segments"] == len(told["segment_start_s"]) > 1
    assert np.diff(told["segment_start_s"]).min() > 0


def test_a_stored_voice_sounds_as_its_source_and_eeg_has_no_sound(app: ASGIApp, config: Config) -> None:
    answer = ask(app, "GET", "/v1/recordings/s2-audio-1/sound")
    assert answer.headers["content-type"] == "audio/wav"
    heard, rate = soundfile.read(io.BytesIO(answer.content))
    wave, expected_rate = soundfile.read(study(config) / "s2-audio-1.wav")
    assert (rate, heard.ndim) == (expected_rate, 1)
    assert np.abs(heard - np.clip(wave, -1, 1)).max() < 1e-4
    assert ask(app, "GET", "/v1/recordings/s2-eeg-1/sound").status_code == 404


@pytest.mark.parametrize("name", ["s2-eeg-1", "s2-audio-1"])
def test_a_picture_is_a_png_of_480_by_240_and_the_same_for_the_stored_and_the_uploaded(
    app: ASGIApp, config: Config, name: str
) -> None:
    stored = ask(app, "GET", f"/v1/recordings/{name}/picture")
    suffix = ".mat" if "eeg" in name else ".wav"
    uploaded = ask(app, "POST", "/v1/picture", files=parts(study(config) / f"{name}{suffix}"))
    assert stored.headers["content-type"] == uploaded.headers["content-type"] == "image/png"
    assert stored.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(stored.content[at : at + 4]) for at in (16, 20)] == [480, 240]
    assert uploaded.content == stored.content
    assert uploaded.headers["x-modality"] == name.split("-")[1]


@pytest.mark.parametrize("route", ["sound", "picture"])
def test_a_source_that_is_gone_is_404_without_its_path(config: Config, tmp_path: Path, route: str) -> None:
    shutil.copytree(config.workspace, tmp_path / "ws")
    workspace = Workspace(str(tmp_path / "ws"))
    known = workspace.read_table("recordings.parquet")
    gone = [{**row, "path": f"/gone/{row['recording_id']}.wav"} for row in known.to_pylist()]
    workspace.write_table(pa.Table.from_pylist(gone, schema=known.schema), "recordings.parquet")
    app = app_of(from_dict({**config.model_dump(), "workspace": workspace.root}))
    answer = ask(app, "GET", f"/v1/recordings/s1-audio-1/{route}")
    assert answer.status_code == 404
    assert "cannot be read any more" in answer.json()["detail"]
    assert "/gone" not in answer.text
    workspace.delete("recordings.parquet")
    assert ask(app, "GET", f"/v1/recordings/s1-audio-1/{route}").status_code == 404


def test_nothing_is_heard_or_seen_without_playback(config: Config) -> None:
    app = app_of(config, playback=False)
    for method, path in (
        ("GET", "/v1/recordings/s1-audio-1/sound"),
        ("GET", "/v1/recordings/s1-audio-1/picture"),
        ("POST", "/v1/picture"),
    ):
        answer = ask(app, method, path, files=parts(study(config) / "s1-audio-1.wav") if method == "POST" else None)
        assert answer.status_code == 404, path
        assert "serve.playback" in answer.json()["detail"]
    assert ask(app, "GET", "/v1/status").json()["playback"] is False


# wrong fields

VECTOR = [1.0] * 16
BY_ID = {"recording_id": "s1-eeg-1", "target": "audio"}


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        *(("/v1/search", {**BY_ID, **wrong}, 422, said) for wrong, said in (
            ({"top_k": 0}, "top_k"), ({"top_k": -1}, "top_k"), ({"top_k": 10**9}, "between 1 and 1000"),
            ({"top_k": 1.5}, "top_k"), ({"top_k": None}, "top_k"), ({"target": "video"}, "target"),
            ({"target": None}, "target"), ({"label": "X"}, "known: HC, MDD"), ({"label": 1}, "label"),
            ({"study": "feis"}, "known: modma"), ({"task": "interveiw"}, "known: interview, reading"),
            ({"session": "9"}, "known: 1, 2"), ({"role": "Train"}, "known: test, train"), ({"task": ""}, "task"),
            ({"task": "x" * 201}, "task"), ({"exclude_subject": "S1"}, "exclude_subject"),
            ({"age_min": -1}, "age_min"), ({"age_max": "old"}, "age_max"), ({"age_min": 201}, "age_min"),
            ({"age_min": 40, "age_max": 30}, "age_min 40 is above"), ({"explain": "perhaps"}, "explain"),
            ({"tpo_k": 1}, "tpo_k"), ({"recording_id": []}, "recording_id"), ({"recording_id": [""]}, "recording_id"),
            ({"recording_id": ["s1-eeg-1"] * 17}, "recording_id"), ({"recording_id": {"a": 1}}, "recording_id"),
        )),
        ("/v1/search", {**BY_ID, "recording_id": "nobody"}, 404, "nobody"),
        ("/v1/search", {**BY_ID, "recording_id": "\ud800"}, 422, "body"),
        ("/v1/search", {**BY_ID, "recording_id": "a\x00b"}, 404, "a\\x00b"),
        ("/v1/search", [], 422, "body"),
        ("/v1/search/vector", {"vector": [1.0] * 15, "target": "eeg"}, 422, "16"),
        ("/v1/search/vector", {"vector": [], "target": "eeg"}, 422, "16"),
        ("/v1/search/vector", {"vector": [0.0] * 16, "target": "eeg"}, 422, "zero"),
        ("/v1/search/vector", {"vector": [[1.0] * 16], "target": "eeg"}, 422, "vector"),
        ("/v1/search/vector", {"vector": [1.0] * 70000, "target": "eeg"}, 422, "vector"),
        ("/v1/search/vector", {"vector": VECTOR, "target": "eeg", "explain": True}, 422, "explain"),
        ("/v1/search/batch", {"recording_ids": [], "target": "eeg"}, 422, "recording_ids"),
        ("/v1/search/batch", {"recording_ids": ["s1-eeg-1"] * 1001, "target": "eeg"}, 422, "recording_ids"),
        ("/v1/search/batch", {"recording_ids": ["s1-eeg-1"] * 101, "target": "eeg", "top_k": 1000}, 422, "100,000"),
        ("/v1/search/batch", {"recording_ids": ["a", "s1-eeg-1", "b"], "target": "eeg"}, 404, "'a', 'b' in"),
        ("/v1/search/batch", {"recording_ids": [str(n) for n in range(20)], "target": "eeg"}, 404, "and 12 more"),
        ("/v1/classify", {"recording_id": "nobody"}, 404, "nobody"),
        ("/v1/classify", BY_ID, 422, "target"),
        ("/v1/classify", {}, 422, "recording_id"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_a_problem_that_names_it(app: ASGIApp, path: str, body: Any, status: int, detail: str) -> None:
    answer = ask(app, "POST", path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert detail in answer.json()["detail"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"nul", b'{"vector": [NaN], "target": "eeg"}', b"[" * 100_000, b'{"target": "\xff"}', b"\xff\xfe"],
)
@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/vector", "/v1/search/batch", "/v1/classify"])
def test_what_is_no_json_or_no_number_is_422(app: ASGIApp, path: str, content: bytes) -> None:
    answer = ask(app, "POST", path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "vector", [[float("nan")] + [1.0] * 15, [float("inf")] + [1.0] * 15, [1e400] * 16, [10**400] + [1] * 15]
)
def test_a_vector_that_is_not_finite_is_422(app: ASGIApp, vector: list[float]) -> None:
    content = json.dumps({"vector": vector, "target": "eeg"})
    answer = ask(app, "POST", "/v1/search/vector", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "vector" in answer.json()["detail"]


@pytest.mark.parametrize(
    "query", ["modality=video", "limit=0", "limit=1001", "limit=x", "subject=", "contains=" + "x" * 201]
)
def test_a_wrong_parameter_of_the_list_is_422(app: ASGIApp, query: str) -> None:
    answer = ask(app, "GET", f"/v1/recordings?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("fields", "count", "detail"),
    [
        ({}, 1, "target"),
        ({"target": "eeg", "top_k": "ten"}, 1, "top_k"),
        ({"target": "eeg", "label": ""}, 1, "label"),
        ({"target": "eeg", "unknown": "1"}, 1, "unknown"),
        ({"target": ["eeg", "audio"]}, 1, "target: sent twice"),
        ({"target": "eeg"}, 0, "recording_id"),
        ({"target": "eeg"}, 5, "Too many files"),
        ({"target": "eeg", "recording_id": ["nobody"]}, 1, "nobody"),
        ({"target": "eeg", "recording_id": ["s1-eeg-1"] * 16}, 1, "send 1 to 16"),
        ({"target": "eeg", "top_k": 5000}, 1, "between 1 and 1000"),
        ({"target": "x" * 5000}, 1, "maximum size"),
    ],
)
def test_a_wrong_field_of_a_form_is_named(app: ASGIApp, config: Config, fields: Any, count: int, detail: str) -> None:
    files = parts(*[study(config) / "s1-audio-1.wav"] * count)
    answer = ask(app, "POST", "/v1/search", files=files or None, data=fields)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code in (404, 422), answer.text
    assert detail in answer.json()["detail"]


def test_a_file_in_another_field_a_broken_form_and_another_media_type_are_told(app: ASGIApp, config: Config) -> None:
    wav = (study(config) / "s1-audio-1.wav").read_bytes()
    elsewhere = ask(app, "POST", "/v1/search", files=[("voice", ("x", wav))], data={"target": "eeg"})
    assert (elsewhere.status_code, "'file'" in elsewhere.json()["detail"]) == (422, True)
    for path in ("/v1/search", "/v1/classify", "/v1/picture"):
        broken = ask(app, "POST", path, content=b"x", headers={"content-type": "multipart/form-data"})
        assert broken.status_code == 422, broken.text
        assert ask(app, "POST", path, content=b"x", headers={"content-type": "audio/wav"}).status_code == 415
        assert ask(app, "POST", path, content=b"x").status_code == 415
    two = ask(app, "POST", "/v1/picture", files=parts(study(config) / "s1-audio-1.wav") * 2)
    assert two.status_code == 422


# documents


def test_every_route_is_in_the_openapi_with_an_example_that_its_types_take(app: ASGIApp) -> None:
    document = ask(app, "GET", "/openapi.json").json()
    types: dict[str, tuple[Any, Any]] = {
        "/v1/search": (api_types.SearchById, SearchAnswer),
        "/v1/search/vector": (api_types.SearchByVector, SearchAnswer),
        "/v1/search/batch": (api_types.SearchBatch, BatchAnswer),
        "/v1/classify": (api_types.ById, Classification),
        "/v1/recordings": (None, StoredList),
        "/v1/recordings/{recording_id}": (None, StoredRecording),
        "/v1/status": (None, api_types.Status),
        "/healthz": (None, api_types.Health),
    }
    files = {"/v1/recordings/{recording_id}/sound", "/v1/recordings/{recording_id}/picture", "/v1/picture"}
    assert set(document["paths"]) == set(types) | files
    for path, (asked, answered) in types.items():
        ((_, route),) = document["paths"][path].items()
        TypeAdapter(answered).validate_python(route["responses"]["200"]["content"]["application/json"]["example"])
        if asked is not None:
            TypeAdapter(asked).validate_python(route["requestBody"]["content"]["application/json"]["example"])
    for methods in document["paths"].values():
        for route in methods.values():
            assert route["description"]
            assert {"401", "403", "404", "413", "415", "422", "429", "503"} <= set(route["responses"])
            assert list(route["responses"]["422"]["content"]) == ["application/problem+json"]


def test_the_examples_are_what_the_types_hold_and_nothing_else() -> None:
    for path, answered in (("/v1/search", SearchAnswer), ("/v1/classify", Classification)):
        example = documents.EXAMPLES[path][2]
        written = TypeAdapter(answered).dump_python(TypeAdapter(answered).validate_python(example), mode="json")
        assert written == example


def test_the_status_tells_labels_evaluation_and_limits(app: ASGIApp) -> None:
    told = ask(app, "GET", "/v1/status").json()
    assert told["labels"] == ["HC", "MDD"]
    assert told["recordings"] == {"audio": 12, "eeg": 6}
    assert {row["direction"] for row in told["evaluation"]} == {"eeg->audio", "audio->eeg", "fused"}
    assert (told["takeover"], told["playback"], told["max_recording_s"]) == (None, True, 3600.0)


def test_a_replica_whose_index_cannot_be_searched_is_not_ready(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Live(Workspace(config.workspace))
    app = routes(live, config.serve)
    assert ask(app, "GET", "/healthz").json() == {"status": "ok"}

    def broken(*_: Any) -> Any:
        raise OSError("the disk is gone: /secret/place")

    monkeypatch.setattr(live.retriever, "search_vector", broken)
    answer = ask(app, "GET", "/healthz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_vector_asked_past_the_framework_is_answered_as_the_described_route_would(
    config: Config, chunks: int
) -> None:
    live = Live(Workspace(config.workspace))
    past = routes(live, config.serve)
    assert isinstance(past, questions.VectorSearch)

    def body() -> Iterator[bytes]:
        whole = json.dumps({"vector": VECTOR, "target": "eeg"}).encode()
        step = -(-len(whole) // chunks)
        yield from (whole[start : start + step] for start in range(0, len(whole), step))

    async def stream() -> AsyncIterator[bytes]:
        for part in body():
            yield part

    bypassed, described = (ask(app, "POST", "/v1/search/vector", content=stream()) for app in (past, past._app))
    assert bypassed.status_code == described.status_code == 200
    assert bypassed.content == described.content
    assert dict(bypassed.headers) == dict(described.headers)


# what is bounded


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/vector", "/v1/search/batch", "/v1/classify"])
def test_a_json_body_that_no_question_has_is_refused_before_it_is_parsed(app: ASGIApp, path: str) -> None:
    head = {"content-type": "application/json"}
    long = b'{"target": "audio", "vector": [' + b"0," * problems.MOST_JSON_BYTES + b"0]}"
    many = ("{" + ",".join(f'"{number}":0' for number in range(100_000)) + "}").encode()
    assert len(many) < problems.MOST_JSON_BYTES
    for body, status in ((long, 413), (many, 422)):
        tracemalloc.start()
        try:
            answer = ask(app, "POST", path, content=body, headers=head)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert peak < 16 << 20


def test_the_longest_vector_that_is_described_is_not_refused_for_its_length(app: ASGIApp) -> None:
    long = post(app, "/v1/search/vector", {"target": "audio", "vector": [-1.2345678901234567e-300] * 65536})
    assert long.status_code == 422
    assert "65536" in long.json()["detail"]  # and not of this index's width
    wrong = post(app, "/v1/search/vector", {"target": "audio", "vector": ["a"] * 1000})
    assert wrong.status_code == 422
    assert wrong.json()["detail"].count("vector.") == 1


@pytest.mark.parametrize("path", ["/v1/search", "/v1/search/vector"])
def test_a_client_that_leaves_in_the_middle_is_no_fault_of_ours(
    app: ASGIApp, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Any] = []
    messages = [{"type": "http.request", "body": b'{"tar', "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "method": "POST",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    asyncio.run(app(scope, receive, send))
    assert [message["status"] for message in said if "status" in message] in ([], [499])
    assert caplog.records == []


def test_what_lies_behind_the_endpoint_and_is_away_is_503_and_not_named(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = app_of(config)

    def away(*_: Any) -> Any:
        raise ResourceError("index: Milvus at http://10.0.0.7:19530 cannot do it")

    monkeypatch.setattr(Retriever, "search", away)
    answer = post(app, "/v1/search", {"recording_id": "s1-eeg-1", "target": "audio"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "10.0.0.7" not in answer.text


def test_an_endpoint_whose_index_is_gone_says_so_on_every_route_and_stays_up(config: Config, tmp_path: Path) -> None:
    shutil.copytree(config.workspace, tmp_path / "ws")
    live = Live(Workspace(str(tmp_path / "ws")))
    app = routes(live, Serve())
    shutil.rmtree(tmp_path / "ws" / "index")
    live.refresh()
    vector = post(app, "/v1/search/vector", {"vector": [1.0] * 16, "target": "audio"})
    found = post(app, "/v1/search", {"recording_id": "s1-eeg-1", "target": "audio"})
    for answer in (vector, found, ask(app, "GET", "/v1/status"), ask(app, "GET", "/v1/recordings")):
        assert answer.status_code == 503
        assert "nothing is served" in answer.json()["detail"]
        assert str(tmp_path) not in answer.text
