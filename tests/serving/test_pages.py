"""The page's files over HTTP: those of the list, nothing else, under a policy that loads nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

import httpx
import pytest
from fastapi import FastAPI

from mmray.serving import pages
from tests.serving.loopback import served

FOLDER = files("mmray.serving") / "page"
CODE = [name for name in pages.NAMES if name.endswith(".js")]
MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function"


@pytest.fixture(scope="module")
def app() -> FastAPI:
    made = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    pages.mount(made)
    return made


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with served(app) as origin, httpx.Client(base_url=origin) as opened:
        yield opened


def source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_every_file_of_the_page_is_served_and_no_other_is_named():
    assert {file.name for file in FOLDER.iterdir()} == set(pages.NAMES)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/main.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_has_its_type_and_the_policy(client, path, kind):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == kind
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert {policy[name] for name in ("default-src", "form-action", "base-uri", "frame-ancestors")} == {"'none'"}
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert {policy[name] for name in ("img-src", "media-src")} == {"'self' blob:"}


@pytest.mark.parametrize(
    "name", ["pages.py", "nothing.js", "../pages.py", "..%2fpages.py", "%2e%2e%2fpages.py", "/etc/passwd", "main.js%00"]
)
def test_a_name_outside_the_list_is_not_found(client, name):
    assert client.get(f"/page/{name}").status_code == 404


def test_the_page_is_no_part_of_the_described_interface(app):
    assert app.openapi()["paths"] == {}


@pytest.mark.parametrize("name", CODE)
def test_no_module_makes_markup_or_code_from_text(name):
    assert re.findall(MARKUP, source(name)) == []


@pytest.mark.parametrize("name", pages.NAMES)
def test_no_file_of_the_page_names_another_host(name):
    assert re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", source(name).replace("http://www.w3.org/2000/svg", "")) == []


@pytest.mark.parametrize("name", CODE)
def test_every_import_of_a_module_is_used_and_there(name):
    text = source(name)
    for names, module in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', text):
        assert module in pages.NAMES
        for imported in filter(str.strip, names.split(",")):
            assert len(re.findall(rf"\b{imported.strip()}\b", text)) > 1, f"{imported.strip()} of {module}"
            assert re.search(rf"export (async )?(function|const|class) {imported.strip()}\b", source(module))
