"""``flask db-opt config``: the effective settings, and where each came from."""

from __future__ import annotations

import json
from typing import Any

import click

from flask_dbopt.cli.target import target
from flask_dbopt.cli.terminal import Screen, verb
from flask_dbopt.errors import DBOptError


@verb("config")
@click.argument("names", metavar="[NAME…]", nargs=-1)
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
def command(screen: Screen, names: tuple[str, ...], changed: bool) -> None:
    """Every setting, its value and its source; or those whose names begin with NAME, such as pool."""
    from flask_dbopt.settings import SETTINGS

    optimizer = target().optimizer
    words = [name.lower().removeprefix("dbopt_") for name in names]
    for name, word in zip(names, words, strict=True):
        if not any(known.startswith(word) for known in SETTINGS):
            raise DBOptError(f"there is no setting {name}", hint="flask db-opt config lists them all")
    rows: dict[str, dict[str, Any]] = {}
    for one in SETTINGS.values():
        source = optimizer.sources[one.name]
        if (words and not one.name.startswith(tuple(words))) or (changed and source == "default"):
            continue
        rows[one.key] = {
            "value": optimizer.settings.shown(one.name),
            "source": source,
            "default": one.shown(one.default),
            "meaning": one.meaning,
            "unit": one.unit,
        }
    screen.data(rows)
    screen.table(
        ("Setting", "Value", "From", "Meaning"),
        [
            (
                key,
                _text(row["value"]),
                row["source"],
                row["meaning"] + (f" ({row['unit']})" if row["unit"] else ""),
            )
            for key, row in rows.items()
        ],
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
