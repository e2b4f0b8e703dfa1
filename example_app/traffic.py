"""Visitors for the app on this machine: `python -m example_app.traffic`. Bounded, loopback only."""

from __future__ import annotations

import argparse
import html
import http.client
import ipaddress
import random
import re
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

MOST_REQUESTS = 100_000
LONGEST_SECONDS = 900.0
MOST_THREADS = 32

WEIGHTS = {
    "home": 8,
    "search": 18,
    "suggest": 16,
    "language": 14,
    "keyword": 20,
    "compare": 8,
    "languages": 4,
    "lists": 4,
    "list": 4,
    "random": 2,
    "export": 1,
    "save": 1,
}
"""How often visitors want each page, in a hundred requests."""


class TrafficError(ValueError):
    """This traffic is not sent: the address is not ours, or the amount is without bounds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing a visitor does: read a page, or save a keyword to a list of their own."""

    page: str
    path: str
    keyword: int | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """How one request went; ``status`` 0 means that no answer came."""

    page: str
    seconds: float
    status: int

    @property
    def failed(self) -> bool:
        return not 200 <= self.status < 400


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to visit."""

    codes: tuple[str, ...]
    keywords: tuple[tuple[int, str], ...]
    lists: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What was sent and how long it took altogether."""

    samples: tuple[Sample, ...]
    seconds: float

    @property
    def throughput(self) -> float:
        return len(self.samples) / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        return sum(sample.failed for sample in self.samples)


def loopback(url: str) -> tuple[str, int]:
    """The numeric address and port of a URL on this machine; anything else is refused."""
    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise TrafficError(f"{url} is no address: {error}") from error
    if parts.scheme != "http" or not host:
        raise TrafficError(f"{url} is no address; write it as http://127.0.0.1:PORT")
    address = "127.0.0.1" if host == "localhost" else host  # no other name is even looked up
    try:
        ours = ipaddress.ip_address(address).is_loopback
    except ValueError:
        ours = False
    if not ours:
        raise TrafficError(f"{host} is not this machine; traffic goes to loopback addresses only")
    return address, port


class Visitor:
    """A browser, nearly: one cookie jar, one list of their own, every request timed."""

    def __init__(self, url: str, timeout: float = 30.0) -> None:
        self.host, self.port = loopback(url)
        self.timeout = timeout
        self.cookies: dict[str, str] = {}
        self.samples: list[Sample] = []
        self.own_list: str | None = None
        self.csrf = ""

    def send(self, page: str, path: str, form: dict[str, str] | None = None) -> tuple[int, str, str]:
        """One request: status, body, and where it redirects to. Redirects are not followed."""
        headers = {"Connection": "close"}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body = None
        if form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            body = urlencode({**form, "csrf_token": self.csrf})
        status, text, location = 0, "", ""
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request("GET" if form is None else "POST", path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            status, location = answer.status, answer.getheader("Location") or ""
            for cookie in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = cookie.partition(";")[0].partition("=")
                self.cookies[name.strip()] = value
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        self.samples.append(Sample(page, time.perf_counter() - began, status))
        return status, text, location

    def take(self, step: Step) -> None:
        """Do one step."""
        if step.keyword is None:
            self.send(step.page, step.path)
        elif self.own_list is None:
            _, text, _ = self.send("lists", "/lists/")
            token = re.search(r'name="csrf_token" value="([^"]+)"', text)
            self.csrf = html.unescape(token[1]) if token else ""
            form = {"name": f"Visitor {random.randrange(10**6)}", "keyword_id": str(step.keyword)}
            status, _, location = self.send(step.page, "/lists/", form)
            if status == 302 and re.search(r"/lists/\d+$", location):
                self.own_list = urlsplit(location).path
        else:
            self.send(step.page, f"{self.own_list}/items", {"keyword_id": str(step.keyword)})

    def leave(self) -> None:
        """Tidy up: the visitor's list goes with the visitor."""
        if self.own_list is not None:
            self.send("save", f"{self.own_list}/delete", {})
            self.own_list = None


def explore(url: str, languages: int = 10) -> Known:
    """Look around as a visitor would, to know which pages there are."""
    visitor = Visitor(url)
    _, text, _ = visitor.send("languages", "/languages/")
    codes = tuple(dict.fromkeys(re.findall(r'href="/languages/([a-z]+)"', text)))
    per_language = []
    for code in codes[:languages]:
        _, text, _ = visitor.send("language", f"/languages/{code}")
        found = re.findall(r'class="word" href="/keywords/(\d+)">([^<]+)<', text)
        per_language.append([(int(number), html.unescape(word)) for number, word in found])
    mixed = tuple(entry for row in zip(*per_language, strict=False) for entry in row)
    _, text, _ = visitor.send("lists", "/lists/")
    lists = tuple(dict.fromkeys(int(number) for number in re.findall(r'href="/lists/(\d+)"', text)))
    if not mixed or not lists:
        raise TrafficError(f"{url} does not look like Omni Keywords: there is nothing to visit")
    return Known(codes, mixed, lists)


def plan(known: Known, requests: int, seed: int = 1) -> list[Step]:
    """What visitors will do, the same for the same seed. Popular things are wanted often, as in life."""
    if not 1 <= requests <= MOST_REQUESTS:
        raise TrafficError(f"{requests} requests; between 1 and {MOST_REQUESTS:,} are allowed")
    chance = random.Random(seed)
    ladder = [1 / (place + 1) for place in range(len(known.keywords))]
    steps = []
    for page in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=requests):
        number, word = chance.choices(known.keywords, ladder)[0]
        code = chance.choice(known.codes)
        later = f"page={min(int(chance.paretovariate(1.2)), 900)}"
        part = quote(word[: chance.randint(2, 5)])
        path = {
            "home": "/",
            "search": f"/search?q={quote(word[:12])}",
            "suggest": f"/suggest?q={part}",
            "language": f"/languages/{code}?{later}",
            "keyword": f"/keywords/{number}",
            "compare": f"/compare?word={quote(word)}",
            "languages": "/languages/",
            "lists": "/lists/",
            "list": f"/lists/{chance.choice(known.lists)}",
            "random": "/random",
            "export": f"/languages/{code}.csv",
            "save": "/lists/",
        }[page]
        steps.append(Step(page, path, number if page == "save" else None))
    return steps


@dataclass(slots=True)
class Queue:
    """The steps still to do, shared by the visitors."""

    steps: Iterable[Step]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.steps = iter(self.steps)

    def next(self) -> Step | None:
        with self.lock:
            return next(self.steps, None)  # type: ignore[call-overload, no-any-return]


def drive(url: str, steps: Sequence[Step], *, threads: int = 4, seconds: float = 30.0) -> Run:
    """Send these steps with some visitors at once, until they are done or the time is over."""
    loopback(url)
    if not 1 <= threads <= MOST_THREADS:
        raise TrafficError(f"{threads} visitors at once; between 1 and {MOST_THREADS} are allowed")
    if not 0 < seconds <= LONGEST_SECONDS:
        raise TrafficError(f"{seconds:g} seconds; more than 0 and at most {LONGEST_SECONDS:.0f} are allowed")
    if not 1 <= len(steps) <= MOST_REQUESTS:
        raise TrafficError(f"{len(steps)} requests; between 1 and {MOST_REQUESTS:,} are allowed")
    queue = Queue(steps)
    visitors = [Visitor(url, timeout=min(30.0, max(seconds, 1.0))) for _ in range(threads)]
    began = time.perf_counter()

    def visit(visitor: Visitor) -> None:
        while time.perf_counter() - began < seconds and (step := queue.next()) is not None:
            visitor.take(step)
        visitor.leave()

    crowd = [threading.Thread(target=visit, args=(visitor,), daemon=True) for visitor in visitors]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    took = time.perf_counter() - began
    return Run(tuple(sample for visitor in visitors for sample in visitor.samples), took)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m example_app.traffic", description=__doc__)
    parser.add_argument("--url", help="a running app, e.g. http://127.0.0.1:8000")
    parser.add_argument("--compare", action="store_true", help="run the app with and without us, side by side")
    parser.add_argument("--requests", type=int, default=600, help="at most so many (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most so long (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="visitors at once (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other visits")
    chosen = parser.parse_args(arguments)
    from example_app import figures, side_by_side
    from example_app.build import BuildError
    from example_app.server import ServerError

    try:
        if chosen.compare:
            print(
                side_by_side.compare(
                    requests=chosen.requests,
                    seconds=chosen.seconds,
                    threads=chosen.threads,
                    seed=chosen.seed,
                )
            )
        elif chosen.url:
            steps = plan(explore(chosen.url), chosen.requests, chosen.seed)
            run = drive(chosen.url, steps, threads=chosen.threads, seconds=chosen.seconds)
            print(figures.table(run))
        else:
            parser.error("give --url of a running app, or --compare")
    except (TrafficError, ServerError, BuildError) as error:
        print(f"No traffic: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
