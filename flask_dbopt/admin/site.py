"""The page of one app: who is let in, what answers, and that no fault of ours becomes the app's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.utils import redirect

from flask_dbopt.admin import live, routes
from flask_dbopt.admin.access import Access, Admission, Hook
from flask_dbopt.admin.desk import WINDOWS, Done, Missing, Page, Visit
from flask_dbopt.admin.exposition import CONTENT_TYPE
from flask_dbopt.admin.metrics import exposition
from flask_dbopt.admin.paper import KINDS, render, static_file
from flask_dbopt.audit.actor import Actor, acting
from flask_dbopt.deeds import REFUSED
from flask_dbopt.errors import DBOptError
from flask_dbopt.report import Report, plain

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer

log = logging.getLogger("flask_dbopt.admin")

LARGEST_FORM = 64 * 1024

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
}


class Sealed(Response):
    """Says our headers when the response is sent: the app's own after_request functions have spoken by then.

    An after_request function of ours would have the last word too, and cost every request of the app.
    """

    seal: Mapping[str, str] = SECURITY

    def get_wsgi_headers(self, environ: Any) -> Headers:
        headers = super().get_wsgi_headers(environ)
        for name in ("Content-Security-Policy-Report-Only", "Access-Control-Allow-Origin", "ETag"):
            headers.pop(name, None)
        headers.update(self.seal)
        return headers


class Site:
    """The page of one app."""

    def __init__(
        self,
        app: Flask,
        optimizer: Optimizer,
        *,
        hook: Callable[[], Hook | None],
        build: Callable[..., Report] | None,
        clock: Callable[[], float],
    ) -> None:
        self.app = app
        self.optimizer = optimizer
        self.clock = clock
        self.url = optimizer.settings.admin_url
        self._build = build
        secret = app.secret_key or ""
        text = secret.decode("latin-1") if isinstance(secret, bytes) else secret
        self.access = Access(optimizer.settings.admin_token, hook, secret=text, clock=clock)
        # Of the app's own class, or Flask would turn a response into one of those, and lose our seal.
        self._paper: type[Sealed] = type("Paper", (Sealed, app.response_class), {})
        self._others: dict[str, Callable[..., Response]] = {
            "api": self._api,
            "health": self._health,
            "metrics": self._metrics,
            "static": self._static,
            "sign_in": self._sign_in,
            "sign_out": self._sign_out,
        }

    # --- the way of a request ---

    def serve(self) -> Response:
        """Let in, answer, and never let one of our faults become the app's."""
        admission = self.access.admit(request, debug=self.app.debug)
        if admission.door == "closed":
            raise NotFound
        via = admission.by.replace("cookie", "token")
        with acting(Actor("page", via=via, name=admission.name, address=request.remote_addr)) as visitor:
            if admission.refused:
                self._note_refusal("too many wrong tokens" if admission.wait else "wrong token")
            return self._respond(admission, visitor)

    def _respond(self, admission: Admission, visitor: Actor) -> Response:
        asked = routes.find(request.path.removeprefix(self.url), request.method)
        try:
            response = self._answer(asked, admission)
            if asked.endpoint in routes.CHANGES and response.status_code < 400 and not visitor.noted:
                self.optimizer.audit.note("admin.change", change=asked.endpoint, **asked.arguments)
        except Missing as missing:
            response = self._problem(admission, 404, "Not here", str(missing))
        except HTTPException as fault:
            response = self._problem(admission, fault.code or 500, fault.name, fault.description or fault.name)
            if isinstance(fault, MethodNotAllowed):
                response.allow.update(fault.valid_methods or ())
        except DBOptError as problem:
            response = self._problem(admission, 503, "That did not work", str(problem))
        except Exception as fault:
            log.exception("the admin page failed")
            response = self._problem(
                admission, 500, "This page failed", f"{type(fault).__name__}; the app's log has the details"
            )
        renews = asked.endpoint not in ("sign_out", "static", "health", "api", "metrics") and not self._is_poll()
        if admission.door == "open" and renews:
            self.access.remember(response, admission, request, self._base())
            if admission.begins:
                self.optimizer.audit.note("admin.sign_in")
        return self._sealed(response, lasts=asked.endpoint == "static" and response.status_code == 200)

    def _answer(self, asked: routes.Asked, admission: Admission) -> Response:
        if (request.content_length or 0) > LARGEST_FORM:
            raise RequestEntityTooLarge
        if admission.door == "sign-in" and asked.endpoint not in ("static", "health", "sign_in"):
            return self._refuse(admission)
        if isinstance(asked.fault, NotFound):
            raise Missing(f"there is no page {self._path()!r}")
        if asked.fault is not None:
            raise asked.fault
        if (show := routes.PAGES.get(asked.endpoint)) is not None:
            visit = self._visit()
            return self._show(visit, admission, show(visit, **asked.arguments))
        if (change := routes.CHANGES.get(asked.endpoint)) is not None:
            return self._change(admission, change, asked.arguments)
        return self._others[asked.endpoint](admission, **asked.arguments)

    def _sealed(self, response: Response, *, lasts: bool) -> Response:
        """With our headers on it, whatever the app's own after_request functions will say."""
        kept = "public, max-age=31536000, immutable" if lasts else "no-store"
        response.__class__ = self._paper
        sealed = cast(Sealed, response)
        sealed.seal = {**SECURITY, "Cache-Control": kept}
        sealed.headers.update(sealed.seal)
        return sealed

    # --- what is behind each address ---

    def _change(self, admission: Admission, change: Callable[..., Done], arguments: Mapping[str, Any]) -> Response:
        refused = self._forbidden(admission)
        if refused is not None:
            return refused
        visit = self._visit()
        try:
            done = change(visit, **arguments)
        except DBOptError as problem:
            back = self._path().partition("/")[0]
            done = Done(str(problem), back.replace("figures", "settings"), "bad")
        if admission.by == "bearer":
            return _json({"done": done.message}, 200 if done.tone == "good" else 503)
        note = self.access.note(f"{done.tone}\n{done.message}")
        return _see(visit.link(done.path, note=note))

    def _api(self, admission: Admission, resource: str) -> Response:
        return _json(live.answer(self._visit(), resource))

    def _health(self, admission: Admission) -> Response:
        """The word alone for everyone (a load balancer has no token); the reasons for those let in."""
        health = self.optimizer.health()
        told = plain(health) if admission.door == "open" else {"status": health.status}
        return _json(told, 200 if health.ok else 503)

    def _metrics(self, admission: Admission) -> Response:
        return Response(exposition(self.optimizer, self.clock()), content_type=CONTENT_TYPE)

    def _static(self, admission: Admission, name: str) -> Response:
        content = static_file(name)
        if content is None:
            raise Missing(f"no file {name}")
        suffix = name[name.rindex(".") :]
        return Response(content, mimetype=KINDS[suffix])

    def _sign_in(self, admission: Admission) -> Response:
        path = request.form.get("path", "")
        goal = f"{self._base()}/{path}" if _is_path(path) else f"{self._base()}/"
        if admission.door == "open":
            return _see(goal)
        if request.method != "POST":
            return self._refuse(admission)
        tried = self.access.sign_in(request, request.form.get("token", ""))
        if tried.door != "open":
            if not tried.wait:  # who has to wait is not even looked at; the audit log counts it
                log.warning("a wrong admin token was given by %s", request.remote_addr)
            self._note_refusal("too many wrong tokens" if tried.wait else "wrong token")
            return self._refuse(tried)
        self.optimizer.audit.note("admin.sign_in", via="token")
        response = _see(goal)
        self.access.remember(response, tried, request, self._base())
        return response

    def _sign_out(self, admission: Admission) -> Response:
        if not self.access.may_change(request, admission):
            return self._stale(admission)
        response = _see(f"{self._base()}/")
        self.access.forget(response, request, self._base())
        self.optimizer.audit.note("admin.sign_out")
        return response

    # --- paper ---

    def _visit(self) -> Visit:
        if self._build is None:
            from flask_dbopt.report import build

            self._build = build
        return Visit(
            self.optimizer,
            self._build,
            base=self._base(),
            now=self.clock(),
            arguments=request.args,
            form=request.form,
            live=self._is_poll(),
        )

    def _show(self, visit: Visit, admission: Admission, page: Page) -> Response:
        tone, _, message = self.access.read_note(request.args.get("note", "")).partition("\n")
        figures = {
            "page": page,
            "visit": visit,
            "link": visit.link,
            "now": visit.now,
            "windows": WINDOWS.values(),
            "app_name": self.app.name,
            "version": self.optimizer.version,
            "csrf": self.access.csrf(admission),
            "by": admission.by,
            "message": message,
            "message_tone": tone,
            **page.figures,
        }
        return Response(render(page.template, figures), page.status, mimetype="text/html")

    def _refuse(self, admission: Admission) -> Response:
        """Nobody is signed in: a form for people, a plain word for programs."""
        status = 429 if admission.wait else 401
        headers = {"Retry-After": str(int(admission.wait) + 1)} if admission.wait else {}
        if self._wants_json():
            headers["WWW-Authenticate"] = 'Bearer realm="Flask-DBOpt"'
            error = "too many wrong tokens" if admission.wait else "a token is needed"
            response = _json({"error": error, "hint": "send Authorization: Bearer DBOPT_ADMIN_TOKEN"}, status)
        else:
            path = self._path()
            given = request.form.get("path", "") if path == "sign-in" else path
            figures = {
                "base": self._base(),
                "app_name": self.app.name,
                "version": self.optimizer.version,
                "path": given if _is_path(given) else "",
                "wait": admission.wait,
                "refused": admission.refused,
            }
            response = Response(render("sign_in.html", figures), status, mimetype="text/html")
        response.headers.update(headers)
        return response

    def _note_refusal(self, reason: str) -> None:
        self.optimizer.audit.note("admin.refuse", REFUSED, reason=reason, page=self._path()[:100])

    def _forbidden(self, admission: Admission) -> Response | None:
        if self.optimizer.settings.admin_readonly:
            self._note_refusal("nothing may be changed here")
            return self._problem(
                admission, 403, "Nothing may be changed here", "DBOPT_ADMIN_READONLY is on for this app"
            )
        return None if self.access.may_change(request, admission) else self._stale(admission)

    def _stale(self, admission: Admission) -> Response:
        self._note_refusal("a form without its token, or from elsewhere")
        return self._problem(
            admission,
            400,
            "That form is no longer good",
            "it was not sent from here, or the sign-in has changed since: go back, reload and send it again",
        )

    def _problem(self, admission: Admission, status: int, title: str, words: str) -> Response:
        if self._wants_json() or admission.by == "bearer":
            return _json({"error": title, "hint": words}, status)
        if admission.door != "open":
            return self._refuse(admission)
        figures = {
            "base": self._base(),
            "app_name": self.app.name,
            "version": self.optimizer.version,
            "title": title,
            "words": words,
        }
        return Response(render("problem.html", figures), status, mimetype="text/html")

    # --- what is asked ---

    def _base(self) -> str:
        """The page's own address, wherever the app is mounted."""
        return f"{request.script_root.rstrip('/')}{self.url}"

    def _path(self) -> str:
        """What is asked for, below the page's own address."""
        return request.path.removeprefix(self.url).strip("/")

    def _is_poll(self) -> bool:
        return request.headers.get("X-DBOpt-Live") == "1"

    def _wants_json(self) -> bool:
        if self._path().partition("/")[0] in ("api", "health", "metrics") or "Authorization" in request.headers:
            return True
        accepted = request.accept_mimetypes
        return accepted["application/json"] > accepted["text/html"]


def _is_path(path: str) -> bool:
    """Whether a path may be gone to after the sign-in: ours, plain, and short."""
    return len(path) < 200 and all(c.isascii() and (c.isalnum() or c in "-_/") for c in path) and "//" not in path


def _see(address: str) -> Response:
    """Send the browser on, after a form."""
    return cast(Response, redirect(address, 303, Response))


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, mimetype="application/json")
