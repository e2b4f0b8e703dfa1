"""How many rows a table has and how often its values repeat, from a few thousand rows at most.

Never a scan of a large table: these figures are asked for while a page is built.
"""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from flask_dbopt.engines.counts import RowCount, rounded
from flask_dbopt.engines.sqlite.schema import quoted

#: Tables up to this many rows are counted (0.1 ms); beyond it, estimated.
COUNTED = 4096

#: A large rowid table is looked at in this many places, evenly spread over its rowids, …
PLACES = 128
#: … this many rows each: 2,048 rows, about 3 ms.
ROWS_A_PLACE = 16

#: No row takes fewer bytes than this in a table: its length, its rowid, its header, its cell pointer.
SMALLEST_ROW = 5

#: How far a table without rowids is walked, since it can not be entered in the middle.
WALKED = 100_000


def count_rows(connection: sqlite3.Connection, table: str, rowid: str | None, analyzed: int | None) -> RowCount:
    """Exact up to COUNTED rows. Beyond: from the density of rowids, or what ANALYZE found (``analyzed``).

    ``rowid`` is a name under which this table's rowid can be read, None if it has none.
    """
    rows = _walk(connection, table, COUNTED + 1)
    if rows <= COUNTED:
        return RowCount(rows, exact=True)
    if rowid is not None:
        pages, size = (connection.execute(f"PRAGMA {n}").fetchone()[0] for n in ("page_count", "page_size"))
        estimate = min(sum(_densities(connection, table, rowid)), pages * size / SMALLEST_ROW)
        return RowCount(rounded(max(rows, round(estimate))), exact=False)
    if analyzed is not None and analyzed > COUNTED:
        return RowCount(rounded(analyzed), exact=False)
    rows = _walk(connection, table, WALKED)
    return RowCount(rows, exact=rows < WALKED, at_least=rows >= WALKED)


def _walk(connection: sqlite3.Connection, table: str, limit: int) -> int:
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {quoted(table)} LIMIT {limit})"  # noqa: S608 - quoted
    rows: int = connection.execute(sql).fetchone()[0]
    return rows


def _places(connection: sqlite3.Connection, table: str, rowid: str) -> Iterator[tuple[int, int]]:
    """Ranges of rowids, start included and end not, that divide the table's whole range evenly."""
    # Two subqueries: min() and max() in one SELECT would scan the table.
    low, high = connection.execute(
        f"SELECT (SELECT min({rowid}) FROM {quoted(table)}), (SELECT max({rowid}) FROM {quoted(table)})"  # noqa: S608
    ).fetchone()
    edges = [low + (high - low + 1) * place // PLACES for place in range(PLACES + 1)]
    yield from pairwise(edges)


def _densities(connection: sqlite3.Connection, table: str, rowid: str) -> Iterator[float]:
    """How many rows each place holds: counted where they are few, else from the gaps at both of its ends.

    The mean of the two gaps, over what lies between the first and the last row: right for rowids in clusters and
    for gaps that grow, where the density at one end is not.
    """
    sql = f"SELECT {rowid} FROM {quoted(table)} WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid}"  # noqa: S608
    for start, end in _places(connection, table, rowid):
        first, last = (
            [row for (row,) in connection.execute(f"{sql} {way} LIMIT {ROWS_A_PLACE}", (start, end - 1))]
            for way in ("ASC", "DESC")
        )
        if len(first) < ROWS_A_PLACE:
            yield len(first)
        else:
            gaps = (first[-1] - first[0] + last[0] - last[-1]) / (2 * ROWS_A_PLACE - 2)
            yield 1 + (last[0] - first[0]) / gaps


def rows_per_value(
    connection: sqlite3.Connection, table: str, rowid: str | None, columns: Sequence[str], rows: int
) -> tuple[int, ...]:
    """For each prefix of ``columns``: about how many rows share one value, which is what ANALYZE would find.

    Distinct values are estimated from the sample by Chao's first estimator (1984): seen + once²/(2 · twice).
    """
    listed = ", ".join(f"substr({quoted(column)}, 1, 200)" for column in columns)
    chosen = f"SELECT {listed} FROM {quoted(table)}"  # noqa: S608 - quoted
    sample: list[tuple[object, ...]] = []
    if rowid is None or rows <= PLACES * ROWS_A_PLACE:
        sample += connection.execute(f"{chosen} LIMIT {PLACES * ROWS_A_PLACE}")
    else:
        # Not at regular distances: values often repeat at regular distances too. The same places each time.
        chance = random.Random(0)  # noqa: S311
        for start, end in _places(connection, table, rowid):
            begin = start + int((end - start) * chance.random())
            sample += connection.execute(
                f"{chosen} WHERE {rowid} BETWEEN ? AND ? LIMIT {ROWS_A_PLACE}", (begin, end - 1)
            )
    return tuple(
        max(1, round(rows / _distinct([row[:width] for row in sample], rows))) for width in range(1, len(columns) + 1)
    )


def _distinct(sample: Sequence[tuple[object, ...]], rows: int) -> float:
    seen = Counter(sample)
    once = sum(1 for times in seen.values() if times == 1)
    twice = sum(1 for times in seen.values() if times == 2)
    unseen = once * once / (2 * twice) if twice else once * (once - 1) / 2
    return max(1.0, min(float(rows), len(seen) + (unseen if len(sample) < rows else 0.0)))
