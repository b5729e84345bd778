"""The realm as a service: its state, its addresses, and what keeps it from starting."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher, textFileLogObserver
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.address import RealmAddress
from abst.errors import AbstError, Code, ConfigurationError
from abst.identity import Identity
from abst.logs import Level, Log
from abst.packets import Hello
from abst.realm import access as access_module
from abst.realm.access import Mode
from abst.realm.config import Config
from abst.realm.limits import Limits
from abst.realm.operations import Reloaded
from abst.realm.service import RealmService
from abst.realm.state_folder import (
    ADDRESS_FILE,
    CONTROL_SOCKET,
    IDENTITY_FILE,
    INVITATION_FILE,
    STORE_FILE,
)
from abst.realm.store.interface import GroupRecord, InvitationRecord
from tests.certificates import write_certificate
from tests.realm.memory_realm import ALICE, BOB


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
            self.run_one()

    def run_one(self) -> None:
        """Make the next of these calls."""
        self._calls.get(timeout=20)()


class Lines:
    """A file that keeps what is written to it in a list."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append

    def flush(self) -> None:
        """Do nothing."""


class SlowEndpoint:
    """Listens when it is told to."""

    def __init__(self) -> None:
        self.listening: Deferred[Any] = Deferred()

    def listen(self, factory: object) -> Deferred[Any]:
        return self.listening


class ServiceTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.state = Path(self.mktemp())
        self.written: list[str] = []

    def service(
        self,
        *listen: str,
        environment: dict[str, str] | None = None,
        read_again: Callable[[], Config] | None = None,
        **options: Any,
    ) -> RealmService:
        """Return a service that listens in memory."""
        settings = {"access": Mode.OPEN, **options}
        config = Config(listen=listen or ("tcp:4000",), state=self.state, **settings)
        return RealmService(
            self.reactor,
            config,
            self.written.append,
            read_again=read_again,
            environment=environment or {},
        )

    def read(self, name: str) -> str:
        return (self.state / name).read_text("ascii")

    def wait_for(self, is_done: Callable[[], bool]) -> None:
        """Let the store answer what it is asked, until something is so."""
        while not is_done():
            self.reactor.advance(0)
            self.reactor.run_one()

    def stop(self, service: RealmService) -> None:
        stopped: list[object] = []
        service.stopService().addCallback(stopped.append)
        self.reactor.run_until(lambda: bool(stopped))
        self.assertEqual([None], stopped)


class RealmServiceTests(ServiceTestCase):
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
            f"abst-realm: state folder {self.state}: another realm is running there", error.code
        )
        self.stop(first)
        second.startService()
        self.stop(second)

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

    def test_a_disk_that_is_full_keeps_no_realm_from_starting(self) -> None:
        service = self.service()
        service.startService()
        self.stop(service)
        before = self.read(ADDRESS_FILE)

        def fail(*paths: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.patch(os, "replace", fail)
        self.written.clear()
        service = self.service(host="new.example.org")
        service.startService()
        self.assertIn("new.example.org", self.written[0])
        self.assertEqual(before, self.read(ADDRESS_FILE))
        self.stop(service)


class FirstInvitationTests(ServiceTestCase):
    """A realm for invited devices, which has none."""

    def begin(self, environment: dict[str, str] | None = None, **options: Any) -> RealmService:
        """Return a service that has said where it is."""
        self.written.clear()
        options = {"access": Mode.INVITED, **options}
        service = self.service("tcp:4000", environment=environment, **options)
        service.startService()
        self.wait_for(lambda: bool(self.written))
        return service

    def invitations(self, service: RealmService) -> list[InvitationRecord]:
        assert service.factory is not None
        return service.factory.realm.access.invitations()

    def test_the_link_is_printed_and_kept_for_the_owner_alone(self) -> None:
        service = self.begin(host="realm.example.org")
        link, meaning = self.written
        address = RealmAddress.parse(link)
        self.assertEqual(str(address), str(service.addresses[0]))
        (record,) = self.invitations(service)
        assert address.invitation is not None
        self.assertEqual(hashlib.sha256(address.invitation.encode()).digest(), record.digest)
        self.assertEqual((1, None), (record.uses_left, record.expires))
        self.assertIn("abst-realm invite", meaning)
        self.assertEqual(f"{link}\n", self.read(INVITATION_FILE))
        self.assertEqual(0o600, (self.state / INVITATION_FILE).stat().st_mode & 0o777)
        self.assertNotIn("invitation", self.read(ADDRESS_FILE))
        self.stop(service)

    def test_no_log_has_it(self) -> None:
        seen: list[str] = []
        observer = textFileLogObserver(cast(Any, Lines(seen)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        service = self.begin()
        token = RealmAddress.parse(self.written[0]).invitation
        self.stop(service)
        self.assertIn("listening as", "".join(seen))
        self.assertNotIn(str(token), "".join(seen))

    def test_each_start_makes_another_until_a_device_has_come(self) -> None:
        first = self.begin()
        before = self.written[0]
        self.stop(first)
        second = self.begin()
        self.assertNotEqual(before, self.written[0])
        self.assertEqual(1, len(self.invitations(second)))
        assert second.factory is not None
        token = RealmAddress.parse(self.written[0]).invitation
        self.assertIsNone(second.factory.realm.access.admit(ALICE, token))
        self.wait_for(lambda: not (self.state / INVITATION_FILE).exists())
        self.stop(second)
        third = self.begin()
        self.assertEqual([], self.invitations(third))
        self.assertEqual([str(third.addresses[0])], self.written[:1])
        self.assertIn("for invited devices", self.written[1])
        self.stop(third)

    def test_it_is_good_for_nobody_once_a_device_has_come_by_another_one(self) -> None:
        service = self.begin()
        assert service.factory is not None
        access = service.factory.realm.access
        kept: list[bool] = []
        other = access.invite(2, None, "", kept.append)
        self.wait_for(lambda: bool(kept))
        self.assertIsNone(access.admit(ALICE, other.text))
        self.wait_for(lambda: not (self.state / INVITATION_FILE).exists())
        self.assertEqual([other.record.name], [it.name for it in self.invitations(service)])
        self.stop(service)

    def test_one_that_cannot_be_written_down_is_good_for_nobody(self) -> None:
        (self.state / INVITATION_FILE).mkdir(parents=True)
        service = self.begin()
        self.assertEqual([], self.invitations(service))
        self.assertEqual(str(service.addresses[0]), self.written[0])
        self.stop(service)

    def test_a_realm_with_as_many_as_there_may_be_starts_without(self) -> None:
        service = self.begin()
        assert service.factory is not None
        kept: list[bool] = []
        service.factory.realm.access.invite(1, None, "", kept.append)
        self.wait_for(lambda: bool(kept))
        self.stop(service)
        self.patch(access_module, "MAX_INVITATIONS", 1)
        service = self.begin()
        self.assertEqual(str(service.addresses[0]), self.written[0])
        self.assertFalse((self.state / INVITATION_FILE).exists())
        self.stop(service)

    def test_one_that_a_reload_has_withdrawn_is_not_shown(self) -> None:
        config = Config(listen=("tcp:4000",), state=self.state, access=Mode.OPEN)
        service = self.service(access=Mode.INVITED, read_again=lambda: config)
        service.startService()
        self.assertEqual([], self.written)  # The disk has still to take it.
        self.successResultOf(ensureDeferred(service.reload()))
        self.wait_for(lambda: bool(self.written))
        self.assertEqual(str(service.addresses[0]), self.written[0])
        self.assertFalse((self.state / INVITATION_FILE).exists())
        self.stop(service)

    def test_a_journal_is_told_where_it_stands(self) -> None:
        found = os.fstat(1)
        service = self.begin({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        self.assertEqual(str(service.addresses[0]), self.written[0])
        self.assertNotIn("invitation=", "".join(self.written))
        self.assertIn(str(self.state / INVITATION_FILE), self.written[1])
        self.assertIn("invitation=", self.read(INVITATION_FILE))
        self.stop(service)

    def test_a_realm_for_others_makes_none_and_forgets_the_one_before(self) -> None:
        self.stop(self.begin())
        for mode, words in ((Mode.OPEN, "every device"), (Mode.LISTED, "abst-realm allow")):
            service = self.begin(access=mode)
            self.assertEqual([], self.invitations(service))
            self.assertFalse((self.state / INVITATION_FILE).exists())
            self.assertIn(words, self.written[-1])
            self.stop(service)


class CommandsTests(ServiceTestCase):
    def test_they_come_over_a_socket_for_the_owner_alone(self) -> None:
        service = self.service()
        (self.state).mkdir()
        (self.state / CONTROL_SOCKET).touch()  # What a realm has left that was killed.
        service.startService()
        ((path, factory, _, mode, _),) = self.reactor.unixServers
        self.assertEqual((str(self.state / CONTROL_SOCKET), 0o600), (path, mode))
        self.assertFalse((self.state / CONTROL_SOCKET).exists())
        here, there = socket.socketpair(socket.AF_UNIX)
        self.addCleanup(here.close)
        self.addCleanup(there.close)
        transport: Any = StringTransport()
        transport.socket = here
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(transport)
        protocol.dataReceived(b'{"command": "stats"}\n')
        self.assertEqual("open", json.loads(transport.value())["result"]["access"])
        self.stop(service)

    def test_a_folder_too_deep_for_a_socket_keeps_no_device_away(self) -> None:
        self.state = self.state / ("x" * 100)
        service = self.service()
        service.startService()
        self.assertEqual(1, len(service.addresses))
        self.assertEqual([], self.reactor.unixServers)
        self.stop(service)


class ReloadTests(ServiceTestCase):
    """The configuration, read anew: all of it counts, or nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.config = Config(listen=("tcp:4000",), state=self.state, access=Mode.OPEN)
        self.problem: Exception | None = None
        self.running = self.service(read_again=self.read_again)
        self.running.startService()
        assert self.running.factory is not None
        self.factory = self.running.factory
        self.addCleanup(self.stop, self.running)

    def read_again(self) -> Config:
        if self.problem is not None:
            raise self.problem
        return self.config

    def change(self, **settings: Any) -> None:
        self.config = dataclasses.replace(self.config, **settings)

    def reload(self) -> Reloaded:
        found: Reloaded = self.successResultOf(ensureDeferred(self.running.reload()))
        return found

    def refused(self) -> str:
        """Return why a reload is refused; assert that everything is as it was."""
        before = self.shape()
        failure = self.failureResultOf(ensureDeferred(self.running.reload()), AbstError)
        self.assertEqual(before, self.shape())
        self.assertIn("nothing has changed: ", str(failure.value))
        return str(failure.value)

    def shape(self) -> tuple[object, ...]:
        """Return what a reload can change."""
        realm = self.factory.realm
        addresses = list(self.running.addresses), self.read(ADDRESS_FILE)
        return self.factory.context, realm.limits, realm.access.mode, addresses

    def test_nothing_new_changes_nothing(self) -> None:
        self.assertEqual(Reloaded([], []), self.reload())

    def test_what_can_change_at_once_does(self) -> None:
        log = Log(lambda entry: True, Level.INFO)
        self.running.log_output = log
        self.change(
            limits=Limits(connections=7),
            host="new.example.org",
            log_level=Level.DEBUG,
            trusted_proxies=("192.0.2.1",),
        )
        changed, restart = self.reload()
        self.assertEqual({"limits.connections", "host", "log_level", "trusted_proxies"}, {*changed})
        self.assertEqual([], restart)
        self.assertEqual(7, self.factory.realm.limits.connections)
        self.assertEqual("new.example.org", self.running.addresses[0].host)
        self.assertIn("new.example.org", self.read(ADDRESS_FILE))
        self.assertEqual(Level.DEBUG, log.level)
        self.assertEqual({bytes([192, 0, 2, 1])}, self.factory.trusted_proxies)
        self.assertEqual(Reloaded([], []), self.reload())

    def test_what_needs_a_restart_is_said_each_time(self) -> None:
        self.change(listen=("tcp:4001",), state=Path("/elsewhere"))
        for _ in range(2):
            self.assertEqual(Reloaded([], ["listen", "state"]), self.reload())
        self.assertEqual(1, len(self.reactor.tcpServers))

    def test_a_certificate_is_read_anew_also_under_the_same_name(self) -> None:
        links = self.folder / "fullchain.pem", self.folder / "privkey.pem"
        for number in range(2):
            files = self.folder / str(number)
            files.mkdir()
            chain, key = write_certificate(files, ec.generate_private_key(ec.SECP256R1()))
            for link, path in zip(links, (chain, key), strict=True):
                link.unlink(missing_ok=True)
                link.symlink_to(path)
            context = self.factory.context
            self.change(certificate=links[0], key=links[1])
            self.assertIn("certificate", self.reload().changed)
            self.assertIsNot(context, self.factory.context)
        self.assertIsNone(self.running.addresses[0].pin)
        self.assertEqual(Reloaded([], []), self.reload())

    def test_a_file_that_is_wrong_changes_nothing(self) -> None:
        self.problem = ConfigurationError("realm.toml", "limits.connections", "needs a number")
        self.assertIn("realm.toml: limits.connections: needs a number", self.refused())

    def test_the_log_says_so_too(self) -> None:
        seen: list[str] = []
        observer = textFileLogObserver(cast(Any, Lines(seen)))
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.problem = ConfigurationError("realm.toml", "limits.connections", "needs a number")
        self.refused()
        self.assertIn("nothing has changed: realm.toml: limits.connections: ", "".join(seen))
        self.problem = None
        self.change(host="new.example.org", listen=("tcp:4001",))
        self.reload()
        self.assertIn("changed: host; at the next start: listen", "".join(seen))

    def test_a_certificate_that_is_wrong_changes_nothing_else_either(self) -> None:
        chain, key = write_certificate(self.folder, ec.generate_private_key(ec.SECP256R1()))
        other = self.folder / "other"
        other.mkdir()
        _, stranger = write_certificate(other, ec.generate_private_key(ec.SECP256R1()))
        self.change(host="new.example.org", limits=Limits(connections=7), access=Mode.LISTED)
        for certificate, key_file in ((chain, stranger), (chain, other / "no"), (key, key)):
            self.change(certificate=certificate, key=key_file)
            self.refused()

    def test_a_disk_that_takes_nothing_changes_nothing(self) -> None:
        self.change(host="new.example.org", limits=Limits(connections=7))
        (self.state / ADDRESS_FILE).unlink()
        (self.state / ADDRESS_FILE).mkdir()
        failure = self.failureResultOf(ensureDeferred(self.running.reload()), AbstError)
        self.assertIn("nothing has changed", str(failure.value))
        self.assertNotEqual(7, self.factory.realm.limits.connections)

    def test_a_disk_that_is_full_leaves_the_addresses_that_stand_there(self) -> None:
        def fail(*paths: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        self.change(host="new.example.org")
        self.patch(os, "replace", fail)
        self.assertIn("No space left", self.refused())
        self.assertEqual([ADDRESS_FILE], [name for name in os.listdir(self.state) if "add" in name])

    def test_as_many_invitations_as_there_may_be_change_nothing_about_it(self) -> None:
        self.patch(access_module, "MAX_INVITATIONS", 0)
        self.change(access=Mode.INVITED)
        self.assertEqual(["access"], self.reload().changed)

    def test_a_realm_that_stops_reads_nothing_and_a_signal_does_not_end_it(self) -> None:
        stopped: list[object] = []
        assert self.running.factory is not None
        leg = object()
        self.factory.legs.add(leg)  # A connection that takes its time to end.
        self.running.stopService().addCallback(stopped.append)
        self.change(access=Mode.LISTED)
        self.assertIn("stopping", self.refused())
        os.kill(os.getpid(), signal.SIGHUP)
        self.reactor.run_one()
        self.factory.legs.remove(leg)
        self.reactor.advance(1)
        self.reactor.run_until(lambda: bool(stopped))
        self.assertIs(signal.SIG_DFL, signal.getsignal(signal.SIGHUP))

    def test_devices_that_may_not_be_here_any_more_go_and_others_stay(self) -> None:
        access = self.factory.realm.access
        self.factory.realm.access.allow(ALICE, "", lambda kept: None)
        conversations = []
        for device in (ALICE, BOB):
            conversation = self.factory.realm.open(None, 0.0)
            conversation.identify(device)
            conversation.receive_data(codec.encode(Hello(device)), 0.0)
            conversations.append(conversation)
        self.change(access=Mode.LISTED)
        self.assertEqual(["access"], self.reload().changed)
        self.assertIs(Mode.LISTED, access.mode)
        self.assertEqual([None, Code.NOT_LISTED], [it.closed_for for it in conversations])
        for conversation in conversations:
            conversation.connection_lost()

    def test_a_signal_does_it_too_and_its_meaning_comes_back(self) -> None:
        self.change(host="new.example.org")
        os.kill(os.getpid(), signal.SIGHUP)
        self.reactor.run_until(lambda: self.running.addresses[0].host == "new.example.org")
        self.problem = ConfigurationError("realm.toml", None, "not TOML")
        os.kill(os.getpid(), signal.SIGHUP)
        self.stop(self.running)
        self.assertIs(signal.SIG_DFL, signal.getsignal(signal.SIGHUP))

    def test_systemd_hears_when_it_begins_and_when_it_is_over(self) -> None:
        self.stop(self.running)
        folder = Path(tempfile.mkdtemp(prefix="abst-test-"))
        self.addCleanup(shutil.rmtree, folder)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(folder / "notify"))
            environment = {"NOTIFY_SOCKET": str(folder / "notify")}
            self.running = self.service(environment=environment, read_again=self.read_again)
            self.running.startService()
            self.problem = ConfigurationError("realm.toml", None, "not TOML")
            self.failureResultOf(ensureDeferred(self.running.reload()), AbstError)
            told = [systemd.recv(4096).split(b"\n")[0] for _ in range(3)]
            self.stop(self.running)
        self.assertEqual([b"READY=1", b"RELOADING=1", b"READY=1"], told)

    def test_without_a_file_there_is_nothing_to_read(self) -> None:
        self.stop(self.running)
        service = self.service()
        service.startService()
        self.assertIs(signal.SIG_DFL, signal.getsignal(signal.SIGHUP))
        failure = self.failureResultOf(ensureDeferred(service.reload()), AbstError)
        self.assertIn("without a configuration file: start it with", str(failure.value))
        self.stop(service)
