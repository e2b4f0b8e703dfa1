"""Puts the page on a Flask app, ahead of everything the app does before and after its own requests."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from flask import Blueprint, Flask, Response, redirect, request
from werkzeug.exceptions import HTTPException, NotFound, RequestEntityTooLarge

from flask_dbopt.admin import alerts, backups, cache, indexes, live, overview, pool, queries, settings
from flask_dbopt.admin.access import Access, Admission, Hook
from flask_dbopt.admin.desk import WINDOWS, Done, Missing, Page, Visit
from flask_dbopt.admin.paper import KINDS, render, static_file
from flask_dbopt.errors import DBOptError
from flask_dbopt.report import Report, plain

if TYPE_CHECKING:
    from flask_dbopt.optimizer import Optimizer

log = logging.getLogger("flask_dbopt.admin")

BLUEPRINT = "dbopt"
LARGEST_FORM = 64 * 1024
_OURS = "flask_dbopt.admin"
"""In the WSGI environment of a request that we answered ourselves."""

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

_PAGES: dict[str, Callable[..., Page]] = {
    "/": overview.show,
    "/queries": queries.show,
    "/queries/<query_id>": queries.show_one,
    "/indexes": indexes.show,
    "/indexes/<advice_id>": indexes.confirm,
    "/pool": pool.show,
    "/cache": cache.show,
    "/backups": backups.show,
    "/alerts": alerts.show,
    "/settings": settings.show,
}
_CHANGES: dict[str, Callable[..., Done]] = {
    "/indexes/<advice_id>/apply": indexes.apply,
    "/cache/clear": cache.clear,
    "/backups/take": backups.take,
    "/backups/verify": backups.verify,
    "/figures/reset": settings.reset,
}


def register(
    app: Flask,
    optimizer: Optimizer,
    *,
    hook: Callable[[], Hook | None] = lambda: None,
    build: Callable[..., Report] | None = None,
    clock: Callable[[], float] = time.time,
) -> Site | None:
    """Add the page to ``app`` at ``settings.admin_url``; None when ``admin_enabled`` is off.

    ``hook`` returns the ``admin_auth`` function that is set when a request comes, or None. ``build`` makes a
    Report; by default ``flask_dbopt.report.build``.
    """
    if not optimizer.settings.admin_enabled:
        return None
    site = Site(app, optimizer, hook=hook, build=build, clock=clock)
    blueprint = Blueprint(BLUEPRINT, __name__, url_prefix=optimizer.settings.admin_url)
    for rule, endpoint, methods in site.rules():
        blueprint.add_url_rule(
            rule,
            endpoint,
            site.serve,
            methods=methods,
            strict_slashes=False,
            provide_automatic_options=False,
        )
    app.register_blueprint(blueprint)
    # First in line: a login redirect, a CSRF check or a Talisman of the app never sees our requests …
    app.before_request_funcs.setdefault(None, []).insert(0, site.dispatch)
    # … and after_request functions run backwards, so that the first has the last word on the headers.
    app.after_request_funcs.setdefault(None, []).insert(0, site.seal)
    return site


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
        self._hook = hook
        self._made: Access | None = None
        self._views: dict[str, Callable[..., Any]] = {}

    @property
    def access(self) -> Access:
        """The door; made at the first request, when the app's SECRET_KEY is surely set."""
        if self._made is None:
            secret = self.app.secret_key or ""
            text = secret.decode("latin-1") if isinstance(secret, bytes) else secret
            self._made = Access(self.optimizer.settings.admin_token, self._hook, secret=text, clock=self.clock)
        return self._made

    def rules(self) -> list[tuple[str, str, list[str]]]:
        """Every rule, its endpoint and methods; each endpoint is named after its function."""
        table: list[tuple[str, str, list[str]]] = []

        def add(rule: str, endpoint: str, view: Callable[..., Any], methods: list[str]) -> None:
            self._views[endpoint] = view
            table.append((rule, endpoint, methods))

        for rule, show in _PAGES.items():
            add(rule, _endpoint(rule), self._page(show), ["GET"])
        for rule, change in _CHANGES.items():
            add(rule, _endpoint(rule), self._change(change), ["POST"])
        add("/api/v1/<path:resource>", "api", self._api, ["GET"])
        add("/health", "health", self._health, ["GET"])
        add("/static/<name>", "static", self._static, ["GET"])
        add("/sign-in", "sign_in", self._sign_in, ["GET", "POST"])
        add("/sign-out", "sign_out", self._sign_out, ["POST"])
        add("/<path:rest>", "missing", self._missing, ["GET", "POST"])
        return table

    # --- the way of a request ---

    def dispatch(self) -> Response | None:
        """Answer our own requests before the app's hooks see them; let all others pass."""
        return self.serve() if self._is_ours() else None

    def serve(self, **_arguments: Any) -> Response:
        """Let in, answer, and never let one of our faults become the app's."""
        endpoint = (request.endpoint or "").partition(".")[2]
        admission = self.access.admit(request, debug=self.app.debug)
        if admission.door == "closed":
            raise NotFound
        request.environ[_OURS] = True
        try:
            response = self._answer(endpoint, admission)
        except Missing as missing:
            response = self._problem(admission, 404, "Not here", str(missing))
        except HTTPException as fault:
            response = self._problem(admission, fault.code or 500, fault.name, fault.description or fault.name)
        except DBOptError as problem:
            response = self._problem(admission, 503, "That did not work", str(problem))
        except Exception as fault:
            log.exception("the admin page failed")
            response = self._problem(
                admission, 500, "This page failed", f"{type(fault).__name__}; the app's log has the details"
            )
        renews = endpoint not in ("sign_out", "static", "health", "api") and not self._is_poll()
        if admission.door == "open" and renews:
            self.access.remember(response, admission, request, self._base())
        return response

    def seal(self, response: Response) -> Response:
        """Our headers on our pages, whatever the app's own after_request functions said."""
        if _OURS not in request.environ:
            return response
        for name in ("Content-Security-Policy-Report-Only", "Access-Control-Allow-Origin", "ETag"):
            response.headers.pop(name, None)
        response.headers.update(SECURITY)
        kept = "public, max-age=31536000, immutable" if request.endpoint == f"{BLUEPRINT}.static" else "no-store"
        response.headers["Cache-Control"] = kept if response.status_code == 200 else "no-store"
        return response

    def _answer(self, endpoint: str, admission: Admission) -> Response:
        if (request.content_length or 0) > LARGEST_FORM:
            raise RequestEntityTooLarge
        view = self._views[endpoint]
        if endpoint in ("static", "health", "sign_in"):
            return cast(Response, view(admission, **(request.view_args or {})))
        if admission.door == "sign-in":
            return self._refuse(admission)
        return cast(Response, view(admission, **(request.view_args or {})))

    # --- what is behind each rule ---

    def _page(self, show: Callable[..., Page]) -> Callable[..., Response]:
        def view(admission: Admission, **arguments: str) -> Response:
            visit = self._visit()
            return self._show(visit, admission, show(visit, **arguments))

        return view

    def _change(self, change: Callable[..., Done]) -> Callable[..., Response]:
        def view(admission: Admission, **arguments: str) -> Response:
            refused = self._forbidden(admission)
            if refused is not None:
                return refused
            visit = self._visit()
            try:
                done = change(visit, **arguments)
            except DBOptError as problem:
                back = (request.path.removeprefix(self.url).strip("/")).partition("/")[0]
                done = Done(str(problem), back.replace("figures", "settings"), "bad")
            if admission.by == "bearer":
                return _json({"done": done.message}, 200 if done.tone == "good" else 503)
            note = self.access.note(f"{done.tone}\n{done.message}")
            return cast(Response, redirect(visit.link(done.path, note=note), 303))

        return view

    def _api(self, admission: Admission, resource: str) -> Response:
        return _json(live.answer(self._visit(), resource))

    def _health(self, admission: Admission) -> Response:
        """The word alone for everyone (a load balancer has no token); the reasons for those let in."""
        health = self.optimizer.health()
        told = plain(health) if admission.door == "open" else {"status": health.status}
        return _json(told, 200 if health.ok else 503)

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
            return cast(Response, redirect(goal, 303))
        if request.method == "GET":
            return self._refuse(admission)
        tried = self.access.sign_in(request, request.form.get("token", ""))
        if tried.door != "open":
            log.warning("a wrong admin token was given by %s", request.remote_addr)
            return self._refuse(tried)
        response = cast(Response, redirect(goal, 303))
        self.access.remember(response, tried, request, self._base())
        return response

    def _sign_out(self, admission: Admission) -> Response:
        if not self.access.may_change(request, admission):
            return self._stale(admission)
        response = cast(Response, redirect(f"{self._base()}/", 303))
        self.access.forget(response, request, self._base())
        return response

    def _missing(self, admission: Admission, rest: str = "") -> Response:
        raise Missing(f"there is no page {rest!r}")

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
            path = request.path.removeprefix(self.url).strip("/")
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

    def _forbidden(self, admission: Admission) -> Response | None:
        if self.optimizer.settings.admin_readonly:
            return self._problem(
                admission, 403, "Nothing may be changed here", "DBOPT_ADMIN_READONLY is on for this app"
            )
        return None if self.access.may_change(request, admission) else self._stale(admission)

    def _stale(self, admission: Admission) -> Response:
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

    def _is_ours(self) -> bool:
        endpoint = request.endpoint
        return endpoint is not None and endpoint.startswith(f"{BLUEPRINT}.")

    def _base(self) -> str:
        """The page's own address, wherever the app is mounted."""
        return f"{request.script_root.rstrip('/')}{self.url}"

    def _is_poll(self) -> bool:
        return request.headers.get("X-DBOpt-Live") == "1"

    def _wants_json(self) -> bool:
        endpoint = request.endpoint or ""
        if endpoint in (f"{BLUEPRINT}.api", f"{BLUEPRINT}.health") or "Authorization" in request.headers:
            return True
        accepted = request.accept_mimetypes
        return accepted["application/json"] > accepted["text/html"]


def _endpoint(rule: str) -> str:
    words = rule.replace("<query_id>", "one").replace("<advice_id>", "one").strip("/")
    return words.replace("/", "_") or "overview"


def _is_path(path: str) -> bool:
    """Whether a path may be gone to after the sign-in: ours, plain, and short."""
    return len(path) < 200 and all(c.isascii() and (c.isalnum() or c in "-_/") for c in path) and "//" not in path


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False), status, mimetype="application/json")
