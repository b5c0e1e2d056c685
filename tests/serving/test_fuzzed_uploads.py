"""Two thousand damaged uploads: each is answered or refused in words, and nothing of it is left."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections import Counter
from pathlib import Path

import h5py
import httpx
import numpy as np
import pytest
import scipy.io
import soundfile

from mmray.config import Config
from tests.features.test_fuzz import damaged
from tests.recordings.made_files import rhythms, write_edf
from tests.serving.asgi import app_of

UPLOADS = 2000
WHOLE = 20  # of them undamaged or long enough to be encoded; the rest are short, so that two thousand take a minute
NAMES = ("a.wav", "../../etc/passwd", "x.mat", "\x00\n", "ü" * 300)
ROUTES = ("/v1/search", "/v1/classify")
PICTURE = 25  # one upload in so many is drawn instead, which takes longest


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> list[bytes]:
    """Small files of every format taken; the voice is a real one."""
    folder = tmp_path_factory.mktemp("bases")
    clip = sorted((real_data / "feis" / "data_wav" / "01" / "wavs").glob("*.wav"))[0]
    wave, rate = soundfile.read(clip)
    start = len(wave) // 3
    short = wave[start : start + rate // 5]
    for form, subtype in (("wav", "PCM_16"), ("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")):
        soundfile.write(folder / f"a.{form}", short, rate, subtype=subtype)
    write_edf(folder / "a.edf", rhythms(6, 1, 64), [f"E{number}" for number in range(1, 7)], 64)
    write_edf(folder / "a.bdf", rhythms(6, 1, 64), [f"E{number}" for number in range(1, 7)], 64)
    array = rhythms(129, 0.6, 250).astype("f4")
    scipy.io.savemat(folder / "a.mat", {"rest": array, "samplingRate": [[250.0]]})
    scipy.io.savemat(folder / "b.mat", {"rest": array, "samplingRate": [[250.0]]}, do_compression=True)
    with h5py.File(folder / "c.mat", "w") as file:
        file.create_dataset("rest", data=array.T, compression="gzip")
        file["samplingRate"] = [[250.0]]
    with h5py.File(folder / "d.set", "w") as file:
        file["EEG/data"] = rhythms(6, 0.5, 128).astype("f4").T
        file["EEG/srate"], file["EEG/nbchan"] = [[128.0]], [[6.0]]
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def leftovers() -> set[str]:
    folder = Path(tempfile.gettempdir())
    return {path.name for path in folder.iterdir() if path.name.startswith(("mmray-", "tmp"))}


def test_two_thousand_damaged_uploads_never_break_the_endpoint(
    config: Config, bases: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    app = app_of(config)
    study = Path(config.workspace).parent / "study"
    whole = [(study / name).read_bytes() for name in ("s1-audio-1.wav", "s1-eeg-1.mat")]
    seen: Counter[int] = Counter()

    async def all_of_them() -> None:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://mmray") as client:
            for seed in range(UPLOADS):
                rng = np.random.default_rng(seed)
                source = whole[seed % 2] if seed < WHOLE else bases[seed % len(bases)]
                content = damaged(source, rng) if seed >= 2 else source
                route = "/v1/picture" if seed % PICTURE == 0 else ROUTES[seed % len(ROUTES)]
                name = NAMES[seed % len(NAMES)]
                fields = {"target": "eeg", "top_k": "2"} if route == "/v1/search" else {}
                answer = await client.post(route, files={"file": (name, content)}, data=fields)
                seen[answer.status_code] += 1
                if answer.status_code == 200:
                    continue
                assert answer.status_code == 422, (seed, answer.status_code, answer.text)
                detail = answer.json()["detail"]
                assert detail.startswith("upload: "), (seed, detail)
                assert not re.search(
                    r"/(tmp|home|usr|work|proc)|mmray-upload|Traceback|\.py\b|0x[0-9a-f]{6}", detail
                ), detail
                assert "passwd" not in detail
                assert len(detail) < 1000

    asyncio.run(all_of_them())
    assert set(seen) == {200, 422}
    assert seen[200] > 2
    assert seen[422] > UPLOADS // 2
    assert leftovers() == set()
