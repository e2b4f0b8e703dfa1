"""Figures, statements and charts as people read them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flask_dbopt.admin import charts, wording
from flask_dbopt.admin.charts import Line, Mark
from flask_dbopt.admin.overview import drawings, since_first_use
from flask_dbopt.monitor.figures import Point


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, "–"),
        (0, "0 µs"),
        (0.031, "31 µs"),
        (0.9996, "1000 µs"),
        (1, "1.00 ms"),
        (12.34, "12.3 ms"),
        (999, "999 ms"),
        (1500, "1.50 s"),
        (119_000, "119 s"),
        (150_000, "2.50 min"),
        (9_000_000, "2.50 h"),
    ],
)
def test_a_duration_takes_the_unit_that_suits_it(value: float | None, read: str) -> None:
    assert str(wording.ms(value)) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [(None, "–"), (0, "0 %"), (0.0004, "< 0.1 %"), (0.5, "50.0 %"), (0.9996, "99.9 %"), (1, "100 %")],
)
def test_almost_all_is_not_all_and_almost_nothing_is_not_nothing(value: float | None, read: str) -> None:
    assert str(wording.ratio(value)) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [(None, "–"), (0, "0"), (12_345, "12,345"), (1_234_567, "1.23 M"), (5e9, "5.00 G")],
)
def test_large_counts_are_grouped_then_shortened(value: float | None, read: str) -> None:
    assert str(wording.count(value)) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1,023 B"),
        (2048, "2.00 KiB"),
        (1_047_552, "1.00 MiB"),
        (5e12, "4.55 TiB"),
        (5e16, "45,475 TiB"),
    ],
)
def test_sizes_count_in_1024(value: float | None, read: str) -> None:
    assert str(wording.size(value)) == read


@pytest.mark.parametrize(
    ("value", "read"),
    [(2, "2 s"), (60, "1 min"), (3600, "1 h"), (86_400, "24 h"), (172_800, "2 days"), (90, "90 s"), (0.5, "0.5 s")],
)
def test_a_chosen_period_has_no_digits_that_nobody_wrote(value: float, read: str) -> None:
    assert str(wording.period(value)) == read


@pytest.mark.parametrize(
    ("gap", "read"),
    [
        (0, "just now"),
        (-3, "just now"),
        (42, "42 s ago"),
        (600, "10 min ago"),
        (7200, "2 h ago"),
        (400_000, "5 days ago"),
        (-7200, "in 2 h"),
    ],
)
def test_a_moment_is_told_by_its_distance(gap: float, read: str) -> None:
    assert wording.ago(1e9, 1e9 + gap) == read
    assert read in wording.moment(1e9, 1e9 + gap)


def test_what_never_happened_is_never() -> None:
    assert wording.ago(None, 0) == "never"
    assert "never" in wording.moment(None, 0)


def words(text: str, **how: bool) -> str:
    return re.sub(r"<[^>]+>", "", wording.sql(text, **how)).replace("&#34;", '"').replace("&#39;", "'")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        'select "from" from [select] where `or` = ?1 and x = :name',
        "",
        "((",
        "'unclosed",
        "\x00 ☕",
        "SELECT\n\n*  FROM t",
    ],
)
def test_a_statement_is_shown_whole_whatever_it_is(text: str) -> None:
    assert words(text) == text.strip()


def test_a_long_statement_is_broken_at_its_clauses_but_not_inside_brackets() -> None:
    text = "SELECT a FROM t LEFT JOIN u ON t.id = u.id WHERE x IN (SELECT y FROM v WHERE z) ORDER BY a LIMIT ?"
    assert words(text, broken=True).splitlines() == [
        "SELECT a",
        "FROM t",
        "LEFT JOIN u ON t.id = u.id",
        "WHERE x IN (SELECT y FROM v WHERE z)",
        "ORDER BY a",
        "LIMIT ?",
    ]


def test_a_name_in_quotes_is_no_keyword() -> None:
    assert "<b>" not in wording.sql('"select"')
    assert "<b>SELECT</b>" in wording.sql("SELECT")


# --- charts ---


@pytest.mark.parametrize(
    ("peak", "top"), [(0, 1), (0.003, 0.005), (1, 1), (1.1, 2), (4.2, 5), (7, 10), (10, 10), (1234, 2000)]
)
def test_a_scale_ends_at_a_round_number(peak: float, top: float) -> None:
    assert charts.ceiling(peak) == pytest.approx(top)


def heights(svg: str, tone: str) -> list[float]:
    return [float(h) for h in re.findall(rf'<rect class="{tone}"[^>]* height="([\d.]+)"', svg)]


def test_bars_stand_in_proportion_and_on_each_other() -> None:
    lines = [Line("hits", "one", [10, 0, 5]), Line("misses", "three", [10, 20, 0])]
    drawn = charts.series("Look-ups", [0, 60, 120], lines, wording.count, bars=True)
    assert heights(drawn, "one") == [60, 30]
    assert heights(drawn, "three") == [60, 120]
    assert 'y="0.0" width="160.0" height="60.0"' in drawn, "the second bar stands on the first"


def test_a_line_stops_where_nothing_was_measured_and_a_lone_value_can_be_seen() -> None:
    drawn = charts.series("p95", [0, 1, 2, 3, 4], [Line("p95", "one", [1, 2, None, 4, None])], wording.ms)
    lines = re.findall(r'<polyline class="line one" points="([^"]+)"', drawn)
    assert [len(points.split()) for points in lines] == [2, 2]
    first, second = (point.split(",")[0] for point in lines[1].split())
    assert float(first) < 420 < float(second)
    assert float(second) - float(first) == 120, "as wide as its step"


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    drawn = charts.series("Requests", [0.0], [Line("requests", "one", [None])], wording.count)
    assert "nothing measured" in drawn
    assert "nan" not in drawn


def test_a_quantile_lies_where_its_decade_says() -> None:
    marks = [Mark("quickest", 1), Mark("p50", 10), Mark("slowest", 100)]
    drawn = charts.spread("How long", marks, wording.ms)
    places = [float(x) for x in re.findall(r'class="tick[^"]*" x="([\d.]+)"', drawn)]
    assert places == pytest.approx([0, 298.5, 597], abs=1)


def test_a_spread_of_equal_or_no_durations_does_not_divide_by_nothing() -> None:
    assert "nan" not in charts.spread("x", [Mark("a", 0), Mark("b", 0)], wording.ms)
    assert "nan" not in charts.spread("x", [Mark("a", 10), Mark("b", 10)], wording.ms)


@pytest.mark.parametrize(("part", "width"), [(None, 0), (-1, 0), (0.25, 25), (7, 100)])
def test_a_bar_never_leaves_its_track(part: float | None, width: float) -> None:
    assert f'class="one" width="{width:.1f}"' in charts.bar(part, "share").replace(f'"{width}"', f'"{width:.1f}"')


def test_a_ring_without_a_ratio_is_empty() -> None:
    assert "arc" not in charts.ring(None, "Cache hit ratio –")
    assert "arc warn" in charts.ring(0.3, "Cache hit ratio 30 %", "warn")


def test_days_show_the_last_backup_of_each_and_what_lies_outside_does_not() -> None:
    now = 40 * 86_400.0
    marks = [
        (now - 10, "good", "b"),
        (now - 20, "bad", "a"),
        (now - 86_500, "bad", "c"),
        (now - 99 * 86_400, "good", "d"),
    ]
    drawn = charts.days("Backups", marks, now)
    tones = re.findall(r'class="day (\w+)"', drawn)
    assert tones[-2:] == ["bad", "good"]
    assert tones.count("none") == 28
    assert "backups on 2 of the last 30 days" in drawn
    assert "<title>a; b</title>" in drawn


def point(start: float, requests: int) -> Point:
    return Point(start, requests, requests, 0, float(requests), None, 0.0, 0, 0)


@pytest.mark.parametrize(("first", "shown"), [(0, 60), (10, 51), (58, 15), (60, 0)])
def test_the_first_minutes_of_an_app_fill_the_chart(first: int, shown: int) -> None:
    series = [point(60.0 * i, int(i >= first)) for i in range(60)]
    assert len(since_first_use(series)) == shown


def test_a_step_that_has_just_begun_is_no_fall_to_nothing() -> None:
    series = [point(60.0 * i, 60) for i in range(20)]
    rates, *_ = drawings(series, at=19 * 60 + 5.0)
    assert "requests: lately 1.00 /s, at most 1.00 /s" in rates
    rates, *_ = drawings(series, at=19 * 60 + 30.0)
    assert "requests: lately 2.00 /s" in rates


# --- colours ---

CSS = (Path(wording.__file__).parent / "static" / "page.css").read_text()


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(one: str, two: str) -> float:
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((light(one), light(two)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read_on_their_ground(scheme: str) -> None:
    """WCAG 2 AA: 4.5 to 1 for text, 3 to 1 for the lines of a chart."""
    light, dark = CSS.split("@media (prefers-color-scheme: dark)")[:2]
    palette = colours(light) if scheme == "light" else colours(dark.split("}")[0])
    pairs = [(ink, ground) for ink in ("ink", "quiet") for ground in ("ground", "surface", "sunken")]
    pairs += [("accent", "surface"), ("accent", "accent-soft"), ("accent", "ground"), ("accent-ink", "accent")]
    pairs += [(tone, f"{tone}-soft") for tone in ("good", "warn", "bad", "note")]
    pairs += [("ink", f"{tone}-soft") for tone in ("good", "warn", "bad", "note")]
    pairs += [("two", "surface")]
    for ink, ground in pairs:
        assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)
    for tone in ("one", "two", "bad", "warn"):
        assert contrast(palette[tone], palette["surface"]) >= 3, tone
