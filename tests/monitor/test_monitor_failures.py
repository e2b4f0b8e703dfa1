"""The monitor in every trouble we can think of: no request breaks, and none waits for it."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from flask_dbopt.monitor.intake import BATCH
from flask_dbopt.monitor.ledger_file import LedgerFile
from flask_dbopt.monitor.recorder import PENDING
from tests.monitor.failing_ledger import REQUESTS, TROUBLES

SCRIPT = Path(__file__).with_name("failing_ledger.py")
#: Seconds that a request may take longer; and what one would take that waited for the ledger even once.
ALLOWED, WAITED = 0.005, 0.15


def serve(folder, trouble):
    folder.chmod(0o777)
    command = [sys.executable, str(SCRIPT), str(folder), trouble]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def is_quick(told):
    healthy, troubled = told["healthy"], told["troubled"]
    later = [troubled[int(REQUESTS * part)] - healthy[int(REQUESTS * part)] for part in (0.5, 0.9)]
    return max(later) < ALLOWED and troubled[-1] < WAITED


@pytest.mark.parametrize("trouble", [name for name in TROUBLES if name != "none"])
def test_no_request_breaks_or_waits_while_the_ledger_is(tmp_path, trouble):
    for attempt in range(3):  # another process may have had the processor
        folder = tmp_path / str(attempt)
        folder.mkdir()
        told = serve(folder, trouble)
        assert told["broken"] == 0
        assert told["counted"] >= REQUESTS, "what ran since the trouble began, at least"
        if is_quick(told):
            break
    else:
        pytest.fail(f"requests waited: {told['healthy'][-3:]} s before, {told['troubled'][-3:]} s after")
    if trouble in ("read-only", "full disk", "folder replaced"):
        assert "figures are kept in memory" in told["notices"][0]
    else:  # what SQLite has in its memory may even mend a file
        assert all("was set aside" in notice for notice in told["notices"])


@pytest.fixture
def stuck(build, clock, monkeypatch):
    """A monitor whose sweep hangs in the disk, with the lock in its hands."""
    began, end = threading.Event(), threading.Event()
    plain = LedgerFile._transaction

    @contextmanager
    def hanging(self):
        began.set()
        end.wait(30)
        with plain(self) as connection:
            yield connection

    monitor = build()
    monitor.recorder.record("SELECT 1", 0.1, 1, None, False)
    monkeypatch.setattr(LedgerFile, "_transaction", hanging)
    sweeper = threading.Thread(target=lambda: monitor.sweep(clock.now))
    sweeper.start()
    assert began.wait(10)
    yield monitor
    end.set()
    sweeper.join()


def test_whoever_records_never_waits_for_a_sweep_that_hangs(stuck):
    took = []
    for number in range(12 * PENDING):
        began = time.perf_counter()
        stuck.recorder.record("SELECT 1", 0.1, 1, None, False)
        took.append(time.perf_counter() - began)
        if number % 100 == 0:
            stuck.count("shouts")
    assert sorted(took)[-len(took) // 1000] < 0.005, "but for what another process took of the processor's time"
    assert len(stuck.recorder.loose) <= 10 * PENDING, "memory stays bounded; the oldest are dropped, and counted"


def test_a_request_that_has_to_fold_does_a_little_and_meets_neither_disk_nor_receivers(build, heard, path, caplog):
    monitor = build()
    records = [("SELECT a FROM b WHERE c = ?", 5.0 if n == 7 else 0.001, 1, None, False) for n in range(20)]
    took = []
    for _ in range(3 * PENDING // len(records)):
        cost = monitor.recorder.begin("page", "GET")
        for record in records:
            monitor.recorder.record(*record)
        began = time.thread_time()
        monitor.recorder.end(cost, 200)
        took.append(time.thread_time() - began)
    assert sorted(took)[-3] < 0.005, "of its own work; about a millisecond on a quiet machine"
    assert monitor.recorder.pending <= PENDING + BATCH
    assert not path.exists()
    assert heard == []
    assert caplog.records == []
    monitor.flush()
    assert len(heard.named("slow_query")) > 0, "told by whoever sweeps"
    assert sum(row.calls for row in monitor.queries()) == 3 * PENDING
