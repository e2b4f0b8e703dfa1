"""Who may open the page. Closed until a token or a hook is set; in debug mode open to this machine alone."""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from flask import Request, Response

from flask_dbopt.admin.signing import Signer, equal
from flask_dbopt.admin.throttle import Throttle

log = logging.getLogger("flask_dbopt.admin")

IDLE_SECONDS = 3600.0
"""A sign-in ends an hour after the last page that was opened …"""
LONGEST_SECONDS = 12 * 3600.0
"""… and after half a day in any case."""

Hook = Callable[[], object]
"""``@dbopt.admin_auth``: called inside the request; a true answer lets the visitor in, a text also names him."""

_FORWARDED = (
    *("x-forwarded", "x-original-", "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip"),
    *("true-client-ip", "cf-connecting-ip", "fastly-client-ip", "fly-client-ip"),
)
"""How the headers begin by which a proxy gives itself away."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer at the door, for one request."""

    door: Literal["open", "sign-in", "closed"]
    by: Literal["", "cookie", "bearer", "hook", "debug"] = ""
    nonce: str = ""
    """What CSRF tokens are bound to: one value for each sign-in."""
    since: float = 0.0
    """When the sign-in began, unix seconds."""
    wait: float = 0.0
    """Seconds to wait after too many wrong tokens."""
    refused: bool = False
    """A token came with the request, and it was wrong."""
    name: str = ""
    """Who the app's own check says that it is."""
    begins: bool = False
    """Whether this is the first page of a visit."""


class Access:
    """The door of one app's admin page. ``hook`` gives the app's own check, which may be set at any time."""

    def __init__(
        self,
        token: str | None,
        hook: Callable[[], Hook | None] = lambda: None,
        *,
        secret: str = "",
        clock: Callable[[], float] = time.time,
        throttle: Throttle | None = None,
    ) -> None:
        self.token = token or None
        self._hook = hook
        self._clock = clock
        self._throttle = throttle or Throttle()
        # With no secret at all the nonce in the cookie still has to match the form: a double-submit cookie.
        self._signer = Signer(self.token or secret or "flask-dbopt", clock)
        self.cookie = f"dbopt_{self._signer.name('cookie')}"

    def admit(self, request: Request, *, debug: bool) -> Admission:
        """Look at one request. Never raises: a hook that does is logged and counts as a no."""
        hook = self._hook()
        if self.token is None and hook is None:
            if debug and is_own_machine(request):
                return self._visitor(request, "debug")
            return Admission("closed")
        wait, refused = 0.0, False
        given = bearer(request)
        if self.token is not None and given is not None:
            wait = self._throttle.wait(request.remote_addr)
            if not wait and equal(given, self.token):
                return Admission("open", "bearer")
            refused = True
        signed_in = self._signed_in(request)
        if signed_in:
            return signed_in
        answer = None if hook is None else _asked(hook)
        if answer:
            return self._visitor(request, "hook", answer if isinstance(answer, str) else "")
        if self.token is None:
            return Admission("closed")
        if refused and not wait:
            self._throttle.failed(request.remote_addr)
        return Admission("sign-in", wait=wait, refused=refused)

    def sign_in(self, request: Request, given: str) -> Admission:
        """Try a token from the sign-in form; the answer is open, or sign-in with how long to wait."""
        wait = self._throttle.wait(request.remote_addr)
        if wait:
            return Admission("sign-in", wait=wait, refused=True)
        if self.token is None or not equal(given.strip().encode(errors="replace"), self.token):
            self._throttle.failed(request.remote_addr)
            return Admission("sign-in", refused=True)
        return Admission("open", "cookie", secrets.token_urlsafe(12), self._clock())

    def remember(self, response: Response, admission: Admission, request: Request, path: str) -> None:
        """Set the cookie that a sign-in (or a visitor's forms) rests on; each page opened renews it."""
        if admission.by not in ("cookie", "hook", "debug"):
            return
        purpose = "sign-in" if admission.by == "cookie" else "visit"
        response.set_cookie(
            self.cookie,
            self._signer.sign(purpose, f"{admission.nonce}:{int(admission.since):x}"),
            max_age=int(IDLE_SECONDS),
            path=path,
            secure=request.is_secure,
            httponly=True,
            samesite="Strict",
        )

    def forget(self, response: Response, request: Request, path: str) -> None:
        """Sign out."""
        response.delete_cookie(self.cookie, path=path, secure=request.is_secure, httponly=True, samesite="Strict")

    def csrf(self, admission: Admission) -> str:
        """The token a form carries; good for this sign-in only."""
        return self._signer.sign("csrf", admission.nonce)

    def may_change(self, request: Request, admission: Admission) -> bool:
        """Whether a POST was meant: by the holder of the token itself, or from a form of ours."""
        if admission.by == "bearer":
            return True  # a browser never adds this header by itself
        if not is_same_origin(request) or not admission.nonce:
            return False
        signed = self._signer.read("csrf", request.form.get("csrf", ""), LONGEST_SECONDS)
        return signed is not None and signed.text == admission.nonce

    def note(self, text: str) -> str:
        """A message for the next page, signed so that nobody else can put words on it."""
        return self._signer.sign("note", text)

    def read_note(self, signed: str) -> str:
        """What ``note`` signed in the last minute; else nothing."""
        note = self._signer.read("note", signed, 60)
        return note.text if note else ""

    def _signed_in(self, request: Request) -> Admission | None:
        if self.token is None:
            return None
        kept = self._read_cookie("sign-in", request)
        return Admission("open", "cookie", *kept) if kept else None

    def _visitor(self, request: Request, by: Literal["hook", "debug"], name: str = "") -> Admission:
        kept = self._read_cookie("visit", request)
        begins = kept is None
        nonce, since = kept or (secrets.token_urlsafe(12), self._clock())
        return Admission("open", by, nonce, since, name=name, begins=begins)

    def _read_cookie(self, purpose: str, request: Request) -> tuple[str, float] | None:
        signed = self._signer.read(purpose, request.cookies.get(self.cookie, ""), IDLE_SECONDS)
        if signed is None:
            return None
        nonce, _, since = signed.text.partition(":")
        began = float(int(since, 16))
        return (nonce, began) if self._clock() - began <= LONGEST_SECONDS else None


def bearer(request: Request) -> bytes | None:
    """The token of an ``Authorization: Bearer`` header, as the bytes that were sent."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None


def is_own_machine(request: Request) -> bool:
    """Whether a request comes from a browser on this machine: by address, by Host, and through no proxy.

    The Host counts because a page elsewhere can point its own name at 127.0.0.1 (DNS rebinding).
    """
    host = _host_of(f"//{request.host}").rpartition("@")[2]
    if any(name.lower().startswith(_FORWARDED) for name, _ in request.headers):
        return False
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    return _is_loopback(request.remote_addr or "") and (name == "localhost" or _is_loopback(name))


def is_same_origin(request: Request) -> bool:
    """What the browser says about who sent a form; if it says nothing, the CSRF token decides alone."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("Origin")
    return origin is None or _host_of(origin) == request.host


def _asked(hook: Hook) -> object:
    try:
        return hook()
    except Exception:
        log.exception("the admin_auth hook raised, so the visitor is not let in")
        return None


def _host_of(address: str) -> str:
    try:
        return urlsplit(address).netloc
    except ValueError:
        return ""


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)
