"""The page in a real browser, before the real routes behind the guard: real recordings in, ranked matches out."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mmray.config import Config
from mmray.schema import Metric, metrics_table
from mmray.serving.guard import problem
from mmray.storage import Workspace
from tests.browsing import asked, opened
from tests.serving.serving_page import KEY, served_page
from tests.small_run import RUN, write_eeg, write_voice

GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}
UNSEEN_EEG, TEST_VOICE = "s6-eeg-1", "s5-audio-1"
FOUND = Metric("retrieval", "eeg->audio", "subject", "R@1", 0.39, 53, 0.28, 0.5, 0.094, None, 0.0005, 53)
NOT_FOUND = Metric("retrieval", "audio->eeg", "subject", "R@1", 0.2, 5, 0.0, 0.6, 0.2, None, 0.4, 5)


class Crowd:
    """An app whose next searches are refused, as many as `refused` says, as a full endpoint refuses them."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.refused = 0
        self.retry_after = 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.refused and scope["path"] == "/v1/search":
            self.refused -= 1
            headers = {"retry-after": str(self.retry_after)}
            answer = JSONResponse(problem(503, "full"), 503, headers, media_type="application/problem+json")
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)


@dataclass
class Page:
    """The served page in a browser, and what a user sees and does there."""

    browser: Any
    origin: str
    crowd: Crowd

    def open(self, address: str = "", width: int = 1200, scheme: str = "light") -> None:
        self.browser.get("about:blank")  # an address that differs in its fragment alone loads nothing
        opened(self.browser, f"{self.origin}/?key={KEY}{address}", width, scheme)
        self.wait("return document.querySelector('#served dl') !== null")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, script: str, seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"not so within {seconds} s: {script}; the page says {self.text('#answer')!r}")

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def focused(self) -> str:
        return str(self.run("return document.activeElement.getAttribute('aria-label') || document.activeElement.id"))

    def give(self, *paths: Path) -> None:
        """As a user who chooses files."""
        self.run("document.querySelector('#found').replaceChildren()")
        self.browser.find_element("id", "file").send_keys("\n".join(str(path) for path in paths))

    def drop(self, path: Path) -> None:
        """As a user who drops a file on the page: a script may not make a file of a path, so an input carries it."""
        self.run(
            "const c = document.createElement('input'); c.type = 'file'; c.id = 'carrier'; document.body.append(c)"
        )
        self.browser.find_element("id", "carrier").send_keys(str(path))
        self.run("""
            const carrier = document.getElementById('carrier'), held = new DataTransfer();
            held.items.add(carrier.files[0]);
            carrier.remove();
            for (const kind of ['dragenter', 'dragover', 'drop'])
                document.querySelector('main').dispatchEvent(
                    new DragEvent(kind, {dataTransfer: held, bubbles: true, cancelable: true}));""")

    def matches(self) -> list[dict[str, Any]]:
        """The ranked list, once it is there and the page is at rest."""
        self.wait("""return document.querySelector('#answer').getAttribute('aria-busy') === 'false'
            && document.querySelector('.matches') !== null""")
        found: list[dict[str, Any]] = self.run("""
            return [...document.querySelectorAll('.matches ol > li')].map(li => ({
                rank: Number(li.querySelector('.rank').lastChild.textContent),
                id: li.querySelector('.who .id').textContent,
                score: Number(li.querySelector('.score').lastChild.textContent),
                badges: [...li.querySelectorAll('.badge')].map(b => b.textContent),
                plays: li.querySelector('.play') !== null}))""")
        return found

    def ask(self, **how: Any) -> Any:
        answer = httpx.post(f"{self.origin}/v1/search", headers={"X-API-Key": KEY}, timeout=60, **how)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def tested(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The small run with figures: eeg->audio above chance, audio->eeg not."""
    root = tmp_path_factory.mktemp("page") / "ws"
    shutil.copytree(config.workspace, root)
    Workspace(str(root)).write_table(metrics_table([FOUND, NOT_FOUND]), "runs", RUN, "metrics.parquet")
    return config.model_copy(update={"workspace": str(root)})


@pytest.fixture(scope="module")
def page(browser: Any, tested: Config) -> Iterator[Page]:
    crowds: list[Crowd] = []

    def crowded(app: ASGIApp) -> ASGIApp:
        crowds.append(Crowd(app))
        return crowds[0]

    with served_page(tested, crowded) as origin:
        yield Page(browser, origin, crowds[0])


@pytest.fixture
def voice(real_data: Path) -> Path:
    return real_data / "feis" / "data_wav" / "01" / "wavs" / "goose.wav"


def test_a_dropped_voice_is_answered_with_what_the_endpoint_ranks(page, voice):
    page.open()
    page.drop(voice)
    found = page.matches()
    with voice.open("rb") as file:
        told = page.ask(files={"file": file}, data={"target": "eeg", "top_k": "10"})["matches"]
    assert [(m["rank"], m["id"]) for m in found] == [(m["rank"], m["recording_id"]) for m in told]
    assert [m["score"] for m in found] == pytest.approx([m["score"] for m in told], abs=6e-4)
    assert page.text("#told").startswith("6 EEG recordings found.")


def test_a_dropped_voice_is_seen_and_can_be_heard(page, voice):
    page.open()
    page.drop(voice)
    page.matches()
    colours = page.wait("""
        const counts = [...document.querySelectorAll('.plot canvas')].map(c =>
            new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size);
        return counts.length === 2 && counts[1] > 1 ? counts : null""")
    assert colours[0] >= 2
    assert colours[1] > 50
    duration = page.wait("return document.querySelector('.query audio').duration || null")
    assert duration == pytest.approx(1.0, abs=0.05)


def test_a_tone_stands_at_its_pitch_in_the_spectrogram(page, tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 2000 * np.arange(32000) / 16000), 16000)
    page.open()
    page.give(path)
    height = page.wait("""
        const canvas = document.querySelectorAll('.plot canvas')[1];
        if (!canvas || canvas.width === 300) return null;  // not drawn yet
        const data = canvas.getContext('2d').getImageData(canvas.width / 2, 0, 1, canvas.height).data;
        const bright = [...Array(canvas.height).keys()].map(y => data[4 * y] + data[4 * y + 1] + data[4 * y + 2]);
        return bright.indexOf(Math.max(...bright)) / canvas.height""")
    assert height == pytest.approx(1 - 2000 / 8000, abs=0.03)


def test_a_stored_eeg_is_picked_asked_and_heard_by_keyboard_alone(page):
    from selenium.webdriver import Keys

    page.open()
    page.press(Keys.TAB)
    assert page.text(":focus") == "Skip to the answer"
    page.press(Keys.TAB, Keys.TAB)
    assert page.focused() == "stored"
    page.press(*"s6-eeg")
    page.wait("return document.querySelectorAll('[role=option]').length === 1")
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.querySelector('[aria-selected=true]').id") == page.run(
        "return document.activeElement.getAttribute('aria-activedescendant')"
    )
    page.press(Keys.ENTER)
    found = page.matches()
    assert [m["rank"] for m in found] == list(range(1, 11))
    assert all(m["plays"] for m in found)
    assert page.run("return location.hash") == f"#recording={UNSEEN_EEG}&target=audio"
    for _ in range(30):
        page.press(Keys.TAB)
        if page.focused().startswith("Play"):
            break
    assert page.focused().endswith(f"voice {found[0]['id']}")
    page.press(Keys.ENTER)
    page.wait("return document.activeElement.getAttribute('aria-label').startsWith('Stop')")
    page.press(Keys.ENTER)
    assert page.focused().startswith("Play")


def test_escape_closes_the_list_and_keeps_what_was_typed(page):
    from selenium.webdriver import Keys

    page.open()
    page.browser.find_element("id", "stored").send_keys("s1")
    page.wait("return document.querySelectorAll('[role=option]').length > 1")
    page.press(Keys.ESCAPE)
    assert page.run("return [document.querySelector('#choices').hidden, document.querySelector('#stored').value]") == [
        True,
        "s1",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_an_answer_fits_makes_no_noise_and_asks_its_origin_alone(page, width, scheme):
    page.open(f"#recording={UNSEEN_EEG}", width, scheme)
    page.matches()
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    page.wait("return [...document.querySelectorAll('.match img')].some(i => i.complete && i.naturalWidth > 0)")
    assert page.run("return getComputedStyle(document.body).backgroundColor") == GROUND[scheme]
    inner, whole = page.run("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width
    assert whole <= width
    urls = asked(page.browser)
    assert f"{page.origin}/page/main.js" in urls
    assert [url for url in urls if not url.removeprefix("blob:").startswith(f"{page.origin}/")] == []
    assert page.browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["idle", "answered", "refused"])
def test_axe_finds_nothing_to_object_to(page, state, scheme, tmp_path):
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed; pip install -e .[dev]")
    if state == "answered":
        page.open(f"#recording={UNSEEN_EEG}&role=test", scheme=scheme)
        page.matches()
        page.run("document.querySelector('.classes button').click()")
        page.wait("return document.querySelector('.probabilities') !== null")
    else:
        page.open(scheme=scheme)
        page.wait("return document.querySelector('.offers') !== null")
    if state == "refused":
        nonsense = tmp_path / "a.bin"
        nonsense.write_bytes(b"nonsense")
        page.give(nonsense)
        page.wait("return document.querySelector('.problem') !== null")
        page.browser.find_element("id", "stored").send_keys("s1")
        page.wait("return document.querySelectorAll('[role=option]').length > 1")
    page.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    told = page.browser.execute_async_script("axe.run().then(arguments[0])")
    assert len(told["passes"]) > 30
    assert [(v["id"], v["impact"], v["nodes"][0]["html"]) for v in told["violations"]] == []


def test_axe_sees_a_control_without_a_name(page):
    pytest.importorskip("axe_core_python", reason="axe-core-python is not installed; pip install -e .[dev]")
    page.open()
    page.run("document.querySelector('main').append(document.createElement('button'))")
    page.run((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
    told = page.browser.execute_async_script("axe.run().then(arguments[0])")
    assert [v["id"] for v in told["violations"] if v["impact"] in ("serious", "critical")] == ["button-name"]


def test_without_a_key_there_is_no_page_and_no_part_of_it(page):
    answers = [httpx.get(f"{page.origin}{path}").status_code for path in ("/", "/page/main.js", "/page/style.css")]
    assert answers == [401, 401, 401]


def test_the_key_leaves_the_address_and_the_rest_of_it_stays(page):
    page.open(f"&from=mail#recording={UNSEEN_EEG}&target=audio")
    page.matches()
    assert page.run("return location.href") == f"{page.origin}/?from=mail#recording={UNSEEN_EEG}&target=audio"
    assert page.run("return document.cookie") == ""  # the page's own code cannot read what stands in for the key
    page.browser.refresh()
    assert page.matches()


def test_what_the_run_found_above_chance_is_said_with_its_figure(page):
    page.open(f"#recording={UNSEEN_EEG}")
    page.matches()
    assert page.text("#found .verdict h3") == "Above chance"
    assert plain(page.text("#found .verdict p")) == (
        "On people it never saw, this run finds the right voice first 39 % of the time; chance 9 %, p < 0.001."
    )


def test_what_is_not_above_chance_is_to_be_taken_as_chance(page):
    page.open(f"#recording={TEST_VOICE}")
    page.matches()
    assert plain(page.text("#found .verdict h3")) == "Not above chance (p = 0.4)"
    assert plain(page.text("#found .verdict p")) == (
        "On people it never saw, this run finds the right EEG first 20 % of the time; chance 20 %, p = 0.4. "
        "Take these matches as chance."
    )
    assert "Not above chance" in page.text("#told")


def test_a_search_that_no_test_covers_says_that_nothing_is_known(page):
    page.open(f"#recording={TEST_VOICE}&target=audio")
    assert TEST_VOICE not in {m["id"] for m in page.matches()}
    assert page.text("#found .verdict h3") == "No evidence for this kind of search"


def test_people_of_the_training_are_marked_and_so_is_the_same_person(page):
    page.open("#recording=s1-eeg-1&target=audio&top_k=12")
    found = page.matches()
    assert len(found) == 12
    assert all(("seen in training" in m["badges"]) == (m["id"][:2] in ("s1", "s2", "s3")) for m in found)
    assert all(("same person" in m["badges"]) == m["id"].startswith("s1-") for m in found)
    first = next(m["rank"] for m in found if m["id"].startswith("s1-"))
    assert f"first comes at rank {first}." in page.text(".matches > p")
    assert "trained on this query's person" in page.text("#found .caution")


def test_what_drove_the_answer_is_what_the_endpoint_names(page):
    told = page.ask(json={"recording_id": UNSEEN_EEG, "target": "audio"})
    page.open(f"#recording={UNSEEN_EEG}")
    page.matches()
    names = page.run("return [...document.querySelectorAll('.neighbours .id')].map(n => n.textContent)")
    ranked = sorted(told["neighbours"], key=lambda n: -n["weight"])
    assert names == [n["recording_id"] for n in ranked][:6]
    assert names
    shares = page.run(
        "return [...document.querySelectorAll('.bar.stacked > span')].map(s => parseFloat(s.style.width))"
    )
    assert shares == pytest.approx([100 * w for w in told["modality_weights"].values()], abs=0.01)


def test_an_eeg_and_a_voice_are_asked_together(page, tmp_path):
    eeg, voice = tmp_path / "e.mat", tmp_path / "v.wav"
    write_eeg(eeg, 5)
    write_voice(voice, 5)
    page.open()
    page.give(eeg, voice)
    found = page.matches()
    files = [("file", (path.name, path.read_bytes())) for path in (eeg, voice)]
    told = page.ask(files=files, data={"target": "audio"})["matches"]
    assert [m["score"] for m in found] == pytest.approx([m["score"] for m in told], abs=6e-4)
    assert page.text(".matches h3") == "Voices most like these 2 together"
    page.wait("return document.querySelector('.map img')?.naturalWidth > 0")
    assert page.run("return document.querySelectorAll('.query').length") == 2


def test_the_target_follows_the_query_until_the_user_chooses(page, voice):
    page.open()
    page.give(voice)
    page.matches()
    assert page.text(".matches h3").startswith("EEG most like")
    page.run("document.querySelector('[name=target][value=audio]').click()")
    page.wait("return document.querySelector('.matches h3').textContent.startsWith('Voices')")
    page.give(voice)
    page.matches()
    assert page.text(".matches h3") == "Voices most like these 2 together"


def test_filters_reach_the_endpoint_and_the_address(page):
    page.open(f"#recording={UNSEEN_EEG}")
    page.matches()
    page.run("""
        document.querySelector('#narrow').open = true;
        document.querySelector('[name=role]').value = 'test';
        document.querySelector('[name=top_k]').value = '3';
        document.querySelector('#go').click()""")
    page.wait("return document.querySelectorAll('.matches ol > li').length <= 3")
    assert {badge for m in page.matches() for badge in m["badges"]} >= {"held out"}
    assert all("held out" in m["badges"] for m in page.matches())
    assert page.run("return location.hash") == f"#recording={UNSEEN_EEG}&target=audio&top_k=3&role=test"


def test_back_returns_to_the_query_before(page):
    page.open(f"#recording={UNSEEN_EEG}&target=audio")
    first = page.matches()
    page.run("document.querySelector('.matches .who a').click()")
    page.wait(f"return !document.querySelector('.matches h3').textContent.includes('{UNSEEN_EEG}')")
    page.matches()
    page.browser.back()
    page.wait(f"return document.querySelector('.matches h3')?.textContent.includes('{UNSEEN_EEG}')")
    assert page.matches() == first


def test_a_full_endpoint_is_asked_again_and_the_user_is_told(page):
    page.open()
    page.crowd.refused, page.crowd.retry_after = 2, 1
    page.wait("return document.querySelector('.offers button') !== null")
    page.run("document.querySelector('.offers button').click()")
    page.wait("return document.querySelector('#told').textContent.startsWith('The endpoint is busy')")
    assert page.matches()
    assert page.crowd.refused == 0


def test_a_search_that_waits_can_be_cancelled(page):
    page.open()
    page.crowd.refused, page.crowd.retry_after = 1, 30
    page.wait("return document.querySelector('.offers button') !== null")
    page.run("document.querySelector('.offers button').click()")
    page.wait("return document.querySelector('#told').textContent.startsWith('The endpoint is busy')")
    page.browser.find_element("id", "cancel").click()
    page.wait("return document.querySelector('#told').textContent === 'Cancelled.'")
    assert page.run("return document.querySelector('#cancel').hidden && document.querySelector('#progress').hidden")


def test_a_file_of_no_known_format_is_refused_in_words(page, tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear all")
    page.open()
    page.give(path)
    page.wait("return document.querySelector('.problem') !== null")
    assert page.text("#trouble").startswith("letter.txt: its content is of no known format. WAV")
    assert page.text("#trouble").endswith(".")


def test_an_unknown_recording_in_a_link_is_said_in_words(page):
    page.open("#recording=nobody")
    page.wait("return document.querySelector('.problem') !== null")
    assert page.text("#trouble").startswith("No recording 'nobody' in index")


def test_a_name_that_is_markup_stays_text(page, tmp_path):
    path = tmp_path / "<img src=x onerror=document.title='taken'>.wav"
    write_voice(path, 1)
    page.open()
    page.give(path)
    page.matches()
    assert page.text("#chosen .id") == path.name
    assert page.run("return [document.querySelector('img[onerror]'), document.title]") == [None, "mmray"]


def test_the_foot_names_what_is_served(page):
    page.open()
    told = httpx.get(f"{page.origin}/v1/status", headers={"X-API-Key": KEY}).json()
    for part in (told["index_version"], told["run_id"], told["model"][:12], "6 EEG recordings", "12 voices"):
        assert part in page.text("#served")


def test_classes_come_only_when_asked_for_and_never_as_a_diagnosis(page):
    page.open(f"#recording={UNSEEN_EEG}")
    page.matches()
    assert page.run("return document.querySelector('.probabilities')") is None
    page.run("document.querySelector('.classes button').click()")
    page.wait("return document.querySelector('.probabilities') !== null")
    shares = [int(n) for n in re.findall(r"(\d+)\s%", page.text(".probabilities"))]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert "not a diagnosis" in page.text(".classes")


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")
