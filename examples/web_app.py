"""A web application for your own devices alone: python examples/web_app.py [ENDPOINT].

Run it on a device whose agent is up (`abst up`). On a peer of that device:

    abst forward laptop guests tcp:8080
    curl http://127.0.0.1:8080/

It shows who is asking, which no other web server could know: a stream proves the device.
"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import Request, Site


class Guests(Resource):
    """Counts the visits of each device."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.visits: dict[str, int] = {}

    def render_GET(self, request: Request) -> bytes:
        """Greet the device that asks."""
        # Over any other endpoint, such as tcp:8080, there is no device.
        device = str(getattr(request.client, "device_id", "unknown"))
        self.visits[device] = self.visits.get(device, 0) + 1
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        return f"hello, {device}: visit {self.visits[device]}\n".encode()


async def main(reactor: Any, endpoint: str = "abst:guests") -> None:
    await serverFromString(reactor, endpoint).listen(Site(Guests()))
    print(f"serving at {endpoint}", flush=True)
    await Deferred()


react(main, sys.argv[1:])
