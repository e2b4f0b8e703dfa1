"""What a look-up gives: a kept result, or the right to keep one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flask_dbopt.cache.admission import Statement
from flask_dbopt.engines.protocol import Identity


@dataclass(frozen=True, slots=True)
class Kept:
    """A result as its query would give it now. Rows are shared and immutable."""

    rows: tuple[Any, ...]
    description: Any


@dataclass(slots=True, eq=False)
class Ticket:
    """The right to keep the result of the query that is about to run, if nothing is committed meanwhile.

    ``begin`` it, run the query, offer its rows by ``keep``. What else it holds is for the shelf that gave it.
    """

    #: As in ``Kept``: a caller tells the two apart by it.
    rows: ClassVar[None] = None
    description: ClassVar[None] = None

    max_rows: int
    """A result with more rows is too large to be kept."""
    statement: Statement
    key: tuple[Any, ...]
    token: Hashable
    """The state of the database before the query ran."""
    identity: Identity | None
    generation: int
    on_trial: bool
    """Its key was not seen before: no other result has to go for this one."""
    _keep: Callable[[Ticket, Sequence[Any], Any, float], bool]
    _timer: Callable[[], float]
    _started: float

    def begin(self) -> None:
        """The query runs now: its cost is counted from here, and not from the look-up."""
        self._started = self._timer()

    def keep(self, rows: Sequence[Any], description: Any) -> bool:
        """Keep this result, which must be whole; whether it was kept.

        Rows are tuples or the driver's own immutable ones. Offer also what was read of a result that turned
        out to have more than ``max_rows`` rows: it is not kept, and its query gets no ticket for some time.
        """
        return self._keep(self, rows, description, self._timer() - self._started)
