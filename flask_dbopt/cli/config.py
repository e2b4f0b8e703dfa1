"""``flask db-opt config``: the effective settings, and where each came from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flask_dbopt.cli.target import target
from flask_dbopt.cli.terminal import FAILURE, FINE, Screen, complain, verb
from flask_dbopt.errors import ConfigurationError, DBOptError

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer


@verb("config")
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
def command(screen: Screen, names: tuple[str, ...], changed: bool) -> int:
    """Every setting, its value and its source; or those whose names begin with NAME, such as pool.

    Where the app's own settings cannot work it says why, and lists what there is to choose from.
    """
    words = tuple(name.lower().removeprefix("dbopt_") for name in names)
    try:
        optimizer = target().optimizer
    except ConfigurationError as error:
        message, rows = str(error.args[0]), _rows(words, None)
        screen.data({"error": message, "hint": error.hint, "settings": rows})
        _show(screen, rows)
        if not screen.as_json:
            complain(message)
        return FAILURE
    rows = _rows(words, optimizer)
    if changed:
        rows = {key: row for key, row in rows.items() if row["source"] != "default"}
    screen.data(rows)
    _show(screen, rows)
    return FINE


def _rows(words: tuple[str, ...], optimizer: Optimizer | None) -> dict[str, dict[str, Any]]:
    """The settings that begin with one of ``words``, or all; without an optimizer, without values."""
    from flask_dbopt.settings import SETTINGS

    for word in words:
        if not any(name.startswith(word) for name in SETTINGS):
            raise DBOptError(f"there is no setting {word}", hint="flask db-opt config lists them all")
    return {
        one.key: {
            "value": None if optimizer is None else optimizer.settings.shown(one.name),
            "source": None if optimizer is None else optimizer.sources[one.name],
            "default": one.shown(one.default),
            "meaning": one.meaning,
            "unit": one.unit,
            "effective": not one.later,
        }
        for one in SETTINGS.values()
        if not words or one.name.startswith(words)
    }


def _show(screen: Screen, rows: dict[str, dict[str, Any]]) -> None:
    screen.table(
        ("Setting", "Value", "From", "Meaning"),
        [
            (
                key,
                _text(row["default"] if row["source"] is None else row["value"]),
                row["source"] or "default",
                row["meaning"] + (f" ({row['unit']})" if row["unit"] else "") + _NOT_YET[row["effective"]],
            )
            for key, row in rows.items()
        ],
    )


_NOT_YET = {True: "", False: "; no effect in this version"}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
