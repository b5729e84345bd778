"""One entry of a roster: its bytes, what they say, and its signature (spec: rosters.md, "Entries").

Pure. Owns the form of an entry and refuses what has another one. What entries say together is in
``view``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abst import codec
from abst.device_id import DeviceID, subject_public_key_info
from abst.errors import Code, GroupError, RemoteProtocolError
from abst.group_proofs import is_signed
from abst.packets import (
    HASH_BYTES,
    MAX_COUNT,
    MAX_NAME_CHARACTERS,
    MAX_ROSTER_ENTRIES,
    MAX_WORD_CHARACTERS,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    fields,
)

LABEL: Final = b"ABST roster 1"
MAX_MAP_BYTES: Final = 960
MAX_KEY_CHARACTERS: Final = 506
"""Of a setting: the longest address of a realm, and the word before it."""

ITEM_BYTES: Final = 3
"""What MessagePack puts before an entry in an array."""

MAX_WITHOUT: Final = 8
"""Removals that one entry about an epoch names."""

NOTHING: Final = bytes(HASH_BYTES)
"""Stands where an entry is named and there is none."""


class Signer(Protocol):
    """Who signs entries: an identity."""

    private_key: Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Add:
    """A device comes in, or a member says what it is called.

    Attributes:
        device: its raw public key.
        name: what it is called.
        generation: which time it is that it comes, from 1.
    """

    device: bytes
    name: str
    generation: int


@dataclass(frozen=True, slots=True)
class Remove:
    """A device goes.

    Attributes:
        device: its raw public key.
        generation: the last time that it had come.
        last: the last entry by it that still counts.
    """

    device: bytes
    generation: int
    last: bytes


@dataclass(frozen=True, slots=True)
class Setting:
    """Something that goes for the whole group.

    Attributes:
        key: what is set.
        value: to what.
        replaces: the setting of the same key that held before.
    """

    key: str
    value: str
    replaces: bytes


@dataclass(frozen=True, slots=True)
class Epoch:
    """The signer has made an epoch.

    Attributes:
        epoch: its number.
        public: its key.
        without: the removals that were reason for it.
    """

    epoch: int
    public: bytes
    without: tuple[bytes, ...]


Statement = Add | Remove | Setting | Epoch


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the right form. Its signature has not been looked at.

    Attributes:
        data: all its bytes.
        sha256: their SHA-256, by which others name it.
        signer: the raw public key of who signs.
        previous: the signer's entry before this one.
        number: which entry of the signer it is, from 1.
        standing: the generation with which the signer is a member.
        statement: what it says, or None when that is of a kind that is not known here.
    """

    data: bytes
    sha256: bytes
    signer: bytes
    previous: bytes
    number: int
    standing: int
    statement: Statement | None

    def names(self) -> list[bytes]:
        """Return the entries that this one builds on: it means nothing without them."""
        match self.statement:
            case Remove(last=last):
                named = [self.previous, last]
            case Setting(replaces=replaces):
                named = [self.previous, replaces]
            case Epoch(without=without):
                named = [self.previous, *without]
            case _:
                named = [self.previous]
        return [sha256 for sha256 in named if sha256 != NOTHING]

    def fits(self, entries: Mapping[bytes, Entry]) -> bool:
        """Tell whether those that it names, all of them in ``entries``, are what they should be."""
        if self.previous != NOTHING:
            previous = entries[self.previous]
            if previous.signer != self.signer or previous.number != self.number - 1:
                return False
        match self.statement:
            case Remove(device=device, last=last) if last != NOTHING:
                return entries[last].signer == device
            case Setting(key=key, replaces=replaces) if replaces != NOTHING:
                replaced = entries[replaces].statement
                return isinstance(replaced, Setting) and replaced.key == key
            case Epoch(without=without):
                return all(isinstance(entries[one].statement, Remove) for one in without)
            case _:
                return True


@lru_cache(maxsize=4096)
def device_id_of(public_key: bytes) -> DeviceID:
    """Return the ID of the device with a raw public key."""
    return DeviceID.of_key(subject_public_key_info(public_key))


def raw_key_of(signer: Signer) -> bytes:
    """Return the raw public key of who signs."""
    return signer.private_key.public_key().public_bytes_raw()


def parse_entry(data: bytes) -> Entry:
    """Return what the bytes of an entry say; the signature is not looked at.

    Raises:
        RemoteProtocolError: they are no entry.
    """
    if len(data) > SIGNATURE_BYTES + MAX_MAP_BYTES:
        raise RemoteProtocolError(Code.TOO_LARGE, f"an entry's map has at most {MAX_MAP_BYTES}")
    written = codec.decode(data[SIGNATURE_BYTES:])
    common = _read(written, COMMON_FIELDS)
    if (common["previous"] == NOTHING) != (common["number"] == 1):
        raise RemoteProtocolError(Code.MALFORMED, "number: 1 in the first entry, and there alone")
    kind = STATEMENT_FIELDS.get(common.pop("kind"))
    statement = None if kind is None else kind[0](**_read(written, kind[1]))
    return Entry(data, hashlib.sha256(data).digest(), statement=statement, **common)


def sign_entry(
    signer: Signer,
    group_id: bytes,
    founder: bytes,
    statement: Statement,
    *,
    previous: Entry | None,
    standing: int,
) -> Entry:
    """Return a new entry.

    Args:
        signer: who signs.
        group_id: the group.
        founder: the raw public key of the device that has made the group.
        statement: what it says.
        previous: the signer's entry before this one.
        standing: the generation with which the signer is a member.

    Raises:
        GroupError: something in it is longer than it may be.
    """
    kind, own_fields = _KINDS[type(statement)]
    written: dict[str, Any] = {
        "signer": raw_key_of(signer),
        "previous": NOTHING if previous is None else previous.sha256,
        "number": 1 if previous is None else previous.number + 1,
        "standing": standing,
        "kind": kind,
    }
    for item in own_fields:
        value = getattr(statement, item.name)
        value = list(value) if isinstance(value, tuple) else value
        if not item.holds(value):
            raise GroupError(f"a roster's {item.name} needs {item.type}")
        written[item.name] = value
    packed: bytes = msgpack.packb(written)
    if len(packed) > MAX_MAP_BYTES:
        raise GroupError(f"this is too long for a roster: it may have {MAX_MAP_BYTES} bytes in all")
    signature = signer.private_key.sign(LABEL + group_id + founder + packed)
    return parse_entry(signature + packed)


def is_by_signer(entry: Entry, group_id: bytes, founder: bytes) -> bool:
    """Tell whether an entry is for this group and by the signer that it names."""
    signature, written = entry.data[:SIGNATURE_BYTES], entry.data[SIGNATURE_BYTES:]
    return is_signed(entry.signer, signature, LABEL + group_id + founder + written)


def first_that_fit(entries: Sequence[bytes], most_bytes: int) -> list[bytes]:
    """Return the first entries, as many as one packet takes and so many bytes of it."""
    fit = []
    for entry in entries[:MAX_ROSTER_ENTRIES]:
        most_bytes -= len(entry) + ITEM_BYTES
        if most_bytes < 0:
            break
        fit.append(entry)
    return fit


def _read(written: Mapping[Any, Any], wanted: tuple[fields.Field, ...]) -> dict[str, Any]:
    found = {}
    for item in wanted:
        value = written.get(item.name)
        if not item.holds(value):
            raise RemoteProtocolError(Code.MALFORMED, f"{item.name}: needs {item.type}")
        found[item.name] = tuple(value) if isinstance(value, list) else value
    return found


def _ordinal(name: str) -> fields.Field:
    return fields.Field(
        name, "uint, from 1", lambda value: fields.is_count(value) and 1 <= value <= MAX_COUNT
    )


COMMON_FIELDS: Final = (
    fields.binary("signer", PUBLIC_KEY_BYTES),
    fields.binary("previous", HASH_BYTES),
    _ordinal("number"),
    _ordinal("standing"),
    fields.text("kind", MAX_WORD_CHARACTERS),
)
"""What every entry has, in the order in which it is written."""

STATEMENT_FIELDS: Final[dict[str, tuple[type[Statement], tuple[fields.Field, ...]]]] = {
    "add": (
        Add,
        (
            fields.binary("device", PUBLIC_KEY_BYTES),
            fields.text("name", MAX_NAME_CHARACTERS),
            _ordinal("generation"),
        ),
    ),
    "remove": (
        Remove,
        (
            fields.binary("device", PUBLIC_KEY_BYTES),
            _ordinal("generation"),
            fields.binary("last", HASH_BYTES),
        ),
    ),
    "set": (
        Setting,
        (
            fields.text("key", MAX_KEY_CHARACTERS),
            fields.text("value", MAX_NAME_CHARACTERS),
            fields.binary("replaces", HASH_BYTES),
        ),
    ),
    "epoch": (
        Epoch,
        (
            fields.count("epoch"),
            fields.binary("public", PUBLIC_KEY_BYTES),
            fields.array(
                "without",
                MAX_WITHOUT,
                f"bin, each {HASH_BYTES} bytes",
                lambda value: isinstance(value, bytes) and len(value) == HASH_BYTES,
            ),
        ),
    ),
}
"""What the entries of each kind have besides, likewise."""

_KINDS: Final = {made: (kind, own) for kind, (made, own) in STATEMENT_FIELDS.items()}
