"""A device's link to a real realm on this machine: it comes up, falls, and comes back."""

from __future__ import annotations

import datetime
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import error
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from abst.address import RealmAddress, pin_of_key
from abst.device import Device, Peer, parse_target
from abst.device.backoff import (
    FIRST_WAIT_SECONDS,
    MAX_ASKED_WAIT_SECONDS,
    MAX_WAIT_SECONDS,
    STABLE_SECONDS,
    WAIT_FACTOR,
    Backoff,
    next_wait_seconds,
)
from abst.device.connect_problem import connect_problem
from abst.device.link import Link, RealmLink
from abst.errors import AbstError, PeerUnreachableError
from abst.identity import Identity
from abst.packets import HEADROOM_BYTES, MAX_PACKET_BYTES, Circuit, Error, JoinGroup, Packet
from abst.realm import RealmFactory
from abst.realm.conversation import Conversation
from abst.realm.limits import Limits
from abst.tls import key_of
from tests.device.doubles import Notes, NotesFactory
from tests.device.test_pairing_attempt import Person

HERE: Final = "127.0.0.1"
ALICE: Final = Identity.generate()
BOB: Final = Identity.generate()
REALM: Final = Identity.generate()
OTHER: Final = Identity.generate()
DAY: Final = datetime.timedelta(days=1)


class WaitTests(SynchronousTestCase):
    """How long a link waits before it tries again."""

    @given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
    def test_a_wait_is_bounded_and_random(self, failures: int, fraction: float) -> None:
        wait = next_wait_seconds(failures, None, fraction)
        self.assertLessEqual(wait, MAX_WAIT_SECONDS)
        self.assertEqual(0.0, next_wait_seconds(failures, None, 0.0))

    def test_waits_grow(self) -> None:
        waits = [next_wait_seconds(failures, None, 1.0) for failures in range(1, 12)]
        self.assertEqual(FIRST_WAIT_SECONDS * WAIT_FACTOR, waits[0])
        self.assertEqual(sorted(waits), waits)
        self.assertEqual(MAX_WAIT_SECONDS, waits[-1])

    def test_what_the_realm_asks_for_is_waited_and_not_much_more(self) -> None:
        for fraction in (0.0, 0.999):
            wait = next_wait_seconds(1, 7.5, fraction)
            self.assertTrue(7.5 <= wait <= 7.6, wait)

    @given(st.integers(1, 100), st.floats(allow_nan=False), st.floats(0, 1, exclude_max=True))
    def test_no_realm_can_ask_for_ever(self, failures: int, asked: float, fraction: float) -> None:
        wait = next_wait_seconds(failures, asked, fraction)
        self.assertGreaterEqual(wait, 0)
        self.assertLessEqual(wait, MAX_ASKED_WAIT_SECONDS + MAX_WAIT_SECONDS)

    def test_a_realm_that_asks_each_time_is_asked_less_and_less(self) -> None:
        self.assertGreater(next_wait_seconds(9, 0.0, 0.9), next_wait_seconds(2, 0.0, 0.9))

    def test_a_stable_connection_makes_up_for_failures(self) -> None:
        backoff = Backoff(lambda: 1.0)
        for _ in range(20):
            backoff.next_wait_seconds()
        backoff.connected(100.0)
        backoff.disconnected(100.0 + STABLE_SECONDS - 1)
        self.assertEqual(MAX_WAIT_SECONDS, backoff.next_wait_seconds())
        backoff.connected(1000.0)
        backoff.disconnected(1000.0 + STABLE_SECONDS)
        self.assertEqual(FIRST_WAIT_SECONDS * WAIT_FACTOR, backoff.next_wait_seconds())

    def test_a_change_of_network_makes_up_for_failures_too(self) -> None:
        backoff = Backoff(lambda: 1.0)
        for _ in range(20):
            backoff.next_wait_seconds()
        backoff.network_changed()
        self.assertEqual(FIRST_WAIT_SECONDS * WAIT_FACTOR, backoff.next_wait_seconds())

    def test_what_was_asked_counts_once(self) -> None:
        backoff = Backoff(lambda: 0.0)
        backoff.refused(Error("restarting", "", retry_after=5))
        self.assertEqual(5.0, backoff.next_wait_seconds())
        self.assertEqual(0.0, backoff.next_wait_seconds())

    def test_what_is_asked_for_one_target_is_no_matter_of_the_link(self) -> None:
        backoff = Backoff(lambda: 0.0)
        target = bytes(ALICE.device_id)
        backoff.refused(Error("queue_full", "", target_device=target, retry_after=5))
        self.assertEqual(0.0, backoff.next_wait_seconds())


class ProblemTests(SynchronousTestCase):
    """What a person reads when a realm cannot be reached."""

    def test_each_kind_says_what_to_look_at(self) -> None:
        address = RealmAddress("realm.example", 4711)
        for problem, word in (
            (error.DNSLookupError("no"), "check the realm's address"),
            (error.TimeoutError(), "firewall"),
            (error.ConnectionRefusedError(), "is the realm running?"),
            (error.ConnectError(), "is the realm running?"),
            (error.ConnectionDone(), "closed the connection"),
            (error.ConnectionLost(), "closed the connection"),
            (AbstError("something else"), "something else"),
        ):
            text = connect_problem(Failure(problem), address)
            self.assertIn("realm.example", text)
            self.assertIn(word, text)
            self.assertNotIn("\n", text)


class Watcher:
    """Whoever owns a link, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.contents: list[tuple[bytes, bytes]] = []
        self.refusals: list[Error] = []
        self.problems: list[AbstError] = []

    def link_up(self, link: Link) -> None:
        assert link.is_up
        self.told.append("up")

    def link_down(self, link: Link) -> None:
        assert not link.is_up
        self.told.append("down")

    def link_failed(self, link: Link, problem: AbstError) -> None:
        assert not link.is_up
        assert link.problem == str(problem)
        self.problems.append(problem)

    def content_received(self, link: Link, source_device: bytes, content: bytes) -> None:
        self.contents.append((source_device, content))

    def contents_over(self, link: Link) -> None:
        pass

    def content_refused(self, link: Link, error: Error) -> None:
        self.refusals.append(error)

    def circuit_offered(self, link: Link, circuit: Circuit) -> None:
        self.told.append("circuit offered")

    def circuit_ended(self, link: Link, error: Error) -> None:
        self.told.append("circuit ended")

    def group_told(self, link: Link, peer_group: bytes, packet: Packet) -> None:
        self.told.append("group told")


class RealTestCase(TestCase):
    """A realm on a port of this machine."""

    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.links: list[RealmLink] = []
        self.ports: list[IListeningPort] = []
        self.factories: list[RealmFactory] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        for link in self.links:
            await link.stop()
        for port in self.ports:
            await port.stopListening()  # type: ignore[misc]
        for factory in self.factories:
            await self.until(lambda factory=factory: not factory.realm.conversations)  # type: ignore[misc]

    async def until(self, holds: Callable[[], object]) -> None:
        """Let the reactor run until something is so; trial's timeout says when it never is."""
        while not holds():
            await deferLater(self.reactor, 0.005, lambda: None)

    async def listen(self, factory: Any, port: int = 0) -> int:
        listening = await TCP4ServerEndpoint(self.reactor, port, interface=HERE).listen(factory)
        self.ports.append(listening)
        return int(listening.getHost().port)

    async def serve(
        self, limits: Limits | None = None, *, port: int = 0, **options: Any
    ) -> RealmAddress:
        """Start a realm; return its address, with its pin."""
        self.factories.append(RealmFactory(self.reactor, REALM, limits, **options))
        return RealmAddress(HERE, await self.listen(self.factory, port), REALM.pin)

    @property
    def factory(self) -> RealmFactory:
        """The realm that was started last."""
        return self.factories[-1]

    async def connections(self, count: int) -> list[Conversation]:
        """Return the realm's connections as soon as there are that many."""
        await self.until(lambda: len(self.factory.realm.conversations) >= count)
        return list(self.factory.realm.conversations)

    async def stop_listening(self) -> None:
        for port in self.ports:
            await port.stopListening()  # type: ignore[misc]
        self.ports.clear()

    def drop_all(self) -> None:
        """Cut every connection of the realm, as if it had been killed."""
        for conversation in list(self.factory.realm.conversations):
            carrier: Any = conversation.carrier
            carrier.transport.abortConnection()

    def link(
        self, address: RealmAddress, identity: Identity = ALICE, fraction: float = 0.02
    ) -> tuple[RealmLink, Watcher]:
        watcher = Watcher()
        link = RealmLink(self.reactor, identity, address, watcher, lambda: fraction)
        self.links.append(link)
        link.start()
        return link, watcher

    async def linked(
        self, address: RealmAddress, identity: Identity = ALICE
    ) -> tuple[RealmLink, Watcher]:
        link, watcher = self.link(address, identity)
        await self.until(lambda: link.is_up)
        return link, watcher


class RealmLinkTests(RealTestCase):
    async def test_it_comes_up(self) -> None:
        address = await self.serve()
        link, watcher = self.link(address)
        self.assertEqual("not connected yet", link.problem)
        self.assertFalse(link.is_up)
        await self.until(lambda: link.is_up)
        self.assertEqual(["up"], watcher.told)
        self.assertIsNone(link.problem)
        self.assertEqual(MAX_PACKET_BYTES - HEADROOM_BYTES, link.max_content_bytes)
        self.assertEqual(f"realm {HERE}:{address.port}", str(link.path))
        assert link.observed_address is not None
        self.assertEqual(HERE, link.observed_address[0])

    async def test_contents_go_both_ways_in_order(self) -> None:
        address = await self.serve()
        (alice, heard_by_alice), (bob, heard_by_bob) = (
            await self.linked(address),
            await self.linked(address, BOB),
        )
        contents = [number.to_bytes(2, "big") * (number * 100) for number in range(60)]
        for content in contents:
            alice.send(BOB.device_id, content)
            bob.send(ALICE.device_id, content)
        alice.flush()
        bob.flush()
        await self.until(lambda: len(heard_by_bob.contents) == len(contents))
        await self.until(lambda: len(heard_by_alice.contents) == len(contents))
        self.assertEqual([(ALICE.device_id, item) for item in contents], heard_by_bob.contents)
        self.assertEqual([(BOB.device_id, item) for item in contents], heard_by_alice.contents)

    async def test_an_absent_target_is_told(self) -> None:
        alice, watcher = await self.linked(await self.serve())
        alice.send(BOB.device_id, b"anybody?")
        alice.flush()
        await self.until(lambda: watcher.refusals)
        (refusal,) = watcher.refusals
        self.assertEqual(("target_absent", 1), (refusal.code, refusal.dropped))
        self.assertEqual(bytes(BOB.device_id), refusal.target_device)
        self.assertTrue(alice.is_up)

    async def test_nothing_is_sent_while_it_is_down(self) -> None:
        address = await self.serve()
        link, _ = self.link(address)
        link.send(BOB.device_id, b"too early")
        await self.until(lambda: link.is_up)

    async def test_who_asks_again_while_it_is_being_lost_is_told_so_too(self) -> None:
        link, _ = await self.linked(await self.serve())
        packet = JoinGroup(bytes(OTHER.device_id), 0, bytes(64))
        answers: list[Any] = []

        def ask_again(failure: Failure) -> None:
            answers.append(failure.check(PeerUnreachableError))
            link.ask(packet).addBoth(
                lambda result: answers.append(result.check(PeerUnreachableError))
            )

        link.ask(packet).addCallbacks(answers.append, ask_again)
        self.drop_all()
        await self.until(lambda: answers)
        self.assertEqual([PeerUnreachableError, PeerUnreachableError], answers)

    async def test_another_pin_is_refused_and_named(self) -> None:
        address = await self.serve()
        wrong = RealmAddress(HERE, address.port, OTHER.pin)
        link, watcher = self.link(wrong)
        await self.until(lambda: "another key" in str(link.problem))
        self.assertEqual([], watcher.told)
        # It goes on trying: the owner may put the right key back.
        (first,) = await self.connections(1)
        await self.until(lambda: first not in self.factory.realm.conversations)
        await self.connections(1)
        self.assertFalse(link.is_up)

    async def test_where_nothing_listens_it_waits_for_somebody(self) -> None:
        address = await self.serve()
        await self.stop_listening()
        link, watcher = self.link(address)
        await self.until(lambda: "is the realm running?" in str(link.problem))
        await self.serve(port=address.port)
        await self.until(lambda: link.is_up)
        self.assertEqual(["up"], watcher.told)

    async def test_it_comes_back_when_the_realm_was_killed(self) -> None:
        address = await self.serve()
        link, watcher = await self.linked(address)
        self.drop_all()
        await self.until(lambda: watcher.told == ["up", "down", "up"])
        self.assertTrue(link.is_up)

    async def test_it_comes_back_when_the_realm_says_so(self) -> None:
        link, watcher = await self.linked(await self.serve())
        self.factory.realm.random_fraction = lambda: 0.0
        begun = self.reactor.seconds()
        self.factory.stop()
        await self.until(lambda: watcher.told == ["up", "down"])
        self.assertIn("stopping or starting", str(link.problem))
        await self.until(lambda: link.is_up)
        self.assertGreaterEqual(self.reactor.seconds() - begun, 0.5)

    async def test_a_full_realm_says_when_to_come_back(self) -> None:
        address = await self.serve(Limits(connections=1))
        await self.linked(address)
        link, watcher = self.link(address, BOB)
        await self.until(lambda: "no room" in str(link.problem))
        # The reason stands while it waits.
        await self.until(
            lambda: any(call.getTime() > self.reactor.seconds() + 25 for call in self.calls())
        )
        self.assertIn("no room", str(link.problem))
        self.assertEqual([], watcher.told)

    def calls(self) -> Any:
        return self.reactor.getDelayedCalls()

    async def test_a_newer_connection_of_the_same_device_is_told(self) -> None:
        address = await self.serve()
        older, watcher = await self.linked(address)
        await self.linked(address)
        await self.until(lambda: watcher.told == ["up", "down"])
        self.assertIn("a newer connection", str(older.problem))

    async def test_a_realm_that_falls_silent_is_left(self) -> None:
        limits = Limits(heartbeat_seconds=0.1, silence_seconds=5)
        link, watcher = await self.linked(await self.serve(limits))
        (conversation,) = self.factory.realm.conversations
        heard_at = conversation.heard_at
        await self.until(lambda: conversation.heard_at > heard_at)
        self.assertTrue(link.is_up)
        protocol: Any = conversation.carrier
        protocol.dataReceived = lambda data: None
        protocol.transport._received = protocol.dataReceived
        await self.until(lambda: "down" in watcher.told)
        self.assertIn("silent", str(link.problem))

    async def test_what_is_no_realm_is_told_as_such(self) -> None:
        class Web(Protocol):
            def dataReceived(self, data: bytes) -> None:
                assert self.transport is not None
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                self.transport.loseConnection()

        port = await self.listen(Factory.forProtocol(Web))
        link, watcher = self.link(RealmAddress(HERE, port, REALM.pin))
        await self.until(lambda: link.problem != "not connected yet")
        self.assertIn(f"{HERE}:{port} is no realm", str(link.problem))
        self.assertEqual([], watcher.told)

    async def test_it_stops_at_any_time(self) -> None:
        address = await self.serve()
        link, _ = self.link(address)
        await link.stop()
        self.assertFalse(link.is_up)
        up, watcher = await self.linked(address)
        await up.stop()
        await up.stop()
        self.assertEqual(["up", "down"], watcher.told)
        await self.until(lambda: not self.factory.realm.conversations)

    async def test_what_was_sent_last_goes_out_before_it_stops(self) -> None:
        address = await self.serve()
        alice, _ = await self.linked(address)
        _, watcher = await self.linked(address, BOB)
        alice.send(BOB.device_id, b"goodbye")
        await alice.stop()
        await self.until(lambda: watcher.contents)
        self.assertEqual([(ALICE.device_id, b"goodbye")], watcher.contents)


class CertificateTests(RealTestCase):
    """A realm with a certificate for its host name, and an address without a pin."""

    def certificate(self, *names: str) -> tuple[str, str, bytes]:
        """Return the files of a certificate for some names and of its key, and its pin."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        now = datetime.datetime.now(datetime.UTC)
        alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("192.0.2.1")))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        folder = Path(self.mktemp())
        folder.mkdir()
        chain, secret = folder / "fullchain.pem", folder / "privkey.pem"
        chain.write_bytes(certificate.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return str(chain), str(secret), pin_of_key(key_of(certificate))

    def trust(self, chain: str) -> None:
        """Let the system's authorities be this one."""
        before = os.environ.get("SSL_CERT_FILE")
        os.environ["SSL_CERT_FILE"] = chain

        def restore() -> None:
            del os.environ["SSL_CERT_FILE"]
            if before is not None:
                os.environ["SSL_CERT_FILE"] = before

        self.addCleanup(restore)

    async def serve_certificate(self, *names: str, trusted: bool) -> tuple[RealmAddress, bytes]:
        """Start a realm with a certificate; return its address without a pin, and its pin."""
        chain, key, pin = self.certificate(*names)
        if trusted:
            self.trust(chain)
        address = await self.serve(certificate_file=chain, key_file=key)
        return RealmAddress("localhost", address.port), pin

    async def test_the_right_name_from_a_known_authority_is_accepted(self) -> None:
        address, _ = await self.serve_certificate("localhost", trusted=True)
        link, watcher = await self.linked(address)
        self.assertIsNone(link.problem)
        self.assertEqual(["up"], watcher.told)

    async def test_another_host_name_is_refused(self) -> None:
        address, _ = await self.serve_certificate("realm.example", trusted=True)
        await self.assert_refused(address)

    async def test_an_unknown_authority_is_refused(self) -> None:
        address, _ = await self.serve_certificate("localhost", trusted=False)
        await self.assert_refused(address)

    async def test_a_realms_own_certificate_is_refused_without_a_pin(self) -> None:
        address = await self.serve()
        await self.assert_refused(RealmAddress("localhost", address.port))
        # Twisted says in the log how the certificate looks: it names no host at all.
        self.flushLoggedErrors()

    async def test_a_pin_goes_before_names_and_authorities(self) -> None:
        address, pin = await self.serve_certificate("realm.example", trusted=False)
        link, _ = await self.linked(RealmAddress(HERE, address.port, pin))
        self.assertIsNone(link.problem)

    async def assert_refused(self, address: RealmAddress) -> None:
        link, watcher = self.link(address)
        await self.until(lambda: "no certificate that is valid for localhost" in str(link.problem))
        self.assertIn("pin", str(link.problem))
        self.assertEqual([], watcher.told)


class TwoDevicesTests(RealTestCase):
    """The whole library over a real realm; ``test_connection`` has the rest, in memory."""

    async def test_packets_go_both_ways_and_survive_the_realm(self) -> None:
        address = await self.serve()
        devices = [
            Device(self.reactor, identity, NotesFactory(), realms=[address], name=name)
            for identity, name in ((ALICE, "alice"), (BOB, "bob"))
        ]
        alice, bob = devices
        alice.trust(bob.device_id)
        bob.trust(alice.device_id)
        for device in devices:
            device.random_fraction = lambda: 0.02
            device.startService()
        try:
            await self.until(lambda: all(device.links_up() for device in devices))
            ours = await alice.connect(bob.device_id)
            assert isinstance(ours, Notes)
            await self.until(lambda: bob.session_with(alice.device_id))
            theirs = bob.session_with(alice.device_id)
            assert isinstance(theirs, Notes)
            self.assertGreater(await ours.ping(), 0)
            waiting = [ours.sendPacket(5, [number, bytes(40_000)]) for number in range(20)]
            waiting += [theirs.sendPacket(6, number) for number in range(20)]
            self.drop_all()
            for acknowledged in waiting:
                await acknowledged
            self.assertEqual(list(range(20)), [number for number, _ in theirs.contents])
            self.assertEqual(list(range(20)), ours.contents)
        finally:
            for device in devices:
                await device.stopService()
        self.assertTrue(ours.ended is not None and theirs.ended is not None)

    async def test_pairing_is_answered_at_once(self) -> None:
        """What an event leads to may ask the realm for something, in the middle of the others."""
        address = await self.serve()
        alice, bob = (
            Device(self.reactor, identity, NotesFactory(), realms=[address], name=name)
            for identity, name in ((ALICE, "alice"), (BOB, "bob"))
        )
        for device in (alice, bob):
            device.startService()
        try:
            await self.until(lambda: alice.links_up() and bob.links_up())
            waits, types = Person(), Person()
            alice.open_pairing(waits)
            await self.until(lambda: waits.code)
            assert waits.code is not None
            begun = self.reactor.seconds()
            bob.pair_with(parse_target(waits.code), types)
            await self.until(lambda: waits.outcome and types.outcome)
            self.assertLess(self.reactor.seconds() - begun, 5)
            for person in (waits, types):
                self.assertIsInstance(person.outcome, Peer)
        finally:
            for device in (alice, bob):
                await device.stopService()
