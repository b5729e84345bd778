"""Remote calls between two devices, with Twisted's AMP over a stream.

On one device: python examples/amp_service.py serve
On its peer:   python examples/amp_service.py ask laptop 6 7

Both need no more of ABST than an endpoint string, and an agent that is up (`abst up`).
"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol, serverFromString
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.protocols.amp import AMP, Command, Integer

USAGE = "usage: amp_service.py serve | amp_service.py ask PEER NUMBER NUMBER"


class Multiply(Command):
    """Ask the other device for a product."""

    arguments = [(b"one", Integer()), (b"other", Integer())]
    response = [(b"product", Integer())]


class Calculator(AMP):
    """Answers what it is asked."""

    @Multiply.responder
    def multiply(self, one: int, other: int) -> dict[str, int]:
        """Return the product."""
        return {"product": one * other}


async def main(reactor: Any, *arguments: str) -> None:
    match arguments:
        case ["serve"]:
            calculators = Factory.forProtocol(Calculator)
            await serverFromString(reactor, "abst:calculator").listen(calculators)
            print("ready", flush=True)
            await Deferred()
        case ["ask", peer, one, other] if one.isdecimal() and other.isdecimal():
            endpoint = clientFromString(reactor, f"abst:{peer}:calculator")
            calculator = await connectProtocol(endpoint, AMP())
            answer = await calculator.callRemote(Multiply, one=int(one), other=int(other))
            print(answer["product"])
        case _:
            raise SystemExit(USAGE)


react(main, sys.argv[1:])
