"""What the nodes of a plan are called, and what those do that read no table, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_dbopt.engines.counts import about
from flask_dbopt.engines.postgresql.conditions import condition, listed

Node = Mapping[str, Any]

_AGGREGATES = {"Sorted": "GroupAggregate", "Hashed": "HashAggregate", "Mixed": "MixedAggregate"}


def header(node: Node, index: str | None) -> str:
    """A node as ``EXPLAIN`` says it in its own words: ``Seq Scan on keyword k  (rows=12)``."""
    kind: str = node["Node Type"]
    if kind == "Aggregate":
        mode = node.get("Partial Mode", "Simple")
        kind = ("" if mode == "Simple" else f"{mode} ") + _AGGREGATES.get(node.get("Strategy", ""), kind)
    elif kind == "ModifyTable":
        kind = node.get("Operation", kind)
    elif kind == "SetOp":
        kind = f"SetOp {node.get('Command', '')}".strip()
    elif "Join Type" in node and node["Join Type"] != "Inner":
        kind = f"{kind.removesuffix(' Join')} {node['Join Type']} Join"
    words = [f"{'Parallel ' if node.get('Parallel Aware') else ''}{kind}"]
    if node.get("Scan Direction") == "Backward":
        words.append("Backward")
    if index:
        words.append(f"{'on' if kind == 'Bitmap Index Scan' else 'using'} {index}")
    target = next((node[key] for key in ("Relation Name", "CTE Name", "Function Name") if key in node), None)
    alias = node.get("Alias")
    if target or alias:
        words.append(f"on {target or alias}")
        if target and alias and alias != target:
            words.append(alias)
    return f"{' '.join(words)}  (rows={node.get('Plan Rows', 0):.0f})"


def work(node: Node, rows: float, table: str, *, limited: bool) -> str:
    """What a node does that reads no table itself.

    ``rows``: how many it gives. ``table``: what it writes to. ``limited``: a LIMIT is right above it.
    """
    kind = node["Node Type"]
    match kind:
        case "Sort" | "Incremental Sort":
            by, ready = listed(node, "Sort Key"), listed(node, "Presorted Key")
            if ready:
                some = "as many as LIMIT wants" if limited else about(rows)
                return f"sorts rows by {by}, {some}: they come in the order of {ready} already"
            keeps = ", keeping only what LIMIT wants" if limited else ""
            return f"sorts {about(rows)} row{'s' if rows > 1 else ''} by {by}{keeps}"
        case "Aggregate":
            return _aggregate(node, rows)
        case "Nested Loop":
            return _join("joins row by row", node, "")
        case "Hash Join":
            return _join("joins by a hash table", node, "Hash Cond")
        case "Merge Join":
            return _join("joins two sides that come in order", node, "Merge Cond")
        case "ModifyTable":
            return _change(node, table)
        case "SetOp":
            return f"{node.get('Command', 'combines').upper()} of the two:"
        case "Gather" | "Gather Merge":
            workers = node.get("Workers Planned", 1)
            order = ", in order" if kind == "Gather Merge" else ""
            return f"shares the work with {workers} more process{'' if workers == 1 else 'es'}{order}:"
        case "CTE Scan":
            return f"reads what {node.get('CTE Name')} holds" + _kept(node, rows)
        case "Function Scan" | "Table Function Scan":
            name = node.get("Function Name") or node.get("Table Function Name") or node.get("Alias")
            return f"reads what {name}() gives" + _kept(node, rows)
        case "Subquery Scan":
            return f"takes the rows of {node.get('Alias')}{_kept(node, rows)}:"
        case "Result":
            is_source = all("Subplan Name" in child for child in node.get("Plans", ()))
            return "reads no table" if is_source else "passes rows on:"
        case "Append":
            left_out = node.get("Subplans Removed", 0)
            return f"one after the other{f', {left_out} left out' if left_out else ''}:"
        case "Memoize":
            return f"remembers what it found for each {condition(node, 'Cache Key')}:"
    return _FIXED.get(kind, f"{kind.lower()}:")


_FIXED = {
    "BitmapAnd": "keeps what all of these note:",
    "BitmapOr": "puts together what these note:",
    "Hash": "fills a hash table with:",
    "Limit": "stops at the LIMIT:",
    "LockRows": "locks each row for itself:",
    "Materialize": "keeps rows to read them again:",
    "Merge Append": "merges what comes in order:",
    "ProjectSet": "makes several rows of one:",
    "Recursive Union": "goes on until no new rows are found:",
    "Unique": "drops rows that repeat the one before:",
    "Group": "groups rows as they come in order:",
    "Values Scan": "reads a list of values",
    "WindowAgg": "computes window functions over rows in order:",
    "WorkTable Scan": "rows from the rows before",
    "Named Tuplestore Scan": "reads the rows that a statement changed",
}


def _kept(node: Node, rows: float) -> str:
    terms = condition(node, "Filter")
    return f", keeps {about(rows)} ({terms})" if terms else ""


def _aggregate(node: Node, rows: float) -> str:
    terms = condition(node, "Filter")
    having = f", keeps {about(rows)} ({terms})" if terms else ""
    who = "each process " if node.get("Partial Mode") == "Partial" else ""
    if node.get("Strategy") == "Plain":
        return f"{who}makes one row of all{having}:"
    keys = listed(node, "Group Key")
    by = f" by {keys}" if keys else " by several sets of columns"
    way = "in a hash table" if node.get("Strategy") in ("Hashed", "Mixed") else "as they come in order"
    return f"{who}groups rows{by}, {way}{having}:"


_KINDS = {
    "Left": ", keeping rows without a match",
    "Right": ", keeping rows without a match",
    "Full": ", keeping rows without a match",
    "Semi": ", one match is enough",
    "Right Semi": ", one match is enough",
    "Anti": ", keeping only rows without a match",
    "Right Anti": ", keeping only rows without a match",
}


def _join(words: str, node: Node, key: str) -> str:
    terms = " AND ".join(filter(None, (condition(node, key), condition(node, "Join Filter"))))
    return f"{words}{f' ({terms})' if terms else ''}{_KINDS.get(node.get('Join Type', ''), '')}:"


def _change(node: Node, table: str) -> str:
    deed = node.get("Operation")
    if deed == "Insert":
        return f"inserts into {table}{', unless it is there already' if 'Conflict Resolution' in node else ''}:"
    if deed == "Merge":
        return f"merges into {table}:"
    return f"{'changes' if deed == 'Update' else 'deletes'} the rows of {table} found here:"
