"""A realm behind proxies: whose word counts, over every carrier."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, ClassVar

from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.protocols.haproxy import proxyEndpoint
from twisted.trial.unittest import SkipTest, TestCase

from abst import codec
from abst.errors import Code
from abst.packets import BackHeartbeat, Circuit, ConnectToDevice, Hello, Leg
from abst.poller import Poller
from abst.realm import RealmFactory
from abst.realm.gate import Shut
from abst.realm.limits import Limits
from tests.carriers import (
    Behaviour,
    TimeOnlyReactor,
    in_reactor,
    in_thread,
    running_reactor,
    until,
)
from tests.integration.raw_client import RawDevice, client_context, identities
from tests.realm.test_protocol import REALM_IDENTITY
from tests.realm.test_proxy_header import GOOD

ALICE, BOB = identities(2)
PROXY = "127.0.0.1"


class Stage(Behaviour):
    """A realm, and connections that come from wherever their headers say."""

    trusted: ClassVar[tuple[str, ...]] = (PROXY,)
    is_wrapped: ClassVar[bool] = False
    limits: ClassVar[Limits] = Limits(address_connections=3, address_handshakes_per_second=2)

    def make_reactor(self) -> Any:
        """Return the reactor from which the realm's carrier follows."""
        raise NotImplementedError

    def setUp(self) -> Any:
        self.factory = RealmFactory(
            self.make_reactor(), REALM_IDENTITY, self.limits, trusted_proxies=self.trusted
        )
        self.realm = self.factory.realm
        self.connections: list[Any] = []
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint: Any = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        if self.is_wrapped:
            endpoint = proxyEndpoint(endpoint)
        self.listening = await endpoint.listen(self.factory)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        await self.listening.stopListening()
        self.factory.stop()
        for connection in self.connections:
            connection.close()
        while self.realm.conversations or self.factory.legs:
            await deferLater(running_reactor(), 0.005)
        self.assertEqual(0, len(self.factory._gate))
        self.assertEqual({}, self.factory._places)
        self.assertIsNone(self.realm.next_deadline())

    def plain(self, *pieces: bytes) -> socket.socket:
        """Return a connection on which these pieces were sent, one by one."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections.append(connection)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def join(self, identity: Any, *header: bytes) -> tuple[RawDevice, BackHeartbeat]:
        """Return a device's connection behind a header, and what the realm said to Hello."""
        device = RawDevice.__new__(RawDevice)
        device.identity = identity
        device.device_id = bytes(identity.device_id)
        device._decoder = codec.Decoder(65536)
        device.socket = client_context(identity).wrap_socket(self.plain(*header))
        self.connections.append(device)
        device.send(Hello(device.device_id))
        answer = device.receive()
        assert isinstance(answer, BackHeartbeat), answer
        return device, answer

    def is_closed(self, connection: socket.socket) -> bool:
        """Wait until the realm has closed a connection without a word; return whether it has."""
        with contextlib.suppress(ConnectionResetError):
            return connection.recv(1) == b""
        return True

    def shut(self, reason: Shut) -> int:
        """Return how many were not let in for that reason."""
        count: int = in_reactor(lambda: self.realm.counters.refused_connections[reason])
        return count


def header(host: str) -> bytes:
    """Return the header of a connection from there."""
    return b"PROXY TCP4 %s 192.0.2.1 40000 42278\r\n" % host.encode("ascii")


class ProxiedBehaviour(Stage):
    """What counts is whose connection a proxy says that it is."""

    @in_thread
    def test_a_device_is_seen_where_it_is(self) -> None:
        in_reactor(self.realm.use_limits, Limits())
        for data, source in GOOD.items():
            cut = len(data) // 2
            for pieces in ((data,), (data[:cut], data[cut:])):
                _, answer = self.join(ALICE, *pieces)
                observed = answer.observed_address
                assert observed is not None
                if source is None:
                    self.assertEqual(PROXY, observed[0])
                else:
                    self.assertEqual(list(source), observed)

    @in_thread
    def test_circuits_have_proxied_legs(self) -> None:
        alice, _ = self.join(ALICE, header("192.0.2.7"))
        bob, _ = self.join(BOB, header("192.0.2.8"))
        alice.send(ConnectToDevice(alice.device_id, bob.device_id))
        legs = []
        for device, host in ((alice, "192.0.2.7"), (bob, "192.0.2.8")):
            told = device.receive()
            assert isinstance(told, Circuit), told
            # The header, the token, and what follows may all come at once.
            legs.append(self.plain(header(host) + codec.encode(Leg(told.token)) + b"early"))
        legs[1].sendall(b"x" * 100_000)
        got = b""
        while len(got) < 5 + 100_000:
            got += legs[0].recv(65536)
        self.assertEqual(b"early" + b"x" * 100_000, got)

    @in_thread
    def test_addresses_have_their_limits_behind_one_proxy(self) -> None:
        for _ in range(3):
            self.plain(header("192.0.2.7"))
        until(lambda: len(self.factory._gate) == 3, "three connections")
        self.assertTrue(self.is_closed(self.plain(header("192.0.2.7") + b"\x16")))
        self.assertEqual(1, self.shut(Shut.ADDRESS_CONNECTIONS))
        self.join(ALICE, header("192.0.2.8"))

    @in_thread
    def test_handshakes_are_counted_before_tls(self) -> None:
        begun = 0
        with contextlib.suppress(OSError):
            for _ in range(20):
                client_context(ALICE).wrap_socket(self.plain(header("192.0.2.7"))).close()
                begun += 1
        self.assertIn(begun, range(10, 14))
        self.assertEqual(1, self.shut(Shut.ADDRESS_HANDSHAKES))

    @in_thread
    def test_a_proxy_that_does_not_say_whose_it_is_is_not_believed(self) -> None:
        for data in (b"\x16\x03\x01\x02\x00", codec.encode(Leg(bytes(32))), b"GET / HTTP/1.1\r\n"):
            self.assertTrue(self.is_closed(self.plain(data)))
        self.assertEqual(3, self.shut(Shut.PROXY))

    @in_thread
    def test_a_header_that_does_not_come_is_not_waited_for(self) -> None:
        in_reactor(self.realm.use_limits, Limits(hello_seconds=0.1))
        for connection in [self.plain(begun) for begun in (b"", b"PROXY TCP4 19")]:
            self.assertTrue(self.is_closed(connection))
        self.assertEqual(2, self.shut(Shut.PROXY))

    @in_thread
    def test_so_many_headers_are_waited_for_and_no_more(self) -> None:
        in_reactor(lambda: self.realm.use_limits(Limits(connections=1)))
        for _ in range(self.factory.hard_limit):
            self.plain()
        until(lambda: len(self.factory.newcomers) == self.factory.hard_limit, "all to be there")
        with contextlib.suppress(ConnectionResetError):  # It may be over before it has begun.
            self.assertTrue(self.is_closed(self.plain()))
        self.assertEqual(1, self.realm.counters.refused_connections[Code.REALM_FULL])

    @in_thread
    def test_who_leaves_early_leaves_nothing(self) -> None:
        for begun in (b"", b"PROXY TCP4 19", header("192.0.2.7")):
            self.plain(begun).close()
        until(lambda: not self.factory.legs and not self.factory._gate, "nobody")


class StrangerBehaviour(Stage):
    """Nobody else's header counts."""

    trusted = ("192.0.2.250",)

    @in_thread
    def test_a_strangers_header_is_no_header(self) -> None:
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = self.plain(header("192.0.2.7")).recv(1000)
        if self.is_wrapped:
            self.assertEqual(b"", said)
            self.assertEqual(1, self.shut(Shut.PROXY))
        else:
            self.assertIn(b"tls_required", said)

    @in_thread
    def test_who_has_none_is_let_in(self) -> None:
        if self.is_wrapped:
            raise SkipTest("whoever is no trusted proxy is not let in there")
        _, answer = self.join(ALICE)
        assert answer.observed_address is not None
        self.assertEqual("127.0.0.1", answer.observed_address[0])


class OnPoller:
    def make_reactor(self) -> Any:
        if not isinstance(RealmFactory(running_reactor(), REALM_IDENTITY).descriptors, Poller):
            raise SkipTest("there is no epoll here")
        return running_reactor()


class OnTwistedTls:
    def make_reactor(self) -> Any:
        return TimeOnlyReactor()


class ProxiedOnPollerTests(OnPoller, ProxiedBehaviour, TestCase):
    pass


class ProxiedOnTwistedTlsTests(OnTwistedTls, ProxiedBehaviour, TestCase):
    pass


class WrappedOnPollerTests(OnPoller, ProxiedBehaviour, TestCase):
    is_wrapped = True


class WrappedOnTwistedTlsTests(OnTwistedTls, ProxiedBehaviour, TestCase):
    is_wrapped = True


class StrangerOnPollerTests(OnPoller, StrangerBehaviour, TestCase):
    pass


class StrangerOnTwistedTlsTests(OnTwistedTls, StrangerBehaviour, TestCase):
    pass


class WrappedStrangerOnPollerTests(OnPoller, StrangerBehaviour, TestCase):
    is_wrapped = True
