"""What PostgreSQL's catalogs tell of tables, columns and indexes, and how many rows a table has."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from flask_dbopt.engines.counts import RowCount, rounded
from flask_dbopt.engines.postgresql.session import ServerError, Session, attempt
from flask_dbopt.engines.protocol import Index, Table

#: Tables that the planner takes for smaller than this are counted, and …
SMALL = 20_000
#: … up to this many rows, the count is exact.
COUNTED = 4096

#: Schema and name.
Relation = tuple[str, str]

_TABLES = """
    SELECT n.nspname AS schema, c.relname AS name,
        (SELECT json_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_catalog.pg_table_is_visible(c.oid)
    ORDER BY c.relname
"""

# An expression has attribute number 0. Columns that are only INCLUDEd come after indnkeyatts.
_INDEXES = """
    SELECT n.nspname AS schema, t.relname AS name, c.relname AS index_name, i.indisunique AS is_unique,
        i.indpred IS NOT NULL AS is_partial,
        CASE WHEN i.indisprimary OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
            THEN NULL ELSE pg_catalog.pg_get_indexdef(i.indexrelid) END AS definition,
        (SELECT json_agg(a.attname ORDER BY k.place)
         FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number <> 0
         WHERE k.place <= i.indnkeyatts) AS columns
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
    WHERE i.indisvalid AND pg_catalog.pg_table_is_visible(t.oid)
        AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY c.relname
"""

_VISIBLE = """
    SELECT n.nspname AS schema, c.relname AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = ANY (%s) AND pg_catalog.pg_table_is_visible(c.oid)
"""


def read_tables(session: Session) -> dict[str, tuple[Relation, Table]]:
    """The tables that a name without a schema finds, by that name in lower case; their rows are not counted yet."""
    indexes: dict[Relation, list[Index]] = {}
    for schema, table, name, unique, partial, definition, columns in session.ask(_INDEXES):
        index = Index(name, table, tuple(_list(columns)), unique=unique, partial=partial, sql=definition)
        indexes.setdefault((schema, table), []).append(index)
    return {
        name.lower(): (
            (schema, name),
            Table(name, tuple(_list(columns)), rows=0, indexes=tuple(indexes.get((schema, name), ()))),
        )
        for schema, name, columns in session.ask(_TABLES)
    }


def count_rows(session: Session, relation: Relation) -> RowCount | None:
    """Exact for small tables; else what the planner takes it for, by its size now and what ANALYZE last saw.

    None when nobody may read it, or somebody holds it. The transaction goes on.
    """
    name = ".".join(map(quoted, relation))
    try:
        with attempt(session):
            ((found,),) = session.ask(f"EXPLAIN (FORMAT JSON) SELECT FROM {name}")
            estimate = int(plans(found)[0]["Plan Rows"])
            if estimate < SMALL:
                ((rows,),) = session.ask(f"SELECT count(*) AS n FROM (SELECT FROM {name} LIMIT {COUNTED + 1}) AS first")  # noqa: S608
                if rows <= COUNTED:
                    return RowCount(rows, exact=True)
    except ServerError:
        return None
    return RowCount(rounded(max(estimate, COUNTED)), exact=False)


def visible(session: Session, relations: Iterable[Relation]) -> set[Relation]:
    """Those that are found by their names alone."""
    wanted = set(relations)
    if not wanted:
        return set()
    rows = session.ask(_VISIBLE, [sorted(name for _, name in wanted)])
    return {(schema, name) for schema, name in rows} & wanted


def plans(found: Any) -> list[dict[str, Any]]:
    """The plans in EXPLAIN's answer; a rule may make several of one statement."""
    return [each["Plan"] for each in _list(found) if "Plan" in each]


def relations_in(plan: Mapping[str, Any]) -> Collection[Relation]:
    """Every table that a plan names."""
    found: dict[Relation, None] = {}
    pending = [plan]
    while pending:
        node = pending.pop()
        if "Relation Name" in node:
            found[node.get("Schema", ""), node["Relation Name"]] = None
        pending += node.get("Plans", ())
    return found


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _list(value: Any) -> list[Any]:
    """JSON as a driver gives it: read already, or as text."""
    read: list[Any] = json.loads(value) if isinstance(value, str) else value or []
    return read
