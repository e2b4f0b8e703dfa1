"""The soak that `python -m benchmarks.soak` runs for ten minutes, for twenty seconds."""

from __future__ import annotations

import logging

import pytest

from benchmarks.soak import Sample, growth, soak


def test_growth_is_what_came_after_the_warm_up() -> None:
    sizes = [10, 60, 100, 100, 101, 100, 100, 100, 101, 130]
    samples = [Sample(float(at), size << 20, 40, 19, at) for at, size in enumerate(sizes)]
    assert growth(samples).faults() == ["memory has grown by 30.0 MiB"]
    assert growth(samples[:-1]).faults() == []


@pytest.mark.slow
def test_twenty_seconds_of_careless_borrowers_grow_nothing() -> None:
    logging.getLogger("flask_dbopt").setLevel(logging.CRITICAL)
    try:
        samples, faults = soak(20, 0.5, lambda line: None)
    finally:
        logging.getLogger("flask_dbopt").setLevel(logging.NOTSET)
    assert faults == []
    assert samples[-1].loans > 1000
