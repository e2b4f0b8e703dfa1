"""What a piece of text does to the statement it stands in: nothing, adds to it, breaks out of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_dbopt.sql.splice import Effect, effect
from flask_dbopt.sql.tokens import tokens

PLAIN = [
    ("select * from t where name = '{}'", "o''brien"),
    ("select * from t where name = '{}'", "union select 1 -- ; /*"),
    ("select * from t where name = {}", "'lamp'"),
    ("select * from t where id = {}", "5"),
    ("select * from t where id = {} and a = 1", "-5.25"),
    ("select * from t where id = {}", " 5 "),
    ("select * from {} k", "main.keyword"),
    ("select * from t_{}", "2024"),
    ('select "{}" from t', 'a""b'),
    ("select * from t where id in ({})", "1,2, 3"),
    ("select * from t where id in (1, {})", "2,3"),
    ("select f({}) from t", "1.5,2"),
    ("select * from t order by {}", "name desc, 2, t.id asc nulls last"),
    ("select * from t order by lower(a), {} limit 5", "name collate nocase desc, id"),
    ("select * from t -- for {}\nwhere a = 1", "somebody's page"),
    ("select /* {} */ 1", "home page"),
    ("select * from t {} u", ","),
    ("select 1{}", ";"),
    ("select * from t where a = 1", " "),
    ("select e'{}' from t", "a\\'b"),
    ("select $tag${}$tag$", "it's"),
]
ADDS = [
    ("select * from t where id = {}", "1 or 1=1"),
    ("select * from t where id = {}", "- 5 + 1"),
    ("select * from t where id = {}", "(1)"),
    ("select * from t where id = {}", "max(id)"),
    ("select {} from t", "name, password"),
    ("select * from {}", "a, b"),
    ("select * from t group by {}", "a, b"),
    ("select * from t order by {}", "name limit 1"),
    ("select * from t order by {}", "name, abs(id)"),
    ("select * from t order by {}", "a.b.c.d.e"),
    ("select * from t order by (select {})", "a, b"),
    ("select * from t order by name limit {}", "1, 2"),
    ("insert into t values ({}, 0)", "1, 1"),
    ("select * from t_{}", "a b"),
    ("select * from t where id = {} or a = 1", "x.and"),
]
BREAKS = [
    ("select * from t where name = '{}'", "' or '1'='1"),
    ("select * from t where name = '{}'", "'"),
    ("select * from t where name = '{}' and a = '1'", "\\' or 1=1 --"),
    ("select * from t where name = '{}' and pass = 'x'", "abc'"),
    ("select * from t where id = {} and a = 1", "1 --"),
    ("select * from t where id = {} and a = 1", "/*"),
    ("select * from t where id = 10-{} and owner = 1", "-5"),
    ("select * from t where id = {}", "1; drop table t"),
    ("select * from t -- for {}\nwhere a = 1", "me\nor 1"),
    ("select /* {} */ 1", "*/ 2, /*"),
    ('select "{}" from t', 'a", "b'),
    ("select * from t where name = {}", "'a"),
]


def found(template, piece):
    start = template.index("{}")
    sql = template.replace("{}", piece)
    return effect(sql, start, start + len(piece))


@pytest.mark.parametrize(("template", "piece"), PLAIN)
def test_a_plain_value_does_nothing(template, piece):
    if "{}" in template:
        assert found(template, piece) is Effect.NONE
    else:
        assert effect(template, template.index(piece), template.index(piece) + 1) is Effect.NONE


@pytest.mark.parametrize(("template", "piece"), ADDS)
def test_more_than_a_value_adds(template, piece):
    assert found(template, piece) is Effect.ADDS


@pytest.mark.parametrize(("template", "piece"), BREAKS)
def test_what_ends_a_literal_or_begins_a_comment_breaks(template, piece):
    assert found(template, piece) is Effect.BREAKS


@given(st.text(max_size=60), st.text(alphabet="'\"`;-/*\\ \n$[]ab1,()", max_size=20))
def test_no_text_makes_it_raise(sql, piece):
    text = f"{sql}{piece}{sql}"
    effect(text, len(sql), len(sql) + len(piece))


@given(st.text(alphabet="'\"`$e[]-/*\\ \nab1.:@?%", max_size=80))
def test_tokens_stand_in_order_and_leave_out_only_blanks(sql):
    at = 0
    for token in tokens(sql):
        assert sql[token.start : token.end] == token.text
        assert not sql[at : token.start].strip(" \t\n\r\f")
        at = token.end
    assert not sql[at:].strip(" \t\n\r\f")


@pytest.mark.parametrize("literal", ["'", "'a", "'a''", "$t$ x", '"a', "`a", "e'a\\'", "x'ab"])
def test_a_literal_without_an_end_is_torn(literal):
    assert [token.kind for token in tokens(f"select {literal}")] == ["word", "torn"]


@pytest.mark.parametrize("literal", ["''", "'a''b'", "$t$ ' $t$", "$$'$$", "e'a\\'b'", "x'ab'", "N'a'"])
def test_a_literal_with_an_end_is_text(literal):
    assert [token.kind for token in tokens(f"select {literal}")] == ["word", "text"]
