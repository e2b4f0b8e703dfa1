"""Which ``flask`` command this process runs: what it does in the database is booked on its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click
from flask import Flask
from flask.cli import ScriptInfo

from flask_dbopt.optimizer import Optimizer

#: Commands that serve requests, and ours, which must not change the figures that they show.
_OTHERS = frozenset(("run", "db-opt"))
#: Options of ``flask`` itself that a value follows.
_WITH_VALUE = frozenset(("-A", "--app", "-e", "--env-file"))


def note(app: Flask, optimizer: Optimizer) -> None:
    """Called as an app context begins. Under a command of the app's, its figures are looked after until it ends."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_object(ScriptInfo) is None or context.meta.get(__name__):
        return
    root = context.find_root().command
    names = _names([root, app.cli], sys.argv[1:]) if isinstance(root, click.Group) else []
    if names and names[0] not in _OTHERS:
        context.meta[__name__] = True
        optimizer.attend()
        context.with_resource(optimizer.monitor.command(" ".join(names)))


def _names(groups: Sequence[click.Group], words: Sequence[str]) -> list[str]:
    """The command and its subcommands. Read from the words given: click tells them only once they are resolved."""
    names: list[str] = []
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            found = next((group.commands[word] for group in groups if word in group.commands), None)
            if found is None:
                break
            names.append(word)
            if not isinstance(found, click.Group):
                break
            groups = [found]
    return names
