"""The report in headless Chromium: it loads from the file system, draws, filters, and the console stays empty.

`SPECTUNE_REPORT` names a run directory whose `report.html` is looked at too. Needs `chromium` and `chromedriver`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from tests.report.run_directory import make_run, write_lines

from spectune.report.comparison import comparison_page
from spectune.report.page import run_page

LARGEST = 6_000_000
FIRST_PAINT_MS = 2_000
DRAWN_WITHIN = 30.0
ATTACK = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser without network services, in a profile of its own."""
    programs = [shutil.which(name) or "" for name in ("chromium", "chromedriver")]
    assert all(programs), "install chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page and waits until everything is drawn; at the end the console must be empty."""

    def open_page(page: Path, *, width: int = 1280, dark: bool = False) -> Any:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(page.as_uri())
        deadline = time.monotonic() + DRAWN_WITHIN
        while browser.execute_script("return document.body.dataset.ready") != "yes":
            assert time.monotonic() < deadline, browser.get_log("browser")
            time.sleep(0.05)
        return browser

    yield open_page
    assert browser.get_log("browser") == []


NAMED = os.environ.get("SPECTUNE_REPORT")


@pytest.fixture(params=["by hand", *([NAMED] if NAMED else [])])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The page of the run written by hand, and of the run that the environment names."""
    if request.param == "by hand":
        made = tmp_path / "report.html"
        made.write_text(run_page(make_run(tmp_path / "run")), encoding="utf-8")
        return made
    return Path(request.param).resolve() / "report.html"


def rows(browser: Any) -> list[str]:
    """The second cell of every row of the predictions that is shown."""
    script = "return [...document.querySelectorAll('#rows tr')].map(row => row.cells[1].textContent)"
    found: list[str] = browser.execute_script(script)
    return found


def choose(browser: Any, value: str) -> int:
    """Click one of the filter's choices; returns how many rows the page says there are."""
    browser.execute_script(f"document.querySelector('input[name=right][value={value}]').click()")
    return int(
        browser.execute_script("return document.getElementById('found').textContent").split()[0].replace(",", "")
    )


def test_it_opens_at_once_and_draws_everything(page: Path, opened: Callable[..., Any]) -> None:
    assert page.stat().st_size < LARGEST
    browser = opened(page)
    paints = browser.execute_script("return performance.getEntriesByType('paint').map(entry => entry.startTime)")
    assert paints
    assert max(paints) < FIRST_PAINT_MS
    drawn = "return [...document.querySelectorAll('[data-figure]')].map(place => place.querySelectorAll('svg').length)"
    counts = browser.execute_script(drawn)
    assert len(counts) >= 10
    assert all(counts)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_the_filter(page: Path, opened: Callable[..., Any]) -> None:
    browser = opened(page)
    counts = {value: choose(browser, value) for value in ("all", "wrong", "right")}
    assert counts["all"] == counts["wrong"] + counts["right"] > counts["right"] > 0
    assert set(rows(browser)) == {"✓ right"}
    choose(browser, "wrong")
    assert set(rows(browser)) == {"✗ wrong"}
    browser.execute_script(
        "const s = document.getElementById('search'); s.value = 'no such text'; s.dispatchEvent(new Event('input'))"
    )
    assert rows(browser) == []


def test_the_slider_goes_back_to_the_start(page: Path, opened: Callable[..., Any]) -> None:
    browser = opened(page)
    browser.execute_script(
        "const s = document.getElementById('frame'); s.value = 0; s.dispatchEvent(new Event('input'))"
    )
    cells = browser.execute_script("return [...document.querySelectorAll('[data-i]')].map(cell => cell.textContent)")
    assert len(set(cells)) == 1, "init_r everywhere"
    assert "before the first allocation" in browser.execute_script(
        "return document.getElementById('frame-text').textContent"
    )


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_scrolls_in_one_direction(page: Path, opened: Callable[..., Any], dark: bool) -> None:
    browser = opened(page, width=390, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")) > 3 * 128
    assert light is not dark
    ink = browser.execute_script("return document.querySelector('.xtick text').style.fill")
    assert (sum(int(part) for part in ink.removeprefix("rgb(").removesuffix(")").split(",")) > 3 * 128) is dark


def test_a_hostile_text_is_shown_and_not_run(tmp_path: Path, opened: Callable[..., Any]) -> None:
    run = make_run(tmp_path / "run", data={"text_column": ATTACK})
    write_lines(run / "predictions.jsonl", [{"text": ATTACK, "target": ATTACK, "prediction": ATTACK}])
    page = tmp_path / "report.html"
    page.write_text(run_page(run), encoding="utf-8")
    browser = opened(page)
    assert browser.title == "run: spectune report"
    assert browser.execute_script("return document.images.length") == 0
    assert browser.execute_script("return document.querySelector('#rows tr').cells[2].textContent").startswith("</scr")


def test_the_comparison(tmp_path: Path, opened: Callable[..., Any]) -> None:
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", adapter={"target_r": 4})]
    page = tmp_path / "comparison.html"
    page.write_text(comparison_page(runs), encoding="utf-8")
    browser = opened(page, width=390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.execute_script("return document.querySelectorAll('[data-figure] svg.main-svg').length") >= 12
