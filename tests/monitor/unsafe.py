"""A deliberately unsafe app: every endpoint puts a value of the request into SQL text, each at another place."""

from pathlib import Path

import sqlglot
from flask import Flask, request

CONTEXTS = {
    "text": ("SELECT id FROM keyword WHERE name = '{}' AND owner = 1", "lamp"),
    "twice": ("SELECT id FROM keyword WHERE (name = '{0}' OR lower(name) = '{0}') AND owner = 1", "lamp"),
    "number": ("SELECT id FROM keyword WHERE id = {} AND owner = 1", "5"),
    "like": ("SELECT id FROM keyword WHERE name LIKE '%{}%' ORDER BY id", "lamp"),
    "order": ("SELECT id FROM keyword WHERE owner = 1 ORDER BY {}", "name"),
    "table": ("SELECT id FROM {} WHERE owner = 1", "keyword"),
    "column": ("SELECT {} FROM keyword", "name"),
    "quoted": ('SELECT id FROM "{}" WHERE owner = 1', "keyword"),
    "numbers": ("SELECT id FROM keyword WHERE id IN ({})", "1"),
    "texts": ("SELECT id FROM keyword WHERE name IN ('{}')", "lamp"),
    "limit": ("SELECT id FROM keyword ORDER BY id LIMIT {}", "5"),
    "insert": ("INSERT INTO keyword (name, owner) VALUES ('{}', 1)", "lamp"),
    "update": ("UPDATE keyword SET name = '{}' WHERE owner = 1", "lamp"),
}
_OPERANDS = ("NUMBER", "STRING", "VAR", "IDENTIFIER", "NULL", "TRUE", "FALSE")


def attacks():
    """Every attack once; \\n, \\t and \\r stand for what they mean."""
    found = {}
    for file in sorted((Path(__file__).parent / "attacks").glob("*.txt")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line:
                found[line.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")] = file.stem
    return found


def changes_structure(context, attack):
    """Whether another lexer than ours (sqlglot's) reads other tokens than with a harmless value.

    One literal or name in the place of another counts as the same.
    """
    template, harmless = CONTEXTS[context]
    return _shape(template.format(attack)) != _shape(template.format(harmless))


def _shape(sql):
    try:
        found = sqlglot.tokenize(sql, read="sqlite")
    except sqlglot.errors.TokenError:
        return "torn"
    return [
        ("operand" if token.token_type.name in _OPERANDS else token.token_type, len(token.comments)) for token in found
    ]


def build(run):
    """The app; ``run(sql)`` gets every statement."""
    app = Flask("unsafe")
    app.testing = True

    @app.get("/<context>")
    def unsafe(context):
        run(CONTEXTS[context][0].format(request.args["value"]))
        return "done"

    return app
