"""A line of figures as a row of little bars, for terminals."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """The last ``width`` values, the largest as a full bar and nothing as the lowest; a blank where there is none."""
    shown = values[-width:] if width > 0 else ()
    most = max((value for value in shown if value is not None), default=0.0)
    return "".join(" " if value is None else _bar(value / most if most > 0 else 0.0) for value in shown)


def _bar(part: float) -> str:
    return BARS[min(len(BARS) - 1, max(0, round(part * (len(BARS) - 1))))]
