"""What a realm answers to a device about itself: Hello, pairing windows and circuits asked for.

Pure (spec: realm.md). What is legal when, and packets for others, stand in ``conversation``; what
groups and values answer, in their own modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, get_args

from abst.errors import MEANINGS
from abst.packets import (
    PROTOCOL_VERSION,
    BackHeartbeat,
    ConnectToDevice,
    Error,
    FindWindow,
    OpenWindow,
    Packet,
    WindowFound,
    WindowOpened,
)
from abst.realm.client import ValueRequest
from abst.realm.groups import GroupRequest
from abst.realm.limits import Limits
from abst.realm.refusal import Refusal

if TYPE_CHECKING:
    from abst.realm.realm import Realm

Request = OpenWindow | FindWindow | ConnectToDevice
Metered = Request | GroupRequest | ValueRequest
"""What counts among what a device sends in a month, beside the packets for others."""

METERED: Final = get_args(Metered)

_TOLD_FOR_GOOD: Final = ("packet_bytes", "queue_bytes", "silence_seconds", "stall_seconds")
"""What is told with the first answer to Hello, and is in force until the connection ends."""

_TOLD: Final = (
    "address_connections",
    "device_connections",
    "address_handshakes_per_second",
    "device_bytes_per_second",
    "device_packets_per_second",
    "device_bytes_per_month",
    "device_values_bytes",
    "pairing_requests_per_minute",
    "device_circuits",
    "circuit_requests_per_minute",
    "device_groups",
    "group_requests_per_minute",
)
"""What may be another one with each answer."""


class Asker(Protocol):
    """A conversation whose device has said Hello.

    Attributes:
        observed_address: the other end's host and port as the realm sees them, or None.
        nonce: what the device's proofs on this connection are made over.
        limits: those that were in force when the connection was made.
    """

    observed_address: tuple[str, int] | None
    nonce: bytes
    limits: Limits

    @property
    def device_id(self) -> bytes | None:
        """The device that its certificate has proved."""

    def tell(self, packet: Packet) -> None:
        """Queue one of the realm's own packets."""

    def refuse(self, refusal: Refusal, refused: Request) -> None:
        """Say that the device does not get what it has asked for."""


def answer(realm: Realm, asker: Asker, wanted: Request, now: float) -> None:
    """Do what a device asks for, and answer it; or say why not."""
    match wanted:
        case OpenWindow():
            _open_window(realm, asker, wanted, now)
        case FindWindow():
            _find_window(realm, asker, wanted, now)
        case ConnectToDevice():
            _connect(realm, asker, wanted, now)


def back_heartbeat(realm: Realm, asker: Asker, request: int | None) -> BackHeartbeat:
    """Return the answer to Hello."""
    limits = {name: getattr(asker.limits, name) for name in _TOLD_FOR_GOOD}
    limits.update((name, getattr(realm.limits, name)) for name in _TOLD)
    observed = asker.observed_address
    return BackHeartbeat(
        version=PROTOCOL_VERSION,
        # Not more than fits the silence that was told for good.
        heartbeat_seconds=min(asker.limits.heartbeat_seconds, realm.limits.heartbeat_seconds),
        limits=limits,
        nonce=asker.nonce,
        observed_address=None if observed is None else list(observed),
        request=request,
    )


def refused(refusal: Refusal, wanted: Metered) -> Error:
    """Return the Error that answers what a device does not get."""
    return Error(
        str(refusal.code),
        MEANINGS[refusal.code].sentence,
        about=wanted.packet_id,
        retry_after=refusal.retry_after,
        peer_group=getattr(wanted, "peer_group", None),
        epoch=refusal.epoch,
        request=getattr(wanted, "request", None),
    )


def _open_window(realm: Realm, asker: Asker, wanted: OpenWindow, now: float) -> None:
    assert asker.device_id is not None
    if wanted.close:
        realm.windows.close(asker.device_id)
        return
    found = realm.windows.open(asker.device_id, _host_of(asker), now)
    if isinstance(found, Refusal):
        asker.refuse(found, wanted)
        return
    asker.tell(WindowOpened(found, realm.limits.pairing_window_seconds, wanted.request))


def _find_window(realm: Realm, asker: Asker, wanted: FindWindow, now: float) -> None:
    assert asker.device_id is not None
    found = realm.windows.find(wanted.number, asker.device_id, _host_of(asker), now)
    if isinstance(found, Refusal):
        asker.refuse(found, wanted)
        return
    asker.tell(WindowFound(wanted.number, found, wanted.request))


def _connect(realm: Realm, asker: Asker, wanted: ConnectToDevice, now: float) -> None:
    offer = realm.circuits.ask(wanted.source_device, wanted, now)
    if isinstance(offer, Refusal):
        asker.refuse(offer, wanted)
        return
    asker.tell(offer.for_asker)
    realm.circuits.tell(wanted.target_device, offer.for_target)


def _host_of(asker: Asker) -> str | None:
    return None if asker.observed_address is None else asker.observed_address[0]
