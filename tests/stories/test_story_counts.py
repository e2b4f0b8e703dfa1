"""Figures are true across workers: what was answered is what the page counts, whoever was killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

Serve = Callable[..., Any]

CLIENT = Path(__file__).with_name("fast_client.py")
WORKERS, THREADS, CLIENTS = 4, 2, 4


def until(true: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return found


def send(server: Any, count: int) -> list[subprocess.Popen[str]]:
    port = str(urlsplit(server.address).port)
    command = [sys.executable, str(CLIENT), port, "/count", str(count // CLIENTS)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CLIENTS)]


def answers(clients: list[subprocess.Popen[str]]) -> list[tuple[int, float, int]]:
    """How many answers each worker gave in each tenth of a second."""
    told = []
    for client in clients:
        output, _ = client.communicate(timeout=600)
        assert client.returncode == 0
        told += json.loads(output.splitlines()[-1])["answered"]
    return [(pid, at, n) for pid, at, n in told]


def counted(server: Any) -> tuple[int, int]:
    """The requests and the statement's calls that the page tells of the endpoint."""
    endpoints = {each["endpoint"]: each["calls"] for each in server.get("/_dbopt/api/v1/requests")["endpoints"]}
    queries = server.get("/_dbopt/api/v1/queries")["queries"]
    calls = [each["calls"] for each in queries if each["query"] == "SELECT count(*) FROM visit"]
    return endpoints.get("count", 0), sum(calls)


def settled(server: Any) -> tuple[int, int]:
    """The same once two looks, a flush apart, agree."""
    before = counted(server)
    while True:
        time.sleep(2.5)
        after = counted(server)
        if after == before:
            return after
        before = after


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_the_page_counts_every_request_but_what_a_killed_worker_had_not_flushed(serve: Serve, count: int) -> None:
    server = serve("-k", "gthread", "--threads", str(THREADS), "--keep-alive", "5", workers=WORKERS)
    pids = list(server.workers(count=WORKERS))
    assert len(pids) == WORKERS
    before, _ = settled(server)
    clients = send(server, count)
    assert clients[0].stdout is not None
    assert clients[0].stdout.readline() == "half\n"
    victim = pids[0]
    died = time.time()
    os.kill(victim, signal.SIGKILL)
    given = answers(clients)
    answered = sum(n for _, _, n in given)
    assert answered == count // CLIENTS * CLIENTS
    (lost,) = until(lambda: server.get("/_dbopt/api/v1/queries")["lost_workers"])
    assert lost["pid"] == victim
    assert 0 < lost["lost_seconds"] < 10
    requests, calls = (figure - before for figure in settled(server))
    # The next flush was due an interval after the last; a tenth more, for the client's clock is cut to tenths.
    at_risk = sum(n for pid, at, n in given if pid == victim and at >= died - lost["lost_seconds"] - 0.2)
    in_hand = THREADS  # worked on when it died: flushed perhaps, and never answered
    print(f"answered {answered:,}, counted {requests:,}, at risk {at_risk:,}, after {time.time() - died:.0f} s")
    assert answered - at_risk <= requests <= answered + in_hand
    assert answered - at_risk <= calls <= answered + in_hand
    assert at_risk < answered / 2, "or else this would prove nothing"
    page = server.get("/_dbopt/queries")
    assert "1 worker ended without taking leave within a day" in page
    assert f"of the figures of process {victim}" in page
    assert any(f"worker {victim} on" in notice for notice in server.get("/_dbopt/api/v1/overview")["notices"])
    assert server.stop() == 0


def test_what_workers_did_right_before_they_were_told_to_stop_is_counted(serve: Serve) -> None:
    server = serve("-k", "gthread", "--threads", str(THREADS), "--keep-alive", "5", workers=WORKERS)
    before, _ = settled(server)
    answered = sum(n for _, _, n in answers(send(server, 400)))
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10, "a farewell is bounded in time"
    code = (
        "import json, sys, story_app; report = story_app.dbopt.optimizer.monitor;"
        "print(json.dumps({e.endpoint: e.calls for e in report.endpoints()}), len(report.lost_workers()))"
    )
    environment = {**os.environ, "STORY_FOLDER": str(server.folder)}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=server.folder.parent, env=environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    calls, lost = told.stdout.rsplit(" ", 1)
    assert json.loads(calls)["count"] - before == answered
    assert int(lost) == 0
