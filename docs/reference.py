"""Writes the reference tables of these pages from the code (`python -m docs.reference`)."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from flask_dbopt.cli import VERBS, group
from flask_dbopt.deeds import DEEDS
from flask_dbopt.settings import SETTINGS
from flask_dbopt.settings.alert_rules import ALERT_RULES
from flask_dbopt.signals import _namespace

HERE = Path(__file__).parent
MARKS = "<!-- written by docs/reference.py: {} -->", "<!-- end -->"

ROOMS = {
    "enabled": "Everything", "database": "Databases", "databases": "Databases", "state": "Databases",
    "pool": "Pool", "sqlite": "SQLite", "cache": "Cache", "monitor": "Monitor", "advisor": "Advisor",
    "backup": "Backup", "alert": "Alerts", "admin": "Admin page", "log": "Logs",
}  # fmt: skip


def settings() -> str:
    """One table a room: key, default, meaning, range, further environment name."""
    parts = []
    for room, members in groupby(SETTINGS.values(), key=lambda one: ROOMS[one.room]):
        parts += [
            f"## {room}",
            "",
            "| Key | Default | Meaning | Range | Also |",
            "| --- | --- | --- | --- | --- |",
        ]
        for one in members:
            also = f"`{one.env}`" if one.env else ""
            parts.append(
                f"| `{one.key}` | {_default(one)} | {_cell(one.meaning)}{_not_yet(one)} | {_cell(one.range)} | {also} |"
            )
        parts.append("")
    return "\n".join(parts)


def commands() -> str:
    """One section a verb: what it does, how it is called, its options."""
    parts = []
    for name in VERBS:
        command = group.get_command(click.Context(group), name)
        parts += _command(command, f"flask db-opt {name}", "##")
        if isinstance(command, click.Group):
            for each in command.commands.values():
                parts += _command(each, f"flask db-opt {name} {each.name}", "###")
    return "\n".join(parts)


def signals() -> str:
    """Name and details of each."""
    rows = ["| Signal | When, and with what |", "| --- | --- |"]
    rows += [f"| `{name}` | {_cell(signal.__doc__ or '')} |" for name, signal in _namespace.items()]
    return "\n".join([*rows, ""])


def alerts() -> str:
    """What each rule means, and what to do about its alerts."""
    rows = ["| rule | raised when | looks at | needs at least | threshold |", "| --- | --- | --- | --- | --- |"]
    for rule in ALERT_RULES.values():
        own = f"`DBOPT_{rule.setting.upper()}`" if rule.setting else "off" if rule.default is None else ""
        limit = own or f"{rule.default:g}{f' ({rule.unit})' if rule.unit in ('s', 'ms', 'h', 'min', '×') else ''}"
        cells = (f"`{rule.name}`", _keys(rule.sentence(rule.default)), rule.looks, rule.needs, limit)
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    rows += ["", "What to do:", ""]
    rows += [f"- `{rule.name}`: {_keys(rule.hint.replace('{subject}', 'NAME'))}" for rule in ALERT_RULES.values()]
    return "\n".join([*rows, ""])


def deeds() -> str:
    """What the audit log may hold."""
    rows = ["| deed | meaning |", "| --- | --- |"]
    rows += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in DEEDS.items()]
    return "\n".join([*rows, ""])


PAGES = {"settings.md": settings, "cli.md": commands, "signals.md": signals, "logs.md": deeds, "alerts.md": alerts}


def _command(command: click.Command, path: str, heading: str) -> list[str]:
    context = click.Context(command, info_name=path)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [
        f"{heading} `{path}`",
        "",
        *_paragraphs(command.help or ""),
        f"```console\n$ {' '.join(usage.split())}\n```",
        "",
    ]
    options = [one.get_help_record(context) for one in command.params if isinstance(one, click.Option)]
    if not isinstance(command, click.Group):
        parts += ["| Option | Meaning |", "| --- | --- |"]
        parts += [f"| `{_cell(record[0])}` | {_cell(record[1])} |" for record in options if record]
        parts.append("")
    return parts


def _paragraphs(text: str) -> list[str]:
    parts = []
    for paragraph in re.sub(r"\n +", "\n", text).split("\n\n"):
        verbatim = paragraph.startswith("\b\n")
        lines = paragraph.removeprefix("\b\n")
        parts += [f"```console\n$ {lines}\n```" if verbatim else " ".join(lines.split()), ""]
    return parts


def _default(one: Any) -> str:
    shown = one.shown(one.default)
    if isinstance(shown, int) and not isinstance(shown, bool) and one.unit == "bytes" and shown % 1024 == 0:
        return f"{shown >> 20} MiB" if shown % (1 << 20) == 0 else f"{shown >> 10} KiB"
    return f"`{json.dumps(shown) if isinstance(shown, (dict, list, str)) else shown}`"


def _not_yet(one: Any) -> str:
    return "; *no effect in this version*" if one.later else ""


def _keys(text: str) -> str:
    """Settings and commands as code."""
    return re.sub(r"DBOPT_[A-Z_]+|flask db-opt [a-z]+(?: --[a-z]+ [\w]+)*", lambda found: f"`{found[0]}`", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def written(page: Path, part: str) -> str:
    """The page with its marked part replaced."""
    begin, end = MARKS[0].format(page.name), MARKS[1]
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{part}\n{end}{after}"


def main() -> None:
    """Bring every page up to date."""
    for name, make in PAGES.items():
        page = HERE / name
        page.write_text(written(page, make()), encoding="utf-8")


if __name__ == "__main__":
    main()
