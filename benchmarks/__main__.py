"""Every benchmark, one after the other."""

from __future__ import annotations

from benchmarks import contention, pool, recording

if __name__ == "__main__":
    recording.main()
    pool.main()
    contention.main()
