from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmray import cli
from mmray.config import Config, from_dict
from mmray.errors import RecordingError, WorkspaceError
from mmray.serving.answer import Filters, QueryError, UnknownRecordingError
from mmray.serving.retriever import Retriever, search
from mmray.storage import Workspace
from tests.small_run import RUN, make_run


@pytest.fixture(scope="module")
def retriever(config: Config) -> Retriever:
    return Retriever.open(Workspace(config.workspace))


def study(config: Config) -> Path:
    return Path(config.workspace).parent / "study"


def naive(retriever: Retriever, vector: np.ndarray, target: str, keep: Any) -> list[str]:
    rows = retriever.index.rows[target].to_pylist()
    scored = [(float(np.dot(vector, retriever.index.vectors[target].vector(i))), i) for i in range(len(rows))]
    return [rows[i]["recording_id"] for _, i in sorted(scored, key=lambda s: (-s[0], s[1])) if keep(rows[i])]


def vector_of(retriever: Retriever, recording_id: str) -> np.ndarray:
    return retriever.stored(recording_id)[0].vector_E


@pytest.mark.parametrize(
    ("label", "task", "role", "exclude_subject"),
    list(itertools.product([None, "MDD", "0"], [None, "reading"], [None, "train"], [None, "s2"])),
)
def test_filters_answer_what_a_naive_scan_answers(
    retriever: Retriever, label: str | None, task: str | None, role: str | None, exclude_subject: str | None
) -> None:
    filters = Filters(label=label, task=task, role=role, exclude_subject=exclude_subject)
    answer = retriever.search_recording("s1-eeg-1", "audio", 12, filters)
    expected = naive(
        retriever,
        vector_of(retriever, "s1-eeg-1"),
        "audio",
        lambda row: (
            label in (None, row["label_name"], str(row["label"]))
            and task in (None, row["task"])
            and role in (None, row["role"])
            and row["subject_id"] != exclude_subject
        ),
    )
    assert [match.recording_id for match in answer.matches] == expected
    assert answer.gallery == len(expected)


@pytest.mark.parametrize("filters", [None, Filters(task="interview")])
def test_a_recording_is_left_out_of_its_own_answer(retriever: Retriever, filters: Filters | None) -> None:
    answer = retriever.search_recording("s1-audio-1", "audio", 12, filters)
    found = [match.recording_id for match in answer.matches]
    assert "s1-audio-1" not in found
    assert len(found) == answer.gallery == (11 if filters is None else 5)


def test_ranks_count_from_one_and_scores_fall(retriever: Retriever) -> None:
    matches = retriever.search_recording("s1-eeg-1", "audio", 12).matches
    assert [match.rank for match in matches] == list(range(1, 13))
    assert all(a.score >= b.score for a, b in itertools.pairwise(matches))


def test_a_match_says_whether_training_saw_its_subject(retriever: Retriever) -> None:
    matches = retriever.search_recording("s1-eeg-1", "audio", 12).matches
    assert {match.subject_id for match in matches if match.seen_in_training} == {"s1", "s2", "s3"}
    assert {match.role for match in matches if match.subject_id == "s6"} == {"unseen"}


@pytest.mark.parametrize(("name", "recording_id"), [("s2-eeg-1.mat", "s2-eeg-1"), ("s4-audio-2.wav", "s4-audio-2")])
def test_a_file_is_answered_as_its_stored_recording(
    config: Config, retriever: Retriever, name: str, recording_id: str
) -> None:
    other = "audio" if "eeg" in name else "eeg"
    by_file = retriever.search_file(study(config) / name, other, 6)
    by_id = retriever.search_recording(recording_id, other, 6)
    assert [m.recording_id for m in by_file.matches] == [m.recording_id for m in by_id.matches]
    np.testing.assert_allclose([m.score for m in by_file.matches], [m.score for m in by_id.matches], atol=1e-6)


def test_a_files_content_and_not_its_name_says_what_it_is(config: Config, retriever: Retriever, tmp_path: Path) -> None:
    lying = tmp_path / "Ärger mit Namen.wav"
    shutil.copy(study(config) / "s2-eeg-1.mat", lying)
    answer = retriever.search_file(lying, "audio", 1)
    assert answer.query_modality == "eeg"
    assert answer.matches[0].score == pytest.approx(
        retriever.search_recording("s2-eeg-1", "audio", 1).matches[0].score, abs=1e-6
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"hello", "no known format"),
        (b"PK\x03\x04rest", "archive"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "libsndfile"),
        (b"MATLAB 5.0 MAT-file" + bytes(109), "MATLAB"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "MATLAB"),
        (b"0       " + bytes(300), "MNE"),
    ],
)
def test_an_unreadable_file_is_refused_with_its_reason_and_without_its_folder(
    retriever: Retriever, tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "query.bin"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=reason) as caught:
        retriever.search_file(path, "audio", 1)
    assert str(caught.value).startswith("query.bin: ")
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ([0.0] * 16, "zero"),
        ([1.0] * 15, "16"),
        ([[1.0] * 16], "shape"),
        ([float("nan")] + [1.0] * 15, "finite"),
        ([float("inf")] + [1.0] * 15, "finite"),
        (["a"] * 16, "numbers"),
    ],
)
def test_a_vector_without_a_direction_of_the_right_length_is_refused(
    retriever: Retriever, vector: Any, reason: str
) -> None:
    with pytest.raises(QueryError, match=reason):
        retriever.search_vector(vector, "eeg", 1)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_a_vectors_length_does_not_change_its_answer(retriever: Retriever, scale: float) -> None:
    vector = vector_of(retriever, "s3-eeg-1").astype(float) * scale
    best = retriever.search_vector(vector, "eeg", 1).matches[0]
    assert (best.recording_id, best.score) == ("s3-eeg-1", pytest.approx(1, abs=1e-6))


@pytest.mark.parametrize("top_k", [0, -1, 1001])
def test_top_k_out_of_bounds_is_refused(retriever: Retriever, top_k: int) -> None:
    with pytest.raises(QueryError, match="between 1 and 1000"):
        retriever.search_recording("s1-eeg-1", "audio", top_k)


def test_a_misspelt_filter_names_the_values_there_are(retriever: Retriever) -> None:
    with pytest.raises(QueryError, match="known: interview, reading"):
        retriever.search_recording("s1-eeg-1", "audio", 1, Filters(task="interveiw"))


def test_an_unknown_subject_to_exclude_is_refused_rather_than_left_in(retriever: Retriever) -> None:
    with pytest.raises(QueryError, match="exclude_subject"):
        retriever.search_recording("s1-eeg-1", "audio", 1, Filters(exclude_subject="S1"))


def test_an_unknown_id_and_an_unknown_target_are_refused(retriever: Retriever) -> None:
    with pytest.raises(UnknownRecordingError, match="nobody"):
        retriever.search_recording("nobody", "audio", 1)
    with pytest.raises(QueryError, match="eeg"):
        retriever.search_recording("s1-eeg-1", "video", 1)


def test_weights_trained_anew_under_the_same_run_id_are_not_mixed_with_old_vectors(
    config: Config, tmp_path: Path
) -> None:
    shutil.copytree(config.workspace, tmp_path / "ws")
    changed = from_dict({**config.model_dump(), "workspace": str(tmp_path / "ws")})
    make_run(changed, "run-a", seed=9)
    with pytest.raises(WorkspaceError, match="other weights"):
        Retriever.open(Workspace(changed.workspace))


@pytest.mark.parametrize("command", [["search", "s1-eeg-1"], ["serve"]])
def test_a_run_whose_config_was_edited_answers_nothing(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Its features' settings say how a query's file is read; the index was made with those of the fit."""
    shutil.copytree(config.workspace, tmp_path / "ws")
    place = tmp_path / "ws" / "runs" / RUN / "config.yaml"
    place.write_text(place.read_text().replace("lowpass_hz: 45.0", "lowpass_hz: 30.0"))
    assert cli.main([*command, "--workspace", str(tmp_path / "ws")]) == 4
    error = capsys.readouterr().err
    assert f"runs/{RUN}/config.yaml is not what the weights were fitted with: features.eeg.lowpass_hz = 30.0" in error


def test_search_takes_an_id_or_a_file_and_refuses_what_is_neither(config: Config) -> None:
    by_id = search(config, "s1-eeg-1", "audio", 3)
    by_file = search(config, str(study(config) / "s1-eeg-1.mat"), "audio", 3)
    assert [m.recording_id for m in by_id.matches] == [m.recording_id for m in by_file.matches]
    assert "s1-eeg-1 -> audio: best 3 of 12" in by_id.render()
    with pytest.raises(UnknownRecordingError, match="neither a file nor a recording"):
        search(config, "no-such-thing", "audio", 3)
