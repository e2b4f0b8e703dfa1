"""Quantiles from buckets that add up."""

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_dbopt.monitor.histogram import LAST, Merging, bucket, merge, merged, middle, pack, quantiles, unpack

durations = st.floats(min_value=1e-9, max_value=9_000)


def filled(values):
    buckets = {}
    for value in values:
        merge(buckets, {bucket(value): 1})
    return buckets


def latencies(kind, count=20_000):
    """Latencies as services have them: a body, a tail, a cache in front, a time-out behind."""
    chance = random.Random(kind)
    samples = {
        "point reads": lambda: chance.lognormvariate(-11.5, 0.4),
        "pages": lambda: chance.lognormvariate(-4.5, 1.2),
        "cached or not": lambda: chance.gauss(4e-6, 3e-7) if chance.random() < 0.7 else chance.gauss(0.02, 0.004),
        "a heavy tail": lambda: 0.001 * chance.paretovariate(1.3),
        "steady": lambda: 0.0125,
        "time-outs": lambda: 5.0 + chance.random() * 1e-3 if chance.random() < 0.1 else chance.expovariate(200),
    }[kind]
    return [max(1e-7, samples()) for _ in range(count)]


@pytest.mark.parametrize("kind", ["point reads", "pages", "cached or not", "a heavy tail", "steady", "time-outs"])
def test_quantiles_are_within_two_percent_of_the_exact_ones_on_latencies_as_they_are(kind):
    values = latencies(kind)
    exact = statistics.quantiles(values, n=100, method="inclusive")
    for rank, told in zip((50, 95, 99), quantiles(filled(values), (0.5, 0.95, 0.99)), strict=True):
        assert told == pytest.approx(exact[rank - 1], rel=0.02)


@given(durations)
def test_a_bucket_stands_for_its_durations_within_two_percent(seconds):
    assert middle(bucket(seconds)) == pytest.approx(seconds, rel=0.016)


@given(st.lists(durations, min_size=1), st.lists(durations, min_size=1))
def test_histograms_of_two_workers_add_up_to_that_of_both(one, other):
    both = filled(one + other)
    assert unpack(merged(pack(filled(one)), pack(filled(other)))) == both
    sums = Merging()
    for part in (one, other):
        sums.step(pack(filled(part)))
    assert unpack(sums.finalize()) == both


@given(st.lists(durations, min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_lies_between_its_neighbours(values, rank):
    ordered = sorted(values)
    position = rank * (len(ordered) - 1)
    low, high = ordered[int(position)], ordered[min(int(position) + 1, len(ordered) - 1)]
    assert low * 0.98 <= quantiles(filled(values), [rank])[0] <= high * 1.02


@pytest.mark.parametrize(("seconds", "number"), [(0.0, 0), (-1.0, 0), (1e-12, 0), (float("inf"), LAST), (1e6, LAST)])
def test_a_duration_beyond_all_measure_is_still_counted(seconds, number):
    assert bucket(seconds) == number


def test_nothing_has_no_quantiles_and_ten_thousand_alike_cost_one_bucket():
    assert quantiles({}, (0.5, 0.95)) == [0.0, 0.0]
    assert len(pack(filled([0.01] * 10_000))) == 6
