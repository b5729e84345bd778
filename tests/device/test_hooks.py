"""Applications that raise, and applications that call back from within their hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from abst.device import Device, DeviceFactory, DeviceProtocol, Peer
from abst.errors import (
    PeerUnreachableError,
    SessionEndedError,
)
from tests.device.doubles import Base, Notes, NotesFactory, connection_of, quietly


class HookTests(Base):
    """Applications that raise, and applications that call back from within their hooks."""

    def make_session(self, kind: Callable[[], DeviceProtocol]) -> tuple[Any, Notes]:
        """Return Alice's protocol, of a kind, and Bob's."""
        self.alice.factory = NotesFactory(kind)
        self.connected(self.alice.connect(self.bob.device_id))
        self.network.settle()
        return self.built(self.alice)[-1], self.built(self.bob)[-1]

    def test_hooks_that_raise_break_nothing(self) -> None:
        class Broken(Notes):
            def connectionMade(self) -> None:
                super().connectionMade()
                raise RuntimeError("made")

            def packetReceived(self, packet_id: int, content: Any) -> None:
                super().packetReceived(packet_id, content)
                raise RuntimeError("packet")

            def pathChanged(self, path: Any) -> None:
                super().pathChanged(path)
                raise RuntimeError("path")

            def connectionLost(self, reason: Any = None) -> None:
                super().connectionLost(reason)
                raise RuntimeError("lost")

        ours, theirs = self.make_session(Broken)
        self.exchange(ours, theirs)
        next(iter(self.alice.links.values())).cut()  # type: ignore[attr-defined]
        self.network.advance(5)
        self.exchange(ours, theirs)
        theirs.loseConnection()
        self.network.advance(1)
        self.assertTrue(ours.ended_well)
        raised = self.flushLoggedErrors(RuntimeError)
        self.assertEqual(
            ["made", "packet", "path", "path", "packet", "lost"],
            [str(failure.value) for failure in raised],
        )

    def test_callbacks_that_raise_break_nothing(self) -> None:
        ours, theirs = self.pair()

        def broken(result: Any) -> None:
            raise RuntimeError("callback")

        waiting = ours.sendPacket(5, "x").addCallback(broken)
        second = ours.sendPacket(5, "y")
        self.network.advance(1)
        self.failureResultOf(waiting, RuntimeError)
        self.successResultOf(second)
        self.exchange(ours, theirs)

    def test_a_factory_that_refuses_fails_who_waits(self) -> None:
        class Refusing(DeviceFactory):
            def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
                return None

        self.alice.factory = Refusing()
        self.assert_fails(PeerUnreachableError, self.alice.connect(self.bob.device_id))
        self.network.advance(1)
        self.assertTrue(self.built(self.bob)[0].ended_well)
        dials = self.dials(self.alice)
        self.network.advance(100)
        self.assertEqual([], dials)
        self.assertIsNone(connection_of(self.alice, self.bob.device_id))
        self.assertIsNone(connection_of(self.bob, self.alice.device_id))

    def test_a_factory_that_raises_fails_who_waits(self) -> None:
        class Raising(DeviceFactory):
            def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
                raise RuntimeError("factory")

        self.alice.factory = Raising()
        self.assert_fails(PeerUnreachableError, self.alice.connect(self.bob.device_id))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_the_other_sides_factory_refuses(self) -> None:
        class Refusing(DeviceFactory):
            def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
                return None

        self.bob.factory = Refusing()
        waiting = self.alice.connect(self.bob.device_id)
        self.network.advance(1)
        self.assertIsInstance(self.network.result(waiting), Notes)
        self.assertTrue(self.built(self.alice)[0].ended_well)
        self.network.advance(30)
        self.assertEqual(1, len(self.built(self.alice)))

    def test_ending_at_once(self) -> None:
        class Shy(Notes):
            def connectionMade(self) -> None:
                super().connectionMade()
                self.loseConnection()

        ours, theirs = self.make_session(Shy)
        self.network.advance(30)
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)
        self.assertEqual(1, len(self.built(self.alice)))

    def test_answering_ending_and_connecting_from_within_a_packet(self) -> None:
        alice, bob = self.alice, self.bob
        waiting: list[Deferred[DeviceProtocol]] = []

        class Busy(Notes):
            def packetReceived(self, packet_id: int, content: Any) -> None:
                super().packetReceived(packet_id, content)
                self.sendPacket(7, "answer")
                self.ping()
                self.loseConnection()
                waiting.append(alice.connect(bob.device_id))

        ours, theirs = self.make_session(Busy)
        theirs.sendPacket(5, "x")
        self.network.advance(2)
        self.assertEqual([(7, "answer")], theirs.packets)
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)
        again = self.network.result(waiting[0])
        self.assertIsNot(ours, again)

    def test_connecting_again_from_within_the_end(self) -> None:
        alice, bob = self.alice, self.bob
        waiting: list[Deferred[DeviceProtocol]] = []

        class Faithful(Notes):
            def connectionLost(self, reason: Any = None) -> None:
                super().connectionLost(reason)
                if len(waiting) < 3:
                    waiting.append(alice.connect(bob.device_id))

        _, theirs = self.make_session(Faithful)
        for _ in range(3):
            self.built(self.bob)[-1].loseConnection()
            self.network.advance(2)
        self.assertEqual(4, len(self.built(self.alice)))
        for item in waiting:
            self.network.result(item)
        self.assertTrue(theirs.ended_well)
        self.assert_same_session(self.alice, self.bob)

    def test_sending_again_from_within_the_end(self) -> None:
        """The peer has lost the session; what goes into the next one at once belongs to that."""
        alice, bob = self.alice, self.bob
        waiting: list[Deferred[None]] = []

        class Faithful(Notes):
            def connectionLost(self, reason: Any = None) -> None:
                super().connectionLost(reason)
                if not waiting:
                    waiting.append(alice.open(bob.device_id).sendPacket(5, "again"))

        ours, theirs = self.make_session(Faithful)
        self.exchange(ours, theirs)
        lost = ours.sendPacket(5, "lost")
        again = self.restart(self.bob)
        self.network.advance(30)
        self.failureResultOf(lost, SessionEndedError)
        self.successResultOf(waiting[0])
        (received,) = self.built(again)
        self.assertEqual(["again"], received.contents)
        self.assertIsNone(received.ended)
        self.assert_same_session(self.alice, again)

    def test_forgetting_the_peer_from_within_anything(self) -> None:
        for hook in ("connectionMade", "packetReceived", "connectionLost", "pathChanged"):
            self.setUp()
            alice, bob = self.alice, self.bob

            def forget(self: Any, *args: Any, alice: Device = alice, bob: Device = bob) -> None:
                alice.forget(bob.device_id)

            kind = type("Forgetting", (DeviceProtocol,), {hook: forget})
            alice.factory = NotesFactory(kind)
            waiting = alice.connect(bob.device_id)
            waiting.addErrback(lambda failure: None)
            self.network.settle()
            for protocol in self.built(bob):
                if protocol.ended is None:
                    protocol.sendPacket(5, "x").addErrback(lambda failure: None)
            self.network.advance(1)
            if hook == "pathChanged":
                next(iter(alice.links.values())).cut()  # type: ignore[attr-defined]
            for protocol in self.built(bob):
                if protocol.ended is None:
                    protocol.loseConnection()
            self.network.advance(100)
            self.assertIsNone(connection_of(alice, bob.device_id), hook)
            self.assertIsNone(connection_of(bob, alice.device_id), hook)
            self.tearDown()

    def test_forgetting_the_peer_when_a_packet_is_acknowledged(self) -> None:
        ours, theirs = self.pair()
        waiting = [ours.sendPacket(5, number) for number in range(5)]
        waiting[1].addCallback(lambda result: self.alice.forget(self.bob.device_id))
        self.network.advance(1)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertIsInstance(ours.ended, SessionEndedError)
        self.assertTrue(theirs.ended_well)

    def test_forgetting_the_peer_when_a_packet_is_acknowledged_by_resuming(self) -> None:
        ours, theirs = self.pair()
        link: Any = next(iter(self.alice.links.values()))
        # It is handled, and the acknowledgement does not get through.
        theirs.packetReceived = lambda packet_id, content: link.cut()  # type: ignore[method-assign]
        waiting = ours.sendPacket(5, "x")
        waiting.addCallback(lambda result: self.alice.forget(self.bob.device_id))
        self.network.advance(30)
        self.successResultOf(waiting)
        self.assertIsInstance(ours.ended, SessionEndedError)
        self.assertIsNotNone(theirs.ended)
        self.assertIsNone(connection_of(self.alice, self.bob.device_id))

    def test_stopping_the_device_from_within_a_packet(self) -> None:
        alice = self.alice

        class Stopping(Notes):
            def packetReceived(self, packet_id: int, content: Any) -> None:
                super().packetReceived(packet_id, content)
                alice.stopService()

        ours, theirs = self.make_session(Stopping)
        for number in range(3):
            quietly(theirs.sendPacket(5, number))
        self.network.advance(1)
        self.assertEqual([0], ours.contents)
        self.assertTrue(theirs.ended_well)

    def test_connecting_from_within_the_failure_of_connecting(self) -> None:
        """A retry without a wait, as a careless application does it, is not a loop without end."""
        self.network.kill(self.bob)
        self.network.settle()
        tries = 0

        def again(failure: Any) -> None:
            nonlocal tries
            tries += 1
            if tries < 5:
                self.alice.connect(self.bob.device_id).addErrback(again)

        self.alice.connect(self.bob.device_id).addErrback(again)
        self.network.advance(1)
        self.assertEqual(5, tries)
