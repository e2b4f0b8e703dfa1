"""How long things took, kept so that it adds up across workers and still tells quantiles within 2 %.

Log-linear, as HdrHistogram: every power of two of a nanosecond is cut into 32 equal buckets, so a bucket is
at most 3.1 % wide and its middle at most 1.6 % off. Sparse: a dict from bucket to count, no empty buckets.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from math import frexp, ldexp
from operator import mul, rshift

STEPS = 32
#: The last bucket (over four hours) takes whatever is longer; it fits the 16 bits of the packed form.
LAST = 44 * STEPS

Buckets = dict[int, int]

_FEW = 5
_OTHER_BITS = 52 - (STEPS.bit_length() - 1)
_ONE = 1023 * STEPS
"""The first bits of 1.0, which is a nanosecond."""


def bucket(seconds: float) -> int:
    """The bucket that a duration falls into; what is under a nanosecond falls into the first."""
    if not 1e-9 <= seconds < 1e5:
        return LAST if seconds >= 1e5 else 0
    mantissa, exponent = frexp(seconds * 1e9)
    return min(exponent * STEPS + int(mantissa * (2 * STEPS)) - 2 * STEPS, LAST)


def add(into: Buckets, durations: Sequence[float]) -> None:
    """Count every duration, in seconds; many at once cost a third of what they would one by one.

    The first bits of a double, its exponent and five of its mantissa, are the bucket: all of it is done in C.
    """
    if len(durations) < _FEW:
        for seconds in durations:
            number = bucket(seconds)
            into[number] = into.get(number, 0) + 1
        return
    bits = array("q", array("d", map(mul, durations, repeat(1e9))).tobytes())
    for first, count in Counter(map(rshift, bits, repeat(_OTHER_BITS))).items():
        number = min(max(first - _ONE, 0), LAST)
        into[number] = into.get(number, 0) + count


def middle(number: int) -> float:
    """The duration in seconds that stands for a bucket: as far from its lower end as from its upper, in parts."""
    octave, step = divmod(number, STEPS)
    low, high = 1 + step / STEPS, 1 + (step + 1) / STEPS
    return ldexp(2 * low * high / (low + high), octave) * 1e-9


def merge(into: Buckets, other: Mapping[int, int]) -> None:
    """Add another histogram's counts."""
    for number, count in other.items():
        into[number] = into.get(number, 0) + count


def quantiles(buckets: Mapping[int, int], ranks: Sequence[float]) -> list[float]:
    """The durations at these ranks (0…1), interpolated between neighbours; zeros when it is empty."""
    total = sum(buckets.values())
    if not total:
        return [0.0] * len(ranks)
    wanted = [rank * (total - 1) for rank in ranks]
    at = _values_at(buckets, sorted({int(w) for w in wanted} | {min(int(w) + 1, total - 1) for w in wanted}))
    result = []
    for position in wanted:
        low = int(position)
        below, above = at[low], at[min(low + 1, total - 1)]
        result.append(below + (above - below) * (position - low))
    return result


def _values_at(buckets: Mapping[int, int], positions: Iterable[int]) -> dict[int, float]:
    values: dict[int, float] = {}
    ordered = iter(sorted(buckets.items()))
    seen, number = 0, 0
    for position in positions:
        while seen <= position:
            number, count = next(ordered)
            seen += count
        values[position] = middle(number)
    return values


def pack(buckets: Mapping[int, int]) -> bytes:
    """Six bytes a bucket: all numbers, then all counts."""
    count = len(buckets)
    return struct.pack(f"<{count}H{count}I", *buckets, *(min(n, 0xFFFFFFFF) for n in buckets.values()))


def unpack(packed: bytes) -> Buckets:
    """What ``pack`` packed."""
    count = len(packed) // 6
    numbers = struct.unpack(f"<{count}H{count}I", packed)
    return dict(zip(numbers[:count], numbers[count:], strict=True))


def merged(one: bytes, other: bytes) -> bytes:
    """The sum of two packed histograms, packed."""
    buckets = unpack(one)
    merge(buckets, unpack(other))
    return pack(buckets)


class Merging:
    """The sum of many packed histograms, as an aggregate function of SQL."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, int] = defaultdict(int)

    def step(self, packed: bytes) -> None:
        """Add one."""
        count = len(packed) // 6
        both = struct.unpack(f"<{count}H{count}I", packed)
        buckets = self._buckets
        for number, counted in zip(both[:count], both[count:], strict=True):
            buckets[number] += counted

    def finalize(self) -> bytes:
        """The sum, packed."""
        return pack(self._buckets)
