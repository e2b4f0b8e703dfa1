"""The settings in force, where each came from, and what it means. Secrets are never shown."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from flask_dbopt.admin.desk import Done, Page, Visit
from flask_dbopt.admin.wording import size
from flask_dbopt.settings import SETTINGS, Setting

_ROOMS = {
    "pool": "Pool",
    "sqlite": "SQLite",
    "cache": "Cache",
    "monitor": "Monitor",
    "advisor": "Advisor",
    "backup": "Backups",
    "alert": "Alerts",
    "admin": "This page",
}

log = logging.getLogger("flask_dbopt.admin")


@dataclass(frozen=True, slots=True)
class Effective:
    """One setting as it is now."""

    setting: Setting
    value: str
    source: str

    @property
    def is_default(self) -> bool:
        return self.source.startswith("default")


def show(visit: Visit) -> Page:
    rooms: dict[str, list[Effective]] = {}
    for setting in SETTINGS.values():
        source = visit.optimizer.sources.get(setting.name, "default")
        value = text(setting, visit.settings.shown(setting.name))
        rooms.setdefault(_ROOMS.get(setting.room, "General"), []).append(Effective(setting, value, source))
    return Page(
        "settings",
        "Settings",
        "settings.html",
        {"report": visit.report, "rooms": rooms},
        live=False,
        windowed=False,
    )


def reset(visit: Visit) -> Done:
    """Forget every recorded figure, in all workers."""
    visit.optimizer.monitor.reset()
    log.warning("the admin page reset the figures")
    return Done("The figures start again from nothing. Backups and alerts are as they were.", "settings")


def text(setting: Setting, value: object) -> str:
    """A value and its unit as people write them."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        if setting.unit == "bytes":
            return str(size(value))
        return f"{value:,.15g} {setting.unit}".rstrip()
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False) if value else "none"
