"""Serves requests while the ledger is in trouble, and tells what they took: a process of its own for the tests.

Run with a folder and the name of a trouble. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from tempfile import gettempdir

from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.monitor.ledger_file import LedgerFile

#: Requests of each kind, and seconds between sweeps: forty times as often as in a worker.
REQUESTS, EVERY = 300, 0.05

Trouble = Callable[[Path], None]


def make_app(folder: Path) -> tuple[Flask, DBOptimizer]:
    database = folder / "app.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT)")
        connection.executemany("INSERT INTO word (text) VALUES (?)", ((f"word {n}",) for n in range(1000)))
    connection.close()
    app = Flask("failing", instance_path=str(folder / "instance"))
    app.config.update(DATABASE=str(database), DBOPT_BACKUP_ENABLED=False)
    dbopt = DBOptimizer(app)

    @app.get("/<int:word>")
    def show(word: int) -> list[str]:
        connection = dbopt.connection
        return [connection.execute(f"SELECT text FROM word WHERE id = {word} + {n}").fetchone()[0] for n in range(1, 4)]

    return app, dbopt


def in_another_process(code: str, path: Path) -> None:
    # To close a file here would drop the locks that SQLite holds on it here.
    subprocess.run([sys.executable, "-c", f"import os, sys; path = sys.argv[1]; {code}", str(path)], check=True)


def delete(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def truncate(path: Path) -> None:
    in_another_process("os.truncate(path, 5000); os.truncate(path + '-wal', 0)", path)


def flip(path: Path) -> None:
    in_another_process(
        "os.truncate(path + '-wal', 0); f = open(path, 'r+b');"
        " [(f.seek(at), f.write(os.urandom(64))) for at in range(100, os.path.getsize(path), 512)]",
        path,
    )


def make_read_only(path: Path) -> None:
    """For nobody's user, since root may write anywhere."""
    for file in (*path.parent.iterdir(), path.parent):
        file.chmod(0o555 if file.is_dir() else 0o444)
    if os.getuid() == 0:
        for folder in takewhile(lambda parent: parent != Path(gettempdir()), path.parents):
            folder.chmod(folder.stat().st_mode | 0o055)
        os.setuid(65_534)


def fill_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


def replace_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.write_text("a file where the folder was")


def slow_down(path: Path) -> None:
    """A disk on which each transaction takes a third of a second."""
    plain = LedgerFile._transaction

    @contextmanager
    def slow(self: LedgerFile) -> Iterator[sqlite3.Connection]:
        with plain(self) as connection:
            yield connection
            time.sleep(0.3)

    LedgerFile._transaction = slow


def lock(path: Path) -> None:
    code = (
        "import sqlite3, sys, time; connection = sqlite3.connect(sys.argv[1]);"
        " connection.execute('BEGIN EXCLUSIVE'); print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    holder.stdout.readline()
    threading.Thread(target=lambda: (END.wait(), holder.kill()), daemon=False).start()


def nothing(path: Path) -> None:
    """All is well."""


TROUBLES: dict[str, Trouble] = {
    "none": nothing,
    "deleted": delete,
    "truncated": truncate,
    "flipped bytes": flip,
    "read-only": make_read_only,
    "full disk": fill_disk,
    "folder replaced": replace_folder,
    "slow disk": slow_down,
    "locked by a foreign process": lock,
}
END = threading.Event()


def main(folder: Path, name: str) -> None:
    app, dbopt = make_app(folder)
    monitor = dbopt.optimizer.monitor
    client = app.test_client()
    broken = 0

    def serve() -> list[float]:
        nonlocal broken
        taken = []
        for number in range(REQUESTS):
            began = time.perf_counter()
            answer = client.get(f"/{number}")
            taken.append(time.perf_counter() - began)
            broken += answer.status_code != 200 or answer.json != [f"word {number + n - 1}" for n in range(1, 4)]
            time.sleep(0.001)
        return taken

    def sweep() -> None:
        while not END.wait(EVERY):
            monitor.sweep(time.time())
            monitor.evaluate(time.time())

    sweeper = threading.Thread(target=sweep)
    serve()  # warm
    sweeper.start()
    healthy = serve()
    TROUBLES[name](folder / "instance" / "dbopt" / "ledger.db")
    monitor.let_go()  # a handle that is open may go on as if nothing was; a new one meets the trouble
    troubled = serve()
    calls = {row.endpoint: row.calls for row in monitor.endpoints()}
    END.set()
    sweeper.join()
    print(
        json.dumps(
            {
                "broken": broken,
                "healthy": sorted(healthy),
                "troubled": sorted(troubled),
                "counted": calls.get("show", 0),
                "notices": monitor.notices(),
            }
        ),
        flush=True,
    )
    dbopt.optimizer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
