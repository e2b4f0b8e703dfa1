"""The writers' line and updates that may be lost, in stats and doctor."""

from __future__ import annotations

import threading

import pytest
from flask import Flask

from flask_dbopt import DBOptimizer

WRITE = "UPDATE word SET uses = ? WHERE id = 1"


@pytest.fixture
def careless(tmp_path, database):
    """An app whose request /count wrote what /transaction had changed since it read it."""
    app = Flask("careless", instance_path=str(tmp_path / "instance"))
    app.config["DBOPT_DATABASE"] = str(database)
    dbopt = DBOptimizer(app)

    @app.post("/transaction")
    def transaction():
        with dbopt.transaction() as connection:
            connection.execute(WRITE, (100,))
        return "done"

    @app.post("/count")
    def count():
        (uses,) = dbopt.connection.execute("SELECT uses FROM word WHERE id = 1").fetchone()
        other = threading.Thread(target=app.test_client().post, args=("/transaction",))
        other.start()
        other.join()
        dbopt.connection.execute(WRITE, (uses + 1,))
        dbopt.connection.commit()
        return "done"

    app.test_client().post("/count")
    app.extensions["dbopt"].housekeeper.stop(2.0)
    app.extensions["dbopt"].monitor.flush()
    yield app
    app.extensions["dbopt"].close()


def test_stats_tells_of_the_writers_and_of_updates_that_may_be_lost(say, ask, careless):
    told = " ".join(say("stats", creates=lambda: careless).output.split())
    assert "Writers" in told
    assert "POST transaction" in told
    assert "Updates that may be lost" in told
    assert "word (default)" in told
    _, figures = ask("stats", creates=lambda: careless)
    assert [(one["endpoint"], one["other"]) for one in figures["lost_updates"]] == [("count", "transaction")]
    assert figures["databases"][0]["writers"]["writers_num"] == 1
    assert figures["databases"][0]["holders"][0]["who"] == "POST transaction"


def test_stats_says_nothing_of_writers_where_there_are_none(say):
    told = say("stats").output
    assert "Writers" not in told
    assert "may be lost" not in told


def test_the_doctor_names_the_endpoint_the_table_and_the_remedy(say, ask, careless):
    told = " ".join(say("doctor", creates=lambda: careless).output.split())
    assert "count read the table word, transaction changed it, and then count wrote it" in told
    assert 'set DBOPT_SQLITE_TRANSACTIONS="immediate", or put both into one `with dbopt.transaction()`' in told
    _, found = ask("doctor", creates=lambda: careless)
    (finding,) = [one for one in found["findings"] if one["check"] == "transactions"]
    assert (finding["level"], finding["database"]) == ("note", "default")
