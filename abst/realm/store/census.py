"""How much each group has in a realm's database, counted beside the store that writes to it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from abst.errors import DatabaseError
from abst.realm.store.interface import MAX_REVISION

_REVISION_BITS = MAX_REVISION.bit_length()
_DELETED_AT = 97
"""Where in a change's facts stands whether it is a deletion, counted from 1 as SQL does."""

_COUNT = f"""
SELECT group_id, stored_bytes, (
    SELECT count(*) FROM change
    WHERE position BETWEEN number << {_REVISION_BITS} AND (number << {_REVISION_BITS}) + ?
    AND sealed IS NOT NULL AND substr(facts, {_DELETED_AT}, 1) = x'00'
) FROM history WHERE group_id = ?
"""


class Share(NamedTuple):
    """What one group has.

    Attributes:
        values: how many values; one that has just been replaced may be counted still.
        stored_bytes: what they take on the disk, with the changes that are kept.
    """

    values: int
    stored_bytes: int


def count(path: Path, groups: Sequence[bytes]) -> dict[bytes, Share]:
    """Return what each of these groups has that ever had a value; it may take seconds.

    Raises:
        DatabaseError: the file cannot be read.
    """
    where = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with contextlib.closing(sqlite3.connect(where, uri=True)) as database:
            rows = [
                row
                for group in groups
                for row in database.execute(_COUNT, (MAX_REVISION, group)).fetchall()
            ]
    except sqlite3.Error as error:
        raise DatabaseError(f"{path}: {error}") from None
    return {group: Share(values, stored_bytes) for group, stored_bytes, values in rows}
