"""Every page that reads, with and without the extension: the same words, the same manners."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from example_app import create_app
from example_app.wording import band, clean, one_in, per_million

ROOT = Path(__file__).resolve().parents[2]


def number_of(person: Any, word: str, code: str) -> str:
    """A keyword's number, as its language's list links it."""
    for page in range(1, 13):
        text = person.read(f"/languages/{code}?page={page}")
        if found := re.search(rf'href="/keywords/(\d+)">{word}<', text):
            return found[1]
    raise AssertionError(f"{word} is not listed")


def words_in(text: str) -> list[str]:
    return re.findall(r'class="word" href="/keywords/\d+">([^<]+)<', text)


def test_the_front_page_counts_every_language(person: Any) -> None:
    text = person.read("/")
    assert "1,800 keywords · 3 languages" in text
    assert text.count(">600<") == 3


def test_the_languages_show_their_first_words(person: Any) -> None:
    text = person.read("/languages/")
    for name, first in (("English", "the"), ("German", "die"), ("French", "de")):
        assert f">{name}</a>" in text
        assert f">{first}</a>" in text


def test_a_top_list_is_in_order_and_goes_on_for_pages(person: Any) -> None:
    first, second = person.read("/languages/en"), person.read("/languages/en?page=2")
    assert words_in(first)[:3] == ["the", "to", "and"]
    assert len(words_in(first)) == len(words_in(second)) == 50
    assert not set(words_in(first)) & set(words_in(second))
    assert 'rel="next"' in first
    assert 'rel="prev"' not in first
    assert 'rel="next"' not in person.read("/languages/en?page=12")


@pytest.mark.parametrize("page", ["0", "-3", "many", "", "99999999999999999999"])
def test_an_odd_page_number_is_no_error(person: Any, page: str) -> None:
    person.read(f"/languages/en?page={page}")
    person.read(f"/search?q=e&page={page}")


def test_a_language_can_be_taken_home_whole(client: FlaskClient) -> None:
    answer = client.get("/languages/de.csv")
    assert answer.mimetype == "text/csv"
    assert "omni-keywords-de.csv" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 600
    assert (rows[0]["word"], rows[0]["rank"]) == ("die", "1")
    assert [int(row["rank"]) for row in rows] == list(range(1, 601))


def test_an_export_that_nobody_reads_to_its_end_does_no_harm(client: FlaskClient) -> None:
    answer = client.get("/languages/de.csv", buffered=False)
    assert next(answer.iter_encoded()).startswith(b"rank,word")
    answer.close()
    assert client.get("/languages/de").status_code == 200


def test_a_search_finds_parts_of_words_most_frequent_first(person: Any) -> None:
    text = person.read("/search?q=ou")
    found = words_in(text)
    assert "you" in found
    assert all("ou" in word for word in found)
    assert "By language" in text
    narrowed = person.read("/search?q=ou&lang=fr")
    assert "you" not in words_in(narrowed)
    assert words_in(narrowed)


def test_a_search_takes_its_signs_literally(person: Any) -> None:
    for sign in ("%25", "_", "%5C"):
        assert "No keyword contains" in person.read(f"/search?q={sign}")
        assert person.client.get(f"/suggest?q={sign}").get_json() == []


def test_a_search_has_pages_and_none_after_the_last(person: Any) -> None:
    first, second = words_in(person.read("/search?q=e")), words_in(person.read("/search?q=e&page=2"))
    assert len(first) == len(second) == 25
    assert first != second
    assert "There is no page 999" in person.read("/search?q=e&page=999")


def test_nothing_typed_and_nothing_found_are_both_said_kindly(person: Any) -> None:
    assert "Type a word" in person.read("/search")
    assert "Type a word" in person.read("/search?q=%20%20")
    text = person.read("/search?q=%3Cscript%3Exyz")
    assert "No keyword contains" in text
    assert "<script>xyz" not in text


def test_suggestions_begin_with_what_was_typed(client: FlaskClient) -> None:
    found = client.get("/suggest?q=TH").get_json()
    assert found[0]["word"] == "the"
    assert all(entry["word"].startswith("th") for entry in found)
    assert len(found) <= 8
    assert client.get(found[0]["url"]).status_code == 200
    assert client.get("/suggest").get_json() == []


def test_a_keyword_has_its_figures_relations_and_neighbours(person: Any) -> None:
    text = person.read(f"/keywords/{number_of(person, 'here', 'en')}")
    assert '<h1 class="keyword" lang="en">here' in text
    assert "there" in words_in(text)
    assert 'aria-current="true">here</a>' in text
    assert "once in" in text


def test_a_keyword_knows_the_same_spelling_elsewhere(person: Any) -> None:
    text = person.read(f"/keywords/{number_of(person, 'on', 'en')}")
    assert re.search(r"Same spelling elsewhere.*French", text, re.DOTALL)


def test_a_word_is_compared_across_the_languages_that_have_it(person: Any) -> None:
    text = person.read("/compare?word=%20ON%20")
    assert "Compare <q>on</q>" in text
    shown = re.findall(r'class="word" href="/keywords/\d+">(\w+)</a>', text)
    assert {"English", "French"} <= set(shown)
    rates = [float(rate.replace(",", "")) for rate in re.findall(r'strong">([\d.,]+)<', text)]
    assert rates == sorted(rates, reverse=True)
    assert "None of the languages" in person.read("/compare?word=qqqq")
    assert "<table" not in person.read("/compare")


def test_surprise_leads_to_a_keyword(client: FlaskClient) -> None:
    answer = client.get("/random")
    assert re.fullmatch(r"/keywords/\d+", answer.headers["Location"])
    assert client.get(answer.headers["Location"]).status_code == 200


@pytest.mark.parametrize(
    "path", ["/keywords/0", "/keywords/999999", "/languages/tlh", "/languages/tlh.csv", "/nothing"]
)
def test_what_is_not_there_is_a_page_that_leads_back(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "To the front page" in answer.text


def test_no_page_needs_a_script_from_elsewhere(client: FlaskClient) -> None:
    for path in (
        "/",
        "/languages/",
        "/languages/en",
        "/search?q=ou",
        "/compare?word=on",
        "/lists/",
        "/lists/1",
    ):
        answer = client.get(path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert not re.search(r"<script(?![^>]*\ssrc=\"/static/)|\sstyle=|\son\w+=|src=\"http", answer.text)
    for name in ("style.css", "suggest.js", "mark.svg"):
        with client.get(f"/static/{name}") as answer:
            assert answer.status_code == 200


def test_without_data_the_app_says_how_to_build_it_and_makes_no_empty_file(tmp_path: Path) -> None:
    app = create_app({"INSTANCE": str(tmp_path), "OPTIMIZE": False, "TESTING": True})
    answer = app.test_client().get("/")
    assert answer.status_code == 503
    assert "python -m example_app.build" in answer.text
    assert not (tmp_path / "omni.sqlite").exists()


def test_workers_share_one_secret_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps = [create_app({"INSTANCE": str(tmp_path), "OPTIMIZE": False}) for _ in range(2)]
    assert apps[0].secret_key == apps[1].secret_key
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("SECRET_KEY", "from outside")
    assert create_app({"INSTANCE": str(tmp_path), "OPTIMIZE": False}).secret_key == "from outside"


def test_switched_off_the_extension_is_not_even_imported(instance: Path) -> None:
    look = (
        "import os, sys; os.environ.update(DBOPT='off', OMNI_INSTANCE=sys.argv[1]);"
        "from example_app import create_app;"
        "print(create_app().test_client().get('/').status_code, 'flask_dbopt' in sys.modules)"
    )
    command = [sys.executable, "-c", look, str(instance)]
    assert subprocess.check_output(command, cwd=ROOT, text=True).split() == ["200", "False"]


def test_figures_are_written_for_people() -> None:
    assert [per_million(value) for value in (53703.2, 99.94, 1.04, 0.35)] == ["53,703", "99.9", "1.0", "0.35"]
    assert [one_in(value) for value in (53703.2, 269.0, 0.35)] == ["19", "3,700", "2,900,000"]
    assert [band(value) for value in (7, 5.5, 4, 3.2, 1)] == [
        "everywhere",
        "very common",
        "common",
        "uncommon",
        "rare",
    ]
    assert clean("  E\u0301toile \n Rouge ") == "étoile rouge"
    assert len(clean("x" * 1000)) == 60
