"""The fields of packets: what a key may hold, and how the specification writes that. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abst.device_id import DEVICE_ID_BYTES, is_device_id
from abst.packets.limits import (
    MAX_ADDRESS_CHARACTERS,
    MAX_COUNT,
    MAX_LIMITS,
    MAX_LIST_ITEMS,
    MAX_MEMBERS,
    MAX_SEALED_VALUE_BYTES,
)

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


def is_count(value: Any) -> bool:
    """Tell whether something is a whole number that is not negative."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_seconds(value: Any) -> bool:
    """Tell whether something is a duration."""
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT


def is_limits(value: Any) -> bool:
    """Tell whether something is a map of limits."""
    return (
        isinstance(value, dict)
        and len(value) <= MAX_LIMITS
        and all(isinstance(key, str) and is_seconds(item) for key, item in value.items())
    )


def is_observed_address(value: Any) -> bool:
    """Tell whether something is a host and a port."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and len(value[0]) <= MAX_ADDRESS_CHARACTERS
        and is_count(value[1])
    )


def text(name: str, characters: int, *, required: bool = True) -> Field:
    """Return a str of at most so many characters."""

    def holds(value: Any) -> bool:
        return isinstance(value, str) and len(value) <= characters

    return Field(name, f"str, at most {characters} characters", holds, required)


def texts(name: str, characters: int) -> Field:
    """Return an optional array of such texts."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) <= MAX_LIST_ITEMS
            and all(isinstance(item, str) and len(item) <= characters for item in value)
        )

    kind = f"array of at most {MAX_LIST_ITEMS} str, each at most {characters} characters"
    return Field(name, kind, holds, required=False)


def binary(name: str, length: int, *, required: bool = True) -> Field:
    """Return a bin of exactly so many bytes."""

    def holds(value: Any) -> bool:
        return isinstance(value, bytes) and len(value) == length

    return Field(name, f"bin, {length} bytes", holds, required)


def device(name: str, *, required: bool = True) -> Field:
    """Return a device ID, or a group's, which is made alike."""
    return Field(name, f"bin, {DEVICE_ID_BYTES} bytes, UUID version 8", is_device_id, required)


def count(name: str, *, required: bool = True) -> Field:
    """Return a whole number that is not negative."""
    return Field(name, "uint, at most 2^63 - 1", is_count, required)


def seconds(name: str, *, required: bool = True) -> Field:
    """Return a duration."""
    return Field(name, "uint or float, seconds", is_seconds, required)


def group() -> Field:
    """Return the ID of the group that a packet is about."""
    return device("peer_group")


def is_binary(value: Any, most: int) -> bool:
    """Tell whether something is at most so many bytes."""
    return isinstance(value, bytes) and len(value) <= most


def sealed(name: str, *, required: bool = True) -> Field:
    """Return a value as the realm keeps it."""
    return Field(
        name,
        f"bin, at most {MAX_SEALED_VALUE_BYTES} bytes",
        lambda value: is_binary(value, MAX_SEALED_VALUE_BYTES),
        required,
    )


def array(name: str, most: int, kind: str, holds: Check, *, required: bool = True) -> Field:
    """Return an array whose items all hold."""

    def all_hold(value: Any) -> bool:
        return isinstance(value, list) and len(value) <= most and all(map(holds, value))

    return Field(name, f"array of at most {most} {kind}", all_hold, required)


def devices() -> Field:
    """Return a list of device IDs."""
    kind = f"bin, each {DEVICE_ID_BYTES} bytes, UUID version 8"
    return array("devices", MAX_MEMBERS, kind, is_device_id)


def is_change(value: Any) -> bool:
    """Tell whether something is a change of a value."""
    return (
        isinstance(value, list)
        and len(value) == 4
        and is_count(value[0])
        and all(isinstance(item, bytes) and len(item) == 32 for item in value[1:3])
        and (value[3] is None or is_binary(value[3], MAX_SEALED_VALUE_BYTES))
    )


def limits(name: str, *, required: bool = True) -> Field:
    """Return limits by name."""
    kind = f"map of at most {MAX_LIMITS}: str to uint or float"
    return Field(name, kind, is_limits, required)


def flag(name: str, *, required: bool = True) -> Field:
    """Return a bool."""
    return Field(name, "bool", lambda value: isinstance(value, bool), required)


REQUEST = count("request", required=False)
