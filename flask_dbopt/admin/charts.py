"""Charts drawn on the server as SVG: no script, no inline style, and words for those who cannot see them.

Shapes stretch with the page (``preserveAspectRatio="none"``), so words and numbers stand beside them as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from flask_dbopt.admin.wording import Amount, clock, count, iso

WIDTH, HEIGHT = 600, 120


@dataclass(frozen=True, slots=True)
class Line:
    """One row of values, oldest first; None where nothing was measured."""

    name: str
    tone: str
    """A class of the style sheet: "one", "two", "bad", …"""
    values: Sequence[float | None]


def series(
    title: str,
    starts: Sequence[float],
    lines: Sequence[Line],
    unit: Callable[[float | None], Amount],
    *,
    bars: bool = False,
) -> Markup:
    """Values over time: lines over a soft area, or bars stacked on each other."""
    slots = len(starts)
    tops = [sum(_known(line.values[i]) for line in lines) for i in range(slots)] if bars else []
    peak = max([*tops, *(_known(v) for line in lines for v in line.values)], default=0.0)
    top = ceiling(peak)
    draw = _bars if bars else _curves
    shapes = Markup("").join(
        Markup('<line class="grid" x1="0" x2="{}" y1="{}" y2="{}"/>').format(WIDTH, y, y)
        for y in (0, HEIGHT / 2, HEIGHT)
    ) + draw(lines, slots, top)
    shapes += _hovers(starts, lines, unit)
    said = "; ".join(f"{line.name}: {_said(line.values, unit)}" for line in lines)
    legend = Markup("").join(
        Markup('<li><span class="dot {}"></span>{}</li>').format(line.tone, line.name) for line in lines
    )
    return Markup(
        '<figure class="chart"><figcaption><h3>{title}</h3><ul class="legend">{legend}</ul></figcaption>'
        '<div class="plot"><div class="scale" aria-hidden="true"><span>{high}</span><span>{middle}</span>'
        "<span>{low}</span></div>"
        '<svg viewBox="0 -2 {w} {h}" preserveAspectRatio="none" role="img" aria-label="{title}. {said}">'
        '{shapes}</svg></div><div class="times" aria-hidden="true">{times}</div></figure>'
    ).format(
        title=title,
        legend=legend,
        high=unit(top),
        middle="" if unit is count and (top / 2) % 1 else unit(top / 2),
        low=0,
        w=WIDTH,
        h=HEIGHT + 4,
        said=said,
        shapes=shapes,
        times=_times(starts),
    )


def bar(part: float | None, label: str, tone: str = "one") -> Markup:
    """How much of a whole, as a thin bar. ``label`` says it in words."""
    width = round(100 * min(1.0, max(0.0, part or 0.0)), 2)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="track" width="100" height="6"/><rect class="{}" width="{}" height="6"/></svg>'
    ).format(label, tone, width)


def ring(part: float | None, label: str, tone: str = "one") -> Markup:
    """A ratio as a ring that fills."""
    around = 2 * math.pi * 42
    filled = around * min(1.0, max(0.0, part or 0.0))
    arc = Markup('<circle class="arc {}" cx="50" cy="50" r="42" stroke-dasharray="{} {}"/>').format(
        tone, round(filled, 2), round(around, 2)
    )
    return Markup(
        '<svg class="ring" viewBox="0 0 100 100" role="img" aria-label="{}">'
        '<circle class="track" cx="50" cy="50" r="42"/>{}</svg>'
    ).format(label, arc if filled else "")


@dataclass(frozen=True, slots=True)
class Mark:
    """One named point on a scale."""

    name: str
    value: float
    tone: str = "one"


def spread(title: str, marks: Sequence[Mark], unit: Callable[[float | None], Amount]) -> Markup:
    """Where the quantiles of a duration lie, on a scale whose every step is ten times the one before."""
    values = [max(mark.value, 0.001) for mark in marks]
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)

    def place(value: float) -> float:
        return round(WIDTH * (math.log10(max(value, 0.001)) - first) / (last - first), 2)

    grid = Markup("").join(
        Markup('<line class="grid" x1="{x}" x2="{x}" y1="0" y2="40"/>').format(x=place(10.0**power))
        for power in range(first, last + 1)
    )
    reach = Markup('<rect class="reach" x="{}" y="17" width="{}" height="6"/>').format(
        place(values[0]), max(1, place(values[-1]) - place(values[0]))
    )
    dots = Markup("").join(
        Markup('<rect class="tick {}" x="{}" y="8" width="3" height="24"><title>{}: {}</title></rect>').format(
            mark.tone, max(0, min(WIDTH - 3, place(mark.value) - 1.5)), mark.name, str(unit(mark.value))
        )
        for mark in marks
    )
    said = ", ".join(f"{mark.name} {unit(mark.value)}" for mark in marks)
    scale = Markup("").join(Markup("<span>{}</span>").format(unit(10.0**p)) for p in range(first, last + 1))
    return Markup(
        '<figure class="spread"><svg viewBox="0 0 {} 40" preserveAspectRatio="none" role="img" '
        'aria-label="{}: {}">{}{}{}</svg><div class="scale" aria-hidden="true">{}</div></figure>'
    ).format(WIDTH, title, said, grid, reach, dots, scale)


def days(title: str, marks: Sequence[tuple[float, str, str]], now: float, span: int = 30) -> Markup:
    """One cell a day, the latest at the right; ``marks`` are (moment, tone, words), a day's last shows."""
    cells: list[tuple[str, list[str]]] = [("none", []) for _ in range(span)]
    for at, tone, words in sorted(marks):
        day = span - 1 - int((now - at) // 86_400)
        if 0 <= day < span:
            cells[day] = (tone, [*cells[day][1], words])
    gap = WIDTH / span
    drawn = Markup("").join(
        Markup('<rect class="day {}" x="{}" y="0" width="{}" height="28" rx="2"><title>{}</title></rect>').format(
            tone,
            round(i * gap + 1.5, 2),
            round(gap - 3, 2),
            "; ".join(said) or f"{span - 1 - i} days ago: no backup",
        )
        for i, (tone, said) in enumerate(cells)
    )
    covered = sum(1 for _, said in cells if said)
    return Markup(
        '<figure class="days"><svg viewBox="0 0 {} 28" preserveAspectRatio="none" role="img" '
        'aria-label="{}: backups on {} of the last {} days">{}</svg>'
        '<div class="times" aria-hidden="true"><span>{} days ago</span><span>now</span></div></figure>'
    ).format(WIDTH, title, covered, span, drawn, span)


def ceiling(peak: float) -> float:
    """The next round number, so that a scale can be read: 1, 2 or 5 times a power of ten."""
    if peak <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(peak))
    return next(step * power for step in (1, 2, 5, 10) if peak <= step * power * 1.000001)


def _curves(lines: Sequence[Line], slots: int, top: float) -> Markup:
    drawn = Markup("")
    for number, line in enumerate(lines):
        for run in _runs(line.values):
            points = [(_x(i, slots), round(HEIGHT - HEIGHT * value / top, 2)) for i, value in run]
            if len(points) == 1:  # a lone value would be a line of no length
                half = WIDTH / slots / 2
                points = [(round(points[0][0] - half, 2), points[0][1]), (round(points[0][0] + half, 2), points[0][1])]
            path = " ".join(f"{x},{y}" for x, y in points)
            if number == 0:
                drawn += Markup('<polygon class="area {}" points="{},{} {} {},{}"/>').format(
                    line.tone, points[0][0], HEIGHT, path, points[-1][0], HEIGHT
                )
            drawn += Markup('<polyline class="line {}" points="{}"/>').format(line.tone, path)
    return drawn


def _bars(lines: Sequence[Line], slots: int, top: float) -> Markup:
    drawn, gap = Markup(""), WIDTH / max(1, slots)
    for i in range(slots):
        base = float(HEIGHT)
        for line in lines:
            height = HEIGHT * _known(line.values[i]) / top
            if height:
                base -= height
                drawn += Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                    line.tone,
                    round(i * gap + gap * 0.1, 2),
                    round(base, 2),
                    round(gap * 0.8, 2),
                    round(height, 2),
                )
    return drawn


def _hovers(starts: Sequence[float], lines: Sequence[Line], unit: Callable[[float | None], Amount]) -> Markup:
    """A clear strip over each slot whose title tells its values."""
    gap = WIDTH / max(1, len(starts))
    return Markup("").join(
        Markup('<rect class="hover" x="{}" y="0" width="{}" height="{}"><title>{}</title></rect>').format(
            round(i * gap, 2),
            round(gap, 2),
            HEIGHT,
            f"{clock(start)}\n" + "\n".join(f"{line.name}: {unit(line.values[i])}" for line in lines),
        )
        for i, start in enumerate(starts)
    )


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Stretches without a gap: where nothing was measured the line stops."""
    runs: list[list[tuple[int, float]]] = [[]]
    for i, value in enumerate(values):
        if value is not None:
            runs[-1].append((i, value))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _x(slot: int, slots: int) -> float:
    return round(WIDTH * (slot + 0.5) / slots, 2)


def _times(starts: Sequence[float]) -> Markup:
    shown = [starts[0], starts[len(starts) // 2], starts[-1]] if len(starts) > 2 else list(starts)
    return Markup("").join(
        Markup('<time class="clock" datetime="{}">{}</time>').format(iso(at), clock(at)) for at in shown
    )


def _said(values: Sequence[float | None], unit: Callable[[float | None], Amount]) -> str:
    known = [value for value in values if value is not None]
    return f"lately {unit(known[-1])}, at most {unit(max(known))}" if known else "nothing measured"


def _known(value: float | None) -> float:
    return value or 0.0
