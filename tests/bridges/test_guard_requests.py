"""The guard on a real app: every part of a request, every entrance to a database, and what it leaves alone."""

import json
import sqlite3
from base64 import b64encode
from io import BytesIO

import pytest
import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_dbopt import DBOptimizer, signals
from flask_dbopt.bridges.origins import is_own
from flask_dbopt.bridges.values import request_values
from flask_dbopt.errors import StatementRefused

ATTACK = "x' or owner = 2 --"
FIND = "SELECT name FROM keyword WHERE name = '{}' AND owner = 1"
PATH = "file"


@pytest.fixture
def made(tmp_path):
    """An app, its optimizer, and the signals that it sent; settings by keyword."""
    path = tmp_path / "app.db"
    opened = []

    def make(**settings):
        app = Flask("guarded", instance_path=str(tmp_path / "instance"))
        app.testing = True
        dbopt = DBOptimizer(app, database=path, **settings)
        with dbopt.borrow() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS keyword (id INTEGER PRIMARY KEY, name TEXT, owner INTEGER)")
            connection.execute("INSERT INTO keyword (name, owner) VALUES ('lamp', 1), ('desk', 2)")
            connection.commit()
        heard = []
        app.config["heard"] = lambda sender, **told: heard.append(told)
        signals.suspicious_query.connect(app.config["heard"], app)
        opened.append(dbopt)
        return app, dbopt, heard

    yield make
    for dbopt in opened:
        dbopt.optimizer.close()


BASIC = "Basic " + b64encode(f"{ATTACK}:p".encode()).decode()
PARTS = {
    "query": ("/", {"query_string": {"q": ATTACK}}, lambda: request.args["q"]),
    "query name": ("/", {"query_string": {ATTACK: "1"}}, lambda: next(iter(request.args))),
    "json in query": ("/", {"query_string": {"q": json.dumps([ATTACK])}}, lambda: json.loads(request.args["q"])[0]),
    "form": ("/", {"method": "POST", "data": {"q": ATTACK}}, lambda: request.form["q"]),
    "json": ("/", {"method": "POST", "json": {"a": [1, {"b": ATTACK}]}}, lambda: request.json["a"][1]["b"]),
    "json name": ("/", {"method": "POST", "json": {ATTACK: None}}, lambda: next(iter(request.json))),
    "silent json": ("/", {"method": "POST", "json": [ATTACK]}, lambda: request.get_json(silent=True)[0]),
    "body": ("/", {"method": "POST", "data": ATTACK}, lambda: request.get_data().decode()),
    "json body": ("/", {"method": "POST", "data": json.dumps([ATTACK])}, lambda: json.loads(request.get_data())[0]),
    "path": (f"/item/{ATTACK}", {}, lambda: request.view_args["name"]),
    "header": ("/", {"headers": {"X-Name": ATTACK}}, lambda: request.headers["X-Name"]),
    "cookie": ("/", {"headers": {"Cookie": f'name="{ATTACK}"'}}, lambda: request.cookies["name"]),
    "user": ("/", {"headers": {"Authorization": BASIC}}, lambda: request.authorization.username),
    "token": ("/", {"headers": {"Authorization": "Bearer x' or owner > 1 --"}}, lambda: request.authorization.token),
    "file": ("/", {"method": "POST", "data": {"f": b""}}, lambda: request.files["f"].filename),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_an_attack_is_seen_in_every_part_of_a_request(made, part):
    app, dbopt, heard = made()
    address, sent, read = PARTS[part]
    if part == "file":
        sent = {**sent, "data": {"f": (BytesIO(b""), ATTACK)}}

    @app.route("/", methods=["GET", "POST"])
    @app.route("/item/<name>")
    def find(name=None):
        return [row[0] for row in dbopt.connection.execute(FIND.format(read()))]

    answer = app.test_client(use_cookies=False).open(address, **sent)
    assert answer.json == ["desk"], "it works, so it is an attack"
    (told,) = heard
    assert told["endpoint"] == "find"
    assert told["sql"].replace(">", "=") == "SELECT name FROM keyword WHERE name = ? or owner = ?"
    assert told["place"].startswith("tests/bridges/test_guard_requests.py:")
    assert told["source"] in part or told["source"] in ("header", "json")


def test_what_the_app_has_not_parsed_is_left_for_it_to_read(made):
    app, dbopt, _ = made()

    @app.post("/")
    def find():
        dbopt.connection.execute("SELECT 1 + 1").fetchall()
        return request.stream.read()

    for data in (b"name=lamp", b'{"a": 1}'):
        kind = "application/x-www-form-urlencoded" if b"=" in data else "application/json"
        assert app.test_client().post("/", data=data, content_type=kind).data == data


def test_what_is_parsed_later_in_the_request_counts_from_then_on(made):
    app, dbopt, heard = made()

    @app.post("/")
    def find():
        dbopt.connection.execute("SELECT 1 + 2").fetchall()
        return [row[0] for row in dbopt.connection.execute(FIND.format(request.form["q"]))]

    assert app.test_client().post("/", data={"q": ATTACK}).json == ["desk"]
    assert len(heard) == 1


def test_bytes_and_deep_json_are_no_trouble(made):
    app, dbopt, heard = made()

    @app.post("/")
    def find():
        request.get_data()
        dbopt.connection.execute(f"SELECT {len(heard)} + 3").fetchall()
        return "fine"

    client = app.test_client()
    assert client.post("/", data=b"\xff\xfe'").text == "fine"
    assert client.post("/", data="[" * 5_000 + "]" * 5_000).text == "fine"
    assert client.post("/", data=json.dumps({"a": None, "b": [1.5, True]})).text == "fine"


def test_outside_of_a_request_there_is_nothing_to_look_for(made):
    assert request_values() is None
    _, dbopt, heard = made(monitor_guard="block")
    with dbopt.borrow() as connection:
        assert connection.execute(FIND.format(ATTACK)).fetchall() == [("desk",)]
    assert heard == []


@pytest.mark.parametrize("how", ["execute", "executemany", "executescript", "cursor"])
def test_blocking_stops_every_way_to_run_a_statement_before_it_runs(made, how):
    app, dbopt, heard = made(monitor_guard="block")

    @app.get("/<int:owner>")
    @app.get("/<owner>")
    def change(owner):
        connection = dbopt.connection
        target = connection.cursor() if how == "cursor" else connection
        sql = f"UPDATE keyword SET name = 'gone' WHERE owner = {owner}"
        if how == "executemany":
            target.executemany(f"{sql} AND id = ?", [(1,), (2,)])
        elif how == "executescript":
            target.executescript(f"{sql}; SELECT 1")
        else:
            target.execute(sql)
        connection.commit()
        return "changed"

    client = app.test_client()
    assert client.get("/7").text == "changed"
    with pytest.raises(StatementRefused, match="changes what this statement says"):
        client.get("/7 or 1=1")
    with dbopt.borrow() as connection:
        assert connection.execute("SELECT count(*) FROM keyword WHERE name = 'gone'").fetchone() == (0,)
    assert heard[0]["blocked"] is True
    (refused,) = (q for q in dbopt.monitor.queries() if q.errors)
    assert refused.calls == 1, "the refusal is counted with its statement"


def test_switched_off_nobody_looks(made):
    app, dbopt, heard = made(monitor_guard="off")

    @app.get("/")
    def find():
        return [row[0] for row in dbopt.connection.execute(FIND.format(request.args["q"]))]

    assert app.test_client().get("/", query_string={"q": ATTACK}).json == ["desk"]
    assert heard == []
    assert dbopt.optimizer.guard is None


def test_a_suspicion_is_written_into_the_audit_log_and_counted(made):
    app, dbopt, _ = made()

    @app.get("/")
    def find():
        return [row[0] for row in dbopt.connection.execute(FIND.format(request.args["q"]))]

    app.test_client().get("/", query_string={"q": ATTACK})
    assert dbopt.monitor.counters()["suspicious.find"] == 1
    (one,) = dbopt.optimizer.guard.suspicions()
    assert (one.endpoint, one.source, one.count) == ("find", "query", 1)


# --- SQLAlchemy ---


@pytest.fixture
def flask_sqlalchemy(tmp_path):
    app = Flask("sqlalchemy_app", instance_path=str(tmp_path / "instance"))
    app.testing = True
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'app.db'}"
    db = SQLAlchemy(app)
    dbopt = DBOptimizer(app)
    with app.app_context():
        db.session.execute(sa.text("CREATE TABLE keyword (id INTEGER PRIMARY KEY, name TEXT, owner INTEGER)"))
        db.session.execute(sa.text("INSERT INTO keyword (name, owner) VALUES ('lamp', 1), ('desk', 2)"))
        db.session.commit()
    heard = []
    app.config["heard"] = lambda sender, **told: heard.append(told)
    signals.suspicious_query.connect(app.config["heard"], app)
    yield app, db, heard
    dbopt.optimizer.close()
    with app.app_context():
        db.engine.dispose()


class Base(DeclarativeBase):
    pass


class Keyword(Base):
    __tablename__ = "keyword"
    id: Mapped[int] = mapped_column(primary_key=True)


KEYWORD = sa.table("keyword", sa.column("id"), sa.column("name"), sa.column("owner"))
UNSAFE = {
    "text": lambda q: sa.text(FIND.format(q)),
    "where text": lambda q: sa.select(KEYWORD.c.name).where(sa.text(f"name = '{q}'")),
    "literal column": lambda q: sa.select(sa.literal_column(f"'{q}'")).select_from(KEYWORD),
    "prefix": lambda q: sa.select(KEYWORD.c.name).prefix_with(f"'{q}',"),
    "operator": lambda q: sa.select(KEYWORD.c.name).where(KEYWORD.c.name.op(f"= '{q}' OR 1 =")(1)),
    "from statement": lambda q: sa.select(Keyword).from_statement(sa.text(FIND.format(q).replace("name", "id", 1))),
}


@pytest.mark.parametrize("how", UNSAFE)
def test_text_in_sqlalchemy_is_seen(flask_sqlalchemy, how):
    app, db, heard = flask_sqlalchemy

    @app.get("/")
    def find():
        try:
            db.session.execute(UNSAFE[how](request.args["q"])).all()
        except sa.exc.DBAPIError:  # not every one of them makes sense
            db.session.rollback()
        return "done"

    app.test_client().get("/", query_string={"q": ATTACK})
    assert len(heard) == 1


@pytest.mark.parametrize("value", [ATTACK, "keyword.name", "FROM keyword", "keyword.id, keyword.name", "name = ", "'"])
def test_what_sqlalchemy_writes_itself_is_not(flask_sqlalchemy, value):
    app, db, heard = flask_sqlalchemy

    @app.get("/")
    def find():
        q = request.args["q"]
        db.session.execute(sa.select(KEYWORD).where(KEYWORD.c.name == q).order_by(KEYWORD.c.name.desc())).all()
        db.session.execute(sa.select(KEYWORD.c.id).where(KEYWORD.c.name == sa.literal(q, literal_execute=True))).all()
        db.session.execute(sa.select(sa.column(q)).select_from(KEYWORD).where(sa.false())).all()
        return "done"

    app.test_client().get("/", query_string={"q": value})
    assert heard == []


def test_on_other_drivers_the_guard_looks_too(tmp_path):
    """A connection that is not of our class is timed, and looked after, by SQLAlchemy's events."""
    app = Flask("other_driver", instance_path=str(tmp_path / "instance"))
    app.testing = True
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(tmp_path / "app.db"), poolclass=sa.NullPool)
    dbopt = DBOptimizer(app, engine=engine, monitor_guard="block")

    @app.get("/")
    def find():
        with engine.connect() as connection:
            return [row[0] for row in connection.exec_driver_sql(f"SELECT {request.args['q']}")]

    client = app.test_client()
    assert client.get("/", query_string={"q": "1"}).json == [1]
    with pytest.raises(sa.exc.DatabaseError) as caught:
        client.get("/", query_string={"q": "sqlite_version()"})
    assert isinstance(caught.value.orig, StatementRefused)
    assert client.get("/", query_string={"q": "2"}).json == [2]
    dbopt.optimizer.close()


# --- what is the app's own ---

SORTS = ("name desc", "id, name")
LISTED = ["SELECT 1 AS one, 2 AS two"]
ALL = "SELECT a, b FROM t WHERE kind = 'word' ORDER BY a"
NAMED = sa.text("SELECT a FROM t WHERE b = :b AND c = 'x y'")


class Queries:
    BY_OWNER = "SELECT a FROM t WHERE owner = 1 AND b IS NULL"

    @property
    def newest(self):
        return "SELECT a FROM t WHERE b > 1 LIMIT 9"


def elsewhere():
    return "SELECT c, d FROM u GROUP BY c HAVING count(*) > 1"


def own(sql, piece, breaks=False):
    at = sql.index(piece)
    return is_own(sql, at, at + len(piece), breaks)


def test_constants_of_the_app_are_known_wherever_they_stand():
    assert own(ALL, "kind = 'word'", breaks=True)
    assert own("SELECT a FROM t WHERE owner = 1 AND b IS NULL", "owner = 1")
    assert own("SELECT a FROM t WHERE b > 1 LIMIT 9", "b > 1")
    assert own("SELECT c, d FROM u GROUP BY c HAVING count(*) > 1", "c, d")
    assert own("SELECT 1 AS one, 2 AS two", "1 AS one")
    assert own("SELECT a FROM t WHERE b = ? AND c = 'x y'", "c = 'x y'", breaks=True)
    name = f"{ALL} LIMIT {len(SORTS)} OFFSET 1"
    assert own(name, "kind = 'word'", breaks=True)
    assert own(f"SELECT z FROM {PATH} WHERE y = 1 OR x", "y = 1 OR x".replace(" OR x", ""))


def test_what_no_constant_holds_is_not_the_apps():
    built = " ".join(["SELECT", "q", "FROM", "w", "WHERE", "e", "=", "1"])
    assert not own(built, "e = 1")
    last = "".join(reversed("9 < r EREHW y MORF r TCELES"))
    assert not own(last, "r < 9")


def test_the_place_is_told_also_where_texts_are_too_many_to_be_looked_for(made):
    app, dbopt, heard = made()
    recorder = dbopt.optimizer.monitor.recorder

    @app.get("/")
    def find():
        recorder._looks, recorder._look_again_at = 0, float("inf")
        return [row[0] for row in dbopt.connection.execute(FIND.format(request.args["q"]))]

    app.test_client().get("/", query_string={"q": ATTACK})
    assert heard[0]["place"].startswith("tests/bridges/test_guard_requests.py:")
