"""The shape of a statement: its text without literals, so that runs which differ only in values count as one."""

from __future__ import annotations


def fingerprint(sql: str) -> str:
    """Filled in below within the hour."""
    return sql
