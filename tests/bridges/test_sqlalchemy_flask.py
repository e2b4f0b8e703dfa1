"""Flask-SQLAlchemy and Flask-SQLAlchemy-Lite: found by themselves, and their sessions see the truth."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask_sqlalchemy
import flask_sqlalchemy_lite
import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, close_all_sessions, mapped_column
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import NullPool, StaticPool

from flask_dbopt import DBOptimizer
from flask_dbopt.engines.sqlite.connection import Connection


class Base(DeclarativeBase):
    """The models of all apps here."""


class Word(Base):
    __tablename__ = "word"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


Make = Callable[..., Flask]


@pytest.fixture
def fast_switches() -> Iterator[None]:
    """Threads take turns some thousand times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Make]:
    """Apps of either extension, set up before or after us."""
    made: list[tuple[Flask, Any]] = []

    def make(kind: str = "full", *, first: bool = True, binds: bool = False, **config: Any) -> Flask:
        site = Flask(f"site{len(made)}", instance_path=str(tmp_path / f"instance{len(made)}"))
        site.testing = True
        main, more = f"sqlite:///{tmp_path}/main.db", f"sqlite:///{tmp_path}/more.db"
        if kind == "full":
            site.config["SQLALCHEMY_DATABASE_URI"] = main
            if binds:
                site.config["SQLALCHEMY_BINDS"] = {"more": more}
            db: Any = flask_sqlalchemy.SQLAlchemy(model_class=Base)
        else:
            site.config["SQLALCHEMY_ENGINES"] = {"default": main, **({"more": more} if binds else {})}
            db = flask_sqlalchemy_lite.SQLAlchemy()
        site.config.update(config)
        dbopt = DBOptimizer()
        for extension in (db, dbopt) if first else (dbopt, db):
            extension.init_app(site)
        site.extensions["test_dbopt"] = dbopt
        with site.app_context():
            Base.metadata.create_all(db.engine)
        made.append((site, db))
        return site

    yield make
    for site, db in made:
        with site.app_context():
            for engine in db.engines.values():
                engine.dispose()
        site.extensions["dbopt"].close()


def parts(site: Flask) -> tuple[Any, DBOptimizer]:
    return site.extensions["sqlalchemy"], site.extensions["test_dbopt"]


def keen(dbopt: DBOptimizer) -> None:
    """Keep whatever costs more than nothing."""
    for database in dbopt.optimizer.databases.values():
        database.road.notable = database.shelf.worth = 0.0


def calls(dbopt: DBOptimizer, part: str) -> int:
    return sum(each.calls for each in dbopt.monitor.queries() if part in each.query)


@pytest.fixture(params=["full", "lite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("first", [True, False])
def test_its_engines_are_found_whoever_comes_first(make_site: Make, kind: str, first: bool) -> None:
    site = make_site(kind, first=first, binds=True)
    db, dbopt = parts(site)

    @site.get("/")
    def index() -> str:
        for engine in db.engines.values():
            with engine.connect() as c:
                assert isinstance(c.connection.dbapi_connection, Connection)
                assert c.exec_driver_sql("PRAGMA cache_size").scalar() == -10000
        return str(db.session.execute(sa.select(sa.func.count()).select_from(Word)).scalar_one())

    for _ in range(2):
        assert site.test_client().get("/").text == "0"
    assert list(dbopt.optimizer.databases) == ["default", "more"]
    assert calls(dbopt, "FROM word") == 2
    (figures,) = [each for each in dbopt.monitor.endpoints(None) if each.endpoint == "index"]
    assert figures.calls == 2


def test_an_apps_first_requests_come_together_and_its_engine_is_taken_once(tmp_path: Path, fast_switches: None) -> None:
    for attempt in range(10):
        site = Flask("site", instance_path=str(tmp_path / "instance"))
        site.testing = True
        site.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/{attempt}.db"
        db = flask_sqlalchemy.SQLAlchemy(site)
        dbopt = DBOptimizer(site)

        @site.get("/")
        def index(db: Any = db) -> str:
            return str(db.session.execute(sa.text("SELECT 42")).scalar_one())

        together = threading.Barrier(8)

        def ask(site: Flask = site, together: threading.Barrier = together) -> str:
            together.wait()
            return site.test_client().get("/").text

        with ThreadPoolExecutor(8) as threads:
            assert {task.result() for task in [threads.submit(ask) for _ in range(8)]} == {"42"}
        assert calls(dbopt, "SELECT ?") == 8, "each counted once"
        assert len(dbopt.optimizer.databases["default"].pools) == 2, "one of the engine, one of raw connections"
        with site.app_context():
            db.engine.dispose()
        site.extensions["dbopt"].close()


def test_binds_without_a_default_are_found(make_site: Make, tmp_path: Path) -> None:
    site = Flask("site", instance_path=str(tmp_path / "instance"))
    site.testing = True
    site.config["SQLALCHEMY_BINDS"] = {"only": f"sqlite:///{tmp_path}/only.db"}
    db = flask_sqlalchemy.SQLAlchemy(site)
    dbopt = DBOptimizer(site)
    with site.app_context():
        with db.engines["only"].connect() as c:
            assert isinstance(c.connection.dbapi_connection, Connection)
        assert list(dbopt.optimizer.databases) == ["only"]
        with dbopt.borrow() as c:
            c.execute("SELECT 1")
        db.engines["only"].dispose()
    site.extensions["dbopt"].close()


def test_an_app_that_used_its_engine_before_us_is_tuned_from_then_on(tmp_path: Path) -> None:
    """``create_all()`` at import."""
    site = Flask("site", instance_path=str(tmp_path / "instance"))
    site.testing = True
    site.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/main.db"
    db = flask_sqlalchemy.SQLAlchemy(site, model_class=Base)
    with site.app_context():
        db.create_all()
    dbopt = DBOptimizer(site)
    with site.app_context():
        assert db.session.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert calls(dbopt, "PRAGMA journal_mode") == 1
        db.session.remove()
        db.engine.dispose()
    site.extensions["dbopt"].close()


def test_raw_connections_and_sessions_share_one_database(make_site: Make, kind: str) -> None:
    site = make_site(kind)
    db, dbopt = parts(site)
    with site.app_context():
        db.session.add(Word(text="one"))
        db.session.commit()
        assert dbopt.connection.execute("SELECT text FROM word").fetchall() == [("one",)]
        with dbopt.transaction() as c:
            c.execute("INSERT INTO word (text, version) VALUES ('two', 1)")
        assert db.session.scalars(sa.select(Word.text).order_by(Word.id)).all() == ["one", "two"]
    assert len(dbopt.optimizer.databases) == 1


@pytest.mark.parametrize("options", [{}, {"poolclass": NullPool}, {"poolclass": StaticPool}, {"pool_size": 2}])
def test_the_apps_engine_options_are_kept(make_site: Make, options: dict[str, Any]) -> None:
    given = dict(options)
    site = make_site(SQLALCHEMY_ENGINE_OPTIONS=options)
    db, dbopt = parts(site)
    with site.app_context():
        db.session.execute(sa.select(Word)).all()
        assert type(db.engine.pool) is options.get("poolclass", type(db.engine.pool))
        assert calls(dbopt, "FROM word") == 1
    assert options == given


def test_an_app_in_memory_works_through_contexts_and_requests(make_site: Make) -> None:
    site = make_site(SQLALCHEMY_DATABASE_URI="sqlite://")
    db, dbopt = parts(site)

    @site.get("/<text>")
    def index(text: str) -> str:
        db.session.add(Word(text=text))
        db.session.commit()
        return str(db.session.scalar(sa.select(sa.func.count()).select_from(Word)))

    client = site.test_client()
    assert [client.get("/a").text, client.get("/b").text] == ["1", "2"]
    assert dbopt.report() is not None
    assert dbopt.optimizer.default.path is None
    assert calls(dbopt, "INSERT INTO word") == 2


def test_the_session_can_be_removed_and_everything_dropped_at_any_time(make_site: Make) -> None:
    site = make_site()
    db, dbopt = parts(site)

    @site.get("/")
    def index() -> str:
        db.session.add(Word(text="one"))
        db.session.flush()
        db.session.remove()
        close_all_sessions()
        db.drop_all()
        db.create_all()
        db.engine.dispose()
        db.session.add(Word(text="two"))
        db.session.commit()
        return str(db.session.scalars(sa.select(Word.text)).all())

    for _ in range(2):
        assert site.test_client().get("/").text == "['two']"
    assert dbopt.optimizer.default.pool.holders() == ()


# --- sessions see the database


def outside(site: Flask, sql: str) -> None:
    """A commit by somebody who knows nothing of us."""
    with site.app_context():
        path = parts(site)[0].engine.url.database
    with contextlib.closing(sqlite3.connect(path)) as c:
        c.executescript(sql)


def warm(site: Flask, statement: Any) -> None:
    """Ask until the cache answers."""
    db, dbopt = parts(site)
    keen(dbopt)
    hits = dbopt.cache.stats().hits
    for _ in range(12):
        with Session(db.engine) as session:
            session.execute(statement).all()
        if dbopt.cache.stats().hits > hits:
            return
    raise AssertionError(dbopt.cache.stats())


@pytest.fixture
def words(make_site: Make, kind: str) -> Iterator[Flask]:
    site = make_site(kind)
    db, _ = parts(site)
    with site.app_context():
        db.session.add_all([Word(id=n, text=f"word{n}") for n in range(1, 200)])
        db.session.commit()
        warm(site, sa.select(Word).order_by(Word.text))
        yield site


def test_expired_and_refreshed_objects_see_the_newest_commit(words: Flask) -> None:
    db, _ = parts(words)
    statement = sa.select(Word).where(Word.id == 7)
    warm(words, statement)
    with Session(db.engine) as session:
        word = session.scalars(statement).one()
        assert word.text == "word7"
        session.rollback()
        outside(words, "UPDATE word SET text = 'new' WHERE id = 7")
        assert word.text == "new", "expired by the rollback"
        outside(words, "UPDATE word SET text = 'newer' WHERE id = 7")
        session.refresh(word)
        assert word.text == "newer"
        outside(words, "UPDATE word SET text = 'newest' WHERE id = 7")
        session.expire_all()
        assert session.scalars(statement).one().text == "newest"
        assert session.scalars(statement.with_for_update()).one() is word


def test_what_a_session_has_flushed_it_sees_and_nobody_else(words: Flask) -> None:
    db, _ = parts(words)
    statement = sa.select(sa.func.count(), sa.func.max(Word.text)).select_from(Word)
    warm(words, statement)
    with Session(db.engine) as session, Session(db.engine) as other:
        session.add(Word(id=900, text="zzz"))
        assert session.execute(statement).all() == [(200, "zzz")]
        assert other.execute(statement).all() == [(199, "word99")]
        other.rollback()
        session.rollback()
        assert session.execute(statement).all() == [(199, "word99")]
        session.add(Word(id=900, text="zzz"))
        session.commit()
        assert other.execute(statement).all() == [(200, "zzz")]


def test_optimistic_versions_notice_who_was_quicker(words: Flask) -> None:
    db, _ = parts(words)
    for _ in range(3):
        with Session(db.engine, expire_on_commit=False) as session:
            word = session.get(Word, 7)
            assert word is not None
            session.commit()
            outside(words, "UPDATE word SET version = version + 1 WHERE id = 7")
            word.text = "mine"
            with pytest.raises(StaleDataError):
                session.commit()


def test_objects_of_a_hit_are_each_sessions_own(words: Flask) -> None:
    db, dbopt = parts(words)
    hits = dbopt.cache.stats().hits
    for _ in range(3):
        with Session(db.engine) as session:
            found = session.scalars(sa.select(Word).order_by(Word.text)).all()
            assert len(found) == 199
            assert found[0].text == "word1"
            found[0].text = "mine"
            session.rollback()
    assert dbopt.cache.stats().hits > hits


def test_results_are_read_in_every_way_from_the_cache(words: Flask) -> None:
    db, dbopt = parts(words)
    statement = sa.select(Word.id, Word.text).order_by(Word.text)
    with contextlib.closing(sqlite3.connect(db.engine.url.database)) as plain:
        expected = plain.execute("SELECT id, text FROM word ORDER BY text").fetchall()
    warm(words, statement)
    hits = dbopt.cache.stats().hits
    with db.engine.connect() as c:
        assert c.execute(statement).all() == expected
        assert c.execute(statement).mappings().first() == {"id": 1, "text": "word1"}
        assert [tuple(row) for part in c.execute(statement).partitions(50) for row in part] == expected
        assert c.execute(statement).keys() == ["id", "text"]
        result = c.execution_options(yield_per=20).execute(statement)
        assert result.fetchmany(3) == expected[:3]
        result.close()
        assert c.execute(statement).scalars().all() == [row[0] for row in expected]
        assert list(c.execute(statement).unique()) == expected
    assert dbopt.cache.stats().hits >= hits + 6


def test_a_savepoint_reads_what_it_wrote(words: Flask) -> None:
    db, _ = parts(words)
    statement = sa.select(sa.func.count()).select_from(Line)
    warm(words, statement)
    with Session(db.engine) as session:
        session.add(Line(text="first"))  # the driver begins no transaction for a SAVEPOINT
        session.flush()
        for n in range(3):
            with session.begin_nested():
                session.add(Line(text=str(n)))
            assert session.scalar(statement) == n + 2
        with contextlib.suppress(LookupError), session.begin_nested():
            session.add(Line(text="lost"))
            session.flush()
            raise LookupError
        assert session.scalar(statement) == 4
        session.rollback()
        assert session.scalar(statement) == 0


def test_returning_and_bulk_statements_are_never_answered_by_the_cache(words: Flask) -> None:
    db, _ = parts(words)
    count = sa.select(sa.func.count()).select_from(Line)
    adding = sa.insert(Line).values(text="x").returning(Line.id)
    seen = set()
    for n in range(4):
        with Session(db.engine) as session:
            seen.add(session.scalars(adding).one())
            session.execute(sa.insert(Line), [{"text": "a"}, {"text": "b"}])
            session.commit()
            assert session.scalar(count) == 3 * (n + 1)
            assert len(session.execute(sa.update(Line).values(text="y").returning(Line.id)).all()) == 3 * (n + 1)
            session.commit()
    assert len(seen) == 4


def test_switched_off_its_engines_are_left_alone_and_their_file_is_known(make_site: Make, kind: str) -> None:
    site = make_site(kind, DBOPT_ENABLED=False)
    db, dbopt = parts(site)
    with site.app_context():
        assert db.session.execute(sa.text("PRAGMA journal_mode")).scalar_one() == "delete"
        with db.engine.connect() as c:
            assert type(c.connection.dbapi_connection) is sqlite3.Connection
        assert dbopt.connection.execute("SELECT count(*) FROM word").fetchone() == (0,)
        assert type(dbopt.connection) is sqlite3.Connection


def test_a_migration_on_an_engine_of_its_own_runs_beside_idle_readers(make_site: Make) -> None:
    """As Alembic's batch mode does it: a copy of the table, in one transaction, on a NullPool."""
    site = make_site()
    db, dbopt = parts(site)
    with site.app_context():
        db.session.add(Line(text="x"))
        db.session.commit()
        db.session.scalars(sa.select(Line)).all()
        db.session.remove()
        with dbopt.borrow() as c:
            c.execute("SELECT * FROM line").fetchall()
        del c
        engine = sa.create_engine(db.engine.url, poolclass=NullPool)
        with engine.begin() as c:
            c.exec_driver_sql("PRAGMA busy_timeout = 100")
            c.exec_driver_sql("CREATE TABLE _new (id INTEGER PRIMARY KEY, text VARCHAR, more INTEGER DEFAULT 5)")
            c.exec_driver_sql("INSERT INTO _new (id, text) SELECT id, text FROM line")
            c.exec_driver_sql("DROP TABLE line")
            c.exec_driver_sql("ALTER TABLE _new RENAME TO line")
        assert db.session.execute(sa.text("SELECT * FROM line")).all() == [(1, "x", 5)]
        with dbopt.borrow() as c:
            assert c.execute("SELECT * FROM line").fetchall() == [(1, "x", 5)]
