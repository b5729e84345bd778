"""What a realm keeps of a value (spec: values.md, "Sealed values").

Pure. Seals what a device writes, opens what another one has written, and refuses what no member
has sealed under this very name. Who is or was a member is its caller's to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from abst import codec
from abst.device.groups.keys import GroupKeys, Signer, derive
from abst.device_id import DeviceID, is_device_id
from abst.errors import DishonestRealmError, GroupError, RemoteProtocolError
from abst.group_proofs import is_signed
from abst.packets.fields import is_binary, is_count
from abst.packets.limits import (
    HASH_BYTES,
    MAX_EPOCHS,
    MAX_NAME_BYTES,
    MAX_SEALED_VALUE_BYTES,
    MAX_VALUE_BYTES,
    SIGNATURE_BYTES,
)

EPOCH_BYTES: Final = 4
SALT_BYTES: Final = 16

_HEADER_BYTES: Final = EPOCH_BYTES + SALT_BYTES
_KEY: Final = b"ABST group value 1"
_SIGNED: Final = b"ABST group value 1"
_NONCE: Final = bytes(12)


@dataclass(frozen=True, slots=True)
class ValueWord:
    """What a device says about a name.

    Attributes:
        writer: the device.
        name: the name, 1 to 1024 bytes.
        value: at most 65536 bytes; None when it says that the value is deleted.
        replaces: the revision of the name's last change that the writer knew; 0 for none.
        revision: the newest change of the group that the writer knew; 0 for none.
        head: the hash of the history up to there.
        milliseconds: the writer's clock, since 1970; larger in each of its words.
        seconds: after how long the realm drops the value; None for never.
    """

    writer: DeviceID
    name: bytes
    value: bytes | None
    replaces: int
    revision: int
    head: bytes
    milliseconds: int
    seconds: int | None = None


def seal(keys: GroupKeys, identity: Signer, word: ValueWord, salt: bytes) -> bytes:
    """Return what the realm shall keep of a word, in the newest epoch.

    Args:
        keys: the group's keys.
        identity: the writer.
        word: what it says.
        salt: 16 unpredictable bytes, other ones each time.

    Raises:
        GroupError: the word is not one that the other members would take.
    """
    content = {
        "writer": bytes(word.writer),
        "name": word.name,
        "value": word.value,
        "replaces": word.replaces,
        "revision": word.revision,
        "head": word.head,
        "milliseconds": word.milliseconds,
        "seconds": word.seconds,
    }
    content = {key: item for key, item in content.items() if item is not None}
    if word.writer != identity.device_id or len(salt) != SALT_BYTES or not _is_word(content):
        raise GroupError(
            f"a value has at most {MAX_VALUE_BYTES} bytes, its name 1 to {MAX_NAME_BYTES}, "
            "and its writer is this device"
        )
    rest: bytes = msgpack.packb(content)
    header = keys.epoch.to_bytes(EPOCH_BYTES, "big") + salt
    associated = keys.group_id + keys.hidden_name(word.name) + header
    signature = identity.private_key.sign(_SIGNED + associated + rest)
    cipher = ChaCha20Poly1305(derive(keys.value_key(keys.epoch), salt, _KEY))
    return header + cipher.encrypt(_NONCE, signature + rest, associated)


def epoch_of(sealed: bytes) -> int:
    """Return the epoch in which something says that it was sealed."""
    return int.from_bytes(sealed[:EPOCH_BYTES], "big")


def open_value(
    keys: GroupKeys,
    hidden_name: bytes,
    sealed: bytes,
    public_key_of: Callable[[bytes], bytes | None],
) -> ValueWord:
    """Return the word in what a realm keeps under a hidden name.

    Args:
        keys: the group's keys.
        hidden_name: the name as the realm sees it.
        sealed: what the realm keeps there.
        public_key_of: returns the raw public key of a device ID that is, or ever was, in the
            roster, else None.

    Raises:
        MissingEpochError: it was sealed in an epoch whose key has not come yet.
        DishonestRealmError: no member has sealed it, or it was sealed under another name.
    """
    if len(sealed) > MAX_SEALED_VALUE_BYTES or epoch_of(sealed) >= MAX_EPOCHS:
        raise _forged("a value is larger, or of a later epoch, than any can be")
    keys.check_held(epoch_of(sealed))
    header = sealed[:_HEADER_BYTES]
    associated = keys.group_id + hidden_name + header
    cipher = ChaCha20Poly1305(derive(keys.value_key(epoch_of(sealed)), header[EPOCH_BYTES:], _KEY))
    try:
        plaintext = cipher.decrypt(_NONCE, sealed[_HEADER_BYTES:], associated)
    except InvalidTag:
        raise _forged("a value does not decrypt") from None
    signature, rest = plaintext[:SIGNATURE_BYTES], plaintext[SIGNATURE_BYTES:]
    try:
        content = codec.decode(rest)
    except RemoteProtocolError:
        content = {}
    if not _is_word(content):
        raise _forged("what is in a value is malformed")
    public_key = public_key_of(content["writer"])
    if public_key is None or not is_signed(public_key, signature, _SIGNED + associated + rest):
        raise _forged("a value is not signed by a member")
    if keys.hidden_name(content["name"]) != hidden_name:
        raise DishonestRealmError("wrong_name", "a value was sealed under another name")
    return ValueWord(
        DeviceID(content["writer"]),
        content["name"],
        content.get("value"),
        content["replaces"],
        content["revision"],
        content["head"],
        content["milliseconds"],
        content.get("seconds"),
    )


def _is_word(content: dict[Any, Any]) -> bool:
    name, value, head = content.get("name"), content.get("value"), content.get("head")
    seconds = content.get("seconds")
    return (
        is_device_id(content.get("writer"))
        and is_binary(name, MAX_NAME_BYTES)
        and name != b""
        and (value is None or is_binary(value, MAX_VALUE_BYTES))
        and all(is_count(content.get(key)) for key in ("replaces", "revision", "milliseconds"))
        and is_binary(head, HASH_BYTES)
        and len(head or b"") == HASH_BYTES
        and (seconds is None or is_count(seconds))
    )


def _forged(seen: str) -> DishonestRealmError:
    return DishonestRealmError("forged", seen)
