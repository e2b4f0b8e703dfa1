"""One gunicorn that serves the app on a loopback port: started, waited for, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"


class ServerError(RuntimeError):
    """The server did not come up; the message says why as far as it is known."""


@dataclass(frozen=True, slots=True)
class Server:
    """A gunicorn master of ours and where it listens."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def start(
    instance: Path,
    *,
    optimize: bool = True,
    port: int = 0,
    workers: int = 2,
    token: str | None = None,
    log: Path | None = None,
) -> Server:
    """Start gunicorn on ``port`` (0: a free one) and return once it answers.

    What gunicorn says goes to ``log`` (``gunicorn.log`` in the instance folder).
    """
    log = log or instance / "gunicorn.log"
    try:
        listener = socket.create_server((HOST, port))
    except OSError as error:
        raise ServerError(f"port {port} can't be used ({error.strerror}); set PORT to another one") from error
    environment = {**os.environ, "OMNI_INSTANCE": str(instance), "DBOPT": "on" if optimize else "off"}
    if token:
        environment["DBOPT_ADMIN_TOKEN"] = token
    command = [sys.executable, "-m", "gunicorn", "example_app:create_app()"]
    command += ["--bind", f"fd://{listener.fileno()}", "--workers", str(workers), "--chdir", str(ROOT)]
    command += ["--timeout", "60", "--graceful-timeout", "10", "--log-level", "warning"]
    with (
        listener,
        log.open("wb") as said,
    ):  # gunicorn holds its own descriptor of it, so the port is never free in between
        server = Server(
            subprocess.Popen(
                command,
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=(listener.fileno(),),
                start_new_session=True,  # a Ctrl-C on the terminal is for us; we stop it in order
            ),
            listener.getsockname()[1],
        )
    try:
        wait_until_it_answers(server)
    except ServerError as error:
        stop(server)
        last = log.read_text(errors="replace").strip().splitlines()[-15:]
        raise ServerError("\n".join([f"{error}; {log} ends so:", *last])) from error
    except BaseException:
        stop(server)
        raise
    return server


def wait_until_it_answers(server: Server, seconds: float = 30.0) -> None:
    """Return when the app answers, or raise when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise ServerError(f"gunicorn ended with code {server.process.returncode}")
        connection = http.client.HTTPConnection(HOST, server.port, timeout=2)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise ServerError(f"the app did not answer within {seconds:.0f} s")


def stop(server: Server, seconds: float = 20.0) -> int:
    """End it gracefully, by force only when the time is over; returns its exit code."""
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
    try:
        return server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(server.process.pid, signal.SIGKILL)
        return server.process.wait()


@contextmanager
def running(
    instance: Path,
    *,
    optimize: bool = True,
    port: int = 0,
    workers: int = 2,
    token: str | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """A server for the length of a block."""
    server = start(instance, optimize=optimize, port=port, workers=workers, token=token, log=log)
    try:
        yield server
    finally:
        stop(server)
