"""The file format: what goes in comes out, and no damage goes unseen."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest

from flask_dbopt.backup import ltx
from flask_dbopt.errors import BackupError

PAGES = [bytes([number]) * 200 + os.urandom(112) + bytes(200) for number in range(1, 6)]


def written(pages: list[bytes] = PAGES, *, low: int = 1, high: int = 1, compression: bool = True) -> bytes:
    stream = io.BytesIO()
    writer = ltx.Writer(stream, ltx.Header(512, len(pages), low, high, 1700000000.5), compression=compression)
    for number, page in enumerate(pages, 1):
        writer.add(number, page)
    done = writer.finish()
    assert done.bytes == len(stream.getvalue())
    return stream.getvalue()


def read(data: bytes) -> tuple[dict[int, bytes], str]:
    reader = ltx.Reader(io.BytesIO(data), "x.ltx")
    return dict(reader.pages()), reader.digest()


@pytest.mark.parametrize("compression", [True, False])
def test_every_page_comes_back_as_it_went_in(compression: bool) -> None:
    pages, _ = read(written(compression=compression))
    assert pages == dict(enumerate(PAGES, 1))


def test_the_header_comes_back_to_the_millisecond() -> None:
    header = ltx.Reader(io.BytesIO(written(high=9)), "x.ltx").header
    assert header == ltx.Header(512, 5, 1, 9, 1700000000.5)
    assert header.is_snapshot


@pytest.mark.parametrize("compression", [True, False])
def test_a_flipped_bit_anywhere_in_the_file_is_seen(compression: bool) -> None:
    data = written(compression=compression)
    _, digest = read(data)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        found = ""
        with contextlib.suppress(BackupError):
            _, found = read(bytes(flipped))
        assert found != digest, f"byte {place}"


def test_a_file_cut_short_anywhere_is_refused() -> None:
    data = written()
    for end in range(len(data)):
        with pytest.raises(BackupError, match="is damaged"):
            read(data[:end])


def test_a_file_with_something_behind_its_end_is_refused() -> None:
    with pytest.raises(BackupError, match="something follows its end"):
        read(written() + b"\0")


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(BackupError, match="no LTX file"):
        read(b"SQLite format 3\0" + bytes(200))


def test_a_page_that_unpacks_to_too_little_is_refused() -> None:
    data = bytearray(written(compression=False))
    short = bytes([0x50]) + b"short"
    frame = data[100:110]
    frame[6:10] = len(short).to_bytes(4, "big")
    with pytest.raises(BackupError, match="page 1 is too short"):
        read(bytes(data[:100] + frame + short))


def test_a_snapshot_that_lacks_pages_is_refused_by_writer_and_reader() -> None:
    stream = io.BytesIO()
    writer = ltx.Writer(stream, ltx.Header(512, 5, 1, 1, 0.0))
    writer.add(1, PAGES[0])
    with pytest.raises(ValueError, match="cannot follow"):
        writer.add(3, PAGES[2])
    with pytest.raises(ValueError, match="ended at page 1"):
        writer.finish()
    with pytest.raises(BackupError, match="ends at page 1 of 5"):
        read(stream.getvalue() + bytes(6))


def test_an_increment_holds_any_pages_in_ascending_order() -> None:
    stream = io.BytesIO()
    writer = ltx.Writer(stream, ltx.Header(512, 50, 2, 3, 0.0))
    writer.add(7, PAGES[0])
    writer.add(40, PAGES[1])
    for number in (40, 51):
        with pytest.raises(ValueError, match="cannot follow"):
            writer.add(number, PAGES[2])
    writer.finish()
    assert read(stream.getvalue())[0] == {7: PAGES[0], 40: PAGES[1]}


def test_pages_out_of_order_are_refused_on_reading() -> None:
    stream = io.BytesIO()
    writer = ltx.Writer(stream, ltx.Header(512, 50, 2, 3, 0.0))
    writer.add(7, PAGES[0])
    writer.add(8, PAGES[1])
    data = bytearray(stream.getvalue())
    data[100:104] = (9).to_bytes(4, "big")
    with pytest.raises(BackupError, match="page frame 8 after page 9"):
        read(bytes(data))


@pytest.mark.parametrize("count", [3, 5])
def test_the_lock_byte_page_is_left_out_and_comes_back_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int
) -> None:
    """A gibibyte starts at page 2,097,153 of 512 bytes; here the lock byte is moved to page 3 instead."""
    monkeypatch.setattr(ltx, "LOCK_BYTE", 1024)
    assert ltx.lock_page(512) == 3
    pages = [PAGES[0], PAGES[1], bytes(512), PAGES[3], PAGES[4]][:count]
    with (tmp_path / "x.ltx").open("wb") as stream:
        writer = ltx.Writer(stream, ltx.Header(512, count, 1, 1, 0.0))
        for number in range(1, count + 1):
            if number != 3:
                writer.add(number, pages[number - 1])
        writer.finish()
    ltx.unpack([tmp_path / "x.ltx"], tmp_path / "x.db")
    assert (tmp_path / "x.db").read_bytes() == b"".join(pages)


def test_files_that_do_not_join_are_refused(tmp_path: Path) -> None:
    for name, low, high in (("base", 1, 2), ("next", 3, 4), ("far", 6, 7)):
        (tmp_path / name).write_bytes(written(low=low, high=high))
    ltx.unpack([tmp_path / "base", tmp_path / "next"], tmp_path / "whole.db")
    for number, chain in enumerate((["next"], ["base", "far"], ["base", "base"])):
        with pytest.raises(BackupError, match="does not join on"):
            ltx.unpack([tmp_path / name for name in chain], tmp_path / f"{number}.db")
    with pytest.raises(BackupError, match="nothing to restore"):
        ltx.unpack([], tmp_path / "none.db")


def test_a_later_file_may_shrink_the_database(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(written())
    stream = io.BytesIO()
    writer = ltx.Writer(stream, ltx.Header(512, 2, 2, 2, 0.0))
    writer.add(2, PAGES[4])
    writer.finish()
    (tmp_path / "next").write_bytes(stream.getvalue())
    ltx.unpack([tmp_path / "base", tmp_path / "next"], tmp_path / "x.db")
    assert (tmp_path / "x.db").read_bytes() == PAGES[0] + PAGES[4]


def files(*spans: tuple[int, int, int]) -> list[ltx.File]:
    return [ltx.File(Path(f"{level}/{low}-{high}"), level, low, high) for level, low, high in spans]


def spans(chain: tuple[ltx.File, ...]) -> list[tuple[int, int, int]]:
    return [(file.level, file.min_txid, file.max_txid) for file in chain]


def test_a_chain_begins_at_the_newest_snapshot_and_takes_the_longest_steps() -> None:
    known = files((9, 1, 3), (9, 1, 8), (0, 4, 4), (0, 9, 9), (0, 10, 10), (1, 9, 10), (0, 11, 11))
    assert spans(ltx.chain(known, 11)) == [(9, 1, 8), (1, 9, 10), (0, 11, 11)]
    assert spans(ltx.chain(known, 9)) == [(9, 1, 8), (0, 9, 9)]
    assert spans(ltx.chain(known, 4)) == [(9, 1, 3), (0, 4, 4)]


def test_a_chain_with_a_gap_is_none() -> None:
    assert ltx.chain(files((9, 1, 3), (0, 5, 5)), 5) == ()
    assert ltx.chain(files((0, 2, 5)), 5) == ()


def test_only_the_formats_own_names_are_read_as_files() -> None:
    assert ltx.parse_name(ltx.file_name(1, 0xBEEF)) == (1, 0xBEEF)
    assert ltx.parse_name(ltx.file_name(1, 2) + ".tmp") is None
