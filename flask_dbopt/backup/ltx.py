"""The LTX file format: pages in, one self-checking file out, and back. Each byte: docs/design/ltx.md."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import lz4.block
from fastcrc import crc64

from flask_dbopt.errors import BackupError

MAGIC = b"LTX1"
NO_CHECKSUM = 1 << 1
"""No rolling database checksum: the file's own checksum stands, and our catalog has a content hash."""
SIZED = 1
"""This page frame says how long it is; frames without it are of an older encoding, which we do not read."""
CHECKSUM_FLAG = 1 << 63
SNAPSHOT_LEVEL = 9
LOCK_BYTE = 0x40000000

_HEADER = struct.Struct(">4sIIIQQQQQQIIQ20x")
_FRAME = struct.Struct(">IHI")
_PAGE_HEADER = struct.Struct(">IH")
_U64 = struct.Struct(">Q")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")
_DAMAGED = "restore another backup; take a new one with: flask db-opt backup --full"


def lock_page(page_size: int) -> int:
    """The page that holds SQLite's lock bytes. It never carries content and is never written."""
    return LOCK_BYTE // page_size + 1


@dataclass(frozen=True, slots=True)
class Header:
    """What one file covers. A snapshot's range begins at transaction 1 and it holds every page."""

    page_size: int
    pages: int
    """The database's size after this file, in pages."""
    min_txid: int
    max_txid: int
    timestamp: float
    """Unix seconds, kept to the millisecond."""

    @property
    def is_snapshot(self) -> bool:
        return self.min_txid == 1

    def packed(self) -> bytes:
        """The 100 bytes as they stand in the file."""
        sizes = (MAGIC, NO_CHECKSUM, self.page_size, self.pages, self.min_txid, self.max_txid)
        return _HEADER.pack(*sizes, round(self.timestamp * 1000), 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished file comes to: its length, and SHA-256 of the file and of the pages that went in."""

    bytes: int
    digest: str
    content: str


@dataclass(frozen=True, slots=True)
class File:
    """One file of a replica folder, as its name tells."""

    path: Path
    level: int
    min_txid: int
    max_txid: int


def file_name(min_txid: int, max_txid: int) -> str:
    return f"{min_txid:016x}-{max_txid:016x}.ltx"


def parse_name(name: str) -> tuple[int, int] | None:
    """The transaction range in a file's name; None for any other file."""
    match = _NAME.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None


def chain(files: Sequence[File], txid: int) -> tuple[File, ...]:
    """The files that make the state after ``txid``: the newest snapshot up to it, then what follows.

    Each step takes the file that joins on and reaches farthest, as Litestream's restore plan does. Empty when
    the files leave a gap.
    """
    snapshots = [file for file in files if file.level == SNAPSHOT_LEVEL and file.max_txid <= txid]
    found = [max(snapshots, key=lambda file: file.max_txid)] if snapshots else []
    reached = found[0].max_txid if found else 0
    while reached < txid:
        joining = [file for file in files if file.min_txid <= reached + 1 and reached < file.max_txid <= txid]
        if not joining:
            return ()
        found.append(max(joining, key=lambda file: (file.max_txid, -file.min_txid, file.level)))
        reached = found[-1].max_txid
    return tuple(found)


class Writer:
    """Writes one file, pages in ascending order. The caller opens, syncs and renames the stream."""

    def __init__(self, stream: BinaryIO, header: Header, *, compression: bool = True) -> None:
        self._stream = stream
        self._header = header
        self._compression = compression
        self._literal = _literal_prefix(header.page_size)
        self._index: list[bytes] = []
        self._crc = 0
        self._bytes = 0
        self._last = 0
        self._digest = hashlib.sha256()
        self._content = hashlib.sha256()
        self._put(header.packed(), counted=True)

    def add(self, number: int, page: bytes) -> None:
        """One page. A snapshot takes them all but the lock page, without a gap."""
        skipped = lock_page(self._header.page_size)
        following = self._last + 1
        if self._header.is_snapshot and following == skipped:
            following += 1
            self._content.update(bytes(self._header.page_size))
        right = number == following if self._header.is_snapshot else self._last < number != skipped
        if not right or number > self._header.pages or len(page) != self._header.page_size:
            raise ValueError(f"page {number} of {len(page)} bytes cannot follow page {self._last}")
        if self._compression:
            data: bytes = lz4.block.compress(page, store_size=False)
        else:
            data = self._literal + page
        frame = _FRAME.pack(number, SIZED, len(data))
        self._index.append(_varints(number, self._bytes, len(frame) + len(data)))
        self._put(frame, counted=True)
        self._crc = crc64.go_iso(page, self._crc)
        self._content.update(page)
        self._put(data, counted=False)
        self._last = number

    def finish(self) -> Written:
        """Write index and trailer. Without this call the file is worth nothing, and a reader says so."""
        missing = self._header.pages - self._last
        if self._header.is_snapshot and missing:
            if missing != 1 or self._header.pages != lock_page(self._header.page_size):
                raise ValueError(f"a snapshot of {self._header.pages} pages ended at page {self._last}")
            self._content.update(bytes(self._header.page_size))
        index = b"".join(self._index) + b"\0"
        self._put(bytes(_PAGE_HEADER.size), counted=True)
        self._put(index + _U64.pack(len(index)), counted=True)
        self._put(_U64.pack(0), counted=True)
        self._put(_U64.pack(self._crc | CHECKSUM_FLAG), counted=False)
        return Written(self._bytes, self._digest.hexdigest(), self._content.hexdigest())

    def _put(self, data: bytes, *, counted: bool) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self._bytes += len(data)
        if counted:
            self._crc = crc64.go_iso(data, self._crc)


class Reader:
    """Reads one file from front to back; whatever is wrong with it is a BackupError that says where."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._digest = hashlib.sha256()
        self._crc = 0
        self.header = self._read_header()

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """Every page with its number. Only an iteration that reaches its end has checked the whole file."""
        size = self.header.page_size
        skipped = lock_page(size)
        index: list[bytes] = []
        last, offset = 0, _HEADER.size
        while True:
            start = self._take(_PAGE_HEADER.size)
            number, flags = _PAGE_HEADER.unpack(start)
            if number == 0 and flags == 0:
                break
            if flags != SIZED or not last < number <= self.header.pages or number == skipped:
                raise self._damaged(f"page frame {number} after page {last}")
            if self.header.is_snapshot and number != last + 1 + (last + 1 == skipped):
                raise self._damaged(f"page {number} follows page {last}")
            length = int.from_bytes(self._take(4), "big")
            if length > 2 * size + 64:
                raise self._damaged(f"page {number} claims {length} bytes")
            data = self._take(length, counted=False)
            try:
                page: bytes = lz4.block.decompress(data, uncompressed_size=size)
            except lz4.block.LZ4BlockError:
                raise self._damaged(f"page {number} does not decompress") from None
            if len(page) != size:
                raise self._damaged(f"page {number} is too short")
            self._crc = crc64.go_iso(page, self._crc)
            index.append(_varints(number, offset, _FRAME.size + length))
            offset += _FRAME.size + length
            last = number
            yield number, page
        if self.header.is_snapshot and self.header.pages - last not in (0, int(self.header.pages == skipped)):
            raise self._damaged(f"it ends at page {last} of {self.header.pages}")
        self._read_end(b"".join(index) + b"\0")

    def digest(self) -> str:
        """SHA-256 of the file, once every page was read."""
        return self._digest.hexdigest()

    def _read_header(self) -> Header:
        packed = self._take(_HEADER.size)
        magic, flags, size, pages, low, high, stamp, *_ = _HEADER.unpack(packed)
        if magic != MAGIC:
            raise BackupError(f"{self._name} is no LTX file", hint="point at a folder made by this package")
        sound = 512 <= size <= 65536 and not size & (size - 1) and 1 <= low <= high
        if not sound or flags & ~NO_CHECKSUM or packed[80:].strip(b"\0"):
            raise self._damaged("the header makes no sense")
        return Header(size, pages, low, high, stamp / 1000)

    def _read_end(self, index: bytes) -> None:
        if self._take(len(index)) != index or _U64.unpack(self._take(8))[0] != len(index):
            raise self._damaged("the page index does not fit the pages")
        self._take(8)
        expected = self._crc | CHECKSUM_FLAG
        if _U64.unpack(self._take(8, counted=False))[0] != expected:
            raise self._damaged("the checksum does not match")
        if self._stream.read(1):
            raise self._damaged("something follows its end")

    def _take(self, count: int, *, counted: bool = True) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise self._damaged("it ends too early")
        self._digest.update(data)
        if counted:
            self._crc = crc64.go_iso(data, self._crc)
        return data

    def _damaged(self, what: str) -> BackupError:
        return BackupError(f"{self._name} is damaged: {what}", hint=_DAMAGED)


def read_header(path: Path) -> Header:
    """The header alone: cheap, and no proof of anything behind it."""
    with path.open("rb") as stream:
        return Reader(stream, path.name).header


def unpack(files: Sequence[Path], target: Path, *, sync: bool = True) -> tuple[Header, list[str]]:
    """Write the database that ``files`` make, in this order, to the new file ``target``.

    Returns the last file's header and each file's SHA-256; by then every byte of every file was checked.
    """
    digests = []
    descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=1 << 20) as database:
        previous: Header | None = None
        for path in files:
            with path.open("rb", buffering=1 << 20) as stream:
                reader = Reader(stream, path.name)
                header = reader.header
                _check_joint(previous, header, path.name)
                position = -1
                for number, page in reader.pages():
                    if number != position + 1:
                        database.seek((number - 1) * header.page_size)
                    database.write(page)
                    position = number
                digests.append(reader.digest())
            database.flush()
            database.truncate(header.pages * header.page_size)
            previous = header
        if previous is None:
            raise BackupError("there is nothing to restore from", hint=_DAMAGED)
        if sync:
            os.fsync(database.fileno())
    return previous, digests


def _check_joint(previous: Header | None, header: Header, name: str) -> None:
    """A chain starts with every page and goes on without a gap."""
    if previous is None:
        joined = header.is_snapshot
    else:
        fits = header.min_txid <= previous.max_txid + 1 and header.max_txid > previous.max_txid
        joined = fits and header.page_size == previous.page_size
    if not joined:
        raise BackupError(f"{name} does not join on to the file before it", hint=_DAMAGED)


def _literal_prefix(page_size: int) -> bytes:
    """What makes a page's plain bytes a valid LZ4 block: one run of literals, with its length."""
    full, rest = divmod(page_size - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes((rest,))


def _varints(*numbers: int) -> bytes:
    """Unsigned LEB128, as Go's encoding/binary writes it."""
    packed = bytearray()
    for number in numbers:
        while number > 0x7F:
            packed.append(number & 0x7F | 0x80)
            number >>= 7
        packed.append(number)
    return bytes(packed)
