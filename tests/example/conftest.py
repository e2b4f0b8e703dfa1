"""The example app on a small word list, with and without the extension."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from example_app import DATABASE_NAME, create_app  # noqa: E402
from example_app.build import build  # noqa: E402

CODES = ("en", "de", "fr")
WORDS = 600


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three languages with 600 keywords each; never written to."""
    path = tmp_path_factory.mktemp("data") / DATABASE_NAME
    build(path, codes=CODES, words=WORDS)
    return path


@pytest.fixture
def instance(small_data: Path, tmp_path: Path) -> Path:
    """An instance folder with data of its own."""
    folder = tmp_path / "instance"
    folder.mkdir()
    shutil.copy(small_data, folder / DATABASE_NAME)
    return folder


@pytest.fixture(params=[False, True], ids=["without", "with"])
def app(request: pytest.FixtureRequest, instance: Path) -> Iterator[Flask]:
    app = create_app({"INSTANCE": str(instance), "OPTIMIZE": request.param, "TESTING": True})
    yield app
    end(app)


def end(app: Flask) -> None:
    """Close what an app keeps open."""
    from example_app.db import orm

    with app.app_context():
        orm.engine.dispose()
    if "dbopt" in app.extensions:
        app.extensions["dbopt"].close()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


class Person:
    """Somebody at a browser, who sends the forms that they were shown."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def read(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status}"
        return answer.text

    def send(self, path: str, **form: object) -> str:
        """Post a form with the token from the lists page, follow the redirect, return the page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.read("/lists/"))
        assert found
        answer = self.client.post(path, data={"csrf_token": found[1], **form}, follow_redirects=True)
        assert answer.status_code == 200, f"{path}: {answer.status}"
        return answer.text


@pytest.fixture
def person(client: FlaskClient) -> Person:
    return Person(client)
