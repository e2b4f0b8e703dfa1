"""Signs what a browser keeps for us, by keys made from the admin token: no SECRET_KEY is needed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Signed:
    """A text that proved to be ours, and when it was signed (unix seconds)."""

    text: str
    at: float


class Signer:
    """One secret, a key of its own for each purpose, so that no signature can be used for another purpose."""

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._clock = clock

    def name(self, purpose: str) -> str:
        """A short name only this secret has: the cookies of two apps on one host stay apart."""
        return self._mac("name", purpose)[:8]

    def sign(self, purpose: str, text: str) -> str:
        """``text`` with the time and a signature, safe in a cookie, an address or a form."""
        body = f"{_pack(text.encode())}.{int(self._clock()):x}"
        return f"{body}.{self._mac(purpose, body)}"

    def read(self, purpose: str, signed: str, max_age: float) -> Signed | None:
        """What was signed for ``purpose`` in the last ``max_age`` seconds; None for everything else."""
        body, _, mac = signed.rpartition(".")
        if not hmac.compare_digest(mac.encode(errors="replace"), self._mac(purpose, body).encode()):
            return None
        text, _, moment = body.rpartition(".")
        try:
            at = float(int(moment, 16))
            found = Signed(_unpack(text).decode(), at)
        except (ValueError, binascii.Error):
            return None
        # a clock that was set back by a little must not sign everybody out
        return found if -60 <= self._clock() - at <= max_age else None

    def _mac(self, purpose: str, body: str) -> str:
        key = hmac.digest(self._secret, b"flask-dbopt admin: " + purpose.encode(), hashlib.sha256)
        return hmac.new(key, body.encode(errors="replace"), hashlib.sha256).hexdigest()


def equal(given: bytes, wanted: str) -> bool:
    """Whether the two are the same, in a time that tells nothing about either, not even its length."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(wanted.encode()).digest())


def _pack(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unpack(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
