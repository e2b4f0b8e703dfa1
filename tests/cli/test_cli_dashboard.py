"""The live screen's picture: it fits every size, and shows the most urgent first."""

from __future__ import annotations

import dataclasses
import time

import pytest
from rich.cells import cell_len

from flask_dbopt.cli.dashboard import SORTS, View, lately, picture
from flask_dbopt.cli.monitor import command, obey
from flask_dbopt.cli.sparkline import sparkline
from flask_dbopt.monitor.alerts import Alert
from flask_dbopt.monitor.figures import Point
from flask_dbopt.report import Report, build


@pytest.fixture
def report(busy_site) -> Report:
    """What the busy site tells, with more statements and endpoints than any screen has lines."""
    real = build(busy_site.extensions["dbopt"], since=time.time() - 900)
    one, page = real.queries[0], real.endpoints[0]
    return dataclasses.replace(
        real,
        queries=tuple(
            dataclasses.replace(
                one,
                query=f"SELECT {n} FROM 漢字 {'wide ' * 40}",
                calls=n,
                p95=1000.0 - n,
                errors=n % 2,
                last_seen=n % 7,
            )
            for n in range(200)
        ),
        endpoints=tuple(dataclasses.replace(page, endpoint=f"page.{n}", n_plus_one=n % 2) for n in range(50)),
    )


def shown(report: Report, width: int = 100, height: int = 30, view: View | None = None) -> list[str]:
    return [line.plain for line in picture(report, view or View(), width, height)]


def alert(number: int) -> Alert:
    return Alert("query_too_slow", f"{number}", f"a query took {number} s", number, 2.0, 1000.0 + number)


@pytest.mark.parametrize("alerts", [0, 1, 9])
def test_it_fits_every_size(report, alerts):
    report = dataclasses.replace(report, alerts=tuple(map(alert, range(alerts))), notices=("a note " * 30,))
    for width in (*range(1, 60), 80, 81, 132, 250):
        for height in (*range(1, 30), 43, 70):
            lines = shown(report, width, height)
            assert len(lines) <= height
            assert max(map(cell_len, lines)) <= width, (width, height)


def test_it_fills_the_screen_and_ends_in_the_keys(report):
    lines = shown(report)
    assert len(lines) == 30
    assert lines[0].startswith(" Flask-DBOpt")
    assert "q quit" in lines[-1].replace("  ", " ")
    assert "Queries by total time" in "\n".join(lines)
    assert "Endpoints" in "\n".join(lines)
    assert "of 200" in "\n".join(lines)


def test_a_small_screen_keeps_the_queries_and_a_tiny_one_the_first_figures(report):
    small = "\n".join(shown(report, 60, 12))
    assert "requests" in small
    assert "Queries" in small
    assert "Endpoints" not in small
    assert [line.split()[0] for line in shown(report, 40, 2)] == ["Flask-DBOpt", "requests"]


def test_narrow_tables_drop_the_least_telling_columns_and_never_the_text(report):
    names = {
        width: next(line for line in shown(report, width, 40) if line.rstrip().endswith("query")).split()
        for width in (36, 80, 160)
    }
    assert names[36] == ["calls", "query"]
    assert names[80] == ["calls", "total", "mean", "p95", "rows", "cached", "query"]
    assert names[160] == ["calls", "total", "mean", "p95", "slowest", "rows", "cached", "errors", "query"]


@pytest.mark.parametrize("sort", SORTS)
def test_the_largest_of_what_it_is_sorted_by_come_first(report, sort):
    lines = shown(report, 160, 40, View(sort=sort))
    assert any(f"Queries by {SORTS[sort][0]}" in line for line in lines)
    first = next(line for line in lines if "SELECT" in line)
    chosen = max(report.queries, key=SORTS[sort][1])
    assert f"SELECT {chosen.query.split()[1]} FROM" in first


def test_every_sort_of_the_screen_is_an_option(report):
    (option,) = (each for each in command.params if each.name == "sort")
    assert tuple(option.type.choices) == tuple(SORTS)


def test_standing_alerts_come_before_the_queries_and_resolved_ones_do_not_come(report):
    raised = dataclasses.replace(report, alerts=(*map(alert, range(2)), dataclasses.replace(alert(7), resolved_at=9.0)))
    lines = shown(raised)
    told = [line for line in lines if line.startswith(" !")]
    assert ["0 s" in told[0], "1 s" in told[1], len(told)] == [True, True, 2]
    assert lines.index(told[0]) < next(n for n, line in enumerate(lines) if "Queries" in line)
    crowd = shown(dataclasses.replace(report, alerts=tuple(map(alert, range(9)))))
    assert [line for line in crowd if line.startswith(" !")][-1] == " ! and 7 alerts more"


def test_nothing_that_a_terminal_obeys_gets_through(report):
    evil = dataclasses.replace(report.queries[0], query="SELECT '\x1b[2J\x9b31m\x07'\n-- tail")
    told = "\n".join(shown(dataclasses.replace(report, queries=(evil,)), 120, 30))
    assert "SELECT '·[2J·31m·' -- tail" in told
    assert "\x1b" not in told


def test_an_app_that_nothing_ran_in_says_so(site):
    told = "\n".join(shown(build(site.extensions["dbopt"], since=time.time() - 900)))
    assert "nothing has run yet" in told
    assert "no worker lives" in told


def test_a_paused_screen_says_so(report):
    lines = shown(report, view=View(paused=True))
    assert "PAUSED" in lines[0]
    assert "go on" in lines[-1]


def test_keys_change_the_view():
    view = View(window=900.0, interval=2.0, sort="total")
    assert obey("s", view).sort == "calls"
    assert obey("S", view).sort == "last"
    assert obey("p", view).paused
    assert not obey(" ", obey("p", view)).paused
    assert obey("w", view).window == 3600
    assert obey("w", View(window=604_800.0)).window == 60
    assert (obey("+", view).interval, obey("-", view).interval) == (5, 1)
    assert (obey("+", View(interval=60.0)).interval, obey("-", View(interval=0.5)).interval) == (60, 0.5)
    assert obey("x", view) == view


def point(start: float, requests: int) -> Point:
    return Point(start, requests, requests * 3, 0, 1.0, None, 1.0, 0, 0)


def test_rates_are_those_of_the_last_half_minute():
    series = [point(0, 9000), point(970, 100), point(980, 100), point(990, 40)]
    assert lately(series, 1000.0) == (7.0, 21.0)
    assert lately(series, 995.0) == pytest.approx((9.6, 28.8))
    assert lately(series[:1], 1000.0) == (9.0, 27.0)
    assert lately([], 1000.0) == (0.0, 0.0)


def test_a_sparkline_has_the_latest_figures_and_blanks_where_there_are_none():
    assert sparkline([1, 2, 4, 8], 4) == "▂▃▅█"
    assert sparkline([99, 0, None, 7], 3) == "▁ █"
    assert sparkline([0, 0], 5) == "▁▁"
    assert sparkline([1], 0) == ""
