"""The routes of stored recordings: what there is, what it sounds and looks like; and the same picture of a file."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Annotated, Any

import pyarrow.compute as pc
import soundfile
from fastapi import FastAPI, Query, Request, Response
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from mmray.errors import RecordingError, WorkspaceError
from mmray.features import audio
from mmray.recordings import signals
from mmray.schema import Modality, Recording, recordings_of
from mmray.serving import pictures
from mmray.serving.answer import StoredList, StoredRecording, UnknownRecordingError
from mmray.serving.api_types import MOST_LISTED, FormIds, Text
from mmray.serving.documents import JSON, binary, files_body
from mmray.serving.live import Live
from mmray.serving.problems import parsed
from mmray.serving.retriever import Retriever
from mmray.serving.sniff import recording_of, without_folder
from mmray.serving.uploads import Encoder, form_of

_LONGEST_S = 60  # that is played
_LIST = TypeAdapter(StoredList)
_ONE = TypeAdapter(StoredRecording)


def mount(app: FastAPI, live: Live, encoder: Encoder, playback: bool) -> None:
    """Add the routes.

    Args:
        playback: whether recordings can be heard and seen.
    """

    @app.get("/v1/recordings", response_model=StoredList, summary="Which recordings the index holds")
    async def recordings(
        modality: Annotated[Modality | None, Query(description="only of this modality")] = None,
        subject: Annotated[Text | None, Query(description="only of this subject")] = None,
        contains: Annotated[Text | None, Query(description="only ids that hold this text, whatever its case")] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="how many are told")] = 50,
    ) -> Response:
        """In order of modality and id."""
        found = await asyncio.to_thread(live.retriever.recordings, modality, subject, contains, limit)
        return Response(_LIST.dump_json(found), media_type=JSON)

    @app.get("/v1/recordings/{recording_id}", response_model=StoredRecording, summary="One recording of the index")
    async def recording(recording_id: str) -> Response:
        """With where its segments begin."""
        return Response(_ONE.dump_json(live.retriever.recording(recording_id)), media_type=JSON)

    @app.get(
        "/v1/recordings/{recording_id}/sound",
        summary="A stored voice",
        responses=binary("audio/wav"),
        response_class=_Wav,
    )
    async def sound(recording_id: str) -> Response:
        """Its first minute, as mono WAV."""
        _require(playback)
        retriever = live.retriever
        return _Wav(await encoder.run(lambda: _sound(_source(retriever, recording_id))))

    @app.get(
        "/v1/recordings/{recording_id}/picture",
        summary="A stored recording as a picture",
        responses=binary("image/png"),
        response_class=_Png,
    )
    async def picture(recording_id: str) -> Response:
        """Amplitude over the scalp, or a spectrogram."""
        _require(playback)
        retriever = live.retriever

        def draw() -> bytes:
            source = _source(retriever, recording_id)
            try:
                return pictures.of(source, retriever.run.config)
            except RecordingError as error:
                raise _gone(recording_id) from error

        return _Png(await encoder.run(draw))

    @app.post(
        "/v1/picture",
        summary="A file as a picture",
        responses=binary("image/png"),
        response_class=_Png,
        openapi_extra={"requestBody": files_body()},
    )
    async def picture_of_file(request: Request) -> Response:
        """Of one `file`; the header X-Modality says what it holds."""
        _require(playback)
        run = live.retriever.run
        async with form_of(request) as form:
            parsed(FormIds, {name: value for name, value in form.fields.items() if name != "recording_id"})
            if len(form.files) != 1 or "recording_id" in form.fields:
                raise HTTPException(422, "file: send one recording")

            def draw(named: list[tuple[Path, str]]) -> tuple[bytes, str]:
                ((path, name),) = named
                with recording_of(path, run.config.study.kind) as found:
                    try:
                        return pictures.of(found, run.config), found.modality
                    except RecordingError as error:
                        raise RecordingError(without_folder(str(error), Path(found.path), name)) from error

            png, modality = await encoder.run_on(form.files, run.config.study.kind, draw)
        return _Png(png, headers={"x-modality": modality})


class _Wav(Response):
    media_type = "audio/wav"


class _Png(Response):
    media_type = "image/png"


def _require(playback: bool) -> None:
    if not playback:
        raise HTTPException(404, "recordings are not heard or seen here (serve.playback)")


def _source(retriever: Retriever, recording_id: str) -> Recording:
    """Where a recording of the index came from."""
    retriever.stored(recording_id)
    try:
        rows = retriever.workspace.read_table("recordings.parquet", rows=pc.field("recording_id") == recording_id)
    except WorkspaceError:
        raise _gone(recording_id) from None
    found: list[Any] = recordings_of(rows)
    if not found:
        raise _gone(recording_id)
    recording: Recording = found[0]
    return recording


def _sound(recording: Recording) -> bytes:
    if recording.modality != "audio":
        raise UnknownRecordingError(f"recording {recording.recording_id!r} is {recording.modality}, which has no sound")
    try:
        with signals.open_audio(recording) as file:
            raw = file.read(0, min(file.samples, round(_LONGEST_S * file.sampling_rate_hz)))
    except RecordingError as error:
        raise _gone(recording.recording_id) from error
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.mono(raw.data_CT), round(raw.sampling_rate_hz), format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _gone(recording_id: str) -> UnknownRecordingError:
    return UnknownRecordingError(f"recording {recording_id!r} is in the index, and its source cannot be read any more")
