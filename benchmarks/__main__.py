"""Every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import contention, guard, monitor, pool, recording, sqlalchemy_pool

if __name__ == "__main__":
    recording.main()
    monitor.main()
    guard.main()
    pool.main()
    sqlalchemy_pool.main()
    contention.main()
