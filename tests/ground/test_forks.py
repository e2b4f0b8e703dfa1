"""Who is told of a fork: everything that is watched, whatever other threads do at that moment."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from flask_dbopt import forks


class Thing:
    def __init__(self) -> None:
        self.forks = 0

    def let_go(self) -> None:
        self.forks += 1

    def abandon(self) -> None:
        self.forks = -1


def fork(*things: Thing) -> None:
    """Fork; whether all things were told of it, in the child too."""
    child = os.fork()
    if not child:
        os._exit(0 if all(thing.forks == -1 for thing in things) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_all_are_told_though_other_threads_have_new_things_watched_meanwhile() -> None:
    """By the hooks themselves: a child that is forked beside other threads may not live to tell."""
    things = [Thing() for _ in range(200)]
    for thing in things:
        forks.watch(thing)
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            passing = [Thing() for _ in range(50)]
            for thing in passing:
                forks.watch(thing)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(30):
            forks._let_go_all()
        assert {thing.forks for thing in things} == {30}
        forks._abandon_all()
    finally:
        done.set()
        sys.setswitchinterval(before)
        for thread in threads:
            thread.join()
    assert {thing.forks for thing in things} == {-1}


def test_one_that_fails_keeps_nobody_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Thing):
        def let_go(self) -> None:
            raise OSError("no")

    failing, thing = Failing(), Thing()
    forks.watch(failing)
    forks.watch(thing)
    fork(failing, thing)
    assert thing.forks == 1
    assert "a fork was not prepared for" in caplog.text


def test_what_is_gone_is_not_kept_by_being_watched() -> None:
    thing = Thing()
    forks.watch(thing)
    told = thing.__dict__
    del thing
    fork()
    assert told == {"forks": 0}
