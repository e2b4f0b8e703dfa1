"""Saved lists: everything that people do with them, and nothing that others send in their name."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient


def made(person: Any, name: str = "Breakfast") -> str:
    """A new list's path."""
    text = person.send("/lists/", name=name)
    found = re.search(r'action="(/lists/\d+)/items"', text)
    assert found
    return found[1]


def test_a_list_is_made_filled_renamed_emptied_and_thrown_away(person: Any) -> None:
    path = made(person)
    text = person.send(f"{path}/items", lang="en", word="  Good ")
    assert "“good” was saved to “Breakfast”." in text
    assert "1 keyword ·" in text
    assert "Brunch" in person.send(f"{path}/rename", name="  Brunch \n")
    assert "Brunch" in person.read("/lists/")
    remove = re.search(r'action="(/lists/\d+/items/\d+/remove)"', person.read(path))
    assert remove
    assert "“good” was taken out." in person.send(remove[1])
    assert "Nothing in here yet" in person.read(path)
    assert "“Brunch” is gone." in person.send(f"{path}/delete")
    assert person.client.get(path).status_code == 404


def test_a_keywords_page_saves_to_a_list_and_to_a_new_one(person: Any) -> None:
    text = person.send("/lists/", name="First", keyword_id=1)
    assert "1 keyword ·" in text
    number = made(person, "Second").rsplit("/", 1)[1]
    assert "was saved to “Second”" in person.send("/lists/save", list_id=number, keyword_id=1)
    assert re.search(r"Saved in</dt><dd>\d", person.read("/keywords/1"))
    assert "<option" in person.read("/keywords/1")


def test_what_is_saved_is_there_for_the_next_visitor(app: Flask, person: Any) -> None:
    path = made(person, "Shared & kept")
    assert "Shared &amp; kept" in app.test_client().get(path).text
    assert "Shared &amp; kept" in app.test_client().get("/lists/").text


def test_a_word_is_in_a_list_only_once(person: Any) -> None:
    path = made(person)
    person.send(f"{path}/items", lang="en", word="good")
    assert "is in this list already" in person.send(f"{path}/items", lang="en", word="good")
    assert "1 keyword ·" in person.read(path)


def test_an_unknown_word_is_said_and_not_saved(person: Any) -> None:
    path = made(person)
    assert "We have no keyword “qqqq”" in person.send(f"{path}/items", lang="en", word="qqqq")
    assert "We have no keyword" in person.send(f"{path}/items", lang="xx", word="good")
    assert "Nothing in here yet" in person.read(path)


@pytest.mark.parametrize(("name", "said"), [("   ", "needs a name"), ("x" * 81, "at most 80")])
def test_a_name_has_to_be_one(person: Any, name: str, said: str) -> None:
    assert said in person.send("/lists/", name=name)
    path = made(person)
    assert said in person.send(f"{path}/rename", name=name)
    assert "Breakfast" in person.read(path)


def test_a_list_can_be_taken_home(person: Any) -> None:
    path = made(person)
    for code, word in (("en", "good"), ("de", "gut"), ("fr", "bon")):
        person.send(f"{path}/items", lang=code, word=word)
    rows = list(csv.DictReader(io.StringIO(person.read(f"{path}.csv"))))
    assert [(row["language"], row["word"]) for row in rows] == [
        ("English", "good"),
        ("German", "gut"),
        ("French", "bon"),
    ]


def test_starter_lists_are_there_and_stay_as_they_are(person: Any) -> None:
    text = person.read("/lists/1")
    assert "a starter list" in text
    assert "Delete this list" not in text
    with pytest.raises(AssertionError, match="403"):
        person.send("/lists/1/delete")
    with pytest.raises(AssertionError, match="403"):
        person.send("/lists/1/items", lang="en", word="good")


def test_a_form_without_the_sessions_token_is_refused(client: FlaskClient, person: Any) -> None:
    path = made(person)
    for data in ({}, {"csrf_token": ""}, {"csrf_token": "guessed"}, {"csrf_token": "é"}):
        answer = client.post(f"{path}/delete", data=data)
        assert answer.status_code == 400
        assert "out of date" in answer.text
    assert "Breakfast" in person.read(path)


def test_a_stranger_without_a_session_is_refused(app: Flask, person: Any) -> None:
    path = made(person)
    assert app.test_client().post(f"{path}/delete", data={"csrf_token": ""}).status_code == 400
    assert "Breakfast" in person.read(path)


def test_an_item_of_another_list_stays_where_it_is(person: Any) -> None:
    one, other = made(person, "One"), made(person, "Other")
    text = person.send(f"{one}/items", lang="en", word="good")
    item = re.search(r"/items/(\d+)/remove", text)
    assert item
    with pytest.raises(AssertionError, match="404"):
        person.send(f"{other}/items/{item[1]}/remove")
    assert "1 keyword ·" in person.read(one)
