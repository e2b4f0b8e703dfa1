"""How many rows, as a figure and as people say it; for every engine."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass, replace

from flask_dbopt.engines.protocol import Table


@dataclass(frozen=True, slots=True)
class RowCount:
    rows: int
    exact: bool
    at_least: bool = False

    @property
    def words(self) -> str:
        """``4,096``, ``~320,000`` for an estimate, ``100,000+`` for what was only counted so far."""
        return f"{'' if self.exact or self.at_least else '~'}{self.rows:,}{'+' if self.at_least else ''}"


def rounded(rows: float, figures: int = 3) -> int:
    """To that many figures: an estimate should not look like a count."""
    step: int = 10 ** max(0, len(str(round(rows))) - figures)
    return round(rows / step) * step


def about(rows: float) -> str:
    """An estimate in figures that do not look exact: ``about 41,000``."""
    return f"about {max(1, rounded(rows, 2)):,}"


class CountedTables(Mapping[str, Table]):
    """The tables of one schema by lower-case name; a table's rows are counted when it is first looked at."""

    def __init__(self, tables: Mapping[str, Table], count: Callable[[Iterable[str]], Mapping[str, int]]) -> None:
        """``count(names)``: how many rows each has; asked once for each name."""
        self._tables, self._count = tables, count
        self._rows: dict[str, int] = {}

    def __getitem__(self, name: str) -> Table:
        return self._counted([name])[name]

    def values(self) -> ValuesView[Table]:
        return self._counted(self).values()

    def items(self) -> ItemsView[str, Table]:
        return self._counted(self).items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def _counted(self, names: Iterable[str]) -> dict[str, Table]:
        found = {name: self._tables[name] for name in names}
        missing = [name for name in found if name not in self._rows]
        if missing:
            self._rows.update(self._count(missing))
        return {name: replace(table, rows=self._rows[name]) for name, table in found.items()}
