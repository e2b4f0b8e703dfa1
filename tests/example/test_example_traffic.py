"""The visitors: only to this machine, never without bounds, and honest about what they measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from example_app import figures, side_by_side
from example_app.server import Server, ServerError, running
from example_app.traffic import (
    WEIGHTS,
    Known,
    Run,
    Sample,
    TrafficError,
    drive,
    explore,
    loopback,
    main,
    plan,
)

KNOWN = Known(("en", "de"), ((1, "the"), (2, "house"), (3, "straße")), (1, 2))


@pytest.fixture(scope="module")
def server(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    side_by_side.copy(small_data, folder / "omni.sqlite")
    with running(folder, optimize=False) as server:
        yield server


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:8000",
        "http://192.168.1.10",
        "http://example.com/",
        "http://0.0.0.0:8000",
        "http://[2001:db8::1]:80",
        "https://127.0.0.1:8000",
        "http://127.0.0.1:99999",
        "http://127.0.0.1.example.com:80",
        "http://localhost@example.com/",
        "ftp://localhost",
        "127.0.0.1:8000",
        "",
    ],
)
def test_traffic_to_any_other_machine_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TrafficError):
        drive(url, plan(KNOWN, 1))
    with pytest.raises(TrafficError):
        explore(url)
    if url:
        assert main(["--url", url]) == 2
        assert "No traffic" in capsys.readouterr().err


def test_this_machine_has_many_names() -> None:
    assert loopback("http://127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert loopback("http://127.9.9.9/") == ("127.9.9.9", 80)
    assert loopback("http://[::1]:5000/x") == ("::1", 5000)
    assert loopback("http://localhost:1") == ("127.0.0.1", 1)


def test_traffic_has_bounds() -> None:
    one = plan(KNOWN, 1)
    for requests in (0, -1, 100_001):
        with pytest.raises(TrafficError, match="requests"):
            plan(KNOWN, requests)
    for threads in (0, 33):
        with pytest.raises(TrafficError, match="visitors"):
            drive("http://127.0.0.1:9", one, threads=threads)
    for seconds in (0, -1, 901):
        with pytest.raises(TrafficError, match="seconds"):
            drive("http://127.0.0.1:9", one, seconds=seconds)
    with pytest.raises(TrafficError, match="requests"):
        drive("http://127.0.0.1:9", [])


def test_the_same_seed_plans_the_same_visits() -> None:
    assert plan(KNOWN, 500, seed=7) == plan(KNOWN, 500, seed=7) != plan(KNOWN, 500, seed=8)
    assert {step.page for step in plan(KNOWN, 3000)} == set(WEIGHTS)


def test_visitors_find_every_page_and_meet_no_error(server: Server) -> None:
    known = explore(server.url)
    assert set(known.codes) == {"en", "de", "fr"}
    run = drive(server.url, plan(known, 300), threads=3, seconds=60)
    assert len(run.samples) >= 300
    assert run.errors == 0
    assert {sample.page for sample in run.samples} == set(WEIGHTS)
    assert explore(server.url).lists == known.lists  # visitors take their own lists with them


def test_the_time_is_a_bound_too(server: Server) -> None:
    run = drive(server.url, plan(explore(server.url), 20_000), threads=1, seconds=0.3)
    assert 1 <= len(run.samples) < 5_000
    assert run.seconds < 10


def test_an_app_that_is_gone_is_counted_as_errors_not_as_speed() -> None:
    run = drive("http://127.0.0.1:9", plan(KNOWN, 5), seconds=5)
    assert run.errors == len(run.samples) == 5
    assert {sample.status for sample in run.samples} == {0}


def test_a_stranger_on_the_port_is_not_visited(server: Server) -> None:
    with pytest.raises(TrafficError, match="does not look like"):
        explore("http://127.0.0.1:9")


def test_the_command_prints_a_table(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", server.url, "--requests", "40", "--seconds", "30"]) == 0
    out = capsys.readouterr().out
    assert "a second, 0 errors" in out
    assert out.rstrip().splitlines()[-1].startswith("all pages")
    with pytest.raises(SystemExit):
        main([])
    assert main(["--url", server.url, "--requests", "0"]) == 2


def test_quantiles_are_by_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [figures.quantile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert figures.quantile([3.0], 0.5) == figures.quantile([3.0], 0.99) == 3.0


def test_side_by_side_shows_the_change_of_each_page() -> None:
    slow = Run(tuple(Sample("search", 0.2, 200) for _ in range(9)), 2.0)
    quick = Run(tuple(Sample("search", 0.05, 200) for _ in range(9)), 0.5)
    text = figures.both(slow, quick)
    assert "-75 %" in text
    assert "without: 9 requests in 2.0 s, 4.5 a second, 0 errors" in text
    assert "with us: 9 requests in 0.5 s, 18.0 a second, 0 errors" in text


def test_with_and_without_run_side_by_side(small_data: Path) -> None:
    text = side_by_side.compare(requests=60, seconds=40, threads=2, source=small_data)
    assert text.count("0 errors") == 2
    assert "all pages" in text


def test_a_side_that_does_not_start_says_why(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class=no.such.Class")
    with pytest.raises(ServerError, match=r"(?s)gunicorn ended.*No module named"):
        side_by_side.compare(requests=10, seconds=5, threads=1, source=small_data)
