"""SQLite's plan lines as steps: which table, read how, in words a person reads. Pure; asks no database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flask_dbopt.engines.protocol import Step

_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'"""
    r"""|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^]]*\])|(?P<word>\w+)|(?P<mark>[(),.])""",
    re.DOTALL,
)
_FROM = frozenset({"from", "join", "update", "into"})
_WITHIN_FROM = frozenset(
    {"on", "using", "not", "indexed", "natural", "left", "right", "full", "inner", "outer", "cross"}
)
_AFTER_FROM = _WITHIN_FROM | {
    "where", "group", "order", "having", "limit", "window", "union", "except", "intersect", "select", "set",
    "values", "returning",
}  # fmt: skip
_READ = re.compile(r"(SCAN|SEARCH) (?:TABLE )?(.+)")
_HOW = re.compile(
    r" USING (?P<automatic>AUTOMATIC )?(?:PARTIAL )?(?P<covering>COVERING )?"
    r"(?P<key>INTEGER PRIMARY KEY|PRIMARY KEY|INDEX(?: (?P<index>[^(].*?))?)(?: \((?P<terms>.*)\))?"
)
# Functions and clauses that want all rows before they give the first one.
_GATHERING = {"count", "sum", "avg", "min", "max", "total", "group_concat", "string_agg", "group", "over"} | {
    "json_group_array", "json_group_object", "union", "intersect", "except",
}  # fmt: skip
_STOPS = {
    "everything": "",
    "until enough": ", until as many as LIMIT wants are found",
    "the first rows": ", as many as LIMIT wants",
}
_SUFFIX = re.compile(r"( LEFT-JOIN| RIGHT-JOIN)+$")
_JOINS = {" LEFT-JOIN": ", keeping rows without a match", " EXISTS": ", one match is enough"}
# What stands beside a table's name in a plan without gathering rows of the outermost loop.
_BESIDE = ("BLOOM FILTER", "USING ROWID SEARCH", "USING INDEX")


def _defined_by_with(sql: str) -> set[str]:
    """The names that WITH gives to its SELECTs; they hide tables of the same name."""
    found: set[str] = set()
    depth = 0
    lists: list[int] = []  # the depths at which a WITH is being read
    expected = False
    for match in _TOKEN.finditer(sql):
        mark, word = match["mark"], (match["word"] or "").lower()
        depth += {"(": 1, ")": -1}.get(mark, 0)
        if lists and depth < lists[-1]:
            lists.pop()
        if word == "with":
            lists.append(depth)
            expected = True
        elif lists and depth == lists[-1]:
            if expected and (match["quoted"] or (word and word != "recursive")):
                found.add(_unquoted(match["quoted"]) if match["quoted"] else word)
                expected = False
            elif mark == ",":
                expected = True
            elif word in {"select", "values", "insert", "update", "delete", "replace"}:
                lists.pop()
    return found


@dataclass(frozen=True, slots=True)
class Names:
    """What the names in a plan stand for; keys are lower case."""

    aliases: Mapping[str, set[str]]
    """From ``aliases``: a name in FROM and the tables it may mean."""
    indexes: Mapping[str, str]
    """An index and its table."""
    spelled: Mapping[str, str]
    """A table as the schema spells it."""
    shares: Mapping[str, tuple[int, ...]]
    """An index and, for each of its prefixes, how many rows share one value."""
    rows: Callable[[str], tuple[int, str] | None]
    """How many rows a table has, in figures and in words: ``(320000, "~320,000")``. None: not known."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """What a virtual table is made by: ``fts5``."""


def aliases(sql: str, tables: Iterable[str]) -> dict[str, set[str]]:
    """Which of ``tables`` (lower case) each name of a FROM clause stands for; every table stands for itself.

    ``sql`` may be several statements, such as the query and the views beneath it.
    """
    known = set(tables) - _defined_by_with(sql)
    found = {name: {name} for name in known}
    stack: list[bool] = []
    in_from, table = False, ""
    for match in _TOKEN.finditer(sql):
        mark, word = match["mark"], match["word"]
        name = _unquoted(match["quoted"]) if match["quoted"] else (word or "").lower()
        if not mark and not name:
            continue
        if mark == "(":
            stack.append(in_from)
        elif mark == ")":
            in_from, table = (stack.pop() if stack else False), ""
        elif mark:
            table = ""
        elif word and name in _FROM:
            in_from, table = True, ""
        elif word and name in _AFTER_FROM:
            in_from, table = in_from and name in _WITHIN_FROM, ""
        elif in_from and word and name == "as":
            continue
        elif in_from and table:
            found.setdefault(name, set()).add(table)
            table = ""
        elif in_from and name in known:
            table = name
    return found


Reading = Literal["everything", "until enough", "the first rows"]


def how_far(sql: str, lines: Sequence[tuple[int, int, str]]) -> Reading:
    """Whether LIMIT ends the outermost loop of a SELECT early: only if nothing sorts or gathers rows first.

    With a condition it goes on "until enough" rows fulfil it, which may be never; else it stops after
    "the first rows".
    """
    words = set()
    depth, limited = 0, False
    for match in _TOKEN.finditer(sql):
        depth += {"(": 1, ")": -1}.get(match["mark"], 0)
        word = (match["word"] or "").lower()
        words.add(word)
        limited = limited or (depth == 0 and word == "limit")
    gathers = any(
        parent == 0 and not _READ.fullmatch(d) and "SUBQUERY" not in d and not d.startswith(_BESIDE)
        for _, parent, d in lines
    )
    if not limited or gathers or words & _GATHERING or "select" not in words:
        return "everything"
    return "until enough" if words & {"where", "join"} or len(lines) > 1 else "the first rows"


def read_plan(lines: Sequence[tuple[int, int, str]], names: Names, far: Reading) -> tuple[Step, ...]:
    """EXPLAIN QUERY PLAN's ``(id, parent, detail)`` lines as steps."""
    if not lines:  # INSERT … VALUES
        return (Step("NO STEPS", 0, reading="reads no table"),)
    # A name that the plan computes (WITH, a subquery in FROM) hides a table of the same name.
    computed = {d.split(" ", 1)[1].lower() for *_, d in lines if d.startswith(("CO-ROUTINE ", "MATERIALIZE "))}
    depths: dict[int, int] = {}
    repeated: set[int] = set()
    looped: set[int] = set()
    steps = []
    for number, parent, detail in lines:
        depths[number] = depths.get(parent, -1) + 1
        if parent in repeated or detail.startswith("CORRELATED"):
            repeated.add(number)
        read = _READ.fullmatch(detail)
        if read is None or detail.endswith(("CONSTANT ROW", "CONSTANT ROWS", "VALUES CLAUSE")):
            words, sorts = _work(detail)
            steps.append(Step(detail, depths[number], sorts=sorts, reading=words))
            continue
        again = " for each row found so far" if parent in looped else " each time" if parent in repeated else ""
        looped.add(parent)
        outermost = parent == 0 and not any(step.depth == 0 for step in steps)
        steps.append(_access(read, depths[number], names, computed, far if outermost else "everything", again))
    return tuple(steps)


def _access(read: re.Match[str], depth: int, names: Names, computed: set[str], far: Reading, again: str) -> Step:
    """One SCAN or SEARCH."""
    rest = _SUFFIX.sub("", read[2])
    alias = _leading_name(rest, names.aliases)
    rest = rest.removeprefix(alias)
    joined = next((words for mark, words in _JOINS.items() if mark in (rest[: len(mark)], read[2][-len(mark) :])), "")
    how = _HOW.fullmatch(rest.removeprefix(" EXISTS"))
    automatic = how is not None and how["automatic"] is not None
    index = how["index"] or None if how and not automatic else None
    table = names.indexes.get(index.lower()) if index else None
    name = alias.split(" AS ")[0].lower()
    meant = names.aliases.get(name, set()) if name not in computed else set()
    if table is None and len(meant) == 1:
        table = next(iter(meant))
    known = names.rows(table) if table else None
    shown = names.spelled.get(table, table) if table else _computed_name(alias)
    all_rows = f"all {known[1]} rows of {shown}" if known else f"all rows of {shown}"
    if far != "everything":
        all_rows = f"rows of {shown}"
    skipped = re.findall(r"ANY\((.+?)\) AND ", how["terms"] or "") if how else []
    terms = _terms(how["terms"] or "") if how else ""
    alone = " alone" if how and how["covering"] else ""
    # For min() and max() SQLite says SEARCH whatever it does: without an index it reads everything.
    scan = read[1] == "SCAN" or how is None
    virtual = rest.startswith(" VIRTUAL TABLE INDEX ")
    if virtual:
        words = _virtual(names.modules.get(table or "", ""), shown, rest.partition(" INDEX ")[2])
    elif automatic:
        # The index is built from every row, then thrown away.
        words = f"builds an automatic index over {all_rows} on each run{terms}"
    elif scan and index:
        words = f"reads {all_rows} " + (f"from the index {index} alone" if alone else f"in the order of {index}")
    elif scan:
        words = f"reads {all_rows}"
    elif index and not terms:
        words = f"looks at one end of the index {index} of {shown}"
    elif index:
        each = f", once for each value of {', '.join(skipped)}" if skipped else ""
        words = f"finds rows of {shown} by the index {index}{alone}{each}{terms}"
    elif how and how["key"] == "PRIMARY KEY":
        words = f"finds rows of {shown} by its primary key{terms}"
    else:
        words = f"finds rows of {shown} by rowid{terms}"
    is_known = table is not None or not computed  # else it is another name of what the plan computes
    finds = _found(names.shares.get((index or "").lower(), ()), how["terms"] or "" if how else "", len(skipped))
    return Step(
        read[0],
        depth,
        table=shown if table else None,
        index=index,
        reads_whole_table=(scan or automatic)
        and not virtual
        and is_known
        and name not in computed
        and far != "the first rows",
        rows=known[0] if known else None,
        may_stop=far != "everything",
        covering=bool(alone and index),
        finds=None if scan else finds,
        reading=words + ("" if automatic else again) + joined + (_STOPS[far] if scan and not virtual else ""),
    )


def _terms(terms: str) -> str:
    """``(x = ?)``, without the columns that are skipped over."""
    terms = re.sub(r"ANY\(.+?\) AND ", "", terms).replace("<expr>", "expression")
    return " (" + re.sub(r"(<=|>=|[<>=])", r" \1 ", terms) + ")" if terms else ""


def _found(shares: Sequence[int], terms: str, skipped: int) -> int | None:
    """How many rows one look-up finds: those that share the values of all columns compared for equality.

    Where a column is skipped over, it counts as little as if the look-up ended there: an index that begins with
    what is asked for serves better.
    """
    compared = skipped or len(re.findall(r"(?<![<>])=", terms.replace("<expr>", "")))
    return shares[compared - 1] if 0 < compared <= len(shares) else None


def _virtual(module: str, shown: str, asked: str) -> str:
    """A virtual table, by what its module notes of the question: ``0:M1``."""
    number, _, text = asked.partition(":")
    if module == "fts5" and set("MLG") & set(text):
        return f"searches the full-text table {shown}"
    if module in ("fts3", "fts4") and int(number) > 1:
        return f"searches the full-text table {shown}"
    if module == "rtree" and number == "2" and text:
        return f"finds rows of {shown} by their bounds"
    if (module, number, text) in (("fts5", "0", ""), ("fts3", "0", ""), ("fts4", "0", ""), ("rtree", "2", "")):
        return f"reads all rows of {shown}"
    return f"asks the virtual table {shown}"


def _computed_name(name: str) -> str:
    """``(subquery-2)``, and ``SUBQUERY 2`` before SQLite 3.36, are nobody's names."""
    return "a subquery" if re.fullmatch(r"\((?:subquery|join)-\d+\)|SUBQUERY \d+", name) else name


def _leading_name(rest: str, known: Mapping[str, set[str]]) -> str:
    """The table or alias that ``rest`` begins with: names may hold spaces and are never quoted here."""
    lower = rest.lower()
    fitting = [name for name in known if lower == name or lower.startswith(name + " ")]
    if fitting:
        name = rest[: len(max(fitting, key=len))]
        # Before SQLite 3.36: "SCAN TABLE keyword AS k".
        alias = re.match(r" AS (\S+)", rest[len(name) :])
        return name + alias[0] if alias else name
    return re.split(r" (?:USING|VIRTUAL TABLE) ", rest, maxsplit=1)[0]


_WORK: tuple[tuple[str, str], ...] = (
    (r"USE TEMP B-TREE FOR ORDER BY", "sorts in a temporary B-tree"),
    (r"USE TEMP B-TREE FOR (?:RIGHT PART|LAST .*) OF ORDER BY", "sorts partly, in a temporary B-tree"),
    (r"USE TEMP B-TREE FOR GROUP BY", "sorts for GROUP BY in a temporary B-tree"),
    (r"USE TEMP B-TREE FOR (.*)\(ORDER BY\)", r"sorts for \1() in a temporary B-tree"),
    (r"USE TEMP B-TREE FOR (.*)", r"keeps what it has seen in a temporary B-tree, for \1"),
    (r"CO-ROUTINE \((?:subquery|join)-\d+\)", "runs a subquery row by row:"),
    (r"MATERIALIZE \((?:subquery|join)-\d+\)", "computes a subquery once and keeps it:"),
    (r"CO-ROUTINE (.*)", r"runs \1 row by row:"),
    (r"MATERIALIZE (.*)", r"computes \1 once and keeps it:"),
    (r"CORRELATED LIST SUBQUERY .*", "makes a list again for each row:"),
    (r"CORRELATED SCALAR SUBQUERY .*", "runs a subquery again for each row:"),
    (r"(?:LIST|ROWSET) SUBQUERY .*", "makes a list once:"),
    (r"SCALAR SUBQUERY .*", "runs a subquery once:"),
    (r"COMPOUND QUERY", "combines several SELECTs:"),
    (r"LEFT-MOST SUBQUERY", "the first SELECT:"),
    (r"UNION ALL", "and all rows of the next:"),
    (r"(UNION|INTERSECT|EXCEPT) USING TEMP B-TREE", r"\1 with the next, in a temporary B-tree:"),
    (r"MERGE \((.*)\)", r"merges two sorted SELECTs (\1):"),
    (r"LEFT", "the one:"),
    (r"RIGHT", "the other:"),
    (r"MULTI-INDEX OR", "looks in an index for each side of OR:"),
    (r"INDEX (\d+)", r"side \1:"),
    (r"SETUP", "the first rows:"),
    (r"RECURSIVE STEP", "rows from the rows before:"),
    (r"SCAN CONSTANT ROW|SCAN \d+ CONSTANT ROWS|SCAN \d+-ROW VALUES CLAUSE", "reads no table"),
    (r"BLOOM FILTER ON (\S+).*", r"skips rows early that match nothing in \1, by a Bloom filter"),
    (r"CREATE BLOOM FILTER", "notes them in a Bloom filter, to skip rows early"),
    (r"RIGHT-JOIN (\S+)", r"then the rows of \1 without a match:"),
    (r"USING ROWID SEARCH ON TABLE (\S+) FOR IN-OPERATOR", r"looks into \1 by rowid, for IN"),
    (r"USING INDEX (\S+) FOR IN-OPERATOR", r"looks into the index \1, for IN"),
    (r"REUSE .*", "uses what was made before"),
)


def _work(detail: str) -> tuple[str, bool]:
    """What a step that reads no table does, in words, and whether it sorts."""
    for pattern, words in _WORK:
        match = re.fullmatch(pattern, detail)
        if match:
            return match.expand(words), words.startswith("sorts")
    return detail.lower(), False


def _unquoted(name: str) -> str:
    mark = name[-1]
    return name[1:-1].replace(mark * 2, mark).lower()
