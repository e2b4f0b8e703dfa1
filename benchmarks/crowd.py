"""More threads than connections: how much gets done, who gets nothing, and how long the unluckiest waits."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping

THREADS, CONNECTIONS = 16, 8
SECONDS = 1.5
ROUNDS = 5

#: One turn of the thread of that number; the seconds that it waited.
Turn = Callable[[int], float]


def crowd(turn: Turn) -> tuple[list[int], float]:
    """Turns of each thread within some seconds, and the longest wait, in seconds."""
    turns, longest = [0] * THREADS, [0.0] * THREADS
    start = threading.Barrier(THREADS + 1)
    end = [0.0]

    def work(number: int) -> None:
        start.wait()
        while time.perf_counter() < end[0]:
            longest[number] = max(longest[number], turn(number))
            turns[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    end[0] = time.perf_counter() + SECONDS
    start.wait()
    for thread in threads:
        thread.join()
    return turns, max(longest)


def compete(title: str, contenders: Mapping[str, Turn], hold: float) -> None:
    """A table of medians. Starved is who gets less than a hundredth of what the luckiest gets."""
    runs: dict[str, list[tuple[list[int], float]]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, turn in contenders.items():
            runs[name].append(crowd(turn))
    held = f"each held {hold * 1000:g} ms" if hold else "given back at once"
    print(f"\n{title}{THREADS} threads on {CONNECTIONS} connections, {held}")
    print(f"| {'pool':<36} |  turns/s | starved threads | fewest/most | longest wait ms |")
    print(f"| {'-' * 36} | -------: | --------------: | ----------: | --------------: |")
    for name, taken in runs.items():
        rate = statistics.median(sum(turns) / SECONDS for turns, _ in taken)
        starved = statistics.median(sum(turn < max(turns) / 100 for turn in turns) for turns, _ in taken)
        spread = statistics.median(min(turns) / max(turns) for turns, _ in taken)
        wait = statistics.median(longest for _, longest in taken) * 1000
        print(f"| {name:<36} | {rate:>8.0f} | {starved:>15.0f} | {spread:>11.2f} | {wait:>15.1f} |")
