"""The pages say what the code does: nothing is left out and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import reference
from flask_dbopt.cli import VERBS
from flask_dbopt.settings import SETTINGS
from flask_dbopt.signals import _namespace

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("example_app/*.md")])


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_pages_are_as_the_code_writes_them(name):
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == reference.written(page, reference.PAGES[name]()), "run: make docs"


def test_every_setting_has_its_line():
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert [one.key for one in SETTINGS.values() if f"| `{one.key}` |" not in text] == []


def test_every_command_has_its_section():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"## `flask db-opt {verb}`" not in text] == []


def test_every_signal_has_its_line():
    text = (ROOT / "docs/signals.md").read_text(encoding="utf-8")
    assert [name for name in _namespace if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        place, _, anchor = link.partition("#")
        goal = (page.parent / place).resolve() if place else page
        assert goal.exists(), f"{link}: there is no such file"
        if anchor:
            assert anchor in anchors(goal), f"{link}: there is no such heading"
