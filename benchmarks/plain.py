"""What stands in for TLS where a server is also measured without it."""

from __future__ import annotations

import ssl


class PlainText:
    """The methods of an ``SSLObject`` that a conversation uses, without any encryption."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming = incoming
        self.write = outgoing.write

    def do_handshake(self) -> None:
        """Do nothing: there is none."""

    def read(self, most: int) -> bytes:
        """Return what has come. Raises: SSLWantReadError, where that is nothing."""
        data = self._incoming.read(most)
        if not data:
            raise ssl.SSLWantReadError
        return data

    def version(self) -> None:
        """Return None."""

    def cipher(self) -> None:
        """Return None."""

    def getpeercert(self, binary_form: bool = False) -> None:
        """Return None."""


class PlainContext:
    """Makes connections without TLS, as an ``SSLContext`` makes those with it."""

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> PlainText:
        """Return what is between a connection's buffers."""
        return PlainText(incoming, outgoing)


Context = ssl.SSLContext | PlainContext
