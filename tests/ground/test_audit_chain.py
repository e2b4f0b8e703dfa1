"""What the chain notices: every change of a line, and which line it was."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from flask_dbopt.audit import chain
from flask_dbopt.audit.audit import Audit
from flask_dbopt.audit.chain import Entry, Head
from tests.clock import Clock


@pytest.fixture
def path(tmp_path):
    """An audit log of twelve entries, 0 to 11."""
    audit = Audit(tmp_path / "audit.log", clock=Clock())
    for number in range(11):
        audit.note("backup.take", database="default", backup=f"b{number}")
    audit.close()
    return tmp_path / "audit.log"


def lines_of(path):
    return path.read_bytes().splitlines(keepends=True)


def faults(path):
    return [str(fault) for fault in Audit(path).verdict().faults]


def again(line: bytes, **changes) -> bytes:
    """The line as somebody would write it who knows the format."""
    entry = chain.read(line.rstrip(b"\n"))
    told = {name: getattr(entry, name) for name in Entry.__slots__}
    return chain.written(Entry(**{**told, **changes}))


def test_a_line_is_one_json_object_and_the_next_carries_its_sha_256(path):
    lines = path.read_bytes().splitlines()
    entries = [json.loads(line) for line in lines]
    assert list(entries[3]) == ["seq", "at", "deed", "outcome", "who", "what", "prev", "sum"]
    assert [entry["seq"] for entry in entries] == list(range(12))
    assert entries[0]["deed"] == "audit.begin"
    assert entries[0]["prev"] == ""
    for before, entry in zip(lines, entries[1:], strict=False):
        assert entry["prev"] == hashlib.sha256(before).hexdigest()
    assert entries[3]["at"] == "2026-11-18T11:06:40.000Z"


def test_a_whole_chain_is_intact(path):
    verdict = Audit(path).verdict()
    assert verdict.intact
    assert str(verdict) == "chain intact, 12 entries"
    assert len(verdict.chain) == 16


def test_any_flipped_bit_is_seen_and_its_line_named(path):
    whole, dice = path.read_bytes(), random.Random(5)
    for _ in range(400):
        place, bit = dice.randrange(len(whole)), dice.randrange(8)
        changed = bytearray(whole)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        verdict = Audit(path).verdict()
        if place == len(whole) - 1:  # the very last line feed: then the line is unfinished
            continue
        assert not verdict.intact, f"bit {bit} of byte {place}"
        assert verdict.faults[0].line == whole[:place].count(b"\n") + 1


def test_a_line_that_was_rewritten_with_care_breaks_the_next(path):
    lines = lines_of(path)
    lines[4] = again(lines[4], what={"database": "another"})
    path.write_bytes(b"".join(lines))
    assert faults(path) == ["audit.log, line 6: entry 5 does not follow from the line before it, which was changed"]


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        (slice(5, 6), "audit.log, line 6: entry 5 is missing before entry 6"),
        (slice(5, 8), "audit.log, line 6: entries 5 to 7 are missing before entry 8"),
    ],
    ids=["one", "three"],
)
def test_removed_lines_are_named(path, gone, told):
    lines = lines_of(path)
    del lines[gone]
    path.write_bytes(b"".join(lines))
    assert faults(path) == [told]


def test_the_beginning_cannot_be_cut_off_unseen(path):
    path.write_bytes(b"".join(lines_of(path)[3:]))
    assert faults(path) == [
        "the oldest file, line 1: it begins with entry 3, and no entry says that older ones were removed"
    ]


def test_lines_that_changed_places_are_seen(path):
    lines = lines_of(path)
    lines[4], lines[5] = lines[5], lines[4]
    path.write_bytes(b"".join(lines))
    assert "line 5: entry 4 is missing before entry 5" in faults(path)[0]


def test_a_line_that_was_put_in_or_doubled_is_seen(path):
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:6], lines[5], *lines[6:]]))
    assert "line 7: entry 5 stands behind entry 5" in faults(path)[0]
    path.write_bytes(b"".join([*lines[:6], b"a note by hand\n", *lines[6:]]))
    assert "line 7: entry 6 was changed, or is no entry" in faults(path)[0]
    path.write_bytes(b"".join([*lines[:6], b"one\n", b"two\n", *lines[6:]]))
    assert [fault.partition(":")[0] for fault in faults(path)] == ["audit.log, line 7", "audit.log, line 8"]
    path.write_bytes(b"one\n" + b"".join(lines))
    assert "line 1: entry 0 was changed" in faults(path)[0]


def test_another_chain_put_before_it_is_seen(path):
    other = Audit(path.with_name("other.log"))
    other.note("cache.clear")
    other.close()
    path.write_bytes(path.with_name("other.log").read_bytes() + path.read_bytes())
    assert "line 3: entry 0 stands behind entry 1" in faults(path)[0]


def test_many_broken_lines_are_told_up_to_a_bound(path):
    path.write_bytes(b"".join(line.replace(b"backup", b"BACKUP") for line in lines_of(path) * 5))
    assert len(faults(path)) == chain.MOST_FAULTS


def test_a_tail_that_was_cut_off_shows_only_against_a_kept_head(path):
    audit = Audit(path)
    head = audit.verdict().head
    assert head is not None
    path.write_bytes(b"".join(lines_of(path)[:-2]))
    assert Audit(path).verdict().intact, "as docs/logs.md says"
    verdict = Audit(path).verdict(head)
    assert not verdict.intact
    assert str(head) in verdict.faults[0].message
    older = Head(4, hashlib.sha256(lines_of(path)[4][:-1]).hexdigest())
    assert Audit(path).verdict(older).intact


def test_a_chain_that_was_written_anew_shows_only_against_a_kept_head(path):
    head = Audit(path).verdict().head
    path.unlink()
    forged = Audit(path)
    for _ in range(11):
        forged.note("backup.take", database="default", backup="another")
    assert forged.verdict().intact
    assert not forged.verdict(head).intact


def test_an_empty_or_missing_log_has_nothing_to_be_wrong(tmp_path):
    assert str(Audit(tmp_path / "audit.log").verdict()) == "no entry yet"
    (tmp_path / "audit.log").write_bytes(b"")
    assert Audit(tmp_path / "audit.log").verdict().intact


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b"\xff", b'{"seq":1,"sum":"0123456789abcdef"}', b"null"])
def test_what_is_no_entry_is_not_read_as_one(line):
    assert chain.read(line) is None


def test_a_sum_alone_makes_no_entry():
    body = json.dumps({"seq": 1, "at": "some day"}, separators=(",", ":"))
    digest = hashlib.sha256(body.encode()).hexdigest()[:16]
    assert chain.read(f'{body[:-1]},"sum":"{digest}"}}'.encode()) is None


def test_a_line_that_vouches_for_a_torn_one_has_to_be_in_its_place(path):
    lines = lines_of(path)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    Audit(path, clock=Clock()).note("cache.clear")
    assert faults(path) == []
    *kept, torn, _ = lines_of(path)
    path.write_bytes(b"".join([*kept, again(torn.rstrip(b"\n"), seq=40)]))
    assert faults(path) == ["audit.log, line 6: entry 5 was changed, or is no entry"]
