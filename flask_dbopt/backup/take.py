"""One pinned state of a database, written to one LTX file. Runs in the child process only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flask_dbopt.backup import ltx
from flask_dbopt.engines.protocol import Snapshotter


@dataclass(frozen=True, slots=True)
class Captured:
    """What was written, and the two digests that it can be proved by later."""

    pages: int
    page_size: int
    bytes: int
    digest: str
    content: str


def capture(
    snapshotter: Snapshotter,
    target: Path,
    *,
    txid: int,
    taken_at: float,
    compression: bool,
) -> Captured:
    """Write every page of the newest committed state to the new file ``target``, and sync it."""
    with snapshotter.pin() as snapshot:
        header = ltx.Header(snapshot.page_size, snapshot.page_count, 1, txid, taken_at)
        skipped = ltx.lock_page(snapshot.page_size)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
            writer = ltx.Writer(stream, header, compression=compression)
            for number in range(1, snapshot.page_count + 1):
                if number != skipped:
                    writer.add(number, snapshot.page(number))
            written = writer.finish()
            stream.flush()
            os.fsync(descriptor)
    return Captured(header.pages, header.page_size, written.bytes, written.digest, written.content)
