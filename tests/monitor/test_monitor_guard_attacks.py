"""The guard against a corpus of attacks on an unsafe app, and against 10,000 harmless words and sentences."""

import random

import pytest
import sqlalchemy as sa
from flask import Flask, request
from sqlalchemy.orm import DeclarativeBase, Session
from wordfreq import top_n_list

from flask_dbopt.bridges.origins import is_own
from flask_dbopt.bridges.values import request_values
from flask_dbopt.monitor.guard import Guard
from tests.monitor import unsafe


def new_guard(found):
    return Guard("log", request_values, is_own=is_own, emit=lambda name, **details: found.append(details["sql"]))


def test_the_corpus_is_as_large_and_as_varied_as_promised():
    corpus = unsafe.attacks()
    assert len(corpus) >= 500
    assert len(set(corpus.values())) == 10


def test_at_least_99_of_100_attacks_are_caught_wherever_they_change_the_tokens():
    found = []
    guard = new_guard(found)
    client = unsafe.build(guard.inspect).test_client()
    tried, missed = 0, []
    for context in unsafe.CONTEXTS:
        for attack in unsafe.attacks():
            if not unsafe.changes_structure(context, attack):
                continue
            tried += 1
            before = len(found)
            client.get(f"/{context}", query_string={"value": attack})
            if len(found) == before:
                missed.append((context, attack))
    assert tried > 4_000
    assert len(missed) <= tried / 100, missed
    # What is missed is a list of plain columns in ORDER BY or of numbers in brackets, and quotes that close each other.
    assert {context for context, _ in missed} <= {"order", "numbers", "twice"}


def test_a_value_in_the_place_of_another_is_no_attack():
    found = []
    client = unsafe.build(new_guard(found).inspect).test_client()
    for context, (_, harmless) in unsafe.CONTEXTS.items():
        client.get(f"/{context}", query_string={"value": harmless})
        client.get(f"/{context}", query_string={"value": "12"})
    assert found == []


# --- what is harmless ---

SQL_WORDS = (
    """
select|FROM|from keyword|select * from keyword|SELECT * FROM keyword|order by name|ORDER BY name|id desc|name desc
name, id|id, name|count(*)|select the best union|drop table lamp; --|the best of the union, where all order by name
O'Brien|it's|rock 'n' roll|'quoted'|"quoted"|5' 10"|''|'|"|,|;|--|-|/*|*/|(|)|()|=|*|%|_|?|a|1|0|1=1|a b|a, b
keyword.id|k.id|and owner|where owner = 1|WHERE owner = ?|is null|like|union select|group by|1,2,3|x' y|'active'
status = 'active'|kind = 'word'|word' AND|limit 5|limit ?|-- all of them|values (?, ?)|lower(name)|name LIKE|100%
50% off -- today only; don't wait|C:\\temp\\new|path/to/file|<b>bold</b>|https://a.example/?q=select%20from&x=1
me@example.com|2024-01-31|12:30|+49 30 123456|it''s|rock&roll|AT&T|tom; dick; harry|(select one)
"select" or "drop"|name = 'x' or so they say|null|true|AND|OR|as n|AS total|= 1|owner = 1
""".strip()
    .replace("\n", "|")
    .split("|")
)
ODD = ("select", "from", "where", "union", "order by", "drop table", "O'Brien", "--", "or 1", "like", "= 1", ";", "(a)")


def harmless(count):
    """Real words of nine languages, and sentences of them with quotes, marks and SQL's words."""
    chance = random.Random(4)
    words = [word for language in "en de fr es ru ar zh ja pl".split() for word in top_n_list(language, 600)]
    english = top_n_list("en", 3_000)
    values = SQL_WORDS + words[: count // 2]
    while len(values) < count:
        sentence = chance.choices(english, k=chance.randint(2, 9))
        for at, word in enumerate(sentence):
            odd = chance.random()
            if odd < 0.10:
                sentence[at] = f"{word}'s"
            elif odd < 0.18:
                sentence[at] = chance.choice((f"'{word}'", f'"{word}"', f"{word},", f"{word};", f"{word} --"))
            elif odd < 0.25:
                sentence[at] = chance.choice(ODD)
        values.append(" ".join(sentence))
    return values


class Base(DeclarativeBase):
    pass


class Keyword(Base):
    __tablename__ = "keyword"
    id: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True)
    name: sa.orm.Mapped[str]
    owner: sa.orm.Mapped[int]
    status: sa.orm.Mapped[str]


TABLE = "keyword"
SORTS = {"name": "name", "new": "id DESC, name", "name desc": "name desc"}


class Repository:
    FIND = "SELECT * FROM keyword WHERE name = ? AND kind = 'word' ORDER BY id DESC LIMIT ?"


def condition(alias="k"):
    return f" WHERE {alias}.owner = ? AND {alias}.status = 'active'"


def put_together():
    parts = ["SELECT id, name", "FROM keyword k", "WHERE 1=1"]
    parts.append("AND k.name LIKE ?")
    return " ".join([*parts, "ORDER BY name desc"])


def careful_app(run, engine):
    """An app that does it right, in all the ways there are."""
    app = Flask("careful")
    app.testing = True

    @app.get("/bound")
    def bound():
        run("SELECT * FROM keyword WHERE name = ?")
        run(
            "SELECT id, name, count(*) AS total FROM keyword WHERE status = 'active' AND name LIKE ? OR 'x' IN ('a',"
            "'b') GROUP BY name ORDER BY name desc LIMIT 5 -- all of them"
        )
        run("INSERT INTO keyword (name, owner) VALUES (?, ?)")
        run("""SELECT k.id, k.name /* the names */
               FROM keyword k WHERE owner = 1 AND status <> '' AND note = "x" ORDER BY id desc""")
        return ""

    @app.get("/constants")
    def constants():
        run(f"SELECT * FROM {TABLE} k{condition()} ORDER BY {SORTS.get(request.args['value'], 'id desc')} LIMIT 5")
        sql = "SELECT id, name, owner FROM keyword WHERE 1=1"
        sql += " AND name LIKE ?"
        sql += " AND status = 'active'"
        run(sql + " ORDER BY name, id")
        run(put_together())
        run(Repository.FIND)
        run("SELECT * FROM keyword WHERE id IN (%s)" % ",".join("?" * 3))  # noqa: UP031 - as many write it
        return ""

    @app.get("/escaped")
    def escaped():
        value = request.args["value"]
        text, name = value.replace("'", "''"), value.replace('"', '""')
        run(f"SELECT * FROM keyword WHERE name = '{text}' AND status = 'active'")
        run("SELECT * FROM keyword WHERE name LIKE '%" + text + "%' ORDER BY id")
        run(f"INSERT INTO keyword (name, kind) VALUES ('{text}', 'word')")
        run(f"SELECT * FROM keyword WHERE lower(name) = '{text.lower()}'")
        run(f'SELECT "{name}" FROM keyword')
        run(f"SELECT * FROM keyword WHERE id = {int(value) if value.isdecimal() else 7}")
        return ""

    @app.get("/orm")
    def orm():
        value = request.args["value"]
        with Session(engine) as session:
            session.scalars(
                sa.select(Keyword)
                .where(Keyword.name == value, Keyword.status == "active")
                .order_by(Keyword.name.desc(), Keyword.id)
            ).all()
            session.execute(
                sa.select(Keyword.id, sa.func.count()).where(Keyword.name.like(f"%{value}%")).group_by(Keyword.name)
            ).all()
            session.execute(
                sa.text("SELECT * FROM keyword WHERE name = :name AND status = 'active' ORDER BY name desc"),
                {"name": value},
            ).all()
            session.scalars(sa.select(Keyword).where(Keyword.name == sa.literal(value, literal_execute=True))).all()
        return ""

    return app


@pytest.mark.parametrize(
    ("count", "fresh"),
    [
        (1_000, True),
        pytest.param(10_000, False, marks=pytest.mark.slow),
        pytest.param(10_000, True, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_harmless_words_and_sentences_raise_no_alarm(count, fresh):
    """``fresh``: by a guard that has seen nothing before, at each request, which is the hardest."""
    found = []
    guards = [new_guard(found)]

    def run(sql):
        guards[0].inspect(sql)

    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    sa.event.listen(engine, "before_cursor_execute", lambda *told: run(told[2]))
    client = careful_app(run, engine).test_client()
    alarms = []
    values = harmless(count)
    assert len(set(values)) > count * 0.9
    for value in values:
        for path in ("/bound", "/constants", "/escaped", "/orm"):
            if fresh:
                guards[0] = new_guard(found)
            assert client.get(path, query_string={"value": value}).status_code == 200
            if found:
                alarms.append((path, value, found.pop()))
                found.clear()
    engine.dispose()
    assert alarms == []
