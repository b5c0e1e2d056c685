"""The report in a real browser: nothing asked of the network, nothing wider than a phone, every figure to be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browsing import asked, opened
from tests.evaluation import made_report, made_trials

GROUND = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every system, unfinished, with a long reason: the widest page there is."""
    plan = made_trials.plan_of(systems=made_trials.EVERY_SYSTEM, rates=(1e-2, 1e-3, 1e-4))
    rows = [made_trials.row(one) for one in plan.trials][:-1]
    rows[0] |= {"error": "train: " + "unbroken" * 40, "subject_id": None}
    workspace = made_report.leave(tmp_path_factory.mktemp("ws"), plan, rows)
    workspace.write_table(made_report.search_table(), "sweeps", "made", "search.parquet")
    return Path(made_report.report(workspace).report)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_is_seen_and_asks_for_nothing(browser, report, width, scheme):
    opened(browser, report.as_uri(), width, scheme)
    assert asked(browser) == [report.as_uri()]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == GROUND[scheme]
    inner, whole = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width
    assert whole <= width
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
        ".map(r => [r.width, r.height, r.right])"
    )
    assert len(sizes) == 13
    assert all(w > 200 and h > 60 and right <= width for w, h, right in sizes), sizes


@pytest.mark.parametrize("width", [360, 1200])
def test_text_in_a_figure_is_neither_clipped_nor_tiny(browser, report, width):
    opened(browser, report.as_uri(), width, "light")
    outside = browser.execute_script("""
        return [...document.querySelectorAll('figure svg')].flatMap(svg => {
            const whole = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
                .filter(([, r]) => r.left < whole.left - 1 || r.right > whole.right + 1
                                   || r.top < whole.top - 1 || r.bottom > whole.bottom + 1 || r.height < 6)
                .map(([text]) => text);
        });""")
    assert outside == []


def test_a_wide_table_scrolls_in_its_own_box(browser, report):
    opened(browser, report.as_uri(), 360, "light")
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.wide')].map(b => [b.scrollWidth, b.clientWidth])"
    )
    assert any(inside > box for inside, box in boxes)
    assert browser.execute_script("window.scrollTo(400, 0); return window.scrollX") == 0


def test_on_paper_nothing_is_cut_off(browser, report):
    opened(browser, report.as_uri(), 718, "light")  # A4 with margins of 1 cm
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 718
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_network_watch_sees_a_request(browser, report, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</h1>", '</h1><img src="there.png">', 1))
    opened(browser, page.as_uri(), 360, "light")
    assert asked(browser) == [page.as_uri(), (tmp_path / "there.png").as_uri()]
    assert browser.get_log("browser") != []
