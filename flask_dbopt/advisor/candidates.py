"""Which indexes might serve a SELECT, the most promising first. Pure: it does not know whether they do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flask_dbopt.engines.protocol import Table
from flask_dbopt.sql.predicates import Column, Predicate, Select

#: More columns cost writers more than they still save readers.
MOST_EQUAL = 3
MOST_ORDERED = 3

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
# Words of some engine's grammar; quoting one too many harms nothing.
_RESERVED = frozenset({
    "abort", "action", "add", "after", "all", "alter", "always", "analyze", "and", "as", "asc",
    "attach", "autoincrement", "before", "begin", "between", "by", "cascade", "case", "cast", "check",
    "collate", "column", "commit", "conflict", "constraint", "create", "cross", "current",
    "current_date", "current_time", "current_timestamp", "database", "default", "deferrable",
    "deferred", "delete", "desc", "detach", "distinct", "do", "drop", "each", "else", "end", "escape",
    "except", "exclude", "exclusive", "exists", "explain", "fail", "filter", "first", "following",
    "for", "foreign", "from", "full", "generated", "glob", "group", "groups", "having", "if", "ignore",
    "immediate", "in", "index", "indexed", "initially", "inner", "insert", "instead", "intersect",
    "into", "is", "isnull", "join", "key", "last", "left", "like", "limit", "match", "materialized",
    "natural", "no", "not", "nothing", "notnull", "null", "nulls", "of", "offset", "on", "or", "order",
    "others", "outer", "over", "partition", "plan", "pragma", "preceding", "primary", "query", "raise",
    "range", "recursive", "references", "regexp", "reindex", "release", "rename", "replace", "restrict",
    "returning", "right", "rollback", "row", "rows", "savepoint", "select", "set", "table", "temp",
    "temporary", "then", "ties", "to", "transaction", "trigger", "unbounded", "union", "unique",
    "update", "user", "using", "vacuum", "values", "view", "virtual", "when", "where", "window", "with",
    "without",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One column of an index."""

    name: str
    descending: bool = False
    collation: str | None = None

    def __str__(self) -> str:
        collation = f" COLLATE {identifier(self.collation)}" if self.collation else ""
        return identifier(self.name) + collation + (" DESC" if self.descending else "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An index worth trying: columns compared for equality, in any order, then ranges or ORDER BY."""

    table: str
    equal: tuple[Part, ...]
    rest: tuple[Part, ...] = ()
    sorts: bool = False
    """``rest`` is there to save the sorting."""
    ranges: bool = False
    """``rest`` is compared with < or >, so a look-up finds a part of what ``equal`` alone would."""
    stops_early: bool = False
    """LIMIT ends the reading: nothing else has to be fulfilled by a row found in this order."""

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.equal + self.rest

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def sql(self, name: str) -> str:
        listed = ", ".join(map(str, self.parts))
        return f"CREATE INDEX {identifier(name)} ON {identifier(self.table)} ({listed})"

    def name(self, taken: Iterable[str]) -> str:
        """A name that says what it is, unlike any in ``taken`` (lower case)."""
        words = "_".join(["ix", self.table, *map(str, self.parts)]).lower().replace(" collate ", "_")
        words = re.sub(r"[\W_]+", "_", words, flags=re.ASCII).strip("_")[:60]
        used = set(taken)
        names = (words if number == 1 else f"{words}_{number}" for number in range(1, len(used) + 2))
        return next(name for name in names if name not in used)


def identifier(name: str) -> str:
    """Quoted only where it must be: the statement is for people too."""
    if _PLAIN.fullmatch(name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def candidates(selects: Iterable[Select], table: Table, tables: Mapping[str, Table]) -> tuple[Candidate, ...]:
    """What might help any of the SELECTs to read less of ``table``."""
    found: dict[tuple[Part, ...], Candidate] = {}
    for select in selects:
        for alias in aliases_of(select, table):
            for candidate in _for_source(select, alias, table, tables):
                found.setdefault(candidate.parts, candidate)
    return tuple(found.values())


def aliases_of(select: Select, table: Table) -> list[str]:
    return [source.alias for source in select.sources if source.table == table.name.lower()]


def predicates_on(select: Select, alias: str, table: Table, tables: Mapping[str, Table]) -> tuple[Predicate, ...]:
    """The conditions in which a column of this source takes part."""
    return tuple(
        predicate
        for predicate in select.predicates
        if any(_spelled(column, select, alias, table, tables) for column in predicate.columns)
    )


def merge(one: Candidate, other: Candidate) -> Candidate | None:
    """One index that might do both's work; None when there is none. Whether it does, a trial must tell."""
    longer, shorter = (one, other) if len(one.parts) >= len(other.parts) else (other, one)
    if longer.table != shorter.table:
        return None
    if longer.parts[: len(shorter.parts)] == shorter.parts:
        return longer
    if not shorter.rest and set(shorter.equal) <= set(longer.equal):
        # The order of columns compared for equality is free: put the shared ones first.
        others = tuple(part for part in longer.equal if part not in shorter.equal)
        return Candidate(
            longer.table, shorter.equal + others, longer.rest, longer.sorts, longer.ranges, longer.stops_early
        )
    return None


def _for_source(select: Select, alias: str, table: Table, tables: Mapping[str, Table]) -> Iterator[Candidate]:
    constants: dict[Part, Predicate] = {}
    joins: dict[Part, Predicate] = {}
    ranges: dict[Part, Predicate] = {}
    for predicate in predicates_on(select, alias, table, tables):
        name = _spelled(predicate.columns[0], select, alias, table, tables)
        depends = [_spelled(column, select, alias, table, tables) for column in predicate.others]
        if name is None or any(depends) or predicate.kind not in {"equality", "range"}:
            continue
        part = Part(name, collation=predicate.collation)
        kept = ranges if predicate.kind == "range" else joins if predicate.others else constants
        kept.setdefault(part, predicate)
    order = _order(select, alias, table, tables)
    equals = [tuple(each)[:MOST_EQUAL] for each in (constants, joins, {**constants, **joins})]
    for equal in dict.fromkeys(each for each in equals if each):
        in_order = tuple(_in_order(select, table, equal, order))
        in_range = tuple(Candidate(table.name, equal, (part,), ranges=True) for part in ranges if part not in equal)
        yield from in_order + in_range if select.limited else in_range + in_order
        yield Candidate(table.name, equal)
    if not constants and not joins:
        for part in ranges:
            yield Candidate(table.name, (), (part,), ranges=True)
        yield from (candidate for candidate in _in_order(select, table, (), order) if candidate.stops_early)


def _in_order(select: Select, table: Table, equal: tuple[Part, ...], order: tuple[Part, ...]) -> Iterator[Candidate]:
    """Shorter ones first: a primary key that only breaks ties is at the end of every index already."""
    wanted = tuple(part for part in order if part.name not in {each.name for each in equal})
    names = {part.name.lower() for part in equal}
    served = [p for p in select.predicates if p.kind == "equality" and p.columns[0].name in names]
    alone = len(select.sources) == 1 and len(served) == len(select.predicates)
    stops_early = select.limited and not select.grouped and alone
    for length in range(1, min(len(wanted), MOST_ORDERED) + 1):
        rest = wanted[:length]
        if len({part.descending for part in rest}) == 1:
            # Any index can be walked backwards.
            rest = tuple(Part(part.name, collation=part.collation) for part in rest)
        yield Candidate(table.name, equal, rest, sorts=True, stops_early=stops_early)


def _order(select: Select, alias: str, table: Table, tables: Mapping[str, Table]) -> tuple[Part, ...]:
    parts = []
    for term in select.order:
        name = _spelled(term.column, select, alias, table, tables)
        if name is None:
            return ()
        parts.append(Part(name, term.descending, term.collation))
    return tuple(parts)


def _spelled(column: Column, select: Select, alias: str, table: Table, tables: Mapping[str, Table]) -> str | None:
    """The column as the schema spells it if it is this source's; None if it is another's or nobody knows."""
    name = next((each for each in table.columns if each.lower() == column.name), None)
    if name is None or column.source not in {None, alias}:
        return None
    if column.source is None:
        for source in select.sources:
            other = tables.get(source.table) if source.table and source.alias != alias else None
            if other is not None and any(each.lower() == column.name for each in other.columns):
                return None
    return name
