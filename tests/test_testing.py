"""What applications test with: a realm and devices in memory, as they would use them."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from abst.device import DeviceFactory, DeviceProtocol
from abst.errors import NotTrustedError, PeerUnreachableError
from abst.identity import Identity
from abst.realm.limits import Limits
from abst.testing import MemoryNetwork


class Echo(DeviceProtocol):
    """An application: it answers with what it gets."""

    def packetReceived(self, packet_id: int, content: Any) -> None:
        if packet_id == 5:
            self.sendPacket(6, content)


class Listener(DeviceProtocol):
    """An application: it keeps what it gets."""

    def connectionMade(self) -> None:
        self.heard: list[Any] = []

    def packetReceived(self, packet_id: int, content: Any) -> None:
        self.heard.append(content)


class EchoFactory(DeviceFactory):
    protocol = Echo


class ListenerFactory(DeviceFactory):
    protocol = Listener


class MemoryNetworkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.alice = self.network.device("alice", ListenerFactory())
        self.bob = self.network.device("bob", EchoFactory())
        self.network.introduce(self.alice, self.bob)

    def talk(self) -> Listener:
        connected = self.alice.connect(self.bob.device_id)
        self.network.settle()
        protocol = self.network.result(connected)
        assert isinstance(protocol, Listener)
        return protocol

    def test_an_application_talks_to_another(self) -> None:
        protocol = self.talk()
        acknowledged = protocol.sendPacket(5, {"text": "hello"})
        self.network.settle()
        self.assertEqual([{"text": "hello"}], protocol.heard)
        self.network.advance(1)
        self.assertIsNone(self.network.result(acknowledged))

    def test_no_time_goes_by_unless_somebody_says_so(self) -> None:
        self.talk()
        self.assertEqual(0.0, self.network.clock.seconds())
        self.network.advance(3.25)
        self.assertEqual(3.25, self.network.clock.seconds())

    def test_nothing_happens_between_calls(self) -> None:
        connected = self.alice.connect(self.bob.device_id)
        self.assertRaises(AssertionError, self.network.result, connected)
        self.assertNoResult(connected)
        self.network.settle()
        self.assertIsInstance(self.network.result(connected), Listener)

    def test_a_result_that_is_a_failure_is_raised(self) -> None:
        self.bob.forget(self.alice.device_id)
        connected = self.alice.connect(self.bob.device_id)
        self.network.settle()
        self.assertRaises(NotTrustedError, self.network.result, connected)

    def test_the_realm_sees_ciphertext_alone(self) -> None:
        protocol = self.talk()
        for number in range(5):
            protocol.sendPacket(5, f"the secret number {number}")
        self.network.advance(1)
        self.assertEqual(5, len(protocol.heard))
        relayed = bytes(self.network.realm.relayed)
        self.assertGreater(len(relayed), 1000)
        self.assertIn(bytes(self.bob.device_id), relayed)
        for secret in (b"the secret number", b"alice", b"bob"):
            self.assertNotIn(secret, relayed)

    def test_a_realm_that_stops_and_starts_again(self) -> None:
        protocol = self.talk()
        self.network.realm.stop()
        protocol.sendPacket(5, "into the void")
        self.network.advance(10)
        self.assertIsNone(protocol.path)
        self.assertEqual([], protocol.heard)
        self.network.realm.start()
        self.network.advance(60)
        self.assertEqual(["into the void"], protocol.heard)

    def test_a_device_that_is_killed_says_nothing(self) -> None:
        protocol = self.talk()
        self.network.kill(self.bob)
        self.network.settle()
        self.assertIsNotNone(protocol.path)
        connected = self.alice.connect(self.bob.device_id)
        self.assertIs(protocol, self.network.result(connected))
        again = self.network.device(
            "bob", EchoFactory(), identity=self.bob.identity, peers=self.bob.peers
        )
        self.network.settle()
        self.assertEqual(self.bob.device_id, again.device_id)
        back = again.connect(self.alice.device_id)
        self.network.settle()
        self.assertIsInstance(self.network.result(back), Echo)

    def test_devices_that_nobody_introduced_are_strangers(self) -> None:
        carol = self.network.device("carol", EchoFactory())
        self.failureResultOf(carol.connect(self.alice.device_id), NotTrustedError)

    def test_devices_use_the_realms_that_stand_when_they_are_made(self) -> None:
        second = self.network.add_realm()
        carol = self.network.device("carol", ListenerFactory())
        dave = self.network.device("dave", EchoFactory())
        self.network.introduce(carol, dave)
        self.assertEqual(2, len(carol.links))
        self.assertEqual(1, len(self.alice.links))
        self.network.realm.stop()
        self.network.settle()
        connected = carol.connect(dave.device_id)
        self.network.settle()
        path = self.network.result(connected).path
        assert path is not None
        self.assertEqual(second.address, path.realm)

    def test_a_realm_has_the_limits_that_it_is_given(self) -> None:
        """A full realm says so, and when to come back."""
        small = MemoryNetwork()
        small.realm.realm.limits = Limits(connections=1)
        first = small.device("first", EchoFactory())
        small.settle()
        second = small.device("second", EchoFactory())
        small.settle()
        second.trust(first.device_id)
        (link,) = second.links.values()
        self.assertFalse(link.is_up)
        self.assertIn("no room", str(link.problem))
        failed = second.connect(first.device_id)
        small.advance(11)
        self.failureResultOf(failed, PeerUnreachableError)
        small.kill(first)
        small.advance(40)
        self.assertTrue(link.is_up)

    def test_devices_that_stop_leave_nothing_on_the_clock(self) -> None:
        self.talk()
        stopped: list[Deferred[Any]] = [self.alice.stopService(), self.bob.stopService()]
        self.network.settle()
        for waiting in stopped:
            self.successResultOf(waiting)
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def test_the_same_seed_gives_the_same_waits(self) -> None:
        def waits(seed: int) -> list[float]:
            network = MemoryNetwork(seed)
            network.realm.stop()
            device = network.device("d", EchoFactory(), identity=Identity.generate())
            network.settle()
            return [call.getTime() for call in network.clock.getDelayedCalls()] + [
                device.random_fraction()
            ]

        self.assertEqual(waits(1), waits(1))
        self.assertNotEqual(waits(1), waits(2))
