"""A factory for one connection, whose protocol is there before it is made."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory


class SingleFactory(Factory):
    """Hands out its one protocol."""

    noisy = False

    def __init__(self, protocol: IProtocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, address: IAddress | None) -> IProtocol:  # type: ignore[override]
        """Return the protocol."""
        return self._protocol
