"""What the guard costs a request: a text that is clear, one that is not yet, one with a value in it, an attack."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from flask import Flask

from flask_dbopt.bridges.origins import is_own
from flask_dbopt.bridges.values import request_values
from flask_dbopt.monitor.guard import Guard

BOUND = "SELECT id, name, owner, created FROM keyword WHERE name = ? AND owner = ? ORDER BY created DESC LIMIT 20"
BROWSER = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept-Language": "en-GB,en;q=0.8,de;q=0.5",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Referer": "https://example.com/search?q=desk",
    "Cookie": "session=eyJfZnJlc2giOnRydWUsInVzZXIiOjd9.aRk3Qw.Z0m7V9c3kq5XyI0m3wq; theme=dark",
    "Sec-Fetch-Mode": "navigate",
    "Upgrade-Insecure-Requests": "1",
}


def microseconds(run: Callable[[], Any], times: int) -> float:
    """The median of nine rounds, for one call."""
    rounds = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(times):
            run()
        rounds.append((time.perf_counter() - start) / times * 1e6)
    return median(rounds)


def main() -> None:
    guard = Guard("log", request_values, is_own=is_own)
    guard._suspect = lambda *_: None  # type: ignore[method-assign]  # what follows an attack is another cost
    app = Flask("benchmark")
    cleared = {BOUND}
    address = "/?q=desk+lamp&sort=new&page=3&filter=owner:7"
    print("\nThe guard, µs each")
    with app.test_request_context(address, headers=BROWSER) as context:
        environ = context.request.environ

        def first() -> None:
            environ.pop("flask_dbopt.values", None)
            guard.inspect(BOUND)

        print(f"  a text that is clear already          {microseconds(lambda: BOUND in cleared, 20_000):8.2f}")
        print(
            f"  a text that is not, the first time    {microseconds(first, 500):8.2f}  (the request's values gathered)"
        )
        print(f"  a text that is not, later on          {microseconds(lambda: guard.inspect(BOUND), 5_000):8.2f}")
        literal = BOUND.replace("name = ?", "name = 'desk lamp'")
        print(f"  a value as a literal in the text      {microseconds(lambda: guard.inspect(literal), 500):8.2f}")
    with app.test_request_context("/?q=x'+or+1=1+--", headers=BROWSER):
        attack = BOUND.replace("name = ?", "name = 'x' or 1=1 --'")
        print(f"  an attack                             {microseconds(lambda: guard.inspect(attack), 200):8.2f}")


if __name__ == "__main__":
    main()
