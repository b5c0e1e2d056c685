"""A form's recordings: written to a folder of their own, judged by their headers, and gone when the work is done."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from mmray.errors import RecordingError
from mmray.serving.api_types import MOST_FILES
from mmray.serving.sniff import refuse_hostile, without_folder

_Made = TypeVar("_Made")
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_MOST_FIELDS = 64
_MOST_PART = 4096  # bytes of a field that is no file


@dataclass(frozen=True)
class Form:
    """What was sent.

    Attributes:
        fields: by name; recording_id is a list.
    """

    fields: dict[str, Any]
    files: list[UploadFile]


def media_type(request: Request) -> str:
    """Of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def form_of(request: Request) -> AsyncIterator[Form]:
    """A form's fields and files, while the block runs.

    Raises:
        HTTPException: 415 where the body is no form; 422 where it is broken, or a field comes twice.
    """
    if media_type(request) not in FORMS:
        raise HTTPException(415, f"send {FORMS[0]} with a file, or application/json with a recording_id")
    opened = request.form(max_files=MOST_FILES, max_fields=_MOST_FIELDS, max_part_size=_MOST_PART)
    try:
        form = await opened
    except HTTPException as error:
        raise HTTPException(422, f"the form cannot be read: {error.detail}") from None
    try:
        yield _sorted(form)
    finally:
        await form.close()


def _sorted(form: FormData) -> Form:
    fields: dict[str, Any] = {}
    files = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "file":
                raise HTTPException(422, "a file must be sent in the field 'file'")
            files.append(value)
        elif name == "recording_id":
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise HTTPException(422, f"{name[:40]}: sent twice")
        else:
            fields[name] = value
    return Form(fields, files)


class Encoder:
    """The one thread of a replica that reads and encodes recordings: more would only slow each other.

    Args:
        max_recording_s: a longer one is refused before it is decoded.
    """

    def __init__(self, max_recording_s: float) -> None:
        self._max_recording_s = max_recording_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    async def run(self, work: Callable[[], _Made]) -> _Made:
        """Do this there. Work that still waits when its request ends is not begun."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run_on(
        self, files: list[UploadFile], study: str, work: Callable[[list[tuple[Path, str]]], _Made]
    ) -> _Made:
        """Do this there with the uploaded files, each under the name that answers call it.

        Args:
            study: kind of the study that the run was trained on.

        Raises:
            RecordingError: a file is no recording, or would take too much to decode.
        """

        def on_disk() -> _Made:
            # made and removed by the thread that works in it: a request that is cut leaves it to its end
            with TemporaryDirectory(prefix="mmray-upload-") as folder:
                named = []
                for number, file in enumerate(files, start=1):
                    path = Path(folder) / f"upload-{number}"
                    name = "upload" if len(files) == 1 else f"upload {number}"
                    with path.open("wb") as target:
                        shutil.copyfileobj(file.file, target)
                    try:
                        refuse_hostile(path, study, self._max_recording_s)
                    except RecordingError as error:
                        raise RecordingError(without_folder(str(error), path, name)) from error
                    named.append((path, name))
                return work(named)

        return await self.run(on_disk)
