"""What the agent and a program say to each other at the gate: lines of JSON. Pure.

A program opens a connection for each thing that it wants, and says what in one line:

- ``{"connect": {"peer": "laptop", "service": "web"}}`` for a stream to a peer;
- ``{"listen": {"service": "web", "peers": ["laptop"]}}`` to be offered to peers, to all without
  ``peers``;
- ``{"accept": 7}`` for a stream that has come.

The answer is one line: ``{"error": "one line"}`` and the end, or ``{"ok": {"own_id": ...,
"device_id": ..., "service": ...}}`` with this device and the one at the other end, which for
``listen`` is the same. Behind ``ok`` come the frames of ``local_stream``. A program that listens
gets a line for each stream instead, ``{"stream": {"id": 7, "device_id": ...}}``, for as long as the
connection lasts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.packets import MAX_SERVICE_CHARACTERS, is_service

SOCKET_NAME: Final = "streams.sock"
"""The gate's socket, in the home of the device."""

MAX_LINE_BYTES: Final = 16 * 1024
MAX_ADMITTED_PEERS: Final = 64
MAX_PEER_CHARACTERS: Final = 100

RESERVED_PREFIX: Final = "abst."
"""Names of services that begin so are ABST's own."""


@dataclass(frozen=True, slots=True)
class Connect:
    """A program wants a stream to a service of a peer, which it names as a person would."""

    peer: str
    service: str


@dataclass(frozen=True, slots=True)
class Listen:
    """A program offers a service to some peers, or to all when it names none."""

    service: str
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Accept:
    """A program fetches a stream of which it was told."""

    stream_id: int


Request = Connect | Listen | Accept


def check_service(name: object) -> str:
    """Return the name of a service.

    Raises:
        AbstError: it cannot be one.
    """
    if not is_service(name):
        raise AbstError(
            f"a service's name has 1 to {MAX_SERVICE_CHARACTERS} letters, digits, '-', '.' and '_'"
        )
    return str(name)


def check_offered(name: object) -> str:
    """Return the name of a service that somebody but ABST may offer.

    Raises:
        AbstError: it cannot be one.
    """
    service = check_service(name)
    if service.startswith(RESERVED_PREFIX):
        raise AbstError(f"names that begin with {RESERVED_PREFIX!r} are ABST's own: choose another")
    return service


def parse_request(line: bytes) -> Request:
    """Return what a program wants.

    Raises:
        AbstError: the line is no request.
    """
    try:
        match json.loads(line):
            case {"connect": {"peer": str(peer), "service": service}}:
                if len(peer) <= MAX_PEER_CHARACTERS:
                    return Connect(peer, check_service(service))
            case {"listen": {"service": service, **rest}}:
                peers = _peers(rest.get("peers", []))
                if peers is not None:
                    return Listen(check_offered(service), peers)
            case {"accept": int(stream_id)}:
                return Accept(stream_id)
    except (ValueError, RecursionError):
        pass
    raise AbstError("the agent does not know this request: are both of one version?")


def _peers(value: Any) -> tuple[str, ...] | None:
    """Return the peers that a program has named, or None when that is no list of names."""
    if not isinstance(value, list) or len(value) > MAX_ADMITTED_PEERS:
        return None
    if not all(isinstance(peer, str) and len(peer) <= MAX_PEER_CHARACTERS for peer in value):
        return None
    return tuple(value)


def request_line(request: Request) -> bytes:
    """Return the line that asks for something."""
    match request:
        case Connect():
            return _line({"connect": {"peer": request.peer, "service": request.service}})
        case Listen():
            return _line({"listen": {"service": request.service, "peers": list(request.peers)}})
        case Accept():
            return _line({"accept": request.stream_id})


@dataclass(frozen=True, slots=True)
class Answer:
    """The agent's yes: which device this is, which one the other is, and for what service."""

    own_id: DeviceID
    device_id: DeviceID
    service: str


@dataclass(frozen=True, slots=True)
class Arrival:
    """A stream has come for a program that listens."""

    stream_id: int
    device_id: DeviceID


def answer_line(answer: Answer) -> bytes:
    """Return the line that says yes."""
    ids = {"own_id": str(answer.own_id), "device_id": str(answer.device_id)}
    return _line({"ok": {**ids, "service": answer.service}})


def error_line(reason: str) -> bytes:
    """Return the line that says no, and why."""
    return _line({"error": reason})


def arrival_line(arrival: Arrival) -> bytes:
    """Return the line that tells of a stream."""
    return _line({"stream": {"id": arrival.stream_id, "device_id": str(arrival.device_id)}})


def parse_answer(line: bytes) -> Answer:
    """Return the agent's yes.

    Raises:
        AbstError: it has said no, and why; or what it has said is no answer.
    """
    match _load(line):
        case {"ok": {"own_id": str(own_id), "device_id": str(device_id), "service": str(service)}}:
            return Answer(_device_id(own_id), _device_id(device_id), service)
        case {"error": str(reason)}:
            raise AbstError(reason)
    raise _not_understood()


def parse_arrival(line: bytes) -> Arrival:
    """Return which stream has come.

    Raises:
        AbstError: the line is something else.
    """
    match _load(line):
        case {"stream": {"id": int(stream_id), "device_id": str(device_id)}}:
            return Arrival(stream_id, _device_id(device_id))
    raise _not_understood()


def _load(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise _not_understood() from None


def _device_id(text: str) -> DeviceID:
    try:
        return DeviceID.parse(text)
    except ValueError:
        raise _not_understood() from None


def _not_understood() -> AbstError:
    return AbstError("the agent's answer is not understood: are both of one version?")


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode("ascii") + b"\n"
