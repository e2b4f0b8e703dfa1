"""What a run of traffic says: throughput, and latency quantiles of every page, as a table of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from example_app.traffic import Run, Sample


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one page's requests."""

    page: str
    requests: int
    errors: int
    p50: float
    p95: float
    p99: float
    worst: float


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the sorted values do not exceed (nearest rank)."""
    return values[max(0, math.ceil(share * len(values)) - 1)]


def latency(page: str, samples: Sequence[Sample]) -> Latency:
    """The quantiles of some samples; at least one."""
    times = sorted(sample.seconds * 1e3 for sample in samples)
    errors = sum(sample.failed for sample in samples)
    return Latency(
        page,
        len(times),
        errors,
        quantile(times, 0.5),
        quantile(times, 0.95),
        quantile(times, 0.99),
        times[-1],
    )


def by_page(run: Run) -> list[Latency]:
    """Every page's latency, slowest first, then all of them together."""
    pages: dict[str, list[Sample]] = {}
    for sample in run.samples:
        pages.setdefault(sample.page, []).append(sample)
    rows = sorted((latency(page, samples) for page, samples in pages.items()), key=lambda row: -row.p50)
    return [*rows, latency("all pages", run.samples)] if rows else []


def summary(run: Run) -> str:
    """A run in one line."""
    amount = f"{len(run.samples)} requests in {run.seconds:.1f} s"
    return f"{amount}, {run.throughput:.1f} a second, {run.errors} errors"


def table(run: Run) -> str:
    """A run as people read it."""
    lines = [
        summary(run),
        "",
        f"{'page':<12}{'requests':>9}{'errors':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'worst':>9}",
    ]
    lines += [
        f"{row.page:<12}{row.requests:>9}{row.errors:>8}{row.p50:>9.1f}{row.p95:>9.1f}{row.p99:>9.1f}{row.worst:>9.1f}"
        for row in by_page(run)
    ]
    return "\n".join(lines)


def both(without: Run, with_us: Run) -> str:
    """Two runs side by side: the same visits without and with the extension."""
    lines = [
        f"{'':<12}{'':>9}{'without':>18}{'with us':>18}{'p50':>10}",
        f"{'page':<12}{'requests':>9}{'p50 ms':>9}{'p95 ms':>9}{'p50 ms':>9}{'p95 ms':>9}{'change':>10}",
    ]
    ours = {row.page: row for row in by_page(with_us)}
    for row in by_page(without):
        mine = ours.get(row.page)
        if mine is not None:
            change = f"{100 * (mine.p50 / row.p50 - 1):+.0f} %"
            lines.append(
                f"{row.page:<12}{row.requests:>9}{row.p50:>9.1f}{row.p95:>9.1f}"
                f"{mine.p50:>9.1f}{mine.p95:>9.1f}{change:>10}"
            )
    return "\n".join([*lines, "", f"without: {summary(without)}", f"with us: {summary(with_us)}"])
