"""What every tab is handed (a Visit) and what it gives back (a Page, or a Done after a change)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from flask_dbopt.admin.wording import Amount
from flask_dbopt.report import Report

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer


@dataclass(frozen=True, slots=True)
class Window:
    """How far back the figures go."""

    key: str
    words: str
    seconds: float


WINDOWS = {
    window.key: window
    for window in (
        Window("15m", "15 minutes", 900),
        Window("1h", "hour", 3600),
        Window("24h", "24 hours", 86_400),
        Window("7d", "7 days", 604_800),
        Window("30d", "30 days", 2_592_000),
    )
}
USUAL_WINDOW = "1h"


class Visit:
    """One request that was let in. Figures are made when a tab first asks for them."""

    def __init__(
        self,
        optimizer: Optimizer,
        build: Callable[..., Report],
        *,
        base: str,
        now: float,
        arguments: Mapping[str, str],
        form: Mapping[str, str],
        live: bool = False,
    ) -> None:
        self.optimizer = optimizer
        self.settings = optimizer.settings
        self.base = base
        self.now = now
        self.arguments = arguments
        self.form = form
        self.live = live
        """The page's own script asks again for figures; what is costly and stands still may be left out."""
        self.window = WINDOWS.get(arguments.get("since", ""), WINDOWS[USUAL_WINDOW])
        self._build = build

    @cached_property
    def report(self) -> Report:
        return self._build(self.optimizer, since=self.now - self.window.seconds, now=self.now)

    @property
    def changes(self) -> bool:
        """Whether this page may change anything."""
        return not self.settings.admin_readonly

    def link(self, path: str = "", **arguments: Any) -> str:
        """An address of ours; the chosen window travels along."""
        if self.window.key != USUAL_WINDOW:
            arguments.setdefault("since", self.window.key)
        query = urlencode({name: value for name, value in arguments.items() if value not in (None, "")})
        return f"{self.base}/{quote(path)}{'?' if query else ''}{query}"


@dataclass(frozen=True, slots=True)
class Page:
    """A tab's figures and the template that shows them."""

    tab: str
    title: str
    template: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    live: bool = True
    """Whether the figures renew themselves while the page is looked at."""
    windowed: bool = True
    """Whether the choice of window changes anything on it."""
    status: int = 200


@dataclass(frozen=True, slots=True)
class Done:
    """What a change came to, and the page to go on to."""

    message: str
    path: str
    tone: str = "good"


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the first row: what, how much, and what to make of it."""

    label: str
    amount: Amount
    note: str = ""
    tone: str = ""
    path: str | None = None


class Missing(Exception):
    """There is no such page; the message says what was looked for."""
