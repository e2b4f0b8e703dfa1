"""What each address below the page's own names: a tab, a change or one of the few others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import unquote

from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from flask_dbopt.admin import alerts, audit, backups, indexes, overview, pool, queries, requests, settings
from flask_dbopt.admin import cache as cache_tab
from flask_dbopt.admin.desk import Done, Page

_GET, _POST = ("GET",), ("POST",)

PAGES: dict[str, Callable[..., Page]] = {
    "overview": overview.show,
    "queries": queries.show,
    "queries_one": queries.show_one,
    "requests": requests.show,
    "indexes": indexes.show,
    "indexes_one": indexes.confirm,
    "pool": pool.show,
    "cache": cache_tab.show,
    "backups": backups.show,
    "alerts": alerts.show,
    "audit": audit.show,
    "settings": settings.show,
}
"""By endpoint; asked for by GET."""
CHANGES: dict[str, Callable[..., Done]] = {
    "indexes_one_apply": indexes.apply,
    "cache_clear": cache_tab.clear,
    "backups_take": backups.take,
    "backups_verify": backups.verify,
    "alerts_silence": alerts.silence,
    "alerts_unsilence": alerts.unsilence,
    "alerts_test": alerts.test,
    "figures_reset": settings.reset,
}
"""By endpoint; made by POST."""
_OTHERS = {"api": _GET, "health": _GET, "metrics": _GET, "static": _GET, "sign_in": (*_GET, *_POST), "sign_out": _POST}
_ADDRESSES = {
    "overview": "/",
    "queries_one": "/queries/<query_id>",
    "indexes_one": "/indexes/<advice_id>",
    "indexes_one_apply": "/indexes/<advice_id>/apply",
    "api": "/api/v1/<path:resource>",
    "static": "/static/<name>",
    "sign_in": "/sign-in",
    "sign_out": "/sign-out",
}
"""Where an address is not the endpoint's name with slashes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is after. ``fault``: why there is nothing to answer with, such as the wrong method."""

    endpoint: str
    arguments: Mapping[str, Any]
    fault: HTTPException | None = None


def find(path: str, method: str) -> Asked:
    """What ``path``, which begins behind the page's own address, stands for."""
    try:
        return Asked(*_map().bind("").match(path, method))
    except HTTPException as fault:
        return Asked("", {}, fault)


def address(endpoint: str, values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path of an endpoint, without its first slash, and the values that it has no place for.

    Raises werkzeug's BuildError when there is no such endpoint or a value is missing.
    """
    path = _map().bind("").build(endpoint, {**values}, append_unknown=False)
    (rule,) = _map().iter_rules(endpoint)
    return unquote(path[1:]), {name: value for name, value in values.items() if name not in rule.arguments}


@cache
def _map() -> Map:
    """One for all apps of the process, made when somebody looks: compiling it takes several milliseconds."""
    methods = {**dict.fromkeys(PAGES, _GET), **dict.fromkeys(CHANGES, _POST), **_OTHERS}
    rules = [
        Rule(_ADDRESSES.get(endpoint, f"/{endpoint.replace('_', '/')}"), endpoint=endpoint, methods=allowed)
        for endpoint, allowed in methods.items()
    ]
    return Map(rules, strict_slashes=False, merge_slashes=False)
