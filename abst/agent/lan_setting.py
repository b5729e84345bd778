"""How a device uses the local network, as its owner has chosen it: a short text. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final, Self

from abst.address import format_host_port
from abst.errors import AbstError

ENVIRONMENT: Final = "ABST_LAN"
"""The environment variable that goes before what the home says."""


@dataclass(frozen=True, slots=True)
class LanSetting:
    """What ``abst lan`` sets.

    Attributes:
        is_on: whether the local network is used at all.
        interface: the address to listen on and to announce; "" for all.
        port: the TCP port to listen on; 0 for any that is free.
    """

    is_on: bool = True
    interface: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the setting that a text means: on, off, PORT, ADDRESS or ADDRESS:PORT.

        Raises:
            AbstError: it means none.
        """
        text = text.strip().lower()
        if text in ("on", "off"):
            return cls(text == "on")
        host, _, port = text.rpartition(":")
        if text.isdecimal():
            host, port = "", text
        elif (text.count(":") > 1 and not text.startswith("[")) or not port.isdecimal():
            host, port = text, "0"
        try:
            address = ""
            if host:
                found = ipaddress.ip_address(host.strip("[]"))
                if found.is_multicast:
                    raise ValueError
                # 0.0.0.0 and :: are all interfaces.
                address = "" if found.is_unspecified else str(found)
            number = int(port)
            if number > 65535 or not text:
                raise ValueError
        except ValueError:
            raise AbstError(
                f"{text!r} is not on, off, a port, or an address of this device such as "
                "192.0.2.7 or 192.0.2.7:4000"
            ) from None
        return cls(True, address, number)

    def __str__(self) -> str:
        if not self.is_on:
            return "off"
        if self.interface:
            return format_host_port(self.interface, self.port) if self.port else self.interface
        return str(self.port) if self.port else "on"
