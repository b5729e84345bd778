"""What carries one stream: TLS on a pipe of its own."""

from __future__ import annotations

from abst.device.link import Link
from abst.device.paths import Path
from abst.device.pipes import Pipe
from abst.tls import TlsEngine


class Carried:
    """TLS on a pipe, until a stream or nothing comes of it.

    Args:
        pipe: the pipe, which this takes.
        engine: its TLS; the handshake may be done already.
        path: what carries it, for people.
        circuit: the name of the circuit that the pipe is a leg of; b"" when it is direct.
        link: the realm of that circuit.
    """

    def __init__(
        self,
        pipe: Pipe,
        engine: TlsEngine,
        path: Path,
        circuit: bytes = b"",
        link: Link | None = None,
    ) -> None:
        self.pipe = pipe
        self.engine = engine
        self.path = path
        self.circuit = circuit
        self.link = link

    def flush(self) -> None:
        """Send what TLS has to say."""
        data = self.engine.data_to_send()
        if data:
            self.pipe.write(data)
