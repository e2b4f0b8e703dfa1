"""Posts small messages to a web address from a thread of its own, so that a dead receiver holds up nobody."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

log = logging.getLogger("flask_dbopt.monitoring")

#: Seconds that a receiver has for each step of an answer.
TIMEOUT = 5.0
#: Messages that wait at most; the oldest goes first. Seconds for which one is tried.
MOST, LONGEST = 100, 3_600.0
#: Seconds before the second try; each later one waits twice as long, up to the most.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
#: Answers after which the same message may still be taken: told to wait, or not their usual self.
_LATER = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one try."""

    taken: bool
    told: str
    """"answered 200", "cannot be reached: connection refused" …"""
    again: bool = False
    """Whether the same message may be taken later."""
    seconds: float = 0.0


class Courier:
    """A line of messages to one address, posted as JSON in their order; each is tried until it is an hour old.

    The thread lives while something waits. ``secret``: what the body is signed with, in the header
    ``X-DBOpt-Signature: sha256=…`` (HMAC, as hex digits). Neither the address nor the secret is ever logged.
    """

    def __init__(
        self,
        address: str,
        *,
        agent: str = "Flask-DBOpt",
        secret: str | None = None,
        timeout: float = TIMEOUT,
        pause: float = FIRST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        place = urlsplit(address)
        self.host = place.hostname or ""
        """Whom it is posted to, which may be said aloud."""
        self._address = _without_user(place)
        self._headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": agent}
        if place.username is not None:
            user = f"{unquote(place.username)}:{unquote(place.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        self._secret = secret
        self._timeout = timeout
        self._pause = pause
        self._clock = clock
        self._opener = urllib.request.build_opener(_SamePlace)
        self.abandon()

    def abandon(self) -> None:
        """After a fork, in the child: what waits is the parent's to post."""
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.problem = ""
        """Why messages do not arrive, as a sentence; empty while they do."""

    def post(self, message: Mapping[str, Any]) -> None:
        """Put a message in line; returns at once."""
        body = _encoded(message)
        with self._lock:
            if self._closed:
                return
            if len(self._waiting) >= MOST:
                self._waiting.popleft()
                self._note("too many messages wait, the oldest was dropped")
            self._waiting.append((body, self._clock()))
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="dbopt-courier", daemon=True)
                try:
                    thread.start()
                except RuntimeError:  # the interpreter is going down
                    return
                self._thread = thread

    def try_once(self, message: Mapping[str, Any]) -> Reply:
        """Post a message now, in this thread, once."""
        reply = self._send(_encoded(message))
        if reply.taken:
            self.problem = ""
        return reply

    def close(self, timeout: float = 1.0) -> None:
        """Post what waits, as far as that goes within ``timeout`` seconds; nothing is taken any more."""
        with self._lock:
            self._closed, thread = True, self._thread
        self._bell.set()
        if thread is not None:
            thread.join(timeout)

    def _work(self) -> None:
        """The thread's life: the first in line until it is taken, refused or too old, then the next."""
        pause = self._pause
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                body, since = first = self._waiting[0]
            reply = self._send(body)
            if reply.again and not self._closed and 0 <= self._clock() - since < LONGEST:
                self._note(reply.told)
                self._bell.wait(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            pause = self._pause
            with self._lock:
                if self._waiting and self._waiting[0] is first:
                    self._waiting.popleft()
            if reply.taken:
                self.problem = ""
                continue
            self._note(f"{reply.told}; a message was given up")
            if self._closed:
                return

    def _note(self, told: str) -> None:
        if told != self.problem:
            log.warning("the webhook at %s: %s", self.host, told)
        self.problem = told

    def _send(self, body: bytes) -> Reply:
        begun = time.monotonic()
        taken, told, again = self._ask(body)
        return Reply(taken, told, again, time.monotonic() - begun)

    def _ask(self, body: bytes) -> tuple[bool, str, bool]:
        headers = dict(self._headers)
        if self._secret is not None:
            headers["X-DBOpt-Signature"] = f"sha256={sign(body, self._secret)}"
        try:
            request = urllib.request.Request(self._address, body, headers, method="POST")  # noqa: S310 - http or https
            with self._opener.open(request, timeout=self._timeout) as response:
                return True, f"answered {response.status}", False
        except urllib.error.HTTPError as error:
            error.close()
            moved = ", a redirect elsewhere, which is not followed" if 300 <= error.code < 400 else ""
            return False, f"answered {error.code}{moved}", error.code >= 500 or error.code in _LATER
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            # Never the whole error: some name the address.
            return False, f"cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}", True
        except Exception as error:  # noqa: BLE001 - whatever else there may be, the next message is to be tried
            return False, f"cannot be posted to: {type(error).__name__}", False


def sign(body: bytes, secret: str) -> str:
    """What a receiver computes to know that a body is ours."""
    return hmac.new(secret.encode(errors="surrogateescape"), body, hashlib.sha256).hexdigest()


def _encoded(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode(errors="replace")


class _SamePlace(urllib.request.HTTPRedirectHandler):
    """Follows redirects that keep the POST (307, 308) on the same host and port, or from http to https."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        fits = (new.scheme, new.port) == (old.scheme, old.port) or _is_made_safe(old, new)
        if code not in (307, 308) or not fits or new.hostname != old.hostname:
            return None
        return urllib.request.Request(newurl, req.data, req.headers, method="POST")  # noqa: S310 - checked above


def _is_made_safe(old: SplitResult, new: SplitResult) -> bool:
    """Whether it goes from http to https, each at its usual port."""
    return (old.scheme, new.scheme) == ("http", "https") and old.port in (None, 80) and new.port in (None, 443)


def _without_user(place: SplitResult) -> str:
    return urlunsplit(place._replace(netloc=place.netloc.rpartition("@")[2], fragment=""))
