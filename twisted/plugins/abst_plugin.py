"""What Twisted is offered: services for ``twistd`` and ``twist``, and endpoint strings.

All of it is imported when it is asked for.
"""

from twisted.application.service import ServiceMaker
from twisted.internet.interfaces import (
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer

realm = ServiceMaker(
    "ABST realm",
    "abst.realm.tap",
    "A realm: relays packets between devices and cannot read them.",
    "abst-realm",
)

device = ServiceMaker(
    "ABST device",
    "abst.agent.tap",
    "The agent of a device: holds its identity, its realms and its peers.",
    "abst-device",
)


@implementer(
    IPlugin, IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor
)
class EndpointStrings:
    """``abst:SERVICE`` to listen, and ``abst:PEER:SERVICE`` to connect, through the agent."""

    prefix = "abst"

    def parseStreamServer(self, reactor, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Return the endpoint on which a service is offered."""
        from abst.agent.streams.endpoint_strings import server_endpoint

        return server_endpoint(reactor, *args, **kwargs)

    def parseStreamClient(self, reactor, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Return the endpoint that leads to a service of a peer."""
        from abst.agent.streams.endpoint_strings import client_endpoint

        return client_endpoint(reactor, *args, **kwargs)


endpoint_strings = EndpointStrings()
