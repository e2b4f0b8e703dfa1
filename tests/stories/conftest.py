"""Real gunicorn workers on loopback, serving a small app that tells what it sees inside."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

TOKEN = "a-token-for-the-story"

APP = """
import gc, os, sqlite3, threading
from flask import Flask, g
from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite.connection import Connection

FOLDER = os.environ["STORY_FOLDER"]
os.makedirs(FOLDER, exist_ok=True)
BORN_IN = os.getpid()
app = Flask("story", instance_path=FOLDER)
app.config.update(
    DATABASE=os.path.join(FOLDER, "story.db"),
    DBOPT_ADMIN_TOKEN="{token}",
    DBOPT_BACKUP_INTERVAL_HOURS=float(os.environ.get("STORY_BACKUP_HOURS", "24")),
)
dbopt = DBOptimizer(app)

def get_db():
    if "db" not in g:
        g.db = dbopt.connect()
    return g.db

@app.teardown_appcontext
def close_db(error):
    db = g.pop("db", None)
    if db is not None:
        db.close()

with app.app_context():
    # As an app that looks at its database while it is imported: under --preload that is before the fork.
    get_db().executescript("CREATE TABLE IF NOT EXISTS visit (pid INTEGER)")
INHERITED = {{id(each) for each in gc.get_objects() if isinstance(each, Connection)}}

@app.get("/visit")
def visit():
    with get_db() as db:
        db.execute("INSERT INTO visit VALUES (?)", (os.getpid(),))
    return {{"pid": os.getpid()}}

@app.get("/count")
def count():
    return {{"pid": os.getpid(), "visits": get_db().execute("SELECT count(*) FROM visit").fetchone()[0]}}

@app.get("/inside")
def inside():
    db = get_db()
    return {{
        "pid": os.getpid(),
        "born_in": BORN_IN,
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "inherited": id(db) in INHERITED and os.getpid() != BORN_IN,
        "holds_lease": dbopt.optimizer.lease.held,
        "pool": dbopt.pool.stats().connections_num,
    }}
"""


@dataclass
class Server:
    """A running gunicorn."""

    process: subprocess.Popen[bytes]
    address: str
    folder: Path

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as response:
            body = response.read()
            return json.loads(body) if response.headers.get_content_type() == "application/json" else body.decode()

    def workers(self, path: str = "/inside", *, count: int = 2) -> dict[int, Any]:
        """What ``path`` says in each worker; asks until all have answered."""
        seen: dict[int, Any] = {}
        deadline = time.monotonic() + 20
        while len(seen) < count and time.monotonic() < deadline:
            answer = self.get(path)
            seen[answer["pid"]] = answer
        return seen

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(*options: str, workers: int = 2, app: str = "", **environment: str) -> Server:
        (tmp_path / "story_app.py").write_text(app or dedent(APP.format(token=TOKEN)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = (tmp_path / "gunicorn.log").open("ab")
        command = [sys.executable, "-m", "gunicorn", "-w", str(workers), "-b", f"127.0.0.1:{port}", *options]
        process = subprocess.Popen(
            [*command, "story_app:app"],
            cwd=tmp_path,
            env={**os.environ, "STORY_FOLDER": str(tmp_path / "instance"), **environment},
            stdout=log,
            stderr=log,
        )
        log.close()
        (tmp_path / "instance").mkdir(exist_ok=True)
        server = Server(process, f"http://127.0.0.1:{port}", tmp_path / "instance")
        running.append(server)
        deadline = time.monotonic() + 30
        while True:
            try:
                server.get("/count")
                return server
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((tmp_path / "gunicorn.log").read_text()) from None
                time.sleep(0.05)

    yield start
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
