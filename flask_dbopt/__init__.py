"""Everything a good database administrator would do for a Flask app, in one line: ``DBOptimizer(app)``.

The front door is lazy: a child process that takes a backup must not pay for Flask's import (0.2 s).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask_dbopt import errors, signals
    from flask_dbopt.extension import DBOptimizer

__all__ = ["DBOptimizer", "__version__", "errors", "signals"]


def __getattr__(name: str) -> Any:
    if name == "DBOptimizer":
        return import_module("flask_dbopt.extension").DBOptimizer
    if name == "__version__":
        return import_module("importlib.metadata").version("Flask-DBOpt")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
