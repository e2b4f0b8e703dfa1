"""Who did not give a connection back in time, and where it borrowed the next one."""

from __future__ import annotations

from traceback import StackSummary, walk_stack

from flask_dbopt.pool.entry import Entry

#: Borrowers whose loans are traced; a walk over the stack costs some 10 µs.
_MOST = 100
#: Lines of code remembered of a loan, the innermost.
_DEPTH = 25


class Suspects:
    """Borrowers whose loans are traced, since one of theirs lasted too long."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, name: str) -> None:
        """Trace the loans of this borrower from now on."""
        if len(self._names) < _MOST:
            self._names |= {name}

    def trace(self, entry: Entry) -> None:
        """Remember where this loan is being made, if its borrower is one of them."""
        entry.stack = None
        if entry.borrower_name() in self._names:
            stack = StackSummary.extract(walk_stack(None), limit=_DEPTH, lookup_lines=False)
            stack.reverse()
            entry.stack = stack
