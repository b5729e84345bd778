"""A peer group's values at a realm. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from abst.packets import fields
from abst.packets.limits import (
    HASH_BYTES,
    MAX_CHANGES,
    VALUE_NAME_BYTES,
)
from abst.packets.packet import Packet


@dataclass(frozen=True, slots=True)
class PutValue(Packet):
    """Device to realm: keep this under a name.

    Attributes:
        name: what the realm sees of the name.
        value: sealed.
        if_revision: the revision that the name must have; 0 when it must have no value.
        seconds: after how long the realm shall drop it; absent for never.
    """

    packet_id = 8
    title = "Put value"
    envelope = (fields.REQUEST, fields.group())
    body = (
        fields.binary("name", VALUE_NAME_BYTES),
        fields.sealed("value"),
        fields.count("if_revision", required=False),
        fields.count("seconds", required=False),
    )

    peer_group: bytes
    name: bytes
    value: bytes
    if_revision: int | None = None
    seconds: int | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ValuePut(Packet):
    """Realm to device: it is kept, and survives whatever happens to the realm.

    Attributes:
        revision: the number of this change among all changes of the group.
    """

    packet_id = 8
    title = "Value put"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("revision"),)

    peer_group: bytes
    revision: int
    request: int | None = None


@dataclass(frozen=True, slots=True)
class GetValue(Packet):
    """Device to realm: tell me what is under a name."""

    packet_id = 9
    title = "Get value"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.binary("name", VALUE_NAME_BYTES),)

    peer_group: bytes
    name: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ValueFound(Packet):
    """Realm to device: what is under a name.

    Attributes:
        revision: of the name's last change; 0 when there is none, or it is forgotten.
        value: sealed; absent when there is none.
    """

    packet_id = 9
    title = "Value found"
    envelope = (fields.REQUEST, fields.group())
    body = (
        fields.binary("name", VALUE_NAME_BYTES),
        fields.count("revision"),
        fields.sealed("value", required=False),
    )

    peer_group: bytes
    name: bytes
    revision: int
    value: bytes | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteValue(Packet):
    """Device to realm: keep nothing under this name any more.

    Attributes:
        value: the sealed word that it is deleted, for the other members.
        if_revision: the revision that the name must have.
    """

    packet_id = 10
    title = "Delete value"
    envelope = (fields.REQUEST, fields.group())
    body = (
        fields.binary("name", VALUE_NAME_BYTES),
        fields.sealed("value"),
        fields.count("if_revision", required=False),
    )

    peer_group: bytes
    name: bytes
    value: bytes
    if_revision: int | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ValueDeleted(Packet):
    """Realm to device: it is deleted.

    Attributes:
        revision: the number of this change; 0 when there was nothing to delete.
    """

    packet_id = 10
    title = "Value deleted"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("revision"),)

    peer_group: bytes
    revision: int
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ListValues(Packet):
    """Device to realm: what has changed since a revision; since 0 for everything."""

    packet_id = 11
    title = "List values"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("since"),)

    peer_group: bytes
    since: int
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ValueChanges(Packet):
    """Realm to device: changes, the answer to List values; without ``request``, to watchers.

    Attributes:
        revision: of the newest change of the group.
        head: the hash of the group's history up to there.
        changes: each a revision, a name, the SHA-256 of the sealed value (32 zero bytes when the
            value's time was over), and the sealed value, or None when a later change has replaced
            it. In rising order of revisions.
        floor: the revision up to which the realm has forgotten all but the last change of each
            name; in answers.
        floor_head: the hash of the history up to there; in answers.
        more: whether there are more changes after the last of these.
    """

    packet_id = 11
    title = "Changed values"
    envelope = (fields.REQUEST, fields.group())
    body = (
        fields.count("revision"),
        fields.binary("head", HASH_BYTES),
        fields.array(
            "changes", MAX_CHANGES, "arrays of four: uint, bin, bin, bin or nil", fields.is_change
        ),
        fields.count("floor", required=False),
        fields.binary("floor_head", HASH_BYTES, required=False),
        fields.flag("more", required=False),
    )

    peer_group: bytes
    revision: int
    head: bytes
    changes: list[list[Any]]
    floor: int | None = None
    floor_head: bytes | None = None
    more: bool | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WatchValues(Packet):
    """Device to realm: tell me each change from now on, or none any more."""

    packet_id = 12
    title = "Watch values"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.flag("stop", required=False),)

    peer_group: bytes
    stop: bool | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WatchingValues(Packet):
    """Realm to device: every change after this one is going to be told.

    Attributes:
        revision: of the newest change of the group.
        head: the hash of the group's history up to there.
    """

    packet_id = 12
    title = "Watching values"
    envelope = (fields.REQUEST, fields.group())
    body = (fields.count("revision"), fields.binary("head", HASH_BYTES))

    peer_group: bytes
    revision: int
    head: bytes
    request: int | None = None
