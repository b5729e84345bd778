"""A realm's own two devices: what they try, what they notice, and how they go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress, pin_of_key
from abst.errors import Code
from abst.identity import Identity
from abst.realm import RealmFactory
from abst.realm.access import Mode
from abst.realm.probe import REASONS, Probe
from abst.realm.web.way import OWN_WORD
from abst.tls import key_of, shown_certificate
from tests.carriers import running_reactor


class Closing(Protocol):
    """Ends every connection at once."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


class NoTls(Protocol):
    """Speaks something else."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"220 ready\r\n")


class ProbeTests(TestCase):
    def setUp(self) -> None:
        self.pin: bytes | None = None
        self.port: Any = None
        self.number = 0

    async def listen(self, factory: Factory) -> None:
        """Listen with something that the probe takes for the realm."""
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.port = await endpoint.listen(factory)
        self.number = self.port.getHost().port
        self.addCleanup(self.port.stopListening)

    async def listen_as_realm(self, mode: Mode = Mode.OPEN) -> RealmFactory:
        """Listen with a realm."""
        realm = RealmFactory(running_reactor(), Identity.generate(), access=mode)
        self.pin = pin_of_key(key_of(shown_certificate(realm.context)))
        await self.listen(realm)
        return realm

    def probe(self, own_devices: set[bytes], patience_seconds: float = 20.0) -> Probe:
        """Return a probe that is running."""
        probe = Probe(running_reactor(), self.where, own_devices, b"", 0.05, patience_seconds)
        probe.start()
        self.addCleanup(lambda: ensureDeferred(probe.stop()))
        return probe

    def where(self) -> RealmAddress:
        return RealmAddress("127.0.0.1", self.number, self.pin or bytes(32))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, as long as it takes a busy machine."""
        for _ in range(2000):
            if condition():
                return
            await self.pause()
        self.fail("it does not come to that")

    def pause(self) -> Deferred[None]:
        return deferLater(running_reactor(), 0.01, lambda: None)

    async def test_it_comes_in_and_gets_through_again_and_again(self) -> None:
        realm = await self.listen_as_realm(Mode.LISTED)
        probe = self.probe(realm.realm.access.own_devices)
        await self.until(lambda: probe.relay_seconds.count >= 3)
        self.assertIsNone(probe.problem)
        self.assertEqual(0, sum(probe.failures.values()))
        self.assertGreater(probe.relay_seconds.total_seconds, 0)
        self.assertGreaterEqual(probe.entry_seconds.count, 3)
        self.assertEqual(2, len(realm.realm.access.own_devices))
        self.assertEqual(0, realm.realm.here)

    async def test_it_gets_through_where_only_proxies_connect(self) -> None:
        own = Identity.generate()
        realm = RealmFactory(running_reactor(), own, trusted_proxies=("127.0.0.1",))
        self.pin = pin_of_key(key_of(shown_certificate(realm.context)))
        await self.listen(realm)
        probe = Probe(running_reactor(), self.where, set(), OWN_WORD, 0.05)
        probe.start()
        self.addCleanup(lambda: ensureDeferred(probe.stop()))
        await self.until(lambda: probe.relay_seconds.count)
        self.assertIsNone(probe.problem)

    async def test_it_leaves_nothing_behind_when_it_stops(self) -> None:
        realm = await self.listen_as_realm()
        for moment in range(6):
            probe = Probe(running_reactor(), self.where, set(), b"", 0.05)
            probe.start()
            for _ in range(moment):
                await self.pause()
            await probe.stop()
            self.assertEqual(0, sum(probe.failures.values()))
            await probe.stop()
        await self.until(lambda: realm.is_idle)

    async def fails(self, reason: str, patience_seconds: float = 20.0) -> Probe:
        """Wait until a probe has failed, and only for that reason."""
        probe = self.probe(set(), patience_seconds)
        await self.until(lambda: probe.problem)
        self.assertEqual(reason, probe.problem)
        self.assertEqual({reason}, set(+probe.failures))
        self.assertEqual(0, probe.relay_seconds.count)
        return probe

    async def test_a_port_that_is_closed_is_noticed(self) -> None:
        await self.listen_as_realm()
        await self.port.stopListening()
        await self.fails("no_connection")

    async def test_a_door_that_is_shut_is_noticed(self) -> None:
        await self.listen(Factory.forProtocol(Closing))
        await self.fails("closed")

    async def test_a_port_without_tls_is_noticed(self) -> None:
        await self.listen(Factory.forProtocol(NoTls))
        await self.fails("no_tls")

    async def test_another_certificate_than_that_in_force_is_noticed(self) -> None:
        await self.listen_as_realm()
        self.pin = bytes(32)
        await self.fails("no_tls")

    async def test_silence_is_noticed(self) -> None:
        await self.listen(Factory.forProtocol(Protocol))
        await self.fails("no_answer", patience_seconds=0.2)

    async def test_a_refusal_is_noticed_with_its_code(self) -> None:
        await self.listen_as_realm(Mode.LISTED)
        await self.fails(Code.NOT_LISTED)

    async def test_it_gets_through_again_when_that_is_over(self) -> None:
        realm = await self.listen_as_realm(Mode.LISTED)
        probe = await self.fails(Code.NOT_LISTED)
        realm.realm.access.set_mode(Mode.OPEN)
        await self.until(lambda: probe.problem is None)
        self.assertGreaterEqual(probe.relay_seconds.count, 1)

    def test_every_reason_has_its_words(self) -> None:
        self.assertTrue(all(REASONS.values()))
