"""PostgreSQL's plans as steps: which table, read how, in words a person reads. Pure; asks no database."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from flask_dbopt.engines.counts import RowCount, about
from flask_dbopt.engines.postgresql.conditions import condition
from flask_dbopt.engines.postgresql.wording import Node, header, work
from flask_dbopt.engines.protocol import Step

Far = Literal["everything", "until enough", "the first rows"]

_STOPS: dict[Far, str] = {
    "everything": "",
    "until enough": ", until as many as LIMIT wants are found",
    "the first rows": ", as many as LIMIT wants",
}

# What gives each row on as soon as it has it, so that a LIMIT above ends what is below, …
_PASSES_EACH_ROW = frozenset({"Gather", "Gather Merge", "Subquery Scan", "Append", "LockRows", "ProjectSet", "Result"})
# … and what may need several rows for one.
_PASSES_ROWS = _PASSES_EACH_ROW | {"Nested Loop", "Merge Join", "Hash Join", "Unique", "Group", "Incremental Sort"}


@dataclass(frozen=True, slots=True)
class Known:
    """A table of the plan: its name as a person would write it, and its rows where they are known."""

    shown: str
    rows: RowCount | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the plan a node stands."""

    depth: int = 0
    again: str = ""
    """How often it runs, in words; empty for once."""
    far: Far = "everything"
    """Whether LIMIT ends it early."""
    ends_with_other: bool = False
    """It is a side of a merge join, which is over when its other side is."""
    processes: float = 1.0
    """How many share a parallel scan; a node's figures are those of one."""
    table: Node = field(default_factory=dict)
    """What a bitmap's index belongs to."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads one plan after another."""

    tables: Mapping[tuple[str, str], Known]
    """By schema and name."""
    called: Mapping[str, str]
    """What an index is to be called that has another name in the plan."""

    def read(self, plan: Node) -> tuple[Step, ...]:
        """A plan in JSON as steps, outermost first."""
        return tuple(self._steps(plan, _Place()))

    def _steps(self, node: Node, place: _Place) -> Iterator[Step]:
        yield self._step(node, place)
        for child in node.get("Plans", ()):
            below = _below(node, child, place)
            name = child.get("Subplan Name")
            if name:
                words, again = _subplan(name, child, node)
                yield Step(name, below.depth, reading=words)
                below = replace(below, depth=below.depth + 1, again=again)
            yield from self._steps(child, below)

    def _step(self, node: Node, place: _Place) -> Step:
        kind = node["Node Type"]
        if kind == "Bitmap Index Scan" or ("Relation Name" in node and kind != "ModifyTable"):
            return self._access(node, place)
        table = self._of(node) if "Relation Name" in node else None
        return Step(
            header(node, None),
            place.depth,
            table=table.shown if table else None,
            sorts=kind in ("Sort", "Incremental Sort"),
            reading=work(node, _rows(node, place), table.shown if table else "", limited=place.far == "the first rows")
            + ("" if "Plans" in node else place.again),
        )

    def _access(self, node: Node, place: _Place) -> Step:
        """A node that reads a table, or the index of one."""
        kind = node["Node Type"]
        on = place.table if kind == "Bitmap Index Scan" else node
        table = self._of(on)
        index = self.called.get(node.get("Index Name", ""), node.get("Index Name"))
        terms, kept = condition(node, "Index Cond", on.get("Alias")), condition(node, "Filter")
        far = "until enough" if place.far == "the first rows" and kept else place.far
        whole = kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and not terms)
        found = _rows(node, place)
        rows = f"rows of {table.shown}"
        if whole and far == "everything" and not place.ends_with_other:
            rows = f"all {table.rows.words} {rows}" if table.rows else f"all {rows}"
        elif not whole and far == "everything" and not kept:
            rows = f"{about(found)} {'row' if round(found) <= 1 else 'rows'} of {table.shown}"
        words = _way(kind, rows, f"{index} alone" if kind == "Index Only Scan" else index, terms, node)
        keeps = f", keeps {about(found)} ({kept})" if kept and far == "everything" else f" ({kept})" if kept else ""
        stops = ", until the other side of the join ends" if place.ends_with_other else _STOPS[far]
        return Step(
            header(node, index),
            place.depth,
            table=table.shown,
            index=index,
            reads_whole_table=whole and far != "the first rows",
            rows=table.rows.rows if table.rows else None,
            may_stop=far != "everything" or place.ends_with_other,
            covering=kind == "Index Only Scan",
            finds=max(1, round(found)) if terms and not kept else None,
            reading=words + place.again + keeps + stops + (":" if "Plans" in node else ""),
        )

    def _of(self, node: Node) -> Known:
        name = node.get("Relation Name", "a table")
        return self.tables.get((node.get("Schema", ""), name)) or Known(name)


def _way(kind: str, rows: str, index: str | None, terms: str, node: Node) -> str:
    """How a table is read."""
    bracket = f" ({terms})" if terms else ""
    match kind:
        case "Seq Scan":
            return f"reads {rows}"
        case "Index Scan" | "Index Only Scan" if terms:
            return f"finds {rows} by the index {index}{bracket}"
        case "Index Scan" | "Index Only Scan" if "Order By" in node:
            return f"reads {rows}, the nearest first, by the index {index}"
        case "Index Only Scan":
            return f"reads {rows} from the index {index}"
        case "Index Scan":
            return f"reads {rows} in the order of {index}"
        case "Bitmap Index Scan":
            return f"looks up {rows} in the index {index}{bracket}"
        case "Bitmap Heap Scan":
            return f"fetches {rows} in the order in which they lie"
        case "Sample Scan":
            return f"reads a sample: {rows}"
        case "Foreign Scan":
            return f"asks another server for {rows}"
        case "Tid Scan" | "Tid Range Scan":
            return f"finds {rows} by where they lie"
    return f"finds {rows} by {kind}"


def _below(node: Node, child: Node, place: _Place) -> _Place:
    """Where a node's child stands."""
    kind, side = node["Node Type"], child.get("Parent Relationship")
    far: Far = "everything"
    if kind == "Limit" and side == "Outer":
        far = "the first rows"
    elif kind in _PASSES_ROWS and side in ("Outer", "Member", "Subquery") and place.far != "everything":
        far = place.far if kind in _PASSES_EACH_ROW and "Filter" not in node else "until enough"
    again = place.again
    if kind == "Nested Loop" and side == "Inner":
        again = " for each row found so far"
    elif kind in ("Materialize", "Hash"):
        again = ""
    processes = place.processes
    if kind in ("Gather", "Gather Merge"):
        workers = node.get("Workers Planned", 0)
        # As the planner reckons: collecting from the others leaves the first process less time to read.
        processes = workers + max(0.0, 1 - 0.3 * workers)
    return _Place(
        place.depth + 1,
        again,
        far,
        ends_with_other=kind == "Merge Join" and child.get("Total Cost", 0) > node.get("Total Cost", 0),
        processes=processes,
        table=node if "Relation Name" in node else place.table,
    )


def _rows(node: Node, place: _Place) -> float:
    """How many rows it gives, all processes together, each time that it runs."""
    rows: float = node.get("Plan Rows", 0)
    return rows * place.processes if rows > 1 and _is_shared(node) else rows


def _is_shared(node: Node) -> bool:
    """Whether each process does a part of it."""
    if node.get("Parallel Aware"):
        return True
    return any(
        _is_shared(child) for child in node.get("Plans", ()) if child.get("Parent Relationship") in ("Outer", "Member")
    )


def _subplan(name: str, plan: Node, parent: Node) -> tuple[str, str]:
    """What is computed on the side and how often, in words, and what to say of each step within."""
    if name.startswith("CTE "):
        return f"computes {name[4:]} once and keeps it:", ""
    if plan.get("Parent Relationship") == "InitPlan":
        return "runs a subquery once:", ""
    own = " ".join(str(value) for key, value in parent.items() if key != "Plans")
    if re.search(rf"hashed {re.escape(name)}\b", own):
        return "makes a list once:", ""
    return "runs a subquery again for each row:", " each time"
