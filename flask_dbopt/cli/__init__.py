"""``flask db-opt``: the page's figures and deeds in the terminal. One file a verb, loaded when asked for."""

from __future__ import annotations

from importlib import import_module

import click

VERBS = (
    "stats", "monitor", "alerts", "optimize", "advise", "explain", "cache",
    "backup", "backups", "restore", "config", "doctor", "audit", "worker",
)  # fmt: skip


class Verbs(click.Group):
    """Finds each verb in the file of its name, so that ``flask`` itself starts no slower for knowing us."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command


group = Verbs(
    "db-opt",
    help="Watch, tune, back up and restore the app's databases.\n\n"
    "Every command takes --json. It exits with 0 when all is well, 1 when it found something you should look "
    "at, and 2 when it could not do what was asked.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
