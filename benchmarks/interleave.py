"""Runs contenders in turns, so that a noisy machine disturbs all of them alike, and prints medians and ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One contender's rounds, in seconds for each operation."""

    name: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


#: Does something as many times as it is told.
Batch = Callable[[int], object]


def repeat(operation: Callable[[], object]) -> Batch:
    """The plain loop around one operation."""

    def run(count: int) -> None:
        for _ in range(count):
            operation()

    return run


def race(contenders: Mapping[str, Batch], *, count: int, rounds: int) -> dict[str, Result]:
    """Each contender ``count`` times a round, ``rounds`` times, in turns that begin with another one each time."""
    names = list(contenders)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        _time(contenders[name], count)  # caches warm, code specialised
    gc.collect()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(_time(contenders[name], count) / count)
    return {name: Result(name, tuple(values)) for name, values in taken.items()}


def _time(batch: Batch, count: int) -> float:
    start = time.perf_counter()
    batch(count)
    return time.perf_counter() - start


def difference(ours: Result, base: Result) -> float:
    """The median, over the rounds, of what ours took beyond the base in the same round."""
    return statistics.median(a - b for a, b in zip(ours.rounds, base.rounds, strict=True))


def show(title: str, results: Mapping[str, Result], base: str) -> None:
    """A table of medians, ratios to ``base`` and differences from it, in µs."""
    print(f"\n{title}")
    print(f"| {'contender':<44} | median µs | ratio to base | beyond base µs |")
    print(f"| {'-' * 44} | --------: | ------------: | -------------: |")
    for name, result in results.items():
        ratio = result.median / results[base].median
        beyond = difference(result, results[base])
        print(f"| {name:<44} | {result.median * 1e6:>9.2f} | {ratio:>13.2f} | {beyond * 1e6:>14.2f} |")
