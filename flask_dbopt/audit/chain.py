"""How entries become lines and how a chain of them is checked. Decides only; reading is the caller's business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

_SUM = ',"sum":"'
_SUM_LENGTH = 16
MOST_FAULTS = 20
"""More broken lines than these are not told one by one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Who did what. ``seq`` counts from 0 without a gap, over all files."""

    seq: int
    at: float
    """Unix seconds."""
    deed: str
    outcome: str
    who: Mapping[str, Any]
    what: Mapping[str, Any]
    prev: str
    """SHA-256 of the line before; "" in the very first."""

    def told(self) -> dict[str, Any]:
        """In JSON's types, without its link."""
        return {
            "seq": self.seq,
            "at": moment(self.at),
            "deed": self.deed,
            "outcome": self.outcome,
            "who": dict(self.who),
            "what": dict(self.what),
        }


@dataclass(frozen=True, slots=True)
class Head:
    """A line's place in the chain: kept elsewhere, it proves later that the chain up to it is the same."""

    seq: int
    hash: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Where the chain is broken."""

    file: str
    line: int
    """From 1."""
    message: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check found. ``head`` None: there is no entry at all."""

    entries: int
    head: Head | None
    chain: str
    """The chain's own random name; "" where its beginning is past retention."""
    torn: int
    """Lines that a killed process left unfinished, and that a later one vouches for."""
    faults: tuple[Fault, ...]

    @property
    def intact(self) -> bool:
        return not self.faults

    def __str__(self) -> str:
        count = f"{self.entries:,} entr{'y' if self.entries == 1 else 'ies'}"
        if self.faults:
            return f"the chain is broken at {self.faults[0]} ({count})"
        healed = f", {self.torn} of them torn and healed" if self.torn else ""
        return f"chain intact, {count}{healed}" if self.entries else "no entry yet"


def hash_of(line: bytes) -> str:
    """What the next line carries of this one, which is given without its line feed."""
    return hashlib.sha256(line).hexdigest()


def written(entry: Entry) -> bytes:
    """The entry's line: one JSON object, ASCII, closed by a sum over all that stands before it."""
    body = json.dumps({**entry.told(), "prev": entry.prev}, separators=(",", ":"), default=str)
    return f'{body[:-1]}{_SUM}{_sum(body)}"}}\n'.encode("ascii")


def read(line: bytes) -> Entry | None:
    """The entry of a line without its line feed; None when it is no whole entry, or was changed."""
    try:
        text = line.decode("ascii")
        body, found, rest = text.rpartition(_SUM)
        if not found or rest != f'{_sum(body + "}")}"}}':
            return None
        told = json.loads(text)
        at = datetime.fromisoformat(told["at"]).timestamp()
        return Entry(
            told["seq"], at, told["deed"], told["outcome"], dict(told["who"]), dict(told["what"]), told["prev"]
        )
    except (ValueError, KeyError, TypeError):
        return None


def moment(at: float) -> str:
    """Unix seconds as ISO time in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def worded(value: Any) -> str:
    """A value of an entry as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={worded(part)}" for name, part in value.items()) or "nothing"
    if isinstance(value, list):
        return ", ".join(map(worded, value)) or "nothing"
    return "none" if value is None else str(value)


def _sum(body: str) -> str:
    return hashlib.sha256(body.encode("ascii", "replace")).hexdigest()[:_SUM_LENGTH]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check has come: all that the next line is judged by."""

    entries: int = 0
    chain: str = ""
    torn: int = 0
    head: Head | None = None
    fragment: tuple[Fault, int] | None = None
    """The line before was no entry, and its length: the next one has to say that it was torn."""
    vouch: Head | None = None
    """The chain begins behind this line, and an entry has to say that it was removed on purpose."""
    faults: tuple[Fault, ...] = ()

    def verdict(self) -> Verdict:
        """The outcome, once there are no more lines."""
        faults = self.faults
        if self.fragment is not None:
            faults += (self.fragment[0],)
        if self.vouch is not None:
            missing = f"it begins with entry {self.vouch.seq + 1}, and no entry says that older ones were removed"
            faults = (Fault("the oldest file", 1, missing), *faults)
        return Verdict(self.entries, self.head, self.chain, self.torn, faults[:MOST_FAULTS])


def check(lines: Iterable[bytes], file: str, so_far: Progress | None = None) -> Progress:
    """Go on with a check through one file's lines, given without their line feeds."""
    progress = so_far or Progress()
    for number, line in enumerate(lines, 1):
        progress = _judged(progress, line, file, number)
    return progress


def _judged(before: Progress, line: bytes, file: str, number: int) -> Progress:
    entry = read(line)
    place = before.head.seq + 1 if before.head is not None else 0
    if entry is None:
        fault = Fault(file, number, f"entry {place} was changed, or is no entry")
        after = _with(before, before.fragment[0]) if before.fragment is not None else before
        return replace(after, entries=before.entries + 1, head=Head(place, hash_of(line)), fragment=(fault, len(line)))
    faults: list[Fault] = []
    if before.fragment is not None:
        told_so = entry.deed == "audit.torn" and entry.what.get("bytes") == before.fragment[1]
        if not (told_so and before.head is not None and (entry.seq, entry.prev) == (place, before.head.hash)):
            faults.append(before.fragment[0])
    elif (unlinked := _unlinked(before, entry, file, number)) is not None:
        faults.append(unlinked)
    if entry.deed == "audit.cut":
        faults.append(Fault(file, number, f"entries behind this were removed; the last was {entry.what.get('last')}"))
    if "after" in entry.what and entry.deed == "audit.begin":
        faults.append(Fault(file, number, f"the log before it was removed; its last entry was {entry.what['after']}"))
    after = replace(
        before,
        entries=before.entries + 1,
        chain=str(entry.what.get("chain", "")) if entry.deed == "audit.begin" else before.chain,
        torn=before.torn + (before.fragment is not None and not faults),
        head=Head(entry.seq, hash_of(line)),
        fragment=None,
        vouch=_still_to_vouch(before, entry),
    )
    return _with(after, *faults)


def _unlinked(before: Progress, entry: Entry, file: str, number: int) -> Fault | None:
    """Why an entry does not follow from the line before it."""
    if before.head is None:
        well = entry.seq > 0 or (entry.deed == "audit.begin" and not entry.prev)
        return None if well else Fault(file, number, "the first entry is not the beginning of a chain")
    due = before.head.seq + 1
    if entry.seq > due:
        gone = f"entry {due} is" if entry.seq == due + 1 else f"entries {due} to {entry.seq - 1} are"
        return Fault(file, number, f"{gone} missing before entry {entry.seq}")
    if entry.seq < due:
        return Fault(file, number, f"entry {entry.seq} stands behind entry {due - 1}")
    if entry.prev != before.head.hash:
        return Fault(file, number, f"entry {entry.seq} does not follow from the line before it, which was changed")
    return None


def _still_to_vouch(before: Progress, entry: Entry) -> Head | None:
    if before.head is None and before.fragment is None:
        return Head(entry.seq - 1, entry.prev) if entry.seq > 0 else None
    is_told = entry.deed == "audit.prune" and entry.what.get("upto") == str(before.vouch)
    return None if is_told else before.vouch


def _with(progress: Progress, *faults: Fault) -> Progress:
    return replace(progress, faults=(*progress.faults, *faults)[:MOST_FAULTS]) if faults else progress
