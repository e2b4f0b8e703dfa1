"""The demonstration: `python -m example_app.serve` builds, serves, sends a little traffic and tells where."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from types import FrameType

from example_app import DATABASE_NAME, instance_folder
from example_app.build import WORDS, BuildError, build, told
from example_app.server import Server, ServerError, running
from example_app.traffic import drive, explore, plan

REQUESTS = 150
SECONDS = 12.0


def interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def wanted_port() -> int:
    """``$PORT``, or 0 for a free one."""
    text = os.environ.get("PORT", "").strip() or "0"
    if not text.isdigit() or int(text) > 65_535:
        raise ServerError(f"PORT={text} is no port; leave it out for a free one")
    return int(text)


def wanted_words() -> int:
    """``$OMNI_WORDS`` keywords a language where the data is to be built, else as many as ``build`` takes."""
    text = os.environ.get("OMNI_WORDS", "").strip() or str(WORDS)
    if not text.isdigit():
        raise BuildError(f"OMNI_WORDS={text} is no number; leave it out for {WORDS:,}")
    return int(text)


def say(text: str = "") -> None:
    print(text, flush=True)


def present(server: Server, token: str | None) -> None:
    """Send the first visitors, then say where everything is."""
    say("Sending a little traffic…")
    run = drive(server.url, plan(explore(server.url, languages=3), REQUESTS), threads=2, seconds=SECONDS)
    say(f"{len(run.samples)} requests, {run.throughput:.0f} a second, {run.errors} errors.")
    say()
    say(f"  Omni Keywords   {server.url}/")
    if token:
        say(f"  its optimizer   {server.url}/_dbopt/")
        say(f"  token: {token}")
    say()
    say(f"  its messages    {instance_folder() / 'gunicorn.log'}")
    say("  More traffic:   python -m example_app.traffic --url " + server.url)
    say("  Ctrl-C stops.")


def main() -> int:
    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    folder = instance_folder()
    os.environ.setdefault("DBOPT_ADVISOR_MIN_CALLS", "10")  # a demonstration is short; advice needs evidence
    optimize = os.environ.get("DBOPT", "on").lower() != "off"
    token = (os.environ.get("DBOPT_ADMIN_TOKEN") or secrets.token_urlsafe(16)) if optimize else None
    try:
        port = wanted_port()
        say(told(build(folder / DATABASE_NAME, words=wanted_words())))
        with running(folder, optimize=optimize, port=port, token=token) as server:
            present(server, token)
            while server.process.poll() is None:
                time.sleep(0.2)
            say(f"gunicorn ended by itself with code {server.process.returncode}.")
            return 1
    except (BuildError, ServerError) as error:
        print(f"The app was not served: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        say("\nStopped.")
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
