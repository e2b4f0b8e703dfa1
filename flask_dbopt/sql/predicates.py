"""Which columns of a SELECT filter, join and order its tables. Reads text alone, knows no schema.

The parser (sqlglot, up to a quarter of a second to import) is loaded at the first call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

#: sqlglot takes 0.5 ms for an ordinary statement and 25 ms for an ``IN`` of 2,000: longer text is not read.
LONGEST = 10_000

#: Levels of parentheses read; a parser that calls itself for each one could exhaust the stack.
DEEPEST = 60

# Quoted text stays; ?1, :name, @name, $name, %s and %(name)s become ?, the only form that the parser takes everywhere,
# and lose the type that SQLAlchemy gives them on PostgreSQL: LIMIT ?::INTEGER.
_PARAMETERS = re.compile(
    r"""('(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^]]*\]|(?<!\?)::)|(?:\?\d*|[:@$]\w+|%s\b|%\(\w+\)s)"""
    r"""(?:::[a-z]\w*(?:\ (?:precision|varying|with(?:out)?\ time\ zone))?(?:\(\d+(?:,\ ?\d+)?\))?(?:\[\])?)?""",
    re.IGNORECASE,
)

_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w+)", re.DOTALL)

Kind = Literal["equality", "range", "pattern", "inequality", "expression", "alternative"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the statement names it, lower case; ``source`` is its table's name or alias, if written."""

    source: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Predicate:
    """One condition that every row of the result fulfils.

    An index can serve ``equality`` (``=``, ``IS``, ``IN``) and ``range`` on ``columns[0]``. It can not serve
    a ``pattern`` (LIKE, GLOB), an ``inequality``, an ``expression`` around a column or an ``alternative``
    (OR): there ``columns`` are all that take part.
    """

    columns: tuple[Column, ...]
    kind: Kind
    text: str
    others: tuple[Column, ...] = ()
    """Columns that the value on the other side depends on: a join, or the same table again."""
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Ordering:
    column: Column
    descending: bool
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of FROM. ``table`` is None for a subquery or a name that WITH defines."""

    alias: str
    table: str | None


@dataclass(frozen=True, slots=True)
class Select:
    """One SELECT of a statement; subqueries are Selects of their own."""

    sources: tuple[Source, ...]
    predicates: tuple[Predicate, ...]
    order: tuple[Ordering, ...]
    """Empty without ORDER BY, and where a term is more than a column."""
    limited: bool
    grouped: bool
    """GROUP BY, DISTINCT or an aggregate: LIMIT does not end the reading early."""


def first_word(sql: str) -> str:
    """``select``, ``with``, ``insert``, …; empty when there is none. A WITH may still write."""
    match = _FIRST_WORD.match(sql)
    return match[1].lower() if match else ""


@lru_cache(maxsize=2048)
def read_selects(sql: str) -> tuple[Select, ...] | None:
    """Every SELECT in the statement, innermost first; None when it is no query or can not be read."""
    if len(sql) > LONGEST or first_word(sql) not in {"select", "with"} or _depth(sql) > DEEPEST:
        return None
    try:
        import sqlglot
        from sqlglot import expressions as exp
        from sqlglot.optimizer.scope import traverse_scope

        tree = sqlglot.parse_one(_PARAMETERS.sub(lambda match: match[1] or "?", sql), read="sqlite")
        if not isinstance(tree, exp.Query):
            return None
        scopes = traverse_scope(tree)
        return tuple(_select(scope) for scope in scopes if isinstance(scope.expression, exp.Select))
    except Exception:  # noqa: BLE001 - whatever a parser does with odd text, it may cost advice but never an error
        return None


def _depth(sql: str) -> int:
    depth = deepest = 0
    for char in sql:
        if char == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif char == ")":
            depth -= 1
    return deepest


def _select(scope: Any) -> Select:
    from sqlglot import expressions as exp

    tree = scope.expression
    sources = []
    for alias, source in scope.selected_sources.items():
        table = source[1]
        named = isinstance(table, exp.Table) and isinstance(table.this, exp.Identifier)
        sources.append(Source(alias.lower(), table.name.lower() if named else None))
    predicates: list[Predicate] = []
    names = {source.alias for source in sources}
    for condition in _conditions(tree):
        predicates.extend(_predicates(condition, names))
    for join in tree.args.get("joins") or ():
        predicates.extend(_using(join))
    grouped = bool(tree.args.get("group") or tree.args.get("distinct")) or any(
        projection.find(exp.AggFunc, exp.Window) for projection in tree.expressions
    )
    return Select(tuple(sources), tuple(predicates), _ordering(tree), bool(tree.args.get("limit")), grouped)


def _conditions(tree: Any) -> Iterator[Any]:
    """WHERE and every ON, taken apart at AND."""
    from sqlglot import expressions as exp

    where = tree.args.get("where")
    pending = [where.this] if where else []
    pending += [join.args["on"] for join in tree.args.get("joins") or () if join.args.get("on")]
    while pending:
        condition = pending.pop(0)
        if isinstance(condition, exp.Paren):
            pending.insert(0, condition.this)
        elif isinstance(condition, exp.And):
            pending[:0] = [condition.left, condition.right]
        else:
            yield condition


def _using(join: Any) -> Iterator[Predicate]:
    alias = join.this.alias_or_name.lower()
    for identifier in join.args.get("using") or ():
        name = identifier.name.lower()
        yield Predicate((Column(alias, name),), "equality", f"USING ({name})", (Column(None, name),))


def _predicates(condition: Any, names: set[str]) -> Iterator[Predicate]:
    from sqlglot import expressions as exp

    text = _text(condition)
    if isinstance(condition, exp.EQ | exp.Is | exp.NullSafeEQ):
        yield from _comparisons(condition.this, condition.expression, "equality", text, names)
    elif isinstance(condition, exp.In):
        values = [*condition.expressions, *filter(None, [condition.args.get("query")])]
        yield _on_one_side(condition.this, values, "equality", text, names)
    elif isinstance(condition, exp.GT | exp.GTE | exp.LT | exp.LTE):
        yield from _comparisons(condition.this, condition.expression, "range", text, names)
    elif isinstance(condition, exp.Between):
        yield _on_one_side(condition.this, [condition.args["low"], condition.args["high"]], "range", text, names)
    elif isinstance(condition, exp.Like | exp.ILike | exp.Glob | exp.RegexpLike | exp.Match):
        yield Predicate(_columns(condition, names), "pattern", text)
    elif isinstance(condition, exp.NEQ | exp.Not):
        yield Predicate(_columns(condition, names), "inequality", text)
    elif isinstance(condition, exp.Or):
        yield Predicate(_columns(condition, names), "alternative", text)
    else:
        yield Predicate(_columns(condition, names), "expression", text)


def _comparisons(left: Any, right: Any, kind: Kind, text: str, names: set[str]) -> Iterator[Predicate]:
    from sqlglot import expressions as exp

    if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
        # (a, b) = (?, ?) is two equalities; (a, b) > (?, ?) walks an index from its first column.
        pairs = list(zip(left.expressions, right.expressions, strict=False))
        for one, other in pairs if kind == "equality" else pairs[:1]:
            yield from _comparisons(one, other, kind, text, names)
        return
    sides = [
        _on_one_side(one, [other], kind, text, names)
        for one, other in ((left, right), (right, left))
        if isinstance(_bare(one)[0], exp.Column)
    ]
    yield from sides or [Predicate(_columns(left, names) + _columns(right, names), "expression", text)]


def _on_one_side(side: Any, values: list[Any], kind: Kind, text: str, names: set[str]) -> Predicate:
    from sqlglot import expressions as exp

    column, collation = _bare(side)
    others: list[Column] = []
    for value in values:
        others += _columns(value, names)
        collation = collation or _bare(value)[1]
    if not isinstance(column, exp.Column):
        return Predicate((*_columns(side, names), *others), "expression", text)
    return Predicate((_column(column),), kind, text, tuple(others), collation)


def _bare(side: Any) -> tuple[Any, str | None]:
    from sqlglot import expressions as exp

    collation = None
    while isinstance(side, exp.Collate | exp.Paren):
        if isinstance(side, exp.Collate):
            collation = side.expression.name
        side = side.this
    return side, collation


def _columns(tree: Any, names: set[str]) -> tuple[Column, ...]:
    """The columns of *this* SELECT in an expression: in a subquery those that name one of its sources."""
    from sqlglot import expressions as exp

    found: dict[Column, None] = {}
    subqueries = {id(select) for select in tree.find_all(exp.Select)}
    for node in tree.find_all(exp.Column):
        column = _column(node)
        if id(node.find_ancestor(exp.Select)) not in subqueries or column.source in names:
            found[column] = None
    return tuple(found)


def _column(node: Any) -> Column:
    return Column(node.table.lower() or None, node.name.lower())


def _ordering(tree: Any) -> tuple[Ordering, ...]:
    from sqlglot import expressions as exp

    order = tree.args.get("order")
    named = {projection.alias.lower(): projection.this for projection in tree.expressions if projection.alias}
    terms = []
    for term in order.expressions if order else ():
        wanted, collation = _bare(term.this)
        if isinstance(wanted, exp.Literal) and wanted.is_int and 0 < int(wanted.name) <= len(tree.expressions):
            wanted = tree.expressions[int(wanted.name) - 1].unalias()
        elif isinstance(wanted, exp.Column) and not wanted.table:
            wanted = named.get(wanted.name.lower(), wanted)
        if not isinstance(wanted, exp.Column) or wanted.is_star:
            return ()
        terms.append(Ordering(_column(wanted), bool(term.args.get("desc")), collation))
    return tuple(terms)


def _text(condition: Any) -> str:
    text: str = condition.sql(dialect="sqlite")
    return text if len(text) <= 120 else text[:119] + "…"
