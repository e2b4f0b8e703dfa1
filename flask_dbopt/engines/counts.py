"""How many rows, as a figure and as people say it. Pure; for every engine."""

from __future__ import annotations

from dataclasses import dataclass


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
    """An estimate of few words: ``about 1 row``, ``about 41,000 rows``."""
    count = max(1, rounded(rows, 2))
    return f"about {count:,} row{'' if count == 1 else 's'}"
