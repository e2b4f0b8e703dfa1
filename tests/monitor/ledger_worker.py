"""A worker process for the tests of the ledger: records, flushes, and tells what it has flushed so far."""

import os
import sys
import time
from pathlib import Path

from flask_dbopt.monitor.monitor import Monitor
from flask_dbopt.settings import Settings


def main(path: str, rounds: int, each: int) -> None:
    monitor = Monitor(Settings(), Path(path))
    for _ in range(rounds):
        cost = monitor.recorder.begin("page", "GET")
        for number in range(each):
            monitor.recorder.record(f"SELECT * FROM t WHERE id = {number}", 0.001, 2, None, False)
        monitor.recorder.end(cost, 200)
        monitor.recorder.record(f"UPDATE t{os.getpid()} SET a = 1", 0.002, 1, None, False)
        monitor.count("shouts")
        monitor.sweep(time.time())
        # Told only after the flush: whatever was told must be found, however the process ends.
        print("flushed", flush=True)
    if rounds < 1_000:
        monitor.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
