"""One process whose threads read and write at random. It tells what was overwritten unseen, and what was reported.

Each table has one row with a token: whoever writes it puts in a new one, and keeps the one it overwrote. So it is known
for certain whether what a piece of work read was still there when it wrote.
"""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import threading
import time
from contextlib import closing, suppress
from typing import Any

from flask import Flask

from flask_dbopt import DBOptimizer, signals

TABLES = ("one", "two")


class Worker:
    def __init__(self, database: str, instance: str, seed: int) -> None:
        self.app = Flask("overlaps", instance_path=instance)
        self.app.config.update(DATABASE=database, DBOPT_SQLITE_BUSY_TIMEOUT=1.0)
        self.dbopt = DBOptimizer(self.app)
        self.monitor = self.dbopt.optimizer.monitor
        self.seed = seed
        self.reported: list[tuple[str, str]] = []
        self.truth: list[tuple[str, str]] = []
        signals.lost_update_detected.connect(self.hear, self.app)

    def hear(self, sender: Any, *, table: str, endpoint: str, **_: Any) -> None:
        self.reported.append((endpoint.removeprefix("job: "), table))

    def work(self, thread: int, pieces: int) -> None:
        chance = random.Random(1000 * self.seed + thread)
        for number in range(pieces):
            name = f"{self.seed}-{thread}-{number}"
            with self.app.app_context(), self.monitor.job(name), closing(self.dbopt.connect()) as connection:
                self.piece(connection, name, chance)

    def piece(self, connection: Any, name: str, chance: random.Random) -> None:
        """One or two transactions: some reads, a pause, some writes, and mostly a COMMIT."""
        read: dict[str, str] = {}
        for transaction in range(chance.choice((1, 1, 2))):
            token = f"{name}/{transaction}"
            written: list[tuple[str, str]] = []
            try:
                self.look(connection, read, chance)
                if (begin := chance.choice(("", "", "", "BEGIN", "BEGIN IMMEDIATE"))) != "":
                    connection.execute(begin)
                    self.look(connection, read, chance)
                time.sleep(chance.choice((0, 0.001, 0.003)))
                for table in chance.sample(TABLES, chance.choice((0, 1, 1, 2))):
                    connection.execute(f"UPDATE {table} SET before = token, token = ?", (token,))
                    before = connection.execute(f"SELECT before FROM {table} WHERE id = 1").fetchone()[0]
                    if read.get(table, before) != before:
                        written.append((name, table))
                    read[table] = token
                if chance.random() < 0.8:
                    connection.commit()
                    self.truth += written
                else:
                    connection.rollback()
            except sqlite3.OperationalError:
                connection.rollback()

    @staticmethod
    def look(connection: Any, read: dict[str, str], chance: random.Random) -> None:
        for table in chance.sample(TABLES, chance.choice((0, 1, 2))):
            read[table] = connection.execute(f"SELECT token FROM {table}").fetchone()[0]

    def sweep(self) -> None:
        self.monitor.sweep(time.time())

    def run(self, threads: int, pieces: int) -> None:
        running = [threading.Thread(target=self.work, args=(number, pieces)) for number in range(threads)]
        for thread in running:
            thread.start()
        while any(thread.is_alive() for thread in running):
            time.sleep(0.2)
            self.sweep()
        for thread in running:
            thread.join()
        self.sweep()


def main() -> None:
    database, instance, seed, threads, pieces = sys.argv[1:]
    worker = Worker(database, instance, int(seed))
    worker.sweep()  # so that the others know of it
    print("ready", flush=True)
    sys.stdin.readline()
    worker.run(int(threads), int(pieces))
    print("ran", flush=True)
    sys.stdin.readline()
    worker.sweep()
    print(json.dumps({"truth": worker.truth, "reported": worker.reported}), flush=True)
    with suppress(Exception):
        worker.dbopt.close()


if __name__ == "__main__":
    main()
