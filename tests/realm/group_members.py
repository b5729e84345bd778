"""Devices that hold a peer group's keys, for tests of groups at a realm in memory."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from abst import codec
from abst.identity import Identity
from abst.packets import (
    BackHeartbeat,
    CreateGroup,
    GroupMembers,
    GroupMessage,
    JoinGroup,
    Packet,
)
from abst.realm.store.interface import AccessChange, Done, GroupRecord
from abst.realm.store.memory import MemoryStore
from tests.realm.memory_realm import Line


class Keys:
    """A group's keys: any number of epochs, each made of the group's name and its number."""

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.group = bytes(Identity(self._private(0)).device_id)

    def _private(self, epoch: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(b"%-28b" % self._name + epoch.to_bytes(4))

    def public(self, epoch: int) -> bytes:
        """Return the raw public key of an epoch."""
        return self._private(epoch).public_key().public_bytes_raw()

    def proof(self, nonce: bytes, device_id: bytes, epoch: int) -> bytes:
        """Return the proof that a device holds the key of an epoch."""
        number = epoch.to_bytes(8)
        signed = b"ABST group proof 1" + nonce + device_id + self.group
        return self._private(epoch).sign(signed + number + self.public(epoch))

    def signature(self, epoch: int) -> bytes:
        """Return the present epoch's signature over the next one."""
        signed = b"ABST group epoch 1" + self.group + epoch.to_bytes(8) + self.public(epoch)
        return self._private(epoch - 1).sign(signed)

    def create(self, line: Line, epoch: int = 0, request: int | None = None) -> CreateGroup:
        """Return what makes the group, or moves it."""
        nonce, device_id = nonce_of(line), device_of(line)
        proof = self.proof(nonce, device_id, epoch)
        signature = self.signature(epoch) if epoch else None
        return CreateGroup(self.group, epoch, self.public(epoch), proof, signature, request)

    def join(self, line: Line, epoch: int = 0, request: int | None = None) -> JoinGroup:
        """Return what joins the group."""
        proof = self.proof(nonce_of(line), device_of(line), epoch)
        return JoinGroup(self.group, epoch, proof, request)


def device_of(line: Line) -> bytes:
    """Return the device of a line."""
    assert line.device_id is not None
    return bytes(line.device_id)


def nonce_of(line: Line) -> bytes:
    """Return the nonce that the realm has told a line's device."""
    decoder = codec.Decoder()
    decoder.receive_data(bytes(line.received[:1000]))
    first = decoder.next_map()
    assert first is not None
    return BackHeartbeat.from_map(first).nonce


def message(source: bytes, group: bytes, content: bytes) -> bytes:
    """Return the bytes of a message in canonical form."""
    return codec.encode(GroupMessage(source, group, content))


def members(packet: Packet) -> list[bytes]:
    """Return the devices that a packet names."""
    assert isinstance(packet, GroupMembers), packet
    return packet.devices


class SlowStore(MemoryStore):
    """A store that answers when the test says so.

    Attributes:
        waiting: the groups that it was asked to keep, in order.
        waiting_access: the changes of access that it was asked to keep, in order.
        is_slow: False: it answers at once, as others do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[GroupRecord, Done]] = []
        self.waiting_access: list[tuple[AccessChange, Done]] = []
        self.is_slow = True

    def put_group(self, record: GroupRecord, done: Done) -> None:
        """Keep a group later."""
        self.waiting.append((record, done))
        if not self.is_slow:
            self.answer()

    def change_access(self, change: AccessChange, done: Done) -> None:
        """Change who may be here later."""
        self.waiting_access.append((change, done))
        if not self.is_slow:
            self.answer_access()

    def answer_access(self, *, is_kept: bool = True) -> None:
        """Keep the first change of access that waits, or fail."""
        change, done = self.waiting_access.pop(0)
        if is_kept:
            super().change_access(change, done)
        else:
            done(False)

    def answer(self, *, is_kept: bool = True) -> None:
        """Keep the first group that waits, or fail."""
        record, done = self.waiting.pop(0)
        if is_kept:
            super().put_group(record, done)
        else:
            done(False)
