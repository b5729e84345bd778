"""What two devices say to each other inside a channel. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from abst.errors import LocalProtocolError
from abst.packets import fields
from abst.packets.limits import (
    FIRST_APPLICATION_ID,
    HASH_BYTES,
    LAST_PACKET_ID,
    MAX_ADDRESS_CHARACTERS,
    MAX_CODE_CHARACTERS,
    MAX_EPOCHS,
    MAX_NAME_CHARACTERS,
    MAX_ROSTER_ENTRIES,
    MAX_ROSTER_ENTRY_BYTES,
    MAX_WORD_CHARACTERS,
    NONCE_BYTES,
    PROTOCOL_VERSION,
    PUBLIC_KEY_BYTES,
    SEED_BYTES,
    SESSION_ID_BYTES,
    SPAKE2_SHARE_BYTES,
)
from abst.packets.packet import Packet


@dataclass(frozen=True, slots=True)
class Heartbeat(Packet):
    """Device to device: alive, and the acknowledgement.

    Attributes:
        received: how many application packets of this session have been received.
        ping: a number that the other side shall repeat as ``pong``.
        pong: the number of a ping, repeated.
        end: True when the sender ends the session.
        first: the number of the application packet that the sender sends next on this channel.
        keep: with ``first``, whether the sender wants a path also while nothing is said.
        addresses: where the sender listens now, in place of what it has said before.
    """

    packet_id = 0
    title = "Heartbeat"
    body = (
        fields.count("received"),
        fields.count("ping", required=False),
        fields.count("pong", required=False),
        fields.flag("end", required=False),
        fields.count("first", required=False),
        fields.flag("keep", required=False),
        fields.texts("addresses", MAX_ADDRESS_CHARACTERS),
    )

    received: int
    ping: int | None = None
    pong: int | None = None
    end: bool | None = None
    first: int | None = None
    keep: bool | None = None
    addresses: list[str] | None = None


@dataclass(frozen=True, slots=True)
class DeviceHello(Packet):
    """Device to device: the first packet on a channel, from both sides.

    Attributes:
        device_id: who is speaking; the channel's certificate proves it.
        name: what the device's owner calls it.
        paired: whether the speaker trusts the listener.
        session: the session that the speaker wants to begin or resume.
        received: how many application packets of that session the speaker has received.
        version: the protocol version.
        capabilities: names of optional features, none yet.
        addresses: where the speaker listens for direct connections, as ``HOST:PORT``.
        realms: addresses of the realms where the speaker can be found.
        pairing: True when a person has asked the speaker to pair with the listener.
    """

    packet_id = 1
    title = "Hello"
    body = (
        fields.device("device_id"),
        fields.text("name", MAX_NAME_CHARACTERS),
        fields.flag("paired"),
        fields.binary("session", SESSION_ID_BYTES),
        fields.count("received"),
        fields.count("version"),
        fields.texts("capabilities", MAX_CODE_CHARACTERS),
        fields.texts("addresses", MAX_ADDRESS_CHARACTERS),
        fields.texts("realms", MAX_ADDRESS_CHARACTERS),
        fields.flag("pairing", required=False),
    )

    device_id: bytes
    name: str
    paired: bool
    session: bytes
    received: int
    version: int = PROTOCOL_VERSION
    capabilities: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    realms: list[str] = field(default_factory=list)
    pairing: bool | None = None


@dataclass(frozen=True, slots=True)
class PairProcess(Packet):
    """Device to device: a step of pairing (pairing.md has which step has which keys).

    Attributes:
        step: begin, answer, reveal, confirm, stored or refused.
        way: code, link or compare; in begin.
        share: the SPAKE2 message; in begin and answer of a code.
        commitment: the hash of a nonce; in begin of comparing.
        nonce: the nonce; in answer and reveal of comparing.
        mac: the proof that the sender holds the same secret; in confirm.
        name: what the sender calls itself; in confirm.
        code: why; in refused.
    """

    packet_id = 2
    title = "Pair process"
    body = (
        fields.text("step", MAX_WORD_CHARACTERS),
        fields.text("way", MAX_WORD_CHARACTERS, required=False),
        fields.binary("share", SPAKE2_SHARE_BYTES, required=False),
        fields.binary("commitment", HASH_BYTES, required=False),
        fields.binary("nonce", NONCE_BYTES, required=False),
        fields.binary("mac", HASH_BYTES, required=False),
        fields.text("name", MAX_NAME_CHARACTERS, required=False),
        fields.text("code", MAX_CODE_CHARACTERS, required=False),
    )

    step: str
    way: str | None = None
    share: bytes | None = None
    commitment: bytes | None = None
    nonce: bytes | None = None
    mac: bytes | None = None
    name: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class KeyCheck(Packet):
    """Device to device: proof of the pairing's key, bound to this channel.

    Attributes:
        mac: the proof with the key of the newest pairing.
        older: the same with the key of the one before, while the newest is pending.
    """

    packet_id = 3
    title = "Key check"
    body = (fields.binary("mac", HASH_BYTES), fields.binary("older", HASH_BYTES, required=False))

    mac: bytes
    older: bytes | None = None


@dataclass(frozen=True, slots=True)
class GiveGroup(Packet):
    """Device to device: a peer group's keys and roster, and what the other side makes of them.

    Attributes:
        step: offer, accepted, refused, state, keys, entries or gone (groups.md).
        peer_group: the group's ID.
        founder: the raw public key of the device that has made the group; in offer.
        kind: group or network; in offer.
        realm: the address of the realm where the group is; in offer.
        epoch: the newest epoch that the sender has the seed of; in offer, state and keys.
        seeds: the seed of every epoch, from 0 on; in offer and keys.
        entries: signed entries of the roster; in offer and entries.
        digest: of the sender's roster; in offer and state.
        code: why; in refused.
    """

    packet_id = 4
    title = "Give peer group access"
    body = (
        fields.text("step", MAX_WORD_CHARACTERS),
        fields.group(),
        fields.binary("founder", PUBLIC_KEY_BYTES, required=False),
        fields.text("kind", MAX_WORD_CHARACTERS, required=False),
        fields.text("realm", MAX_ADDRESS_CHARACTERS, required=False),
        fields.count("epoch", required=False),
        fields.array(
            "seeds",
            MAX_EPOCHS,
            f"bin, each {SEED_BYTES} bytes",
            lambda value: isinstance(value, bytes) and len(value) == SEED_BYTES,
            required=False,
        ),
        fields.array(
            "entries",
            MAX_ROSTER_ENTRIES,
            f"bin, each at most {MAX_ROSTER_ENTRY_BYTES} bytes",
            lambda value: fields.is_binary(value, MAX_ROSTER_ENTRY_BYTES),
            required=False,
        ),
        fields.binary("digest", HASH_BYTES, required=False),
        fields.text("code", MAX_CODE_CHARACTERS, required=False),
    )

    step: str
    peer_group: bytes
    founder: bytes | None = None
    kind: str | None = None
    realm: str | None = None
    epoch: int | None = None
    seeds: list[bytes] | None = None
    entries: list[bytes] | None = None
    digest: bytes | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Application(Packet):
    """Device to device: an application's own packet, id 5 to 255, any content."""

    title = "Application packet"

    id: int
    content: Any

    def to_map(self) -> dict[str, Any]:
        """Return the map to put on the wire.

        Raises:
            LocalProtocolError: the id is not an application's.
        """
        if not FIRST_APPLICATION_ID <= self.id <= LAST_PACKET_ID:
            raise LocalProtocolError(
                f"an application's packet ids are {FIRST_APPLICATION_ID}-{LAST_PACKET_ID}"
            )
        return {"packet_id": self.id, "content": self.content}
