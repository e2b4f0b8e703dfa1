"""What kind of statement a text is, decided once a text: may the cache answer it, does it alter the connection?"""

from __future__ import annotations

import re
from enum import Enum, auto
from functools import lru_cache


class Kind(Enum):
    PLAIN = auto()
    SELECT = auto()
    """A query: begins with SELECT, WITH or VALUES. The footprint says whether it may be kept."""
    ALTERING = auto()
    """May leave something behind on the connection: PRAGMA, ATTACH, a temp object."""


# Bounded, because an app may build its SQL text with literals in it.
_BOUND = 4096
_kinds: dict[str, Kind] = {}

_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
_QUERY = re.compile(r"(?:select|with|values)\b", re.IGNORECASE)
# One statement of these kinds leaves nothing behind, even where a column is called temp.
_CONTENT = re.compile(r"(?:insert|update|delete|replace)\b[^;]*;?\s*$", re.IGNORECASE)
_MARKS = re.compile(r"\b(?:pragma|attach|detach|temp|temporary)\b", re.IGNORECASE)
_PRAGMA = re.compile(r"\bpragma\s+(?:\w+\s*\.\s*)?(\w+)\s*(=|\(|;|$)", re.IGNORECASE)
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)

# PRAGMAs that only tell, also where they take an argument in parentheses.
_TELLING = frozenset(
    "collation_list compile_options data_version database_list foreign_key_check foreign_key_list freelist_count "
    "function_list index_info index_list index_xinfo integrity_check module_list page_count pragma_list quick_check "
    "table_info table_list table_xinfo optimize wal_checkpoint shrink_memory incremental_vacuum".split()
)
# SQLAlchemy looks there too for a table by its name; that makes no temp object.
_OF_TEMP = re.compile(rf"\bpragma\s+temp\s*\.\s*(?=(?:{'|'.join(sorted(_TELLING))})\b)", re.IGNORECASE)
# PRAGMAs of the file, which the app decides and every connection shares.
_LASTING = frozenset("application_id auto_vacuum encoding journal_mode page_size user_version".split())
# PRAGMAs of one connection that can be read, and so put back.
_RESETTABLE = frozenset(
    "automatic_index busy_timeout cache_size cell_size_check checkpoint_fullfsync count_changes "
    "defer_foreign_keys foreign_keys full_column_names fullfsync ignore_check_constraints journal_size_limit "
    "legacy_alter_table mmap_size read_uncommitted recursive_triggers reverse_unordered_selects secure_delete "
    "short_column_names synchronous temp_store threads trusted_schema wal_autocheckpoint".split()
)


# Of those, the ones that change what a SELECT gives.
SHAPING = frozenset("full_column_names short_column_names reverse_unordered_selects read_uncommitted".split())


def kind_of(sql: str) -> Kind:
    """The kind of one statement; what is no string is PLAIN, and the driver's own error follows."""
    try:
        return _kinds[sql]
    except KeyError:
        pass
    except TypeError:
        return Kind.PLAIN
    if not isinstance(sql, str):
        return Kind.PLAIN
    kind = _classify(sql)
    if len(_kinds) >= _BOUND:
        _kinds.clear()
    if len(sql) <= 10_000:
        _kinds[sql] = kind
    return kind


def _classify(sql: str) -> Kind:
    leading = _LEADING.match(sql)
    start = leading.end() if leading else 0
    if _QUERY.match(sql, start):
        return Kind.SELECT
    return Kind.ALTERING if _MARKS.search(sql) and not _CONTENT.match(sql, start) else Kind.PLAIN


def may_alter(script: str) -> bool:
    """Whether any statement of a script may leave something behind on the connection."""
    return _MARKS.search(script) is not None


@lru_cache(256)
def changed_pragmas(sql: str) -> tuple[str, ...] | None:
    """The PRAGMAs that the text sets and that can be put back. None: it does more, or what is not clear."""
    sql = _OF_TEMP.sub("PRAGMA ", sql)
    marks = _MARKS.findall(sql)
    if any(mark.lower() != "pragma" for mark in marks):
        return None
    found = _PRAGMA.findall(_COMMENT.sub(" ", sql))
    if len(found) != len(marks):  # a quoted name, or the word in a text
        return None
    changed = []
    for name, setting in found:
        name = name.lower()
        if name in _TELLING or name in _LASTING or setting not in ("=", "("):
            continue
        if name not in _RESETTABLE:
            return None
        changed.append(name)
    return tuple(changed)
