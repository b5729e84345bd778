"""What all packets share. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from abst.errors import Code, LocalProtocolError, RemoteProtocolError
from abst.packets.fields import Field


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
