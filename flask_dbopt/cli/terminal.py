"""How the terminal is spoken to: text and tables for people, JSON for programs, exit codes for both."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from flask_dbopt.audit.actor import Actor, acting, system_user
from flask_dbopt.errors import DBOptError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FINE, FINDING, FAILURE = 0, 1, 2
"""The exit codes; click itself already uses 2 for misuse."""

_LONGEST_CELL = 500
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Verb(click.Command):
    """One verb of ``db-opt``: it takes --json, and its errors have a hint and no traceback.

    Its function gets a Screen first and returns an exit code or None. Under ``flask --debug`` an unexpected
    error keeps its traceback.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print JSON for a program to read."))

    def invoke(self, ctx: click.Context) -> NoReturn:
        as_json = ctx.params.pop("as_json")
        try:
            with acting(_caller(ctx)):
                code = ctx.invoke(self.callback or _nothing, Screen(as_json), **ctx.params)
        except (click.exceptions.Exit, click.UsageError):
            raise
        except click.Abort:
            complain("stopped; what was not finished is as it was before", as_json=as_json)
            code = FAILURE
        except Exception as error:
            if wants_traceback() and not isinstance(error, DBOptError):
                raise
            message, hint = explained(error)
            complain(message, hint, as_json=as_json)
            code = FAILURE
        ctx.exit(code or FINE)


def _caller(ctx: click.Context) -> Actor:
    """Whoever types the command, as the system knows him; behind sudo also who he was before."""
    command = ctx.command_path.rpartition("db-opt ")[2]
    return Actor("cli", user=system_user(), sudo=os.environ.get("SUDO_USER"), command=command)


def _nothing(screen: Screen) -> None:
    """What a verb without a function does."""


def verb(name: str, **keywords: Any) -> Callable[[Callable[..., int | None]], Verb]:
    """Make the decorated function a Verb; its docstring is the help."""
    return click.command(name, cls=Verb, **keywords)


def wants_traceback() -> bool:
    """Whether this is a ``flask --debug`` session."""
    from flask.helpers import get_debug_flag

    return get_debug_flag()


def explained(error: Exception) -> tuple[str, str]:
    """What happened and what to do about it, in a person's words."""
    if isinstance(error, DBOptError):
        return str(error.args[0] if error.args else error), error.hint
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return f"the database stayed locked: {error}", "something else is writing; try again when it is done"
    if isinstance(error, (sqlite3.Error, OSError)):
        return f"{type(error).__name__}: {error}", ""
    return f"{type(error).__name__}: {error}", "flask --debug db-opt … shows where it came from"


def complain(message: str, hint: str = "", *, as_json: bool = False) -> None:
    """Say what went wrong: in red on the error stream, or as JSON on the output."""
    if as_json:
        click.echo(json.dumps({"error": message, "hint": hint}, ensure_ascii=False))
        return
    click.secho(f"Error: {message}", fg="red", err=True)
    if hint:
        click.echo(f"Hint: {hint}", err=True)


class Screen:
    """Where a verb says things. Text and tables reach people only, ``data`` programs only."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def interactive(self) -> bool:
        """Whether a person sits there who can see a bar move and answer a question."""
        return not self.as_json and sys.stdout.isatty()

    @property
    def console(self) -> Console:
        """A rich console; a pipe gets wide, plain lines."""
        from rich.console import Console

        wide = None if sys.stdout.isatty() else 160
        return Console(file=sys.stdout, width=wide, highlight=False, soft_wrap=True, emoji=False)

    def data(self, value: Any) -> None:
        """The whole answer, as JSON."""
        if self.as_json:
            click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))

    def line(self, value: Any) -> None:
        """One of many answers, as JSON on a line of its own."""
        if self.as_json:
            click.echo(json.dumps(value, ensure_ascii=False, default=str))

    def say(self, text: str = "", *, style: str | None = None) -> None:
        """A line of text; ``style`` as rich names it ("bold", "yellow")."""
        if not self.as_json:
            self.console.print("\n".join(map(clean, text.split("\n"))), style=style, markup=False)

    def show(self, renderable: Any) -> None:
        """Anything rich can draw."""
        if not self.as_json:
            self.console.print(renderable)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> None:
        """A table; a column whose name starts with ">" is right-aligned."""
        self.show(table(columns, rows, title=title))

    def confirm(self, question: str, *, yes: bool) -> None:
        """Return when the answer is yes; otherwise stop the command. Nobody there to ask: needs --yes."""
        if yes:
            return
        if not self.interactive or not sys.stdin.isatty():
            raise click.UsageError(f"{question} Say --yes to answer this without a terminal.")
        click.confirm(question, abort=True)

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """A bar, or without ``total`` a spinner, while something takes its time; only on a terminal."""
        if not self.interactive:
            yield _advance_nothing
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns = [SpinnerColumn(), TextColumn("{task.description}")]
        if total is not None:
            columns += [BarColumn(), MofNCompleteColumn()]
        with Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)


def _advance_nothing() -> None:
    """A step of a bar that nobody sees."""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> Any:
    """A rich table without frills; cells are text, never markup. One that is a Text already is left as it is."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, title_style="bold")
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(clean(str(cell))) for cell in row))
    return made


def cut(text: str) -> Text:
    """A table's cell that takes one line, however little of it is seen then."""
    from rich.text import Text

    return Text(clean(text[:_LONGEST_CELL]), no_wrap=True, overflow="ellipsis")


def clean(text: str) -> str:
    """Without what a terminal would obey: a statement's text is the app's, perhaps even a visitor's."""
    return "".join(sign if sign.isprintable() else "·" if sign not in "\t\n\r" else " " for sign in text)


# --- figures as people read them ----------------------------------------------------------------------


def size(count: float | None) -> str:
    """Bytes: "12.4 MB"; "–" when unknown."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def milliseconds(value: float | None) -> str:
    """A duration in milliseconds: "0.42 ms", "1.2 s"; "–" when unknown."""
    if value is None:
        return "–"
    if value >= 1000:
        return span(value / 1000)
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def span(seconds: float) -> str:
    """Seconds: "1.2 s", "5 min", "3 h", "12 days"."""
    if seconds < 90:
        value, unit = seconds, "s"
    elif seconds < 5400:
        value, unit = seconds / 60, "min"
    elif seconds < 172_800:
        value, unit = seconds / 3600, "h"
    else:
        value, unit = seconds / 86_400, "days"
    return f"{value:.1f}".removesuffix(".0") + f" {unit}" if value < 10 else f"{value:,.0f} {unit}"


def ago(moment: float | None, now: float) -> str:
    """How long ago: "5 min ago"; "never" for None."""
    if moment is None:
        return "never"
    return f"{span(now - moment)} ago" if now - moment >= 1 else "just now"


def share(value: float | None) -> str:
    """0…1 as per cent; "–" when unknown."""
    return "–" if value is None else f"{value:.1%}"


def number(value: float | None) -> str:
    """A count with its thousands apart; "–" when unknown."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def at(moment: float | None) -> str:
    """A moment in local time."""
    return "–" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


#: The option of every verb that lists queries and endpoints.
how_many = click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    show_default=True,
    help="How many queries and endpoints.",
)


def length_of_time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    """An option's callback: 30s, 15m, 1h, 7d as seconds."""
    if text is None:
        return None
    fits = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip())
    if not fits:
        raise click.BadParameter(f"{text!r} is not a length of time; write 30s, 15m, 1h or 7d", context, parameter)
    return float(fits[1]) * _UNITS[fits[2] or "s"]
