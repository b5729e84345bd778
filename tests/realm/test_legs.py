"""Circuits over real sockets: plain legs and legs inside TLS, in every combination."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from abst import codec
from abst.errors import Code, RemoteProtocolError
from abst.identity import Identity
from abst.packets import REALM_TO_DEVICE, Circuit, ConnectToDevice, Error, Leg, parse
from abst.realm import RealmFactory
from abst.realm.limits import Limits
from abst.realm.pipes import MAX_PIPES
from abst.realm.splicing import KEPT_BYTES, LEAST_KEPT_BYTES
from tests.carriers import (
    PATIENCE_SECONDS,
    Behaviour,
    PlainReactor,
    TimeOnlyReactor,
    in_reactor,
    in_thread,
    running_reactor,
    until,
)
from tests.half_closing_tls import HalfClosingTls
from tests.integration.raw_client import RawDevice, client_context, identities
from tests.plays import Play, perform, plays, read_to_the_end, reset

REALM_IDENTITY = Identity.generate()
ALICE, BOB, CAROL = identities(3)

IDLE_PIPES_FILES = 4
"""The ends of the pipe that was used last, and of the reserve."""

MANY_BYTES = 200_000_000
"""More than all buffers on the way take."""


def read_exactly(connection: socket.socket, size: int) -> bytes:
    """Return that many bytes."""
    found = bytearray()
    while len(found) < size:
        data = connection.recv(min(1 << 20, size - len(found)))
        if not data:
            raise EOFError(f"{len(found)} of {size} bytes")
        found += data
    return bytes(found)


def error_of(connection: socket.socket) -> Error:
    """Return the Error with which the realm has closed a leg."""
    data = read_to_the_end(connection)
    assert data is not None, "the leg was reset"
    packet = parse(codec.decode(data), REALM_TO_DEVICE)
    assert isinstance(packet, Error)
    return packet


def read_leg(connection: socket.socket) -> bytes | None:
    """Return what the other end has sent until its end, or None when the realm says anything."""
    data = read_to_the_end(connection)
    if data and data[0] & 0xF0 == 0x80:
        with contextlib.suppress(RemoteProtocolError):
            parse(codec.decode(data), REALM_TO_DEVICE)
            return None
    return data


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def memory_kib() -> int:
    """Return how much memory this process has used at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class CircuitStage(Behaviour):
    """A realm, and devices that have circuits through it."""

    splices = True
    pipes = MAX_PIPES
    limits = Limits(circuit_requests_per_minute=100_000)
    inside_tls = (False, False)
    """Whether the asker's leg is inside TLS, and the target's."""

    def make_reactor(self) -> Any:
        return running_reactor()

    def setUp(self) -> Any:
        self.sockets: list[Any] = []
        self.devices: list[RawDevice] = []
        self.factory = RealmFactory(
            self.make_reactor(),
            REALM_IDENTITY,
            self.limits,
            splices=self.splices,
            pipes=self.pipes,
        )
        self.realm = self.factory.realm
        return ensureDeferred(self.listen())

    async def listen(self) -> None:
        endpoint = TCP4ServerEndpoint(running_reactor(), 0, interface="127.0.0.1")
        self.listening = await endpoint.listen(self.factory)
        self.port = self.listening.getHost().port

    def tearDown(self) -> Any:
        return ensureDeferred(self.end())

    async def end(self) -> None:
        """Close all; whatever the realm has left behind fails the test."""
        await self.listening.stopListening()
        self.factory.stop()
        for connection in self.sockets:
            connection.close()
        while self.realm.conversations or self.factory.legs:
            await deferLater(running_reactor(), 0.005)
        self.assertEqual(0, len(self.realm.circuits))
        self.assertEqual({}, self.realm.circuits._awaited)
        self.assertEqual(set(), self.factory.newcomers)
        self.assertIsNone(self.realm.next_deadline())

    def set_limits(self, **limits: float) -> None:
        """Change limits of circuits, before there is one."""
        self.realm.circuits.limits = Limits(**limits)  # type: ignore[arg-type]

    def join(self, identity: Identity) -> RawDevice:
        """Return a device on whose connection Hello has been answered."""
        device = RawDevice(self.port, identity)
        self.sockets.append(device)
        device.hello()
        return device

    def plain(self) -> socket.socket:
        """Return a connection without TLS."""
        connection = socket.create_connection(("127.0.0.1", self.port), 20.0)
        self.sockets.append(connection)
        return connection

    def ask(self, asker: RawDevice, target: RawDevice) -> tuple[Circuit, Circuit]:
        """Return what both are told of a circuit that the first has asked for."""
        asker.send(ConnectToDevice(asker.device_id, target.device_id, request=5))
        answers = asker.receive(), target.receive()
        for answer in answers:
            assert isinstance(answer, Circuit), answer
        return answers  # type: ignore[return-value]

    def connect(self, identity: Identity, inside_tls: bool) -> socket.socket:
        connection = self.plain()
        if inside_tls:
            connection = client_context(identity).wrap_socket(
                connection, suppress_ragged_eofs=False
            )
            self.sockets.append(connection)
        return connection

    def leg(
        self, identity: Identity, token: bytes, inside_tls: bool, early: bytes = b""
    ) -> socket.socket:
        """Return a leg that has sent its token, and something behind it."""
        connection = self.connect(identity, inside_tls)
        connection.sendall(codec.encode(Leg(token)) + early)
        return connection

    def circuit(self) -> tuple[socket.socket, socket.socket]:
        """Return both ends of a circuit that is joined."""
        before = self.realm.counters.circuits_joined
        if not self.devices:
            self.devices = [self.join(ALICE), self.join(BOB)]
        offers = self.ask(*self.devices)
        first, second = (
            self.leg(identity, offer.token, inside)
            for identity, offer, inside in zip((ALICE, BOB), offers, self.inside_tls, strict=True)
        )
        until(lambda: self.realm.counters.circuits_joined > before, "the circuit")
        return first, second

    def until_over(self) -> None:
        until(lambda: not len(self.realm.circuits), "the end of the circuit")
        until(lambda: not self.factory.legs, "the end of the legs")


class CircuitBehaviour(CircuitStage):
    """What circuits do, whatever carries them; the subclasses say what does."""

    @in_thread
    def test_bytes_go_both_ways(self) -> None:
        alice, bob = self.circuit()
        data = random.Random(1).randbytes(5_000_000)
        for source, target in ((alice, bob), (bob, alice)):
            sender = threading.Thread(target=source.sendall, args=(data,))
            sender.start()
            self.assertEqual(data, read_exactly(target, len(data)))
            sender.join()
        until(lambda: self.realm.counters.circuit_bytes == 2 * len(data), "all bytes counted")

    @in_thread
    def test_early_bytes_are_kept_and_delivered(self) -> None:
        devices = self.join(ALICE), self.join(BOB)
        offers = self.ask(*devices)
        data = random.Random(2).randbytes(3_000_000)
        first = self.leg(ALICE, offers[0].token, self.inside_tls[0], data[:1000])
        sender = threading.Thread(target=first.sendall, args=(data[1000:],))
        sender.start()
        second = self.leg(BOB, offers[1].token, self.inside_tls[1], b"hello")
        self.assertEqual(data, read_exactly(second, len(data)))
        sender.join()
        self.assertEqual(b"hello", read_exactly(first, 5))

    @in_thread
    def test_a_reset_resets_the_other_leg(self) -> None:
        alice, bob = self.circuit()
        alice.sendall(b"the beginning")
        self.assertEqual(b"the beginning", read_exactly(bob, 13))
        reset(alice)
        self.assertIsNone(read_to_the_end(bob))
        self.until_over()

    @in_thread
    def test_one_end_that_does_not_read_pauses_the_other_and_nobody_else(self) -> None:
        alice, bob = self.circuit()
        carol, dave = self.circuit()
        alice.settimeout(0.2)
        before = memory_kib()
        sent = 0
        # Inside TLS, what a timeout interrupts is lost for the connection, so nothing follows it.
        with contextlib.suppress(TimeoutError, ssl.SSLError):
            while sent < MANY_BYTES:
                sent += alice.send(bytes(65536))
        self.assertLess(sent, MANY_BYTES)
        self.assertLess(memory_kib() - before, 8 * 1024)
        for source, target in ((bob, alice), (carol, dave), (dave, carol)):
            source.sendall(b"still there")
            self.assertEqual(b"still there", read_exactly(target, 11))
        self.assertEqual(bytes(sent), read_exactly(bob, sent))

    @in_thread
    def test_no_descriptor_is_left(self) -> None:
        self.circuit()
        before = open_files()
        for _ in range(5):
            alice, bob = self.circuit()
            alice.sendall(b"x" * 100_000)
            read_exactly(bob, 100_000)
            reset(alice)
            self.assertIsNone(read_to_the_end(bob))
            bob.close()
        until(lambda: len(self.realm.circuits) == 1, "the end of all but the first")
        until(lambda: open_files() <= before + IDLE_PIPES_FILES, "the end of their descriptors")

    @in_thread
    def test_the_asker_is_told_that_the_target_refuses(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        for comes_first in (True, False):
            offer, other = self.ask(alice, bob)
            said = Error("circuit_refused", "no", about=1, circuit=other.circuit)
            if comes_first:
                leg = self.leg(ALICE, offer.token, self.inside_tls[0], b"early bytes")
                until(lambda: self.factory.legs, "the leg")
                bob.send(said)
            else:
                bob.send(said)
                until(lambda: len(self.realm.circuits._awaited) == 1, "the refusal")
                leg = self.leg(ALICE, offer.token, self.inside_tls[0], b"early bytes")
            self.assertEqual(Code.CIRCUIT_REFUSED, error_of(leg).code)
            leg.close()
            self.until_over()

    @in_thread
    def test_the_other_leg_does_not_come(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        self.set_limits(circuit_meet_seconds=0.1)
        offer, _ = self.ask(alice, bob)
        leg = self.leg(ALICE, offer.token, self.inside_tls[0], bytes(1000))
        self.assertEqual(Code.CIRCUIT_UNANSWERED, error_of(leg).code)

    @in_thread
    def test_the_other_leg_goes_away_again(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        self.set_limits(circuit_meet_seconds=0.3)
        offer, other = self.ask(alice, bob)
        reset(self.leg(BOB, other.token, self.inside_tls[1]))
        # It is not read from, so nobody may have noticed yet: then the end follows the beginning.
        leg = self.leg(ALICE, offer.token, self.inside_tls[0])
        with contextlib.suppress(AssertionError):
            self.assertEqual(Code.CIRCUIT_UNANSWERED, error_of(leg).code)
        leg.close()
        self.until_over()

    @in_thread
    def test_a_token_is_good_once(self) -> None:
        alice, bob = self.join(ALICE), self.join(BOB)
        offer, _ = self.ask(alice, bob)
        self.leg(ALICE, offer.token, self.inside_tls[0])
        until(lambda: len(self.realm.circuits._awaited) == 1, "the leg")
        for inside in (False, True):
            again = self.leg(ALICE, offer.token, inside)
            self.assertEqual(Code.WRONG_TOKEN, error_of(again).code)

    @in_thread
    def test_a_stop_tells_who_waits_and_resets_who_is_joined(self) -> None:
        joined = self.circuit()
        offer, _ = self.ask(self.join(ALICE), self.join(BOB))
        waits = self.leg(ALICE, offer.token, self.inside_tls[0], b"early")
        silent = self.plain()
        silent.sendall(b"\x82")
        until(lambda: len(self.factory.newcomers) == 1, "the silent one")
        until(lambda: len(self.realm.circuits._awaited) == 1, "the leg that waits")
        in_reactor(self.factory.stop)
        self.assertEqual(Code.RESTARTING, error_of(waits).code)
        self.assertEqual(Code.RESTARTING, error_of(silent).code)
        waits.close()
        silent.close()
        for leg in joined:
            self.assertIsNone(read_to_the_end(leg))
        self.until_over()

    @in_thread
    def test_nothing_goes_for_too_long(self) -> None:
        self.set_limits(circuit_idle_seconds=0.2)
        legs = self.circuit()
        for leg in legs:
            self.assertIsNone(read_to_the_end(leg))
        for device in self.devices:
            error = device.receive_error()
            self.assertEqual((Code.CIRCUIT_IDLE, 1), (error.code, error.about))
            self.assertEqual(8, len(error.circuit or b""))
        self.until_over()

    @in_thread
    def test_more_bytes_than_may(self) -> None:
        self.set_limits(circuit_bytes=100_000)
        alice, bob = self.circuit()
        alice.sendall(bytes(60_000))
        read_exactly(bob, 60_000)
        bob.sendall(bytes(40_000))
        read_exactly(alice, 40_000)
        bob.sendall(b"x")
        for leg in (alice, bob):
            self.assertIsNone(read_to_the_end(leg))
        for device in self.devices:
            self.assertEqual(Code.CIRCUIT_SPENT, device.receive_error().code)

    @in_thread
    def test_not_faster_than_it_may(self) -> None:
        rate = 2_000_000
        self.set_limits(circuit_bytes_per_second=rate)
        alice, bob = self.circuit()
        # A second's bytes go at once; these are a second's, and a quarter of the next one's.
        data = random.Random(3).randbytes(rate * 5 // 4)
        begun = time.monotonic()
        sender = threading.Thread(target=alice.sendall, args=(data,))
        sender.start()
        self.assertEqual(data, read_exactly(bob, len(data)))
        sender.join()
        # The last piece arrives before it is waited for.
        self.assertGreater(time.monotonic() - begun, 0.1)
        self.assertLess(time.monotonic() - begun, 5.0)

    @in_thread
    def test_a_leg_may_be_silent_for_as_long_as_it_likes(self) -> None:
        """The system itself must not take a reader that has stopped for a dead one."""
        self.circuit()
        for transport in tuple(self.factory.legs):
            handle = transport.getHandle()
            if not isinstance(handle, socket.socket):
                continue  # Twisted's TLS: its handle is OpenSSL's.
            options = (socket.TCP_USER_TIMEOUT, socket.TCP_NOTSENT_LOWAT)
            found = [handle.getsockopt(socket.IPPROTO_TCP, option) for option in options]
            self.assertEqual([0, 0], found)
            self.assertTrue(handle.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


class HalfCloseBehaviour(CircuitBehaviour):
    """What only legs can show whose directions end one by one."""

    contexts: ClassVar = {identity: client_context(identity) for identity in (ALICE, BOB)}

    def opening(self, identity: Identity, token: bytes, inside_tls: bool) -> Any:
        """Return a leg for a play."""
        if not inside_tls:
            return self.leg(identity, token, inside_tls=False)
        connection = HalfClosingTls(self.plain(), self.contexts[identity])
        connection.sendall(codec.encode(Leg(token)))
        # A reset on its heels could take the token away, and the other leg would wait for long.
        awaited = self.realm.circuits._awaited
        until(lambda: hashlib.sha256(token).digest() not in awaited, "the leg")
        return connection

    @in_thread
    def test_any_play_ends_with_the_truth_on_both_sides(self) -> None:
        self.circuit()
        before = open_files()

        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
        @given(plays())
        def check(play: Play) -> None:
            offers = self.ask(*self.devices)
            opening = [
                functools.partial(self.opening, identity, offer.token, inside)
                for identity, offer, inside in zip(
                    (ALICE, BOB), offers, self.inside_tls, strict=True
                )
            ]
            perform(play, opening, read_leg)
            until(lambda: len(self.realm.circuits) == 1, "the end of the circuit")

        check()
        until(lambda: open_files() <= before + IDLE_PIPES_FILES, "the end of all descriptors")


class PlainBehaviour(HalfCloseBehaviour):
    """What only plain legs can show."""

    @in_thread
    def test_one_direction_ends_alone(self) -> None:
        alice, bob = self.circuit()
        alice.sendall(b"a question")
        alice.shutdown(socket.SHUT_WR)
        self.assertEqual(b"a question", read_to_the_end(bob))
        bob.sendall(bytes(1_000_000))
        bob.close()
        self.assertEqual(bytes(1_000_000), read_to_the_end(alice))
        alice.close()
        self.until_over()


class PlainInUserSpaceTests(PlainBehaviour, TestCase):
    splices = False


class SplicedTests(PlainBehaviour, TestCase):
    pass


class SplicedByTheReactorTests(PlainBehaviour, TestCase):
    """The reactor itself calls the sockets, and no poller."""

    def make_reactor(self) -> Any:
        return PlainReactor()


class WithoutPipesTests(PlainBehaviour, TestCase):
    """No pipe is to be had: what is spliced else goes in small pieces."""

    pipes = 0


class WithOnePipeTests(PlainBehaviour, TestCase):
    """All directions but one have no pipe."""

    pipes = 1


class ManyWaitTests(CircuitStage, TestCase):
    """More directions wait for their readers than there are pipes."""

    pipes = 3

    def fill(self, source: socket.socket, condition: Callable[[], object]) -> int:
        """Send until something holds; return how much that was."""
        source.setblocking(False)
        sent = 0
        while not in_reactor(condition):
            with contextlib.suppress(BlockingIOError):
                sent += source.send(bytes(1 << 20))
        source.settimeout(PATIENCE_SECONDS)
        return sent

    @in_thread
    def test_others_are_served_through_the_reserve(self) -> None:
        pool = self.factory._pipes
        circuits = [self.circuit() for _ in range(3)]
        others = self.circuit()
        for number, (alice, _) in enumerate(circuits[:2]):
            self.fill(alice, lambda: len(pool) - 1 - len(pool._idle) == number + 1)  # noqa: B023
        alice, bob = circuits[2]
        sent = self.fill(alice, lambda: pool.kept_bytes)
        self.assertTrue(in_reactor(lambda: pool.is_reserve(pool.take())))
        data = random.Random(4).randbytes(5_000_000)
        sender = threading.Thread(target=others[0].sendall, args=(data,))
        sender.start()
        self.assertEqual(data, read_exactly(others[1], len(data)))
        sender.join()
        self.assertEqual(bytes(sent), read_exactly(bob, sent))
        until(lambda: not pool.kept_bytes, "the end of what was kept")

    @in_thread
    def test_what_is_kept_of_each_is_little_when_much_is_kept_in_all(self) -> None:
        pool = self.factory._pipes
        held = in_reactor(lambda: [pool.take() for _ in range(2)])
        pool.kept_bytes += KEPT_BYTES
        alice, bob = self.circuit()
        self.fill(alice, lambda: pool.kept_bytes > KEPT_BYTES)
        self.assertLessEqual(pool.kept_bytes - KEPT_BYTES, LEAST_KEPT_BYTES)
        reset(alice)
        self.assertIsNone(read_to_the_end(bob))
        self.until_over()
        self.assertEqual(KEPT_BYTES, pool.kept_bytes)
        for pipe in held:
            in_reactor(pool.throw_away, pipe)


class WithoutDescriptorsTests(PlainBehaviour, TestCase):
    def make_reactor(self) -> Any:
        return TimeOnlyReactor()


class InsideTlsTests(HalfCloseBehaviour, TestCase):
    inside_tls = (True, True)


class HalfInsideTlsTests(HalfCloseBehaviour, TestCase):
    inside_tls = (False, True)


class InsideBufferedTlsTests(CircuitBehaviour, TestCase):
    inside_tls = (True, True)

    def make_reactor(self) -> Any:
        return TimeOnlyReactor()
