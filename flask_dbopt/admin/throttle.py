"""Slows down whoever guesses the admin token: a few tries at once, then one every half minute."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

TRIES = 5
"""Wrong tokens a peer may send at once."""
SECONDS_A_TRY = 30.0
"""What it waits for each further one."""
PEERS = 1000
"""Peers remembered, the latest: memory stays bounded whatever an attacker sends."""


class Throttle:
    """Counts failures a peer, in this process. A sign-in that already holds is never slowed down."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, peer: str | None) -> float:
        """Seconds until this peer may try again; 0 when it may now."""
        with self._lock:
            ahead = self._free_at.get(neighbourhood(peer), 0.0) - self._clock()
        return max(0.0, ahead - (TRIES - 1) * SECONDS_A_TRY)

    def failed(self, peer: str | None) -> None:
        """Remember one wrong token."""
        key, now = neighbourhood(peer), self._clock()
        with self._lock:
            self._free_at[key] = max(self._free_at.get(key, now), now) + SECONDS_A_TRY
            self._free_at.move_to_end(key)
            while len(self._free_at) > PEERS:
                self._free_at.popitem(last=False)


def neighbourhood(peer: str | None) -> str:
    """The address, or for IPv6 its /64: one customer holds that many addresses."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return peer or ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
