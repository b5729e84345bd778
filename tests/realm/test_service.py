"""The realm as a service: its state, its addresses, and what keeps it from starting."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.identity import Identity
from abst.realm.access import Mode
from abst.realm.config import Config
from abst.realm.service import RealmService, reachable_host
from abst.realm.state_folder import IDENTITY_FILE, STORE_FILE
from abst.realm.store.interface import GroupRecord


class Reactor(MemoryReactorClock):
    """Opens nothing, and notes that it was stopped."""

    stopped = False

    def __init__(self) -> None:
        super().__init__()
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def stop(self) -> None:
        self.stopped = True

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        self._calls.put(lambda: function(*arguments))

    def run_until(self, is_done: Callable[[], bool]) -> None:
        """Make the calls that other threads ask for, until something is so."""
        while not is_done():
            self._calls.get(timeout=20)()


class SlowEndpoint:
    """Listens when it is told to."""

    def __init__(self) -> None:
        self.listening: Deferred[Any] = Deferred()

    def listen(self, factory: object) -> Deferred[Any]:
        return self.listening


class RealmServiceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.state = Path(self.mktemp())
        self.written: list[str] = []

    def service(self, *listen: str, **options: Any) -> RealmService:
        """Return a service that listens in memory."""
        settings = {"access": Mode.OPEN, **options}
        config = Config(listen=listen or ("tcp:4000",), state=self.state, **settings)
        return RealmService(self.reactor, config, self.written.append, environment={})

    def test_it_prints_and_keeps_its_addresses(self) -> None:
        service = self.service("tcp:4000", "tcp:4001", host="realm.example.org")
        service.startService()
        pin = Identity.load(self.state / IDENTITY_FILE).pin
        self.assertEqual(2, len(self.reactor.tcpServers))
        *lines, meaning = self.written
        self.assertIn("every device that knows this address", meaning)
        found = [RealmAddress.parse(line) for line in lines]
        self.assertEqual(["realm.example.org"] * 2, [address.host for address in found])
        self.assertEqual([pin] * 2, [address.pin for address in found])
        self.assertEqual("".join(line + "\n" for line in lines), self.read("address"))

    def read(self, name: str) -> str:
        return (self.state / name).read_text("ascii")

    def test_a_port_that_opens_later_is_printed_then(self) -> None:
        endpoint = SlowEndpoint()
        config = Config(listen=("slow",), state=self.state, access=Mode.OPEN)
        service = RealmService(
            self.reactor, config, self.written.append, lambda reactor, text: endpoint
        )
        service.startService()
        self.assertEqual([], self.written)
        port = self.reactor.listenTCP(4000, service.factory)
        endpoint.listening.callback(port)
        self.assertEqual("abst://", self.written[0][:7])
        self.assertFalse(self.reactor.stopped)

    def test_a_port_that_fails_later_stops_the_realm_with_a_line(self) -> None:
        endpoint = SlowEndpoint()
        config = Config(listen=("slow",), state=self.state, access=Mode.OPEN)
        service = RealmService(
            self.reactor, config, self.written.append, lambda reactor, text: endpoint
        )
        service.startService()
        endpoint.listening.errback(CannotListenError("h", 1, OSError("in use")))
        self.assertTrue(self.reactor.stopped)
        (line,) = self.written
        self.assertTrue(line.startswith("abst-realm: --listen: slow: Couldn't listen"), line)

    def test_a_port_that_fails_at_once_ends_the_start(self) -> None:
        def endpoint_of(reactor: object, text: str) -> Any:
            raise ValueError("no such thing")

        config = Config(listen=("nonsense",), state=self.state)
        service = RealmService(self.reactor, config, self.written.append, endpoint_of)
        error = self.assertRaises(SystemExit, service.startService)
        self.assertEqual("abst-realm: --listen: nonsense: no such thing", error.code)
        self.assertFalse(self.reactor.stopped)

    def test_it_stops_in_order_with_and_without_devices(self) -> None:
        service = self.service()
        service.startService()
        self.stop(service)
        never_started = self.service()
        self.assertIsNone(self.successResultOf(never_started.stopService()))

    def test_it_waits_for_devices_to_read_the_goodbye_and_not_for_ever(self) -> None:
        service = self.service()
        service.startService()
        assert service.factory is not None
        service.factory.realm.open(None, 0.0)  # One that never ends.
        stopped: list[object] = []
        service.stopService().addCallback(stopped.append)
        for _ in range(100):
            self.reactor.advance(0.05)
        self.reactor.run_until(lambda: bool(stopped))
        self.assertEqual([None], stopped)

    def test_two_realms_do_not_share_a_state_folder(self) -> None:
        first, second = self.service("tcp:4000"), self.service("tcp:4001")
        first.startService()
        error = self.assertRaises(SystemExit, second.startService)
        self.assertEqual(
            f"abst-realm: --state: {self.state}: another realm is running there", error.code
        )
        self.stop(first)
        second.startService()
        self.stop(second)

    def stop(self, service: RealmService) -> None:
        stopped: list[object] = []
        service.stopService().addCallback(stopped.append)
        self.reactor.run_until(lambda: bool(stopped))
        self.assertEqual([None], stopped)

    def test_what_is_asked_of_the_store_at_the_end_is_kept(self) -> None:
        service = self.service()
        service.startService()
        assert service.factory is not None
        kept: list[bool] = []
        record = GroupRecord(b"g" * 16, 3, b"k" * 32, b"m" * 16)
        service.factory.realm.store.put_group(record, kept.append)
        self.stop(service)
        self.assertEqual([True], kept)
        self.assertEqual(0o600, (self.state / STORE_FILE).stat().st_mode & 0o777)
        service = self.service()
        service.startService()
        assert service.factory is not None
        self.assertEqual([record], list(service.factory.realm.store.groups()))
        self.stop(service)

    def test_a_store_that_is_none_ends_the_start_and_is_left_alone(self) -> None:
        self.state.mkdir()
        (self.state / STORE_FILE).write_bytes(b"somebody's notes, and no database at all" * 30)
        error = self.assertRaises(SystemExit, self.service().startService)
        self.assertIn(f"abst-realm: {self.state / STORE_FILE}: not a usable", str(error.code))
        self.assertNotIn("\n", str(error.code))
        self.assertIn("notes", self.read(STORE_FILE))


class ReachableHostTests(SynchronousTestCase):
    def test_a_port_of_one_address_is_reached_there(self) -> None:
        for bound in ("127.0.0.1", "192.0.2.9", "::1", "2001:db8::9"):
            self.assertEqual(bound, reachable_host(bound))

    def test_a_port_of_all_addresses_is_reached_at_one(self) -> None:
        for bound in ("", "0.0.0.0", "::"):
            found = reachable_host(bound)
            self.assertNotIn(found, ("", "0.0.0.0", "::"))
            socket.inet_aton(found)
