"""Sends requests over kept connections until enough were answered, and tells by whom and when: one line of JSON.

Run with a port, a path and a count. Says "half" on a line of its own when half of them are answered.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections import Counter

#: Answers on one connection before the next is opened, so that all workers get their share.
KEPT = 100


def main(port: int, path: str, count: int) -> None:
    ask = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    answered: Counter[tuple[int, int]] = Counter()
    done = broken = 0
    while done < count:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(min(KEPT, count - done)):
                    connection.sendall(ask)
                    pid = json.loads(read(connection))["pid"]
                    answered[pid, int(time.time() * 10)] += 1
                    done += 1
                    if done == count // 2:
                        print("half", flush=True)
        except OSError:
            broken += 1
            time.sleep(0.01)
    print(json.dumps({"broken": broken, "answered": [[pid, at / 10, n] for (pid, at), n in answered.items()]}))


def read(connection: socket.socket) -> bytes:
    """The body of one good answer; OSError when the server goes away."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + length(answer[:end]):
        more = connection.recv(65_536)
        if not more:
            raise ConnectionResetError
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise AssertionError(answer)
    return answer[end + 4 :]


def length(head: bytes) -> int:
    return int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
