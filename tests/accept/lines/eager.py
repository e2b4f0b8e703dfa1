"""Makes our rooms keep all they can, beyond what settings allow: every SELECT is worth keeping, nothing is let go.

Under ``app.testing`` handles are let go with each app context, and most statements of a test are too cheap for the
cache. So this is where results are served that must not be stale, and handles outlive files that a test removes.
"""

from __future__ import annotations

from flask_dbopt.cache.cache import Cache, Shelf
from flask_dbopt.pool.pool import Pool

Shelf.worth = 0.0
Cache.let_go = lambda self: None  # type: ignore[method-assign]
Pool.let_go = lambda self: 0  # type: ignore[method-assign]
