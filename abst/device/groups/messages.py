"""What is inside a message to a peer group (spec: groups.md, "Inside a message").

Pure. ``MessageWriter`` seals and numbers what this device says, ``MessageReader`` opens what the
other members say and takes each message once. Who is a member, and with which key, is its owner's
to know. A message that is refused changes nothing here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from abst.device.groups.keys import GroupKeys, Signer, derive
from abst.errors import GroupError
from abst.group_proofs import is_signed, number
from abst.packets.limits import HASH_BYTES, MAX_COUNT, MAX_EPOCHS, SIGNATURE_BYTES

EPOCH_BYTES: Final = 4
HEADER_BYTES: Final = EPOCH_BYTES + 8 + 8
TAG_BYTES: Final = 16
FACTS_BYTES: Final = 1 + 8 + 8 + HASH_BYTES
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES + SIGNATURE_BYTES + FACTS_BYTES
"""How much longer a sealed message is than what the application has said."""

MAX_STREAM_KEYS: Final = 4096
"""How many senders' keys are kept at hand, so that they need not be made for each message."""

_STREAM: Final = b"ABST group stream 1"
_SIGNED: Final = b"ABST group message 1"
_NONCE_PADDING: Final = bytes(4)


class Kind(IntEnum):
    """What a message is; one that has another number means nothing to this version."""

    APPLICATION = 0
    ROSTER = 1


class MessageRefusedError(GroupError):
    """A message to a group is not what it should be, and was dropped.

    Attributes:
        kind: ``replayed``: it is not newer than one that has come; ``forged``: no member has said
            this.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(
            "a message was dropped, since it has come before or is too late"
            if kind == "replayed"
            else "a message was dropped, since the device that it names has not said it"
        )
        self.kind = kind


@dataclass(frozen=True, slots=True)
class OpenedMessage:
    """What a member has said.

    Attributes:
        kind: a ``Kind``, or a number of a newer version.
        content: the application's bytes, or what the kind says.
        missing: how many messages of the application, before this one, have not come.
        revision: of the newest change of the group's values that the sender knew; 0 for none.
        head: the hash of the history up to there.
        stream: the number of the sender's stream.
        counter: the number of the message in it.
    """

    kind: int
    content: bytes
    missing: int
    revision: int
    head: bytes
    stream: int
    counter: int


class MessageWriter:
    """What this device says to one group.

    Args:
        identity: the device.
        now_milliseconds: the clock, since 1970.
        last_stream: the number of the last stream that this device has used in the group.

    Attributes:
        stream: the number of this one; to be stored before the first message is sent.
        counter: the number of the next message.
        place: the number of the application's next message, which counts no others.
    """

    def __init__(self, identity: Signer, now_milliseconds: int, last_stream: int = 0) -> None:
        self._identity = identity
        self.stream = max(now_milliseconds, last_stream + 1)
        if self.stream > MAX_COUNT:
            raise GroupError("the clock is too far in the future: set it, and try again")
        self.counter = self.place = 0
        self._ciphers = _StreamCiphers()

    def seal(
        self,
        keys: GroupKeys,
        content: bytes,
        revision: int,
        head: bytes,
        kind: int = Kind.APPLICATION,
    ) -> bytes:
        """Return the ``content`` of a Peer group message, in the newest epoch.

        Args:
            keys: the group's keys.
            content: the application's bytes, or what the kind says.
            revision: of the newest change of the group's values that has been checked.
            head: the hash of the history up to there.
            kind: what the message is.
        """
        device_id = self._identity.device_id
        header = keys.epoch.to_bytes(EPOCH_BYTES, "big") + number(self.stream)
        header += number(self.counter)
        associated = keys.group_id + device_id + header
        rest = bytes((kind,)) + number(self.place) + number(revision) + head + content
        signature = self._identity.private_key.sign(_SIGNED + associated + rest)
        cipher = self._ciphers.of(keys, keys.epoch, device_id, self.stream)
        self._ciphers.keep(cipher, keys.epoch, device_id, self.stream)
        nonce = _NONCE_PADDING + header[-8:]
        self.counter += 1
        self.place += kind == Kind.APPLICATION
        return header + cipher.encrypt(nonce, signature + rest, associated)


class MessageReader:
    """What the other members of one group say.

    Args:
        device_id: this device, which hears nothing from itself.
        last: of each sender that has been heard: device ID, stream and counter of its last message,
            and the place of its application's next one.
    """

    def __init__(self, device_id: bytes, last: Iterable[tuple[bytes, int, int, int]] = ()) -> None:
        self._device_id = device_id
        self._last = {row[0]: row[1:] for row in last}
        self._ciphers = _StreamCiphers()

    def rows(self) -> list[tuple[bytes, int, int, int]]:
        """Return what has to be stored: ``last``, for another reader."""
        return [(device, *numbers) for device, numbers in self._last.items()]

    def open(
        self, keys: GroupKeys, source_device: bytes, public_key: bytes, content: bytes
    ) -> OpenedMessage:
        """Return what a member has said, and take nothing older of it from now on.

        Args:
            keys: the group's keys.
            source_device: the member, as the realm names it.
            public_key: the member's raw public key, from the roster.
            content: the message as it came.

        Raises:
            MissingEpochError: it was sealed in an epoch whose key has not come yet.
            MessageRefusedError: it is not new, or not by this member.
        """
        epoch = int.from_bytes(content[:EPOCH_BYTES], "big")
        if len(content) < OVERHEAD_BYTES or epoch >= MAX_EPOCHS:
            raise MessageRefusedError("forged")
        keys.check_held(epoch)
        header = content[:HEADER_BYTES]
        stream, counter = int.from_bytes(header[4:12], "big"), int.from_bytes(header[12:], "big")
        if stream > MAX_COUNT or counter > MAX_COUNT:
            raise MessageRefusedError("forged")
        first_place = self._next_place(source_device, stream, counter)
        cipher = self._ciphers.of(keys, epoch, source_device, stream)
        associated = keys.group_id + source_device + header
        nonce = _NONCE_PADDING + header[-8:]
        try:
            plaintext = cipher.decrypt(nonce, content[HEADER_BYTES:], associated)
        except InvalidTag:
            raise MessageRefusedError("forged") from None
        rest = plaintext[SIGNATURE_BYTES:]
        signature = plaintext[:SIGNATURE_BYTES]
        if not is_signed(public_key, signature, _SIGNED + associated + rest):
            raise MessageRefusedError("forged")
        kind, facts = rest[0], rest[1:FACTS_BYTES]
        place, revision = int.from_bytes(facts[:8], "big"), int.from_bytes(facts[8:16], "big")
        if revision > MAX_COUNT or not first_place <= place <= counter:
            raise MessageRefusedError("forged")
        self._last[source_device] = (stream, counter, place + (kind == Kind.APPLICATION))
        self._ciphers.keep(cipher, epoch, source_device, stream)
        missing = place - first_place
        return OpenedMessage(
            kind, rest[FACTS_BYTES:], missing, revision, facts[16:], stream, counter
        )

    def _next_place(self, source_device: bytes, stream: int, counter: int) -> int:
        """Return the place that the application's next message has; refuse what is not new."""
        if source_device == self._device_id:
            raise MessageRefusedError("replayed")  # A realm gives nobody its own messages back.
        last_stream, last_counter, place = self._last.get(source_device, (-1, -1, 0))
        if (stream, counter) <= (last_stream, last_counter):
            raise MessageRefusedError("replayed")
        return place if stream == last_stream else 0


class _StreamCiphers:
    """The keys of streams that are in use: making one costs as much as a message."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, bytes, int], ChaCha20Poly1305] = OrderedDict()

    def of(self, keys: GroupKeys, epoch: int, sender: bytes, stream: int) -> ChaCha20Poly1305:
        found = self._kept.get((epoch, sender, stream))
        if found is not None:
            return found
        info = _STREAM + sender
        return ChaCha20Poly1305(derive(keys.message_key(epoch), number(stream), info))

    def keep(self, cipher: ChaCha20Poly1305, epoch: int, sender: bytes, stream: int) -> None:
        """Keep a key that has proved right; what a stranger makes up pushes none out."""
        self._kept[epoch, sender, stream] = cipher
        self._kept.move_to_end((epoch, sender, stream))
        if len(self._kept) > MAX_STREAM_KEYS:
            self._kept.popitem(last=False)
