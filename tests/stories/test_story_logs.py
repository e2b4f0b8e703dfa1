"""Several gunicorn workers, one folder of logs, one audit log; one of the workers is killed."""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from flask_dbopt.audit.audit import Audit

Serve = Callable[..., Any]
TOKEN = "a-token-for-the-story"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\d+) [A-Z]+ flask_dbopt(\.\w+)?: .+")


def post(server: Any, path: str) -> None:
    request = urllib.request.Request(
        server.address + path, data=b"", headers={"Authorization": f"Bearer {TOKEN}"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["forked first", "preloaded"])
def test_workers_share_their_logs_and_one_that_is_killed_spoils_none(serve: Serve, options: tuple[str, ...]) -> None:
    settings = {"DBOPT_LOG_DIR": "logs", "DBOPT_LOG_MAX_BYTES": "20000", "DBOPT_MONITOR_SLOW_SECONDS": "0"}
    server = serve(*options, workers=3, **settings)
    pids = set(server.workers(count=3))
    for turn in range(40):
        for _ in range(10):
            pids.add(server.get("/visit")["pid"])
        post(server, "/_dbopt/cache/clear")
        if turn == 20:
            time.sleep(2.5)  # until what was run is folded, and lines are being written
            os.kill(min(pids), signal.SIGKILL)
            while len(pids) < 4:
                pids.add(server.get("/visit")["pid"])
    assert server.stop() == 0
    logs = server.folder / "logs"
    lines = {path.name: path.read_text().splitlines() for path in logs.glob("*.log*") if "audit" not in path.name}
    assert {"connection_pool.log", "query_metrics.log", "query_metrics.log.1", "monitoring.log"} <= set(lines)
    for name, told in lines.items():
        assert [line for line in told if not LINE.fullmatch(line)] == [], name
    writers = {int(LINE.fullmatch(line)[1]) for line in lines["monitoring.log"]}
    assert len(writers) >= 4, "three workers, and the one that came for the killed one"
    assert sum("process" in line and "stopped" in line for line in lines["monitoring.log"]) >= 3
    audit = Audit(logs / "audit.log")
    assert audit.verdict().intact
    cleared = list(audit.entries(deed="cache.clear"))
    assert len(cleared) == 40
    assert len({entry.who["pid"] for entry in cleared}) > 1
    assert {entry.who["by"] for entry in cleared} == {"page"}
