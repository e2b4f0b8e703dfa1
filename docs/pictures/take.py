"""Takes the pictures of these pages anew: serves the example app, sends visitors, photographs what they see.

``python docs/pictures/take.py`` from the root of the repository; it takes some three minutes and wants Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from example_app import DATABASE_NAME  # noqa: E402
from example_app.build import build  # noqa: E402
from example_app.server import running  # noqa: E402
from example_app.traffic import drive, explore, plan  # noqa: E402

TOKEN = "only-for-the-pictures"
WIDTH = 1280
LARGEST = 250_000
"""Bytes of one picture."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def photograph(page: Page, url: str, name: str, *, height: int | None = None, until: str = "") -> None:
    """One page of ``WIDTH``, whole, its upper ``height`` pixels, or as far as the element ``until`` goes."""
    page.goto(url)
    page.wait_for_timeout(500)
    whole = page.evaluate("document.documentElement.scrollHeight")
    if until and (box := page.locator(until).first.bounding_box()):
        height = round(box["y"] + box["height"]) + 24
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": min(height or whole, whole)}
    target = HERE / f"{name}.png"
    page.screenshot(path=target, full_page=True, clip=clip)
    size = target.stat().st_size
    print(f"{target.name}: {clip['height']} px, {size / 1000:.0f} kB{'  TOO LARGE' if size > LARGEST else ''}")


def take(url: str) -> None:
    """Every picture, of a server that has seen some traffic."""
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800})
        photograph(page, f"{url}/", "app-home", height=960)
        page.goto(f"{url}/_dbopt/")
        for token in ("not the token", TOKEN):  # the audit log tells of both
            page.fill("#token", token)
            page.click("button")
            page.wait_for_load_state()
        photograph(page, f"{url}/_dbopt/?since=15m", "overview", until=".charts")
        photograph(page, f"{url}/_dbopt/queries?since=15m", "queries", height=1000)
        statement = page.locator('tr:has-text("index advice") a[href*="/queries/"]').first.get_attribute("href")
        photograph(page, f"{url}{statement}", "query", until=".advice")
        photograph(page, f"{url}/_dbopt/requests?since=15m", "requests", height=1360)
        photograph(page, f"{url}/_dbopt/alerts", "alerts", height=1000)
        for path in ("/", "/languages/", "/languages/en", "/languages/de", "/lists/", "/search?q=coffee"):
            page.goto(f"{url}{path}")  # the last visitor may have saved a keyword, which empties the cache
        page.wait_for_timeout(3000)
        photograph(page, f"{url}/_dbopt/cache?since=15m", "cache", until="#chart")
        page.click("text=Clear the cache")
        page.wait_for_load_state()
        page.goto(f"{url}/_dbopt/backups")
        page.fill("input[name=label]", "before the release")
        page.click("text=Take a backup now")
        page.wait_for_load_state()
        photograph(page, f"{url}/_dbopt/backups", "backups", height=960)
        photograph(page, f"{url}/_dbopt/audit", "audit", until="section .card")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150.0, help="how long visitors come (default: %(default)s)")
    seconds = parser.parse_args().seconds
    os.environ.setdefault("DBOPT_ADVISOR_MIN_CALLS", "10")  # as `make demo` does
    with tempfile.TemporaryDirectory(prefix="omni-") as name:
        folder = Path(name)
        build(folder / DATABASE_NAME)
        with running(folder, token=TOKEN) as server:
            known = explore(server.url)
            run = drive(server.url, plan(known, 100_000), threads=2, seconds=seconds)
            print(f"{len(run.samples)} requests, {run.errors} errors")
            take(server.url)


if __name__ == "__main__":
    main()
