"""What all verbs have in common: JSON, exit codes, errors that teach."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
from flask import Flask

from flask_dbopt import DBOptimizer
from flask_dbopt.cli import VERBS, group

QUIET = ("stats", "config", "doctor", "advise", "backups")


def every_command():
    for name in VERBS:
        command = group.get_command(click.Context(group), name)
        if isinstance(command, click.Group):
            yield from ((f"{name} {each.name}", each) for each in command.commands.values())
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), list(every_command()))
def test_every_command_takes_json_and_says_what_it_does(name, command):
    assert "--json" in [word for option in command.params for word in option.opts], name
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option)), name


def test_the_help_lists_every_verb(say):
    told = say("--help")
    assert told.exit_code == 0
    assert all(verb in told.output for verb in VERBS)


def test_an_unknown_verb_is_misuse(say):
    assert say("optimise").exit_code == 2


@pytest.mark.parametrize("verb", QUIET)
def test_what_is_told_in_text_is_told_in_json(verb, say, ask):
    assert say(verb).output.strip()
    _, told = ask(verb)
    assert isinstance(told, dict)


def test_an_app_without_an_optimizer_is_told_how_to_get_one(say):
    told = say("stats", creates=lambda: Flask("plain"))
    assert told.exit_code == 2
    assert "no optimizer" in told.stderr
    assert "DBOptimizer(app)" in told.stderr


def test_an_app_that_does_not_start_gives_an_error_without_a_traceback(say):
    def broken() -> Flask:
        raise LookupError("no such secret")

    told = say("stats", creates=broken)
    assert told.exit_code == 2
    assert "LookupError: no such secret" in told.stderr
    assert "--backup-dir" in told.stderr
    assert "Traceback" not in told.output


def test_an_error_is_json_too(ask):
    code, told = ask("backup", "--database", "nowhere")
    assert code == 2
    assert "nowhere" in told["error"]
    assert "default" in told["hint"]


def test_settings_that_cannot_work_are_all_named(say):
    def wrong() -> Flask:
        app = Flask("wrong")
        app.config.update(DBOPT_POOL_MAXX=3, DBOPT_CACHE_TTL="soon")
        DBOptimizer(app)
        return app

    told = say("doctor", creates=wrong)
    assert told.exit_code == 2
    assert "DBOPT_POOL_MAXX" in told.stderr
    assert "DBOPT_CACHE_TTL" in told.stderr


def test_an_app_without_a_database_is_told_how_to_name_one(say, tmp_path):
    def empty() -> Flask:
        app = Flask("empty", instance_path=str(tmp_path / "empty"))
        DBOptimizer(app)
        return app

    for verb in ("optimize", "backup", "backups", "advise"):
        told = say(verb, creates=empty)
        assert told.exit_code == 2
        assert "Hint:" in told.stderr


def test_an_unexpected_error_keeps_its_traceback_only_in_debug_mode(say, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("flask_dbopt.report.build", broken)
    told = say("stats")
    assert told.exit_code == 2
    assert "KeyError" in told.stderr
    monkeypatch.setenv("FLASK_DEBUG", "1")
    with pytest.raises(KeyError):
        say("stats")


def test_flask_itself_knows_the_commands(tmp_path):
    (tmp_path / "hello.py").write_text(
        "from flask import Flask\nfrom flask_dbopt import DBOptimizer\napp = Flask(__name__)\n"
        "DBOptimizer(app, database='hello.db')\n"
    )
    command = [sys.executable, "-m", "flask", "--app", "hello", "db-opt", "config", "pool_max", "--json"]
    env = {**os.environ, "DBOPT_POOL_MAX": "7"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["DBOPT_POOL_MAX"]
    assert (told["value"], told["source"]) == (7, "environment DBOPT_POOL_MAX")
