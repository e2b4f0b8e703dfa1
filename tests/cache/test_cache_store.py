"""The store keeps its bounds whatever is put into it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from flask_dbopt.cache.answer import Kept
from flask_dbopt.cache.store import Entry, Store


def entry(size: int = 10, since: float = 0.0, shelf: str = "default") -> Entry:
    return Entry(Kept(((1,),), None), ("token",), shelf, frozenset(("word",)), size, 1.0, since)


def test_the_least_recently_used_entry_makes_room() -> None:
    store = Store(max_entries=2, max_bytes=1000, ttl=60)
    store.put("a", entry())
    store.put("b", entry())
    assert store.get("a", 1) is not None
    store.put("c", entry())
    assert store.get("b", 1) is None
    assert store.get("a", 1) is not None
    assert store.evictions == 1


def test_bytes_are_a_bound_too() -> None:
    store = Store(max_entries=100, max_bytes=100, ttl=60)
    for name in "abc":
        store.put(name, entry(40))
    assert len(store) == 2
    assert store.bytes == 80


def test_what_is_larger_than_the_whole_store_stays_out_and_drops_nothing_else() -> None:
    store = Store(max_entries=100, max_bytes=100, ttl=60)
    store.put("a", entry(40))
    store.put("b", entry(101))
    assert store.get("a", 1) is not None
    assert store.get("b", 1) is None


def test_what_is_on_trial_takes_nobodys_place() -> None:
    store = Store(max_entries=2, max_bytes=100, ttl=60)
    assert store.put("a", entry(40))
    assert not store.put_on_trial("b", entry(61))
    assert store.put_on_trial("b", entry(60))
    assert not store.put_on_trial("c", entry(0))
    assert not store.put_on_trial("b", entry(1))
    assert (len(store), store.bytes, store.evictions) == (2, 100, 0)


def test_what_is_on_trial_is_the_first_to_go_until_it_is_used() -> None:
    store = Store(max_entries=3, max_bytes=1000, ttl=60)
    store.put("a", entry())
    store.put_on_trial("unused", entry())
    store.put_on_trial("used", entry())
    assert store.get("used", 1) is not None
    store.put("b", entry())
    assert store.get("unused", 1) is None
    store.put("c", entry())
    assert store.get("a", 1) is None
    assert store.get("used", 1) is not None


def test_an_entry_lives_as_long_as_the_ttl_and_a_clock_running_backward_ages_nothing() -> None:
    store = Store(max_entries=100, max_bytes=1000, ttl=60)
    store.put("a", entry(since=100))
    assert store.get("a", 50) is not None
    assert store.get("a", 159.9) is not None
    assert store.get("a", 160) is None
    assert (len(store), store.bytes, store.expirations) == (0, 0, 1)


def test_expiring_drops_the_old_ones_only() -> None:
    store = Store(max_entries=100, max_bytes=1000, ttl=60)
    store.put("old", entry(since=0))
    store.put("new", entry(since=30))
    store.expire(70)
    assert store.get("new", 70) is not None
    assert len(store) == 1
    assert store.expirations == 1


def test_a_store_without_room_keeps_nothing() -> None:
    store = Store(max_entries=0, max_bytes=1000, ttl=60)
    store.put("a", entry())
    assert len(store) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60), st.booleans()), max_size=60))
def test_bytes_are_always_the_sum_of_what_is_held(steps: list[tuple[int, int, bool]]) -> None:
    store = Store(max_entries=4, max_bytes=100, ttl=60)
    for name, size, drop in steps:
        if drop:
            store.drop(name)
        else:
            store.put(name, entry(size))
        held = [found for name in range(10) if (found := store.get(name, 0))]
        assert store.bytes == sum(each.bytes for each in held) <= 100
        assert len(store) == len(held) <= 4
