"""The peers that a device trusts. Pure: whoever owns the book saves it when it changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from abst.address import format_host_port, format_pin, parse_host_port, pin_of_key
from abst.device.finding import find_one
from abst.device.key_check import trust_key
from abst.device_id import DeviceID
from abst.errors import AbstError, AddressError, WrongKeyError
from abst.packets import MAX_NAME_CHARACTERS

MAX_ADDRESSES: Final = 16
"""Of each peer, told by a person or by itself."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A device that this one trusts.

    Attributes:
        device_id: its ID.
        name: what it calls itself, or what it was called here; may be empty.
        public_key: its whole key (DER SubjectPublicKeyInfo), pinned once it has been seen.
        is_trusted: False while the only pairing with it is pending.
        pairing_key: 32 bytes that both devices hold since they were paired; None when they trust
            each other by ID alone.
        pending_key: the same of a pairing of which it is not known yet whether the other device
            has stored it too.
        addresses: where a person has said that it listens, as ``HOST:PORT``.
        told_addresses: where it has said itself that it listens, in its last Hello.
        networks: the IDs of the networks that this device shares with it.
        is_introduced: whether it is trusted for these networks alone, and no person has paired it.
    """

    device_id: DeviceID
    name: str = ""
    public_key: bytes | None = None
    is_trusted: bool = True
    pairing_key: bytes | None = None
    pending_key: bytes | None = None
    addresses: tuple[str, ...] = ()
    told_addresses: tuple[str, ...] = ()
    networks: tuple[bytes, ...] = ()
    is_introduced: bool = False

    def __str__(self) -> str:
        return self.name or str(self.device_id)

    def pairing_keys(self, own_id: bytes) -> list[bytes]:
        """Return the keys with which a Key check with this peer may be made, newest first."""
        keys = [self.pending_key] if self.pending_key is not None else []
        if self.is_trusted:
            keys.append(self.pairing_key or trust_key(own_id, self.device_id))
        return keys

    def check_key(self, key: bytes) -> None:
        """Accept the key that a channel has proved, or refuse it.

        Raises:
            WrongKeyError: its ID is another one, or it is not the pinned key.
        """
        found = DeviceID.of_key(key)
        if found != self.device_id:
            raise WrongKeyError(str(self), str(self.device_id), str(found))
        if self.public_key is not None and self.public_key != key:
            raise WrongKeyError(
                str(self), format_pin(pin_of_key(self.public_key)), format_pin(pin_of_key(key))
            )


class PeerBook:
    """All peers of one device, by ID.

    Args:
        changed: called after every change, to save the book.
    """

    def __init__(
        self, peers: tuple[Peer, ...] = (), changed: Callable[[], None] = lambda: None
    ) -> None:
        self._peers = {peer.device_id: peer for peer in peers}
        self._changed = changed
        self._is_saved_later = False

    def __iter__(self) -> Iterator[Peer]:
        trusted = (peer for peer in self._peers.values() if peer.is_trusted)
        return iter(sorted(trusted, key=lambda peer: (peer.name, peer.device_id)))

    def __len__(self) -> int:
        return sum(peer.is_trusted for peer in self._peers.values())

    def all(self) -> tuple[Peer, ...]:
        """Return every peer, also those whose pairing is pending, to save the book."""
        return tuple(self._peers.values())

    def get(self, device_id: bytes) -> Peer | None:
        """Return the peer with an ID, trusted or pending, or None."""
        return self._peers.get(device_id)  # type: ignore[call-overload, no-any-return]

    def find(self, text: str) -> Peer:
        """Return the peer that a name, an ID, or the beginning of an ID means.

        Raises:
            AbstError: none does, or several do.
        """
        return find_one(
            text,
            ((peer.device_id, (peer.name,), peer) for peer in self),
            what="peer",
            otherwise=f"no peer is called {text!r}: 'abst peers' lists them, "
            "'abst pair' or 'abst trust' adds one",
        )

    def trust(self, device_id: DeviceID, name: str = "") -> Peer:
        """Trust a device from now on; a device that is trusted keeps its pinned key."""
        known = self._peers.get(device_id)
        if known is None:
            return self._put(Peer(device_id, name))
        return self._put(
            replace(known, name=name or known.name, is_trusted=True, is_introduced=False)
        )

    def introduce(self, device_id: DeviceID, key: bytes, name: str, network: bytes) -> Peer:
        """Trust a device since it is in a network of this one.

        Args:
            device_id: the device.
            key: its whole key, which the network's roster has.
            name: what it is called there.
            network: the network's ID.
        """
        name = printable(name)[:MAX_NAME_CHARACTERS].strip()
        known = self._peers.get(device_id)
        if known is None:
            known = Peer(device_id, name, key, is_introduced=True)
        elif not known.is_trusted:
            known = replace(known, is_trusted=True, is_introduced=True)
        networks = tuple(dict.fromkeys((*known.networks, network)))
        fresh = replace(
            known,
            name=known.name or name,
            public_key=known.public_key or key,
            networks=networks,
        )
        return known if fresh == self._peers.get(device_id) else self._put(fresh)

    def part(self, device_id: DeviceID, network: bytes) -> bool:
        """Note that a device is in a network no more; True when nothing is left to trust it for."""
        known = self._peers.get(device_id)
        if known is None or network not in known.networks:
            return False
        networks = tuple(other for other in known.networks if other != network)
        self._put(replace(known, networks=networks))
        return known.is_introduced and not networks

    def pend(self, device_id: DeviceID, key: bytes, pairing_key: bytes, name: str) -> Peer:
        """Store a new pairing with a device as pending; an older one stays until it is settled."""
        known = self._peers.get(device_id) or Peer(device_id, is_trusted=False)
        name = known.name or printable(name).strip()[:MAX_NAME_CHARACTERS]
        return self._put(replace(known, name=name, public_key=key, pending_key=pairing_key))

    def settle(self, device_id: DeviceID, key: bytes) -> Peer:
        """Note the key that the peer has just proved to hold: it is the pairing from now on."""
        known = self._peers[device_id]
        if known.pending_key is None:
            return known
        settled = replace(known, pending_key=None)
        if key == known.pending_key:
            settled = replace(settled, pairing_key=key, is_trusted=True, is_introduced=False)
        return self._put(settled)

    def drop_pending(self, device_id: DeviceID) -> None:
        """Forget a pending pairing, which the other device has not stored."""
        known = self._peers.get(device_id)
        if known is None or known.pending_key is None:
            return
        if known.is_trusted:
            self._put(replace(known, pending_key=None))
        else:
            self.forget(device_id)

    def forget(self, device_id: DeviceID) -> None:
        """Stop trusting a device."""
        if self._peers.pop(device_id, None) is not None:
            self._save()

    def met(self, device_id: DeviceID, key: bytes, name: str) -> Peer:
        """Note the key and the name that a trusted device has shown; the first key is pinned."""
        known = self._peers[device_id]
        name = printable(name)[:MAX_NAME_CHARACTERS].strip()
        fresh = replace(known, name=known.name or name, public_key=known.public_key or key)
        return known if fresh == known else self._put(fresh)

    def told_addresses(self, device_id: DeviceID, addresses: Iterable[str]) -> None:
        """Note where a peer has said that it listens; what is no address is left out."""
        known = self._peers.get(device_id)
        told = tuple(dict.fromkeys(filter(_is_address, addresses)))[:MAX_ADDRESSES]
        if known is not None and known.told_addresses != told:
            self._put(replace(known, told_addresses=told))

    def add_address(self, device_id: DeviceID, text: str) -> Peer:
        """Note where a person says that a peer listens.

        Raises:
            AbstError: it is no address, or there are too many already.
        """
        known = self._peers[device_id]
        address = format_host_port(*parse_host_port(text))
        if address in known.addresses:
            return known
        if len(known.addresses) >= MAX_ADDRESSES:
            raise AbstError(f"{known} has {MAX_ADDRESSES} addresses already: remove one first")
        return self._put(replace(known, addresses=(*known.addresses, address)))

    def remove_address(self, device_id: DeviceID, text: str) -> Peer:
        """Take back what ``add_address`` has noted.

        Raises:
            AbstError: it was not noted.
        """
        known = self._peers[device_id]
        address = format_host_port(*parse_host_port(text))
        if address not in known.addresses:
            raise AbstError(f"{known} has no address {address}: 'abst peers' lists them")
        kept = tuple(other for other in known.addresses if other != address)
        return self._put(replace(known, addresses=kept))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Have all changes that are made inside saved at once, at the end."""
        if self._is_saved_later:
            yield
            return
        before, self._is_saved_later = self._peers.copy(), True
        try:
            yield
        finally:
            self._is_saved_later = False
            if self._peers != before:
                self._changed()

    def _put(self, peer: Peer) -> Peer:
        self._peers[peer.device_id] = peer
        self._save()
        return peer

    def _save(self) -> None:
        if not self._is_saved_later:
            self._changed()


def _is_address(text: str) -> bool:
    try:
        parse_host_port(text)
    except AddressError:
        return False
    return True


def printable(text: str) -> str:
    """Return a text that another device has sent, without what could disturb a terminal."""
    return "".join(letter for letter in text if letter.isprintable())
