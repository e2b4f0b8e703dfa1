"""The page in a real browser: looks, keyboard, figures that renew themselves, and nothing the policy blocks."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.serving import make_server

pytestmark = pytest.mark.browser
Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
PAGES = ("", "queries", "queries/bbbbbbbbbbbb", "indexes", "indexes/feedc0ffee01", "pool", "cache", "backups",
         "alerts", "audit", "settings")  # fmt: skip
ALONE = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run"]  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        missing = "no Chromium is installed: the page was NOT looked at in a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ALONE)
        yield browser
        browser.close()


@pytest.fixture
def site(build: Build) -> Iterator[Any]:
    """The app on a port of its own; ``site.url`` is the page's address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    server = make_server("127.0.0.1", 0, staged.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    staged.url = f"http://127.0.0.1:{server.port}/_dbopt/"
    yield staged
    server.shutdown()
    thread.join()
    server.server_close()


def visit(chromium: Any, site: Any, **how: Any) -> Any:
    """A signed-in tab; ``tab.faults`` is what the browser complained of."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, **how)
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    tab.faults = []
    tab.goto(site.url)
    tab.on("console", lambda line: tab.faults.append(line.text) if line.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: tab.faults.append(str(error)))
    tab.get_by_label("Admin token").fill(TOKEN)
    tab.get_by_role("button", name="Open the page").click()
    tab.wait_for_url(site.url)
    return tab


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("dark", 390), ("light", 700)])
def test_every_page_fits_and_offends_no_policy(chromium: Any, site: Any, scheme: str, width: int) -> None:
    tab = visit(chromium, site, color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    for path in PAGES:
        assert tab.goto(site.url + path).status == 200
        assert tab.locator("h1").is_visible()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, path
        ground = tab.evaluate("getComputedStyle(document.querySelector('.side')).backgroundColor")
        assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    assert tab.faults == []
    tab.context.close()


@pytest.mark.parametrize("width", [1280, 1000, 390])
def test_the_cache_s_ring_stands_beside_its_figure(chromium: Any, site: Any, width: int) -> None:
    tab = visit(chromium, site)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto(site.url + "cache")
    ring, words = (tab.locator(f".gauge > {each}").bounding_box() for each in (".ring", "div"))
    assert ring["x"] + ring["width"] < words["x"]
    assert ring["y"] < words["y"] + words["height"] / 2 < ring["y"] + ring["height"]
    tab.context.close()


def test_figures_renew_themselves_and_stand_still_when_told(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site)
    tab.clock.install()
    tab.goto(site.url)
    report = site.rooms.report
    requests = tab.locator("#tiles strong").first

    def figure(rate: float) -> None:
        site.rooms.report = dataclasses.replace(
            report, overview=dataclasses.replace(report.overview, requests_per_second=rate)
        )

    figure(123.0)
    with tab.expect_response(lambda answer: answer.request.headers.get("x-dbopt-live") == "1"):
        tab.clock.run_for(2100)
    tab.get_by_text("123/s").wait_for()
    live = tab.get_by_role("button", name="Live")
    live.click()
    assert live.get_attribute("aria-pressed") == "false"
    figure(456.0)
    tab.clock.run_for(10_000)
    assert requests.inner_text().startswith("123")
    live.click()
    tab.clock.run_for(100)
    tab.get_by_text("456/s").wait_for()
    assert tab.faults == []
    tab.context.close()


def test_the_page_says_when_the_sign_in_has_ended(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site)
    tab.clock.install()
    tab.goto(site.url)
    site.clock.now += 4000
    tab.clock.run_for(2100)
    tab.get_by_role("button", name="Signed out").wait_for()
    tab.context.close()


def test_an_index_is_built_in_two_clicks_and_the_message_does_not_stay_in_the_address(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site)
    tab.get_by_role("link", name="Indexes").click()
    tab.get_by_role("link", name="Build it…").click()
    tab.get_by_role("button", name="Build this index").click()
    tab.get_by_text("Built: CREATE INDEX keyword_word").wait_for()
    assert tab.url == site.url + "indexes"
    assert site.rooms.asked == [("take", "before index feedc0ffee01"), ("apply", "feedc0ffee01")]
    assert tab.faults == []
    tab.context.close()


def test_a_command_can_be_copied(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site, permissions=["clipboard-read", "clipboard-write"])
    tab.goto(site.url + "backups")
    tab.get_by_role("button", name="Copy").last.click()
    tab.get_by_role("button", name="Copied").wait_for()
    assert tab.evaluate("navigator.clipboard.readText()") == "flask db-opt restore latest"
    tab.context.close()


def test_times_are_the_readers_own(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site, timezone_id="Asia/Tokyo", locale="de-DE")
    utc = tab.locator("time.clock").first
    assert "UTC" not in utc.inner_text()
    tab.context.close()


def test_the_keyboard_alone_is_enough(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the figures"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.goto(site.url + "indexes/feedc0ffee01")
    for _ in range(40):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.textContent") == "Build this index":
            break
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "whoever comes by keyboard sees where they are"
    tab.keyboard.press("Enter")
    tab.get_by_text("Built:").wait_for()
    tab.context.close()


def test_it_works_without_javascript(chromium: Any, site: Any) -> None:
    tab = visit(chromium, site, java_script_enabled=False)
    tab.goto(site.url + "backups")
    assert not tab.get_by_role("button", name="Live").is_visible(), "what needs a script is not shown"
    assert not tab.get_by_role("button", name="Copy").first.is_visible()
    tab.get_by_label("Label").fill("by hand")
    tab.get_by_role("button", name="Take a backup now").click()
    tab.get_by_text("is kept").wait_for()
    assert site.rooms.asked == [("take", "by hand")]
    tab.context.close()


def test_a_page_elsewhere_cannot_send_our_forms(chromium: Any, site: Any) -> None:
    """The cookie stays at home (SameSite=Strict), and so does what the browser says about the sender."""
    tab = visit(chromium, site)
    elsewhere = Flask("elsewhere")
    elsewhere.add_url_rule(
        "/",
        "page",
        lambda: f"<form id=f method=post action='{site.url}cache/clear'></form><script>f.submit()</script>",
    )
    server = make_server("127.0.0.1", 0, elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        # another host name is another site; another port alone would not be
        tab.goto(f"http://localhost:{server.port}/")
        tab.wait_for_url(site.url + "cache/clear")
        assert site.rooms.asked == []
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        tab.context.close()
