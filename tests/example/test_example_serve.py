"""The demonstration as a person runs it: real gunicorn, the addresses printed, Ctrl-C, nothing left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start the demonstration; whatever happens, it is gone after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(instance: Path, **environment: str) -> subprocess.Popen[str]:
        ours = ("PORT", "DBOPT", "DBOPT_ADMIN_TOKEN")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        process = subprocess.Popen(
            [sys.executable, "-m", "example_app.serve"],
            cwd=ROOT,
            env={**clean, "OMNI_INSTANCE": str(instance), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        if process.stdout:
            process.stdout.close()


def read_until(process: subprocess.Popen[str], done: Callable[[str], bool], seconds: float = 60) -> str:
    """What the process says until ``done``; it is killed when that takes too long."""
    alarm = threading.Timer(seconds, process.kill)
    alarm.start()
    said = ""
    assert process.stdout
    try:
        for line in process.stdout:
            said += line
            if done(line):
                return said
    finally:
        alarm.cancel()
    raise AssertionError(f"it ended early:\n{said}")


@pytest.mark.parametrize("mode", ["off", "on"])
def test_the_demonstration_serves_says_where_and_stops_cleanly(serve: Serve, instance: Path, mode: str) -> None:
    process = serve(instance, DBOPT=mode)
    said = read_until(process, lambda line: "Ctrl-C stops" in line)
    assert " 0 errors" in said
    found = re.search(r"Omni Keywords +(http://127\.0\.0\.1:\d+)/", said)
    assert found
    assert urllib.request.urlopen(f"{found[1]}/languages/", timeout=10).status == 200
    token = re.search(r"token: (\S+)", said)
    assert (token is not None) == (mode == "on")
    if token:
        page = urllib.request.Request(f"{found[1]}/_dbopt/", headers={"Authorization": f"Bearer {token[1]}"})
        assert urllib.request.urlopen(page, timeout=10).status == 200
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the master and two workers
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert "Stopped." in rest
    assert "Traceback" not in said + rest
    assert process.returncode == 0
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]


def test_the_data_is_built_when_it_is_missing_and_port_is_obeyed(serve: Serve, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = serve(tmp_path / "new", DBOPT="off", PORT=str(port), OMNI_WORDS="200")
    said = read_until(process, lambda line: "Ctrl-C stops" in line)
    assert "2,000 keywords" in said
    assert f"http://127.0.0.1:{port}/" in said
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_port_that_is_taken_or_is_none_is_said(serve: Serve, instance: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = serve(instance, DBOPT="off", PORT=str(taken.getsockname()[1]))
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "can't be used" in said
    assert "PORT" in said
    for name in ("PORT", "OMNI_WORDS"):
        process = serve(instance, DBOPT="off", **{name: "http"})
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 2
        assert f"{name}=http is no" in said


def test_when_gunicorn_dies_the_demonstration_says_so(serve: Serve, instance: Path) -> None:
    process = serve(instance, DBOPT="off")
    read_until(process, lambda line: "Ctrl-C stops" in line)
    master = psutil.Process(process.pid).children()[0]
    master.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "gunicorn ended by itself" in said


def test_an_interrupt_while_it_is_still_starting_leaves_nothing(serve: Serve, instance: Path) -> None:
    process = serve(instance, DBOPT="off")
    read_until(process, lambda line: "there already" in line)
    deadline = time.monotonic() + 20
    while not psutil.Process(process.pid).children() and time.monotonic() < deadline:
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert "Traceback" not in said
    assert process.returncode == 0
    assert not [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]
