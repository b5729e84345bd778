"""Every packet: its id, its fields, and the limit beside each field (spec: packets.md).

Pure. Each conversation has packets of its own: device to realm, realm to device, a circuit's leg to
the realm, device to device, and the two ends of a stream. A packet is a frozen dataclass; its
``envelope`` and ``body`` tables say which keys it has on the wire, and both the checks here and the
tables in the specification follow them.
``codec`` turns packets into bytes and back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

from abst.device_id import DEVICE_ID_BYTES, is_device_id
from abst.errors import Code, LocalProtocolError, RemoteProtocolError

PROTOCOL_VERSION: Final = 1

MAX_PACKET_BYTES: Final = 65536
MAX_PACKET_BYTES_BEFORE_HELLO: Final = 4096
HEADROOM_BYTES: Final = 128
"""What a Send packet needs beside its content, rounded up: keys, IDs and lengths."""

MAX_NAME_CHARACTERS: Final = 64
MAX_REASON_CHARACTERS: Final = 300
MAX_CODE_CHARACTERS: Final = 40
MAX_INVITATION_CHARACTERS: Final = 200
MAX_ADDRESS_CHARACTERS: Final = 500
MAX_LIST_ITEMS: Final = 16
MAX_LIMITS: Final = 32
MAX_COUNT: Final = 2**63 - 1
NONCE_BYTES: Final = 32
HASH_BYTES: Final = 32
MAX_LEG_BYTES: Final = 256
"""The largest packet with which a leg may begin."""

SPAKE2_SHARE_BYTES: Final = 33
MAX_WORD_CHARACTERS: Final = 16
SESSION_ID_BYTES: Final = 16
CHANNEL_NUMBER_BYTES: Final = 8
CIRCUIT_ID_BYTES: Final = 8
TOKEN_BYTES: Final = 32
MAX_SERVICE_CHARACTERS: Final = 64

FIRST_APPLICATION_ID: Final = 5
LAST_PACKET_ID: Final = 255

RESERVED_REALM_IDS: Final[Mapping[int, str]] = {
    3: "Create peer group",
    4: "Join peer group",
    5: "I am here",
    6: "Peer group message",
    7: "Leave peer group",
    8: "Put value",
    9: "Get value",
    10: "Delete value",
    11: "List values",
    12: "Watch values",
}
"""Ids between device and realm that are named but not offered by this version."""

RESERVED_DEVICE_IDS: Final[Mapping[int, str]] = {
    4: "Give peer group access",
}
"""Ids between devices that are named but not offered by this version."""

Check = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a packet.

    Attributes:
        name: the key on the wire, and the attribute of the packet's class.
        type: the type and the limit, as the specification writes them.
        holds: tells whether a decoded value has that type and keeps that limit.
        required: whether a packet without it is malformed.
    """

    name: str
    type: str
    holds: Check
    required: bool = True


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT


def _is_limits(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LIMITS
        and all(isinstance(key, str) and _is_seconds(item) for key, item in value.items())
    )


def _is_observed_address(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and len(value[0]) <= MAX_ADDRESS_CHARACTERS
        and _is_count(value[1])
    )


def _text(name: str, characters: int, *, required: bool = True) -> Field:
    def holds(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= characters

    return Field(name, f"str, at most {characters} characters", holds, required)


def _texts(name: str, characters: int) -> Field:
    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= MAX_LIST_ITEMS
            and all(isinstance(item, str) and len(item) <= characters for item in value)
        )

    kind = f"array of at most {MAX_LIST_ITEMS} str, each at most {characters} characters"
    return Field(name, kind, holds, required=False)


def _binary(name: str, length: int, *, required: bool = True) -> Field:
    def holds(value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == length

    return Field(name, f"bin, {length} bytes", holds, required)


def _device(name: str, *, required: bool = True) -> Field:
    return Field(name, f"bin, {DEVICE_ID_BYTES} bytes, UUID version 8", is_device_id, required)


def _count(name: str, *, required: bool = True) -> Field:
    return Field(name, "uint, at most 2^63 - 1", _is_count, required)


def _seconds(name: str, *, required: bool = True) -> Field:
    return Field(name, "uint or float, seconds", _is_seconds, required)


def _flag(name: str, *, required: bool = True) -> Field:
    return Field(name, "bool", lambda value: isinstance(value, bool), required)


_REQUEST = _count("request", required=False)


class Packet:
    """What all packets share: an id, keys beside ``content``, and keys inside ``content``."""

    packet_id: ClassVar[int]
    title: ClassVar[str]
    envelope: ClassVar[tuple[Field, ...]] = ()
    body: ClassVar[tuple[Field, ...]] = ()

    def to_map(self) -> dict[str, Any]:
        """Return the map to put on the wire, its keys in the order that the spec gives.

        Raises:
            LocalProtocolError: a field has not its type or keeps not its limit.
        """
        packet: dict[str, Any] = {"packet_id": self.packet_id}
        _collect(self, self.envelope, packet)
        if self.body:
            packet["content"] = _collect(self, self.body, {})
        return packet

    @classmethod
    def from_map(cls, packet: Mapping[str, Any]) -> Self:
        """Return the packet that a decoded map holds.

        Raises:
            RemoteProtocolError: a key is missing, or a value has not its type or keeps not its
                limit. The text names the key and never the value.
        """
        values = _checked(packet, cls.envelope)
        if cls.body:
            content = packet.get("content")
            if not isinstance(content, dict):
                raise RemoteProtocolError(Code.MALFORMED, "content: a map is needed")
            values.update(_checked(content, cls.body))
        return cls(**values)


def _collect(packet: Packet, fields: tuple[Field, ...], into: dict[str, Any]) -> dict[str, Any]:
    for item in fields:
        value = getattr(packet, item.name)
        if value is None and not item.required:
            continue
        if not item.holds(value):
            raise LocalProtocolError(f"{packet.title}: {item.name} needs {item.type}")
        into[item.name] = value
    return into


def _checked(values: Mapping[str, Any], fields: tuple[Field, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields:
        value = values.get(item.name)
        if value is None:
            if item.required:
                raise RemoteProtocolError(Code.MALFORMED, f"{item.name}: missing")
        elif item.holds(value):
            found[item.name] = value
        else:
            raise RemoteProtocolError(Code.MALFORMED, f"{item.name}: needs {item.type}")
    return found


@dataclass(frozen=True, slots=True)
class Hello(Packet):
    """Device to realm: I am here; and again as heartbeat."""

    packet_id = 0
    title = "Hello"
    envelope = (_REQUEST,)
    body = (
        _device("device_id"),
        _count("version"),
        _text("invitation", MAX_INVITATION_CHARACTERS, required=False),
    )

    device_id: bytes
    version: int = PROTOCOL_VERSION
    invitation: str | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class BackHeartbeat(Packet):
    """Realm to device: the answer to every Hello, with every limit in force."""

    packet_id = 0
    title = "Back heartbeat"
    envelope = (_REQUEST,)
    body = (
        _count("version"),
        _seconds("heartbeat_seconds"),
        Field("limits", f"map of at most {MAX_LIMITS}: str to uint or float", _is_limits),
        Field(
            "observed_address", "array: str host, uint port", _is_observed_address, required=False
        ),
        _binary("nonce", NONCE_BYTES),
    )

    version: int
    heartbeat_seconds: float
    limits: dict[str, float]
    nonce: bytes
    observed_address: list[Any] | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class ConnectToDevice(Packet):
    """Device to realm: make a circuit between me and another device."""

    packet_id = 1
    title = "Connect to device"
    envelope = (_REQUEST, _device("source_device"), _device("target_device"))

    source_device: bytes
    target_device: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Circuit(Packet):
    """Realm to device, to each of the two: how to open this device's end of a circuit.

    Attributes:
        circuit: names the circuit in Errors about it.
        token: what the leg of this device begins with; good once, and for this device alone.
        device: the other device.
        dials: True for the device that has asked: it is the client of the TLS inside.
        seconds: how long the token is good.
        limits: what the realm lets one circuit and one device carry; 0 is no limit.
        request: the number of the packet that this answers; absent for the other device.
    """

    packet_id = 1
    title = "Circuit"
    envelope = (_REQUEST,)
    body = (
        _binary("circuit", CIRCUIT_ID_BYTES),
        _binary("token", TOKEN_BYTES),
        _device("device"),
        _flag("dials"),
        _seconds("seconds"),
        Field("limits", f"map of at most {MAX_LIMITS}: str to uint or float", _is_limits),
    )

    circuit: bytes
    token: bytes
    device: bytes
    dials: bool
    seconds: float
    limits: dict[str, float]
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Leg(Packet):
    """Leg to realm: the first packet of a connection that becomes one end of a circuit."""

    packet_id = 1
    title = "Leg"
    body = (_binary("token", TOKEN_BYTES),)

    token: bytes


@dataclass(frozen=True, slots=True)
class Send(Packet):
    """Device to realm, and unchanged realm to device: bytes for another device."""

    packet_id = 2
    title = "Send to another device"
    envelope = (
        _REQUEST,
        _device("source_device"),
        _device("target_device"),
        Field("content", "bin", lambda value: isinstance(value, bytes)),
    )

    source_device: bytes
    target_device: bytes
    content: bytes
    request: int | None = None


@dataclass(frozen=True, slots=True)
class Error(Packet):
    """A refusal, a drop, or the reason why a connection closes; or a device's no to a circuit.

    Attributes:
        code: one of ``errors.Code``, or a code of a newer version.
        reason: a sentence for people.
        about: the packet id that was refused.
        target_device: the target of what was refused.
        dropped: how many packets this error stands for.
        retry_after: seconds after which trying again makes sense.
        circuit: the circuit that it is about.
        request: the number that the refused packet carried.
    """

    packet_id = 31
    title = "Error"
    envelope = (_REQUEST,)
    body = (
        _text("code", MAX_CODE_CHARACTERS),
        _text("reason", MAX_REASON_CHARACTERS),
        _count("about", required=False),
        _device("target_device", required=False),
        _count("dropped", required=False),
        _seconds("retry_after", required=False),
        _binary("circuit", CIRCUIT_ID_BYTES, required=False),
    )

    code: str
    reason: str
    about: int | None = None
    target_device: bytes | None = None
    dropped: int | None = None
    retry_after: float | None = None
    circuit: bytes | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class OpenWindow(Packet):
    """Device to realm: let me be found under a number for a while, or not any more.

    Attributes:
        close: True closes the window that this device has.
    """

    packet_id = 13
    title = "Open pairing window"
    envelope = (_REQUEST,)
    body = (_flag("close", required=False),)

    close: bool | None = None
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WindowOpened(Packet):
    """Realm to device: the number under which the device can be found, and for how long."""

    packet_id = 13
    title = "Pairing window opened"
    envelope = (_REQUEST,)
    body = (_count("number"), _seconds("seconds"))

    number: int
    seconds: float
    request: int | None = None


@dataclass(frozen=True, slots=True)
class FindWindow(Packet):
    """Device to realm: look for the device that has the window of this number."""

    packet_id = 14
    title = "Find pairing window"
    envelope = (_REQUEST,)
    body = (_count("number"),)

    number: int
    request: int | None = None


@dataclass(frozen=True, slots=True)
class WindowFound(Packet):
    """Realm to device: the device that has the window."""

    packet_id = 14
    title = "Pairing window found"
    envelope = (_REQUEST,)
    body = (_count("number"), _device("device_id"))

    number: int
    device_id: bytes
    request: int | None = None


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
        _count("received"),
        _count("ping", required=False),
        _count("pong", required=False),
        _flag("end", required=False),
        _count("first", required=False),
        _flag("keep", required=False),
        _texts("addresses", MAX_ADDRESS_CHARACTERS),
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
        _device("device_id"),
        _text("name", MAX_NAME_CHARACTERS),
        _flag("paired"),
        _binary("session", SESSION_ID_BYTES),
        _count("received"),
        _count("version"),
        _texts("capabilities", MAX_CODE_CHARACTERS),
        _texts("addresses", MAX_ADDRESS_CHARACTERS),
        _texts("realms", MAX_ADDRESS_CHARACTERS),
        _flag("pairing", required=False),
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
        _text("step", MAX_WORD_CHARACTERS),
        _text("way", MAX_WORD_CHARACTERS, required=False),
        _binary("share", SPAKE2_SHARE_BYTES, required=False),
        _binary("commitment", HASH_BYTES, required=False),
        _binary("nonce", NONCE_BYTES, required=False),
        _binary("mac", HASH_BYTES, required=False),
        _text("name", MAX_NAME_CHARACTERS, required=False),
        _text("code", MAX_CODE_CHARACTERS, required=False),
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
    body = (_binary("mac", HASH_BYTES), _binary("older", HASH_BYTES, required=False))

    mac: bytes
    older: bytes | None = None


def is_service(value: Any) -> bool:
    """Tell whether something is a service's name: letters, digits and ``-._``, not too many."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_SERVICE_CHARACTERS
        and value.isascii()
        and all(letter.isalnum() or letter in "-._" for letter in value)
    )


@dataclass(frozen=True, slots=True)
class OpenStream(Packet):
    """Dialler to acceptor: the first packet of a stream.

    Attributes:
        service: what the dialler wants to talk to.
        mac: the proof with the key of the newest pairing, as in Key check.
        older: the same with the key of the one before, while the newest is pending.
    """

    packet_id = 0
    title = "Open stream"
    body = (
        Field(
            "service",
            f"str, 1 to {MAX_SERVICE_CHARACTERS} ASCII letters, digits, `-`, `.` and `_`",
            is_service,
        ),
        _binary("mac", HASH_BYTES),
        _binary("older", HASH_BYTES, required=False),
    )

    service: str
    mac: bytes
    older: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamOpened(Packet):
    """Acceptor to dialler: from here on, both directions are the application's own bytes.

    Attributes:
        mac: the acceptor's proof with the key of the newest pairing.
        older: the same with the key of the one before, while the newest is pending.
    """

    packet_id = 0
    title = "Stream opened"
    body = (_binary("mac", HASH_BYTES), _binary("older", HASH_BYTES, required=False))

    mac: bytes
    older: bytes | None = None


@dataclass(frozen=True, slots=True)
class StreamRefused(Packet):
    """Acceptor to dialler: there is no stream; the connection is closed.

    Attributes:
        code: why, for programs.
        reason: why, for people.
    """

    packet_id = 1
    title = "Stream refused"
    body = (_text("code", MAX_CODE_CHARACTERS), _text("reason", MAX_REASON_CHARACTERS))

    code: str
    reason: str


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


DEVICE_TO_REALM: Final[Mapping[int, type[Packet]]] = {
    0: Hello,
    1: ConnectToDevice,
    2: Send,
    13: OpenWindow,
    14: FindWindow,
    31: Error,
}
REALM_TO_DEVICE: Final[Mapping[int, type[Packet]]] = {
    0: BackHeartbeat,
    1: Circuit,
    2: Send,
    13: WindowOpened,
    14: WindowFound,
    31: Error,
}
LEG_TO_REALM: Final[Mapping[int, type[Packet]]] = {
    1: Leg,
}
STREAM_DIALLER: Final[Mapping[int, type[Packet]]] = {
    0: OpenStream,
}
STREAM_ACCEPTOR: Final[Mapping[int, type[Packet]]] = {
    0: StreamOpened,
    1: StreamRefused,
}
DEVICE_TO_DEVICE: Final[Mapping[int, type[Packet]]] = {
    0: Heartbeat,
    1: DeviceHello,
    2: PairProcess,
    3: KeyCheck,
}


def id_of(packet: Mapping[str, Any]) -> int:
    """Return a decoded map's packet id.

    Raises:
        RemoteProtocolError: there is none, or it is not 0-255.
    """
    found = packet.get("packet_id")
    if type(found) is int and 0 <= found <= LAST_PACKET_ID:
        return found
    raise RemoteProtocolError(Code.MALFORMED, "packet_id: needs uint, at most 255")


def parse(packet: Mapping[str, Any], known: Mapping[int, type[Packet]]) -> Packet:
    """Return the packet of one conversation that a decoded map holds.

    Raises:
        RemoteProtocolError: UNKNOWN_PACKET when the conversation has no such id, MALFORMED when
            its keys are wrong.
    """
    packet_id = id_of(packet)
    try:
        shape = known[packet_id]
    except KeyError:
        raise RemoteProtocolError(Code.UNKNOWN_PACKET, f"packet_id: {packet_id}") from None
    return shape.from_map(packet)


def parse_between_devices(packet: Mapping[str, Any]) -> Packet | None:
    """Return the packet that a map from a channel holds: 0 and 1, or an application's.

    The reserved ids give None: a newer version's packets are ignored.

    Raises:
        RemoteProtocolError: MALFORMED as above.
    """
    packet_id = id_of(packet)
    if packet_id in RESERVED_DEVICE_IDS:
        return None
    if packet_id >= FIRST_APPLICATION_ID:
        if "content" not in packet:
            raise RemoteProtocolError(Code.MALFORMED, "content: missing")
        return Application(packet_id, packet["content"])
    return parse(packet, DEVICE_TO_DEVICE)
