"""What is done on somebody's behalf: a deed reports itself from where it is done, whoever asks for it and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

DONE, FAILED, REFUSED, ALLOWED = "done", "failed", "refused", "allowed"
"""How a deed ends. Refused: it was not allowed; allowed: it looked as if it should not have been."""

DEEDS: dict[str, str] = {
    "backup.take": "a backup was taken",
    "backup.verify": "a backup was restored to scratch and checked",
    "backup.prune": "backups were removed that retention no longer keeps",
    "backup.restore": "a backup was restored, into the live database or a file",
    "index.apply": "an advised index was built",
    "database.optimize": "statistics, WAL or file were tidied by flask db-opt optimize",
    "cache.clear": "all kept results were dropped",
    "cache.invalidate": "the kept results of some tables were dropped",
    "figures.reset": "the recorded figures were forgotten",
    "alert.silence": "alerts of a rule are told to nobody for a while",
    "alert.unsilence": "they are told again",
    "settings.change": "the app began with other settings than were written down last",
    "statement.refuse": "a statement was refused before it ran",
    "statement.suspect": "a statement looked like an injection, and was let through",
    "admin.sign_in": "somebody was let into the admin page",
    "admin.sign_out": "somebody left it",
    "admin.refuse": "somebody was not let in, or not allowed to change anything",
    "admin.change": "something was changed on the admin page that has no name of its own here",
    "audit.begin": "the audit log begins",
    "audit.torn": "a line was left half written by a process that was killed",
    "audit.gap": "entries could not be written, and how many",
    "audit.cut": "entries that were there are gone",
    "audit.prune": "entries that are past their retention were removed",
}
"""Every deed by its name, and what it means."""


def deed(
    name: str, *, told: Mapping[str, str] | None = None, found: Callable[[Any], Mapping[str, Any]] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have each call of a room's method told as the signal ``deed_done``, done or failed; a dry run is no deed.

    ``told`` are the arguments that say what it is about, and how they are called there; ``found`` gets more of
    that from the result. The room has ``_emit``, and its database's name, if it has one, as ``name``.
    """
    if name not in DEEDS:
        raise ValueError(f"{name!r} is not among the deeds")

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        shape = signature(method)

        @wraps(method)
        def do(*arguments: P.args, **keywords: P.kwargs) -> R:
            given = shape.bind(*arguments, **keywords)
            given.apply_defaults()
            room: Any = arguments[0]
            details = {"database": room.name} if hasattr(room, "name") else {}
            details |= {word: given.arguments[argument] for argument, word in (told or {}).items()}
            try:
                result = method(*arguments, **keywords)
            except Exception as error:
                if not given.arguments.get("dry_run"):
                    reason = f"{type(error).__name__}: {error.args[0] if error.args else ''}"
                    room._emit("deed_done", deed=name, outcome=FAILED, details={**details, "reason": reason})
                raise
            if not given.arguments.get("dry_run"):
                more = found(result) if found is not None else {}
                room._emit("deed_done", deed=name, outcome=DONE, details={**details, **more})
            return result

        return do

    return decorate
