"""What the page costs an app that nobody opens it on: test suites make hundreds of apps."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent
from typing import Any

from flask import Flask


def test_two_rules_and_one_hook_are_all_that_an_app_gets(build: Any) -> None:
    app = Flask("omni")
    build(app)
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("dbopt.")]
    assert sorted(rule.rule for rule in rules) == ["/_dbopt/", "/_dbopt/<path:path>"]
    assert len(app.before_request_funcs[None]) == 1
    assert not app.after_request_funcs


def test_nothing_costly_is_imported_until_it_is_needed() -> None:
    program = """
        import sys
        from flask import Flask
        from flask_dbopt import DBOptimizer
        app = Flask("omni")
        app.testing = True
        app.config["DBOPT_ADMIN_TOKEN"] = "a-token-of-the-tests-0123456789"
        DBOptimizer(app)
        app.add_url_rule("/", view_func=lambda: "the app's own")
        assert app.test_client().get("/").status_code == 200
        costly = ("flask_dbopt.admin.site", "flask_apscheduler", "apscheduler", "sqlglot", "sqlalchemy")
        print([name for name in costly if name in sys.modules])
        assert app.test_client().get("/_dbopt/").status_code == 401
        print("flask_dbopt.admin.site" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
