"""The page inside apps that have rules of their own: nothing of theirs may break it, nor it anything of theirs."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask, Response, abort, g, redirect, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import BuildError
from werkzeug.test import Client

Build = Any
TOKEN = "a-token-of-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def strict_host(late: bool, build: Build) -> Any:
    """Login redirect, CSRF check, catch-all route, CSP header: before our page is registered, or after."""
    app = Flask("omni")
    staged = build(app, DBOPT_ADMIN_TOKEN=TOKEN) if late else None

    @app.before_request
    def login_required() -> Any:
        return None if "user" in request.cookies or request.path == "/login" else redirect("/login")

    @app.before_request
    def check_csrf() -> None:
        if request.method == "POST" and "csrf_token" not in request.form:
            abort(400, "The CSRF token is missing.")

    @app.after_request
    def talisman(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "script-src 'unsafe-inline' *"
        response.headers["X-Frame-Options"] = "ALLOWALL"
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Cache-Control"] = "public, max-age=600"
        return response

    @app.route("/", defaults={"path": ""})
    @app.route("/<path:path>", methods=["GET", "POST"])
    def catch_all(path: str) -> str:
        return f"the app's own {path}"

    return staged or build(app, DBOPT_ADMIN_TOKEN=TOKEN)


@pytest.mark.parametrize("late", [False, True])
def test_a_strict_host_does_not_get_between(build: Build, late: bool) -> None:
    staged = strict_host(late, build)
    client = staged.client
    assert client.get("/_dbopt").status_code == 401, "our sign-in, not the app's login"
    assert client.post("/_dbopt/sign-in", data={"token": TOKEN}).status_code == 303
    page = client.get("/_dbopt/cache")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in page.headers
    assert client.post("/_dbopt/cache/clear", headers=BEARER).status_code == 200
    assert client.get("/_dbopt/static/page.css").status_code == 200
    assert staged.client.get("/_dbopt/health").json == {"status": "degraded"}


@pytest.mark.parametrize("late", [False, True])
def test_the_hosts_own_pages_keep_their_rules(build: Build, late: bool) -> None:
    client = strict_host(late, build).client
    answer = client.get("/keywords")
    assert answer.location == "/login"
    assert "unsafe-inline" in answer.headers["Content-Security-Policy"]
    client.set_cookie("user", "1")
    assert client.get("/_dboptional").text == "the app's own _dboptional"
    assert client.post("/login").status_code == 400


def test_a_closed_page_answers_as_the_host_answers_what_is_missing(build: Build) -> None:
    app = Flask("omni")
    app.register_error_handler(404, lambda error: ("nothing here", 404))
    assert build(app).client.get("/_dbopt/queries").text == "nothing here"


def test_the_hosts_templates_context_and_session_stay_out_of_it(build: Build, tmp_path: Any) -> None:
    (tmp_path / "base.html").write_text("the app's base")
    app = Flask("omni", template_folder=str(tmp_path))

    @app.context_processor
    def broken() -> dict[str, Any]:
        raise RuntimeError("needs a user")

    @app.url_defaults
    def language(endpoint: str, values: dict[str, Any]) -> None:
        values["lang"] = g.lang

    page = build(app, DBOPT_ADMIN_TOKEN=TOKEN).signed_in().get("/_dbopt/")
    assert page.status_code == 200
    assert "the app's base" not in page.text
    assert "?lang=" not in page.text


def test_it_works_where_the_app_is_mounted_below_a_path(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    client = Client(DispatcherMiddleware(Flask("other"), {"/shop": staged.app}))
    answer = client.post("/shop/_dbopt/sign-in", data={"token": TOKEN})
    assert answer.location == "/shop/_dbopt/"
    assert "Path=/shop/_dbopt" in answer.headers["Set-Cookie"]
    page = client.get("/shop/_dbopt/")
    assert page.status_code == 200
    assert 'href="/_dbopt' not in page.text
    assert 'href="/shop/_dbopt/queries"' in page.text


def test_it_works_behind_a_proxy_that_says_where_the_app_is(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    staged.app.wsgi_app = ProxyFix(staged.app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
    told = {"X-Forwarded-Prefix": "/shop", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "omni.example"}
    answer = staged.client.post("/_dbopt/sign-in", data={"token": TOKEN}, headers=told)
    assert answer.location == "/shop/_dbopt/"
    assert "; Secure" in answer.headers["Set-Cookie"]


def test_it_lives_at_the_address_that_was_set(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN, DBOPT_ADMIN_URL="/ops/db/")
    client = staged.client
    assert client.post("/ops/db/sign-in", data={"token": TOKEN, "path": "pool"}).location == "/ops/db/pool"
    assert 'href="/ops/db/queries"' in client.get("/ops/db").text
    assert client.get("/_dbopt/").status_code == 404


def test_the_host_can_name_the_pages_by_endpoint(build: Build) -> None:
    from flask import url_for

    app = build(DBOPT_ADMIN_TOKEN=TOKEN).app
    with app.test_request_context():
        assert url_for("dbopt.overview") == "/_dbopt/"
        assert url_for("dbopt.queries_one", query_id="abc") == "/_dbopt/queries/abc"
        assert url_for("dbopt.queries_one", query_id="a b") == "/_dbopt/queries/a%20b"
        assert url_for("dbopt.pool", since="24h", _anchor="x") == "/_dbopt/pool?since=24h#x"
        assert url_for("dbopt.sign_in", _external=True) == "http://localhost/_dbopt/sign-in"
        for unknown in ("dbopt.nothing", "dbopt.queries_one", "nothing"):
            with pytest.raises(BuildError, match=unknown):
                url_for(unknown)


def test_a_response_class_of_the_hosts_own_does_not_lose_our_headers(build: Build) -> None:
    class Plain(Response):
        default_mimetype = "text/plain"

    app = Flask("omni")
    app.response_class = Plain

    @app.after_request
    def talisman(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "script-src *"
        return response

    app.add_url_rule("/", view_func=lambda: "the app's own")
    client = build(app, DBOPT_ADMIN_TOKEN=TOKEN).signed_in()
    page = client.get("/_dbopt/queries")
    assert page.mimetype == "text/html"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/").headers["Content-Security-Policy"] == "script-src *"
    assert client.get("/").mimetype == "text/plain"


def test_many_apps_in_one_process_do_not_know_each_other(build: Build) -> None:
    one = build(DBOPT_ADMIN_TOKEN=TOKEN)
    two = build(Flask("fresh"), DBOPT_ADMIN_TOKEN="another")
    one.signed_in().post("/_dbopt/cache/clear", headers=BEARER)
    assert two.rooms.asked == []
    assert two.client.get("/_dbopt/", headers=BEARER).status_code == 401


def test_a_fault_of_the_page_is_logged_and_told_without_details(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    staged.app.config["PROPAGATE_EXCEPTIONS"] = True

    def lost() -> Any:
        raise ZeroDivisionError("secret detail")

    staged.optimizer.health = lost
    with caplog.at_level(logging.ERROR, "flask_dbopt.admin"):
        answer = staged.signed_in().get("/_dbopt/")
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.text
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_page_that_is_not_there_says_so_to_who_is_signed_in_alone(build: Build) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    assert staged.client.get("/_dbopt/nothing").status_code == 401
    answer = staged.signed_in().get("/_dbopt/nothing")
    assert answer.status_code == 404
    assert "nothing" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("put", "queries", {"GET", "HEAD"}),
        ("get", "cache/clear", {"POST"}),
        ("delete", "sign-in", {"GET", "HEAD", "POST"}),
    ],
)
def test_the_wrong_method_is_told_to_who_is_signed_in_alone(
    build: Build, method: str, path: str, allowed: set[str]
) -> None:
    staged = build(DBOPT_ADMIN_TOKEN=TOKEN)
    answer = getattr(staged.signed_in(), method)(f"/_dbopt/{path}")
    assert answer.status_code == 405
    assert set(answer.allow) == allowed
    assert getattr(staged.client, method)(f"/_dbopt/{path}").status_code == 401
    assert getattr(build(Flask("closed")).client, method)(f"/_dbopt/{path}").status_code == 404


def test_one_slash_behind_a_pages_address_is_no_other_page(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).signed_in()
    assert client.get("/_dbopt/queries/").text == client.get("/_dbopt/queries").text
    assert client.get("/_dbopt/queries//").status_code == 404


def test_static_files_are_kept_by_browsers_and_nothing_else_of_the_package_is_served(build: Build) -> None:
    client = build(DBOPT_ADMIN_TOKEN=TOKEN).client
    for name, kind in (
        ("page.css", "text/css"),
        ("page.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        answer = client.get(f"/_dbopt/static/{name}")
        assert answer.mimetype == kind
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for name in ("..%2fsite.py", "site.py", "page.txt", "", "..", "%2e%2e/__init__.py"):
        answer = client.get(f"/_dbopt/static/{name}")
        assert answer.status_code in (401, 404)
        assert "import" not in answer.text
