"""The settings in force, where each came from, and what it means. Secrets are never shown."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from flask_dbopt.admin.desk import Done, Page, Visit
from flask_dbopt.settings import SETTINGS, Setting

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
        room = setting.room if setting.name != setting.room else "general"
        room = {"state": "general", "database": "general", "databases": "general", "log": "general"}.get(
            room, room
        )
        rooms.setdefault(room, []).append(
            Effective(setting, _text(visit.settings.shown(setting.name)), source)
        )
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


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
