"""What is known of a group's changes, as plain values (spec: values.md, "Changes", "History").

Pure. Owns the forms in which a history is given to the application and to storage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from abst.device.groups.sealed_values import ValueWord
from abst.value_history import NO_HASH


class What(StrEnum):
    """What has happened to a name."""

    PUT = "put"
    DELETED = "deleted"
    ENDED = "ended"
    """Its time was over."""

    FORGOTTEN = "forgotten"
    """It has no value any more, since some change that the realm has forgotten."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change that has been checked.

    Attributes:
        what: what has happened.
        revision: the number of the change; of one that is forgotten, the last that it can have.
        name: as the realm sees it.
        word: what its writer says; None when nobody did.
        sealed: the same as the realm keeps it.
    """

    what: What
    revision: int
    name: bytes
    word: ValueWord | None = None
    sealed: bytes | None = field(default=None, repr=False)


class Accepted(NamedTuple):
    """What a packet has brought.

    Attributes:
        changes: what an application may care for, in order: changes that the realm names as
            replaced are not among them.
        missed: the first and the last revision between which changes are forgotten, so that
            nobody could check them; None when there are none.
    """

    changes: list[Change]
    missed: tuple[int, int] | None = None


class LastChange(NamedTuple):
    """The last change of a name.

    Attributes:
        revision: its number.
        digest: the SHA-256 of the sealed value, or ``NO_HASH``.
        has_value: whether the name has a value since then.
        may_end: whether that value was put for a time.
        replaced_by: when the realm has given the hash alone: the revision up to which another
            change of the name must come; else 0.
    """

    revision: int
    digest: bytes
    has_value: bool
    may_end: bool
    replaced_by: int = 0


class Step(NamedTuple):
    """One of the newest changes.

    Attributes:
        head: the hash of the history after it.
        digest: its own.
    """

    head: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A history in rows, to be stored.

    Attributes:
        revision: the newest change that was checked.
        head: the hash of the history up to there.
        epoch: before which no later change may have been sealed.
        claimed: the newest revision that the realm has named, and its hash.
        names: of each name: name, and the fields of its ``LastChange``.
        steps: of the newest changes: revision, head, digest.
        writers: of each writer: device ID, the largest ``revision`` and ``milliseconds`` in its
            words.
        seen: of members that know more than this device: device ID, revision, head.
        promised: what the realm has said of changes that have not come: revision, name, digest.
    """

    revision: int = 0
    head: bytes = NO_HASH
    epoch: int = 0
    claimed: tuple[int, bytes] = (0, NO_HASH)
    names: list[tuple[bytes, int, bytes, bool, bool, int]] = field(default_factory=list)
    steps: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    writers: list[tuple[bytes, int, int]] = field(default_factory=list)
    seen: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    promised: list[tuple[int, bytes, bytes]] = field(default_factory=list)
