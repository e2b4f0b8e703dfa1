"""What each page shows and does, over figures that are known."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

from flask_dbopt.engines.protocol import Plan
from flask_dbopt.errors import BackupError
from flask_dbopt.monitor.alerts import Alert

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PAGES = (
    "",
    "queries",
    "queries/aaaaaaaaaaaa",
    "queries/bbbbbbbbbbbb",
    "queries/ffffffffffff",
    "indexes",
    "indexes/feedc0ffee01",
    "pool",
    "cache",
    "backups",
    "alerts",
    "settings",
)


class Paper(HTMLParser):
    """A page as a careful reader sees it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self._inside.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


def read(staged: Any, path: str = "", **arguments: str) -> Paper:
    answer = staged.client.get(f"/_dbopt/{path}", query_string=arguments, headers={"Accept": "text/html", **BEARER})
    assert answer.status_code == 200, answer.text
    return Paper(answer.text)


def dense(text: str) -> str:
    return "".join(text.split())


@pytest.fixture
def staged(build: Build) -> Any:
    return build(DBOPT_ADMIN_TOKEN=TOKEN)


@pytest.fixture
def fresh(build: Build, empty_report: Any) -> Any:
    return build(report=empty_report, DBOPT_ADMIN_TOKEN=TOKEN)


# --- every page ---


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_sound(staged: Any, path: str) -> None:
    paper = read(staged, path)
    for tag, attributes in paper.tags:
        assert "style" not in attributes, f"the policy would block it: {tag}"
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("/_dbopt", "#", "?")), address
    assert not paper.all("style", "iframe")
    assert all(script["src"] for script in paper.all("script"))
    ids = Counter(attributes["id"] for _, attributes in paper.tags if "id" in attributes)
    assert not [name for name, times in ids.items() if times > 1]
    for attributes in (one for _, one in paper.tags):
        for name in ("aria-labelledby", "aria-describedby", "for", "data-copy"):
            assert attributes.get(name) is None or attributes[name] in ids
    labelled = {label["for"] for label in paper.all("label")}
    for field in paper.all("input"):
        assert field.get("type") == "hidden" or field["id"] in labelled
    assert all("alt" in image for image in paper.all("img"))
    assert all("scope" in cell for cell in paper.all("th"))
    assert len(paper.all("h1")) == len(paper.all("main")) == 1
    assert [link for link in paper.all("a") if link.get("aria-current") == "page"]
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in paper.all("svg"))


@pytest.mark.parametrize("path", ["", "queries", "indexes", "pool", "cache", "backups", "alerts", "audit", "settings"])
def test_every_page_teaches_while_there_is_nothing_to_show(fresh: Any, path: str) -> None:
    paper = read(fresh, path)
    assert "No worker has reported yet" in paper.text
    if path not in ("settings",):
        assert re.search(r"\b(No|Nothing|not)\b", paper.text)


def test_the_footer_says_how_many_workers_the_figures_cover(staged: Any) -> None:
    assert "Figures cover 2 workers: process 4101 on web-1, process 4102 on web-1" in read(staged).text


def test_the_chosen_window_travels_along(staged: Any) -> None:
    asked = []

    def build(optimizer: Any, *, since: float, now: float) -> Any:
        asked.append(now - since)
        return staged.rooms.report

    staged.rooms.build = build
    paper = read(staged, "", since="7d")
    assert asked == [7 * 86_400]
    assert "They reach back 7 days" in paper.text
    assert "/_dbopt/queries?since=7d" in [link["href"] for link in paper.all("a")]
    read(staged, "", since="for ever")
    assert asked[1] == 3600


def test_statements_and_names_cannot_bring_markup_along(build: Build, busy_report: Any) -> None:
    evil = "<script>alert(1)</script> \"' <img src=x>"
    query = dataclasses.replace(busy_report.queries[0], query=f"SELECT '{evil}' FROM t", endpoints=(evil,))
    alert = dataclasses.replace(busy_report.alerts[0], message=evil, subject=evil)
    backup = dataclasses.replace(busy_report.databases[0].backups[0], label=evil, proof=evil)
    database = dataclasses.replace(busy_report.databases[0], path=evil, backups=(backup,))
    report = dataclasses.replace(busy_report, queries=(query,), alerts=(alert,), databases=(database,), notices=(evil,))
    staged = build(report=report, DBOPT_ADMIN_TOKEN=TOKEN)
    for path in ("", "queries", "queries/aaaaaaaaaaaa", "alerts", "backups"):
        html = staged.client.get(f"/_dbopt/{path}", query_string={"q": ""}, headers=BEARER).text
        assert "<script>" not in html
        assert "<img src=x>" not in html


# --- each page ---


def test_the_overview_tells_how_the_app_does(staged: Any) -> None:
    text = read(staged).text
    for words in ("4.97/s", "51.2ms", "61.0%", "3.70", "82.4%", "99.7%", "6 of 17,913 failed"):
        assert words in text
    assert "1 alert is raised" in text
    assert "A query took 2.6 s, more than 2 s" in text
    assert "WAL-reset bug" in text
    assert "76.2% in the database" in text
    assert "33.6MiB" in text
    assert "proved" in text


def test_the_overview_draws_four_charts_that_can_be_heard(staged: Any) -> None:
    said = [svg["aria-label"] for svg in read(staged).all("svg") if "lately" in (svg.get("aria-label") or "")]
    assert len(said) == 4
    assert re.search(r"Response time\. p95: lately [\d.]+ ms, at most [\d.]+ ms", said[1] or "")


def test_the_chart_of_failed_requests_is_called_so(staged: Any) -> None:
    paper = read(staged)
    assert "Failed requests" in paper.text
    assert "Failed queries" not in paper.text


def test_a_ratio_is_a_warning_while_its_alert_stands_and_only_then(build: Build, busy_report: Any) -> None:
    cold = dataclasses.replace(busy_report.overview, cache_hit_ratio=0.02, pool_hit_ratio=0.5)
    for standing in (False, True):
        raised = [
            Alert(rule, "default", "too low", 0.02, 0.5, busy_report.at - 60)
            for rule in ("cache_hit_ratio", "pool_hit_ratio")
        ]
        report = dataclasses.replace(busy_report, overview=cold, alerts=tuple(raised if standing else ()))
        staged = build(report=report, DBOPT_ADMIN_TOKEN=TOKEN)
        warnings = [tile for tile in read(staged).all("li") if tile.get("class") == "tile warn"]
        assert len(warnings) == 2 * standing
        assert len([one for one in read(staged, "pool").all("li") if one.get("class") == "tile warn"]) == standing
        assert bool([arc for arc in read(staged, "cache").all("circle") if "warn" in arc["class"]]) == standing


def test_the_pool_page_says_how_many_are_allowed(build: Build, busy_report: Any) -> None:
    database = busy_report.databases[0]
    stats = dataclasses.replace(database.pool, pool_max=2_000)
    report = dataclasses.replace(busy_report, databases=(dataclasses.replace(database, pool=stats),))
    assert "of 2,000 allowed" in read(build(report=report, DBOPT_ADMIN_TOKEN=TOKEN), "pool").text


def test_the_overview_of_an_app_at_ease_says_so(fresh: Any) -> None:
    assert "All is well" in read(fresh).text


def test_queries_are_listed_by_what_they_cost_in_all(staged: Any) -> None:
    text = read(staged, "queries").text
    order = ["count(*)", "LIKE", "WHERE word = ?", "WHERE id = ?", "INSERT INTO saved", "SELECT name"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert "index advice" in text
    assert "6 failed" in text


@pytest.mark.parametrize(
    ("sort", "first"), [("calls", "WHERE id = ?"), ("mean_time", "LIKE"), ("errors", "LIKE"), ("nonsense", "count(*)")]
)
def test_queries_can_be_sorted(staged: Any, sort: str, first: str) -> None:
    paper = read(staged, "queries", sort=sort)
    table = paper.text[paper.text.index("Last run") :]
    others = ("WHERE id = ?", "LIKE", "count(*)")
    assert min(others, key=table.index) == first
    assert [cell for cell in paper.all("th") if cell.get("aria-sort") == "descending"]


def test_queries_can_be_filtered_by_statement_and_endpoint(staged: Any) -> None:
    text = read(staged, "queries", q="Keyword SUGGEST").text
    assert "LIKE" in text
    assert "INSERT" not in text
    assert "Nothing matches “zebra”" in read(staged, "queries", q="zebra").text


def test_a_long_list_says_how_many_are_left_out(build: Build, busy_report: Any) -> None:
    many = tuple(dataclasses.replace(busy_report.queries[0], id=f"{n:012x}") for n in range(130))
    staged = build(report=dataclasses.replace(busy_report, queries=many), DBOPT_ADMIN_TOKEN=TOKEN)
    assert "30 more statements" in read(staged, "queries").text


def test_a_query_shows_its_plan_and_the_advice(staged: Any) -> None:
    text = read(staged, "queries/bbbbbbbbbbbb").text
    assert "reads all 320,000 rows of keyword whole table" in text
    assert "An index would help" in text
    assert "CREATE INDEX keyword_word ON keyword (word)" in text


def test_a_query_shows_its_slow_runs_where_they_come_from_and_how_its_plan_was(staged: Any) -> None:
    text = read(staged, "queries/bbbbbbbbbbbb").text
    assert "from app/views.py:41" in text
    assert "Its plan has changed" in text
    assert "finds rows of keyword by word" in text
    assert "812mskeyword3rows" in dense(text)
    assert "'schlafen'" in text
    assert "app/views.py:41 in keyword" in text
    assert "340msoutsideanyrequestOperationalError" in dense(text)
    other = read(staged, "queries/aaaaaaaaaaaa").text
    assert "No slow run is kept" in other
    assert "Its plan has changed" not in other


def test_requests_show_what_endpoints_ask_and_which_single_ones_ask_too_much(staged: Any) -> None:
    paper = read(staged, "requests")
    assert "GET lists" in paper.text
    assert "214queries200ofthemrepeated1transactionstatus200" in dense(paper.text)
    assert "201timesSELECT*FROMlistWHEREid=?app/lists.py:12" in dense(paper.text)
    assert "POST search" in paper.text
    assert "raised" in paper.text
    assert any(link.get("href") == "/_dbopt/queries/eeeeeeeeeeee" for link in paper.all("a"))


@pytest.mark.parametrize("sort", ["", "queries", "errors", "p95", "?"])
def test_endpoints_can_be_sorted(staged: Any, sort: str) -> None:
    text = read(staged, "requests", sort=sort).text
    table = text[text.find("In the database") :]
    assert (table.find(" keyword ") < table.find(" search ")) == (sort == "queries")


def test_a_worker_that_was_killed_is_told_of_beneath_the_figures(staged: Any) -> None:
    text = read(staged, "queries").text
    assert "1 worker ended without taking leave within a day: up to" in text
    assert "of the figures of process 4099" in text


def test_with_several_databases_each_statement_names_its_own(build: Build, busy_report: Any) -> None:
    first, *others = busy_report.queries
    archive = dataclasses.replace(busy_report.databases[0], name="archive")
    report = dataclasses.replace(
        busy_report,
        databases=(*busy_report.databases, archive),
        queries=(dataclasses.replace(first, database="archive"), *others),
    )
    staged = build(report=report, DBOPT_ADMIN_TOKEN=TOKEN)
    assert "archive" in read(staged, "queries").text
    assert "database archive" in read(staged, f"queries/{first.id}").text
    assert first.query.split()[1].rstrip(",") in read(staged, "queries", q="archive").text


def test_a_query_without_advice_says_why_no_index_helps(staged: Any) -> None:
    text = read(staged, "queries/aaaaaaaaaaaa").text
    assert "Why no index is recommended" in text
    assert "may begin with %" in text
    assert "sorts the result by frequency" in text


def test_a_query_shows_how_its_runs_are_spread(staged: Any) -> None:
    labels = [svg.get("aria-label") or "" for svg in read(staged, "queries/aaaaaaaaaaaa").all("svg")]
    assert "How long it takes: quickest 14.3 ms, p50 64.2 ms, p95 171 ms, p99 356 ms, slowest 642 ms" in labels


def test_a_query_that_only_the_cache_answered_claims_no_duration(staged: Any) -> None:
    paper = read(staged, "queries/ffffffffffff")
    assert "How long it takes" not in paper.text
    assert "run outside any request" in paper.text


def test_a_query_that_cannot_be_explained_says_what_the_database_said(staged: Any) -> None:
    text = read(staged, "queries/eeeeeeeeeeee").text
    assert "no such table: list" in text
    assert "nothing to say" in text


def test_a_query_is_explained_by_the_database_that_can(staged: Any) -> None:
    other = SimpleNamespace(
        explain=lambda sql: Plan(sql, problem="no such table: keyword"), why_not=lambda sql: "", recommend=tuple
    )
    own = staged.optimizer.databases["default"]
    staged.optimizer.databases = {
        "elsewhere": SimpleNamespace(advisor=other, planner=None, backups=None),
        "server": SimpleNamespace(advisor=None, planner=None, backups=None),
        "default": own,
    }
    text = read(staged, "queries/aaaaaaaaaaaa").text
    assert "reads all 320,000 rows" in text
    assert "no such table" not in text


def test_a_query_of_another_time_shows_its_kept_figures(staged: Any) -> None:
    assert "did not run in the last hour" in read(staged, "queries/0123456789ab").text


def test_a_query_nobody_knows_is_not_here(staged: Any) -> None:
    answer = staged.signed_in().get("/_dbopt/queries/999999999999")
    assert answer.status_code == 404
    assert "No statement 999999999999 is recorded" in answer.text


def test_indexes_show_both_plans_and_what_is_there_already(staged: Any) -> None:
    text = read(staged, "indexes").text
    for words in (
        "reads all 320,000 rows",
        "finds rows of keyword by word",
        "keyword_language",
        "(language, expression)",
        "unique",
        "partial",
        "320,000",
        "none beside the primary key",
        "1 statement it helps",
    ):
        assert words in text


def test_indexes_say_what_it_takes_to_get_advice(fresh: Any) -> None:
    assert "at least 50 calls of 20.0ms or more, and tables of 500 rows or more" in read(fresh, "indexes").text


def test_tables_that_cannot_be_read_now_do_not_hide_the_advice(staged: Any) -> None:
    def locked() -> Any:
        raise BackupError("database is locked", hint="try again")

    staged.rooms.tables = locked
    text = read(staged, "indexes").text
    assert "database is locked" in text
    assert "Worth building" in text


def test_the_pool_shows_what_is_lent_and_how_long_it_takes(staged: Any) -> None:
    paper = read(staged, "pool")
    for words in ("of 40 allowed", "99.7%", "4.06ms", "200 had to wait", "3.18ms", "10 to 40", "4101"):
        assert words in paper.text
    assert "3 of 40 connections are lent" in [svg.get("aria-label") for svg in paper.all("svg")]


def test_the_pool_shows_who_writes_and_who_waits_for_it(staged: Any) -> None:
    paper = read(staged, "pool")
    for words in ("Writers of default", "12.0ms", "412ms", "POST save 4,100 turns, 2.00ms each", "8.20s", "9.90s"):
        assert words in paper.text


def test_the_pool_names_updates_that_may_be_lost_and_links_their_statements(staged: Any) -> None:
    paper = read(staged, "pool")
    for words in ("Updates that may be lost", "lists.rename", "work outside requests", "2 min ago"):
        assert words in paper.text
    links = [link["href"] for link in paper.all("a")]
    assert "/_dbopt/queries/eeeeeeeeeeee" in links
    assert "/_dbopt/queries/dddddddddddd" in links


def test_where_nobody_takes_turns_the_pool_says_nothing_of_them(build: Build, busy_report: Any) -> None:
    database = dataclasses.replace(busy_report.databases[0], writers=None, holders=())
    report = dataclasses.replace(busy_report, databases=(database,), lost_updates=())
    text = read(build(report=report, DBOPT_ADMIN_TOKEN=TOKEN), "pool").text
    assert "Writers" not in text
    assert "may be lost" not in text


def test_an_unused_pool_is_said_to_be_unused(fresh: Any) -> None:
    assert "No pool has been used yet" in read(fresh, "pool").text


def test_the_cache_shows_its_ratio_its_room_and_whom_it_serves(staged: Any) -> None:
    paper = read(staged, "cache")
    for words in ("82.4%", "41,200 of 50,000 look-ups", "412 of 2,000", "8.96MiB of 128MiB", "87.5%", "2.12min"):
        assert words in paper.text
    assert "Cache hit ratio 82.4 %" in [svg.get("aria-label") for svg in paper.all("svg")]


def test_a_cache_that_is_off_is_said_to_be_off(build: Build, busy_report: Any) -> None:
    off = dataclasses.replace(busy_report, cache=dataclasses.replace(busy_report.cache, enabled=False))
    assert "The cache is off" in read(build(report=off, DBOPT_ADMIN_TOKEN=TOKEN), "cache").text


def test_backups_say_up_to_when_one_could_go_back_and_since_when_that_is_proved(staged: Any) -> None:
    text = read(staged, "backups").text
    assert "Restorable up to 3 h ago" in text
    assert "proved 3 h ago: restored, same content, quick_check ok" in text
    assert "in 21 h" in text
    assert "failed page 31 differs" in text
    assert "not checked" in text
    assert "before the release" in text
    assert "flask db-opt restore 20261118-010500-1 --dry-run" in text


def test_no_backup_at_all_is_a_warning(fresh: Any) -> None:
    assert "No backup yet" in read(fresh, "backups").text


def test_backups_without_a_proof_do_not_count(build: Build, busy_report: Any) -> None:
    database = busy_report.databases[0]
    unproved = dataclasses.replace(database, backups=database.backups[2:])
    staged = build(report=dataclasses.replace(busy_report, databases=(unproved,)), DBOPT_ADMIN_TOKEN=TOKEN)
    text = read(staged, "backups").text
    assert "No backup is proved" in text
    assert "Restorable" not in text


def test_an_old_backup_is_said_to_be_overdue(staged: Any) -> None:
    assert "overdue" not in read(staged, "backups").text
    staged.clock.now += 40 * 3600
    assert "A newer one is overdue" in read(staged, "backups").text


def test_a_database_that_is_no_file_is_said_to_have_no_backups(build: Build, busy_report: Any) -> None:
    server = dataclasses.replace(busy_report.databases[0], name="server", kind="postgresql", backups=())
    report = dataclasses.replace(busy_report, databases=(*busy_report.databases, server))
    staged = build(report=report, DBOPT_ADMIN_TOKEN=TOKEN)
    assert "server is not backed up" in read(staged, "backups").text
    nothing = build(report=dataclasses.replace(busy_report, databases=()), DBOPT_ADMIN_TOKEN=TOKEN)
    assert "No database to back up" in read(nothing, "backups").text
    assert "No database is known" in read(nothing).text


def test_alerts_show_rules_thresholds_and_what_was_resolved(staged: Any) -> None:
    paper = read(staged, "alerts")
    told = ("query_too_slow", "1 raised", "longer than 2 s", "less than 50 %", "connection_errors", "raised 22 min ago")
    for words in told:
        assert words in paper.text
    assert "/_dbopt/queries/aaaaaaaaaaaa" in [link.get("href") for link in paper.all("a")]


def test_settings_show_value_source_and_meaning_but_no_secret(build: Build) -> None:
    hook = "https://user:hunter2@hooks.example/T0K3N"
    staged = build(
        DBOPT_ADMIN_TOKEN=TOKEN,
        DBOPT_POOL_MAX=7,
        DBOPT_CACHE_MAX_ENTRIES=1_234_567,
        DBOPT_DATABASE=hook,
        DBOPT_ALERT_WEBHOOK=hook,
    )
    html = staged.client.get("/_dbopt/settings", headers=BEARER).text
    assert TOKEN not in html
    assert "hunter2" not in html
    assert "T0K3N" not in Paper(html).text.partition("DBOPT_ALERT_WEBHOOK")[2]
    text = Paper(html).text
    assert "app.config DBOPT_POOL_MAX" in text
    for words in (
        "7 connections",
        "1,234,567",
        "64.0 MiB",
        "not set",
        "24 hours",
        "none",
        "on",
        "the most connections lent",
    ):
        assert words in text


def test_with_several_databases_the_restore_commands_name_theirs(build: Build, busy_report: Any) -> None:
    other = dataclasses.replace(busy_report.databases[0], name="archive")
    report = dataclasses.replace(busy_report, databases=(*busy_report.databases, other))
    text = read(build(report=report, DBOPT_ADMIN_TOKEN=TOKEN), "backups").text
    assert "flask db-opt restore latest --database archive" in text
