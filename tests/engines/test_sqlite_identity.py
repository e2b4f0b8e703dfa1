"""Which file has a name: as ``os.stat`` says it, whatever the C library is like."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flask_dbopt.engines.sqlite import identity
from flask_dbopt.engines.sqlite.identity import identity_of


@pytest.fixture(params=["the C library's", "os.stat's"])
def whose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "os.stat's":
        monkeypatch.setattr(identity, "_layout", lambda: None)
    return str(request.param)


@pytest.fixture
def anew() -> Iterator[None]:
    """The library is asked again where it puts things, and once more afterwards."""
    identity._layout.cache_clear()
    yield
    identity._layout.cache_clear()


def as_os_says(path: str | os.PathLike[str]) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116
    return found.st_dev, found.st_ino


@pytest.mark.usefixtures("whose")
@pytest.mark.parametrize("name", ["app.db", "näme with spaces.db", os.fsdecode(b"not utf-8 \xff.db"), "x" * 250])
def test_it_is_what_the_system_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    ask = identity_of(str(path))
    assert ask() is None
    path.write_bytes(b"")
    assert ask() == as_os_says(path) == identity_of(str(path))()
    path.unlink()
    assert ask() is None


@pytest.mark.usefixtures("whose")
def test_a_link_is_followed_and_a_turned_one_is_seen(tmp_path: Path) -> None:
    one, two, link = tmp_path / "one", tmp_path / "two", tmp_path / "link"
    one.touch()
    two.touch()
    link.symlink_to(one)
    ask = identity_of(str(link))
    assert ask() == as_os_says(one)
    link.unlink()
    link.symlink_to(two)
    assert ask() == as_os_says(two)
    two.unlink()
    assert ask() is None


@pytest.mark.usefixtures("whose")
@pytest.mark.parametrize("path", ["", "/nowhere/app.db", "with\0nul", "/etc/passwd/app.db", "x" * 5000])
def test_where_no_file_can_be_there_is_none(path: str) -> None:
    assert identity_of(path)() is None


@pytest.mark.usefixtures("whose")
def test_threads_that_ask_while_the_file_is_replaced_hear_of_one_or_the_other(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    path.touch()
    ask, heard, over = identity_of(str(path)), set(), threading.Event()
    true = {as_os_says(path)}

    def listen() -> None:
        while not over.is_set():
            heard.add(ask())

    threads = [threading.Thread(target=listen) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        other = tmp_path / f"other{number}"
        other.touch()
        true.add(as_os_says(other))
        other.replace(path)
    over.set()
    for thread in threads:
        thread.join()
    assert heard <= true


def misleading(fill: Callable[[Any], None]) -> Any:
    """A C library whose ``stat`` says what ``fill`` writes."""

    class Library:
        def __init__(self, name: object) -> None:
            def stat(path: bytes, words: Any) -> int:
                fill(words)
                return 0

            self.stat = stat

    return Library


def nothing(words: Any) -> None: ...


def the_same_for_every_file(words: Any) -> None:
    words[0], words[1] = as_os_says("/")


def a_number_that_is_everywhere(words: Any) -> None:
    words[:] = [as_os_says("/")[0]] * len(words)


def no_such_function(name: object) -> Any:
    return object()


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(
    "library",
    [
        no_such_function,
        misleading(nothing),
        misleading(the_same_for_every_file),
        misleading(a_number_that_is_everywhere),
    ],
)
def test_a_library_that_cannot_be_read_is_not_asked(
    library: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ctypes, "PyDLL", library)
    path = tmp_path / "app.db"
    path.touch()
    assert identity._layout() is None
    assert identity_of(str(path))() == as_os_says(path)


@pytest.mark.usefixtures("anew")
def test_on_this_system_it_can_be_read() -> None:
    if not hasattr(ctypes.PyDLL(None), "stat"):
        pytest.skip("this C library has no function of that name")
    assert identity._layout() is not None
