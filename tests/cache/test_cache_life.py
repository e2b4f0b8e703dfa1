"""What becomes of a cache in time: swept, let go, closed, switched off, forked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flask_dbopt.cache.cache import CacheStats, Ticket

if TYPE_CHECKING:
    from conftest import Bench

SQL = "SELECT text FROM word WHERE id >= ? ORDER BY id"
FACTORIES = (None, str)


def test_the_sweep_drops_what_is_old_or_untrue(bench: Bench) -> None:
    bench.restart(ttl=60)
    reader = bench.reader()
    reader.warm(SQL, (1,))
    bench.cache.sweep(bench.clock.now)
    assert bench.cache.stats().entries == 1
    bench.writer.execute("DELETE FROM word")
    bench.cache.sweep(bench.clock.now)
    assert bench.cache.stats().entries == 0
    reader.warm(SQL, (1,))
    bench.cache.sweep(bench.clock.now + 61)
    stats = bench.cache.stats()
    assert (stats.entries, stats.invalidations, stats.expirations) == (0, 1, 1)


def handles(bench: Bench) -> int:
    """How many descriptors of this process are open on the database and the files beside it."""
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            count += str(descriptor.readlink()).startswith(str(bench.path))
        except OSError:
            continue
    return count


def test_a_shelf_that_nobody_uses_lets_go_of_its_file(bench: Bench) -> None:
    before = handles(bench)
    bench.cache.sweep(bench.clock.now)
    assert handles(bench) == before  # never used: nothing was opened to look
    reader = bench.reader()
    reader.warm(SQL, (1,))
    reader.connection.close()
    assert handles(bench) > before
    bench.cache.sweep(bench.clock.now)
    bench.cache.sweep(bench.clock.now + 299)
    assert handles(bench) > before
    bench.cache.sweep(bench.clock.now + 301)
    assert handles(bench) == before
    assert bench.cache.stats().entries == 0
    reader = bench.reader()
    reader.warm(SQL, (1,))
    reader.ask(SQL, (1,))
    assert reader.how == "hit"


def test_a_sweep_notices_that_the_file_is_gone(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    reader.connection.close()
    bench.writer.close()
    assert handles(bench) > 0
    bench.path.unlink()
    bench.cache.sweep(bench.clock.now)
    assert handles(bench) == 0


def test_letting_go_closes_the_handles_until_the_next_look(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    identity = reader.identity
    reader.connection.close()
    assert handles(bench) > 1
    bench.cache.let_go()
    assert handles(bench) == 1  # the writer, which has done nothing yet
    assert isinstance(bench.shelf.look(SQL, (1,), FACTORIES, identity), Ticket)


def test_after_close_nothing_is_served_kept_or_learned(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (1,))
    ticket = bench.shelf.look(SQL, (2,), FACTORIES, reader.identity)
    assert isinstance(ticket, Ticket)
    bench.cache.close()
    bench.cache.close()
    assert not ticket.keep([("b",), ("c",)], None)
    assert reader.never_kept(SQL, (1,))
    assert not bench.cache.stats().enabled
    assert bench.cache.stats().entries == 0


def test_a_disabled_cache_looks_at_nothing(bench: Bench) -> None:
    bench.restart(enabled=False)
    assert bench.reader().never_kept(SQL, (1,))
    assert bench.cache.stats() == CacheStats(
        enabled=False, max_entries=1000, max_bytes=64 << 20, max_result=1 << 20, ttl=3600.0
    )


def test_a_forked_child_starts_empty_and_sees_every_commit(bench: Bench) -> None:
    reader = bench.reader()
    reader.warm(SQL, (2,))
    pipe, answer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        said = b"failed"
        try:
            bench.cache.abandon()
            fresh = bench.reader()
            assert bench.cache.stats().entries == bench.cache.stats().hits == 0
            assert bench.shelf.look(SQL, (2,), FACTORIES, reader.identity) is None
            assert fresh.warm(SQL, (2,)) == [("b",), ("c",)]
            fresh.connection.execute("DELETE FROM word WHERE id = 3")
            assert fresh.ask(SQL, (2,)) == [("b",)]
            said = b"fine"
        finally:
            os.write(answer, said)
            os._exit(0)
    os.close(answer)
    with os.fdopen(pipe, "rb") as stream:
        assert stream.read() == b"fine"
    os.waitpid(child, 0)
    assert reader.ask(SQL, (2,)) == [("b",)]
