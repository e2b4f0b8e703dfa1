"""Every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import contention, monitor, pool, recording

if __name__ == "__main__":
    recording.main()
    monitor.main()
    pool.main()
    contention.main()
