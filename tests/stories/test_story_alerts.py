"""An alert among real workers: told once, by one of them, through the death of that one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.receiver import Receiver, until

Serve = Callable[..., Any]

APP = """
import os
from flask import Flask
from flask_dbopt import DBOptimizer

FOLDER = os.environ["STORY_FOLDER"]
app = Flask("story", instance_path=FOLDER)
app.config.update(
    DBOPT_DATABASE=os.path.join(FOLDER, "story.db"),
    DBOPT_ADMIN_TOKEN="a-token-for-the-story",
    DBOPT_BACKUP_ENABLED=False,
    DBOPT_ALERT_SLOW_QUERY_SECONDS=0.05,
)
os.makedirs(FOLDER, exist_ok=True)
dbopt = DBOptimizer(app)

@app.get("/slow")
def slow():
    sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT count(*) FROM n"
    return {"rows": dbopt.connection.execute(sql).fetchone()[0]}

@app.get("/count")
@app.get("/inside")
def inside():
    return {"pid": os.getpid(), "holds_lease": dbopt.optimizer.lease.held}
"""


@pytest.mark.slow
def test_an_alert_is_posted_once_though_its_worker_is_killed(serve: Serve, receiver: Receiver) -> None:
    server = serve(app=APP, DBOPT_ALERT_WEBHOOK=receiver.address, no_proxy="127.0.0.1")
    server.workers()
    server.get("/slow")
    until(lambda: receiver.taken, 20)
    (body,) = receiver.bodies()
    assert (body["event"], body["alert"]["rule"]) == ("raised", "query_too_slow")
    holder = next(pid for pid, seen in server.workers().items() if seen["holds_lease"])
    os.kill(holder, signal.SIGKILL)

    def another_leads() -> bool:
        return any(seen["holds_lease"] and pid != holder for pid, seen in server.workers().items())

    until(another_leads, 20)
    server.get("/slow")
    time.sleep(8)  # more than one turn of the new holder
    assert len(receiver.taken) == 1
    told = server.get("/_dbopt/api/v1/alerts")["alerts"]
    assert [(alert["rule"], alert["state"]) for alert in told] == [("query_too_slow", "raised")]
    assert server.stop() == 0
