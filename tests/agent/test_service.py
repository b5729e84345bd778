"""The agent as a service: home, lock, socket, device; and its commands as they come in."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import deferLater
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from abst.agent.home import Home, Settings
from abst.agent.service import AgentService
from abst.control import MAX_SOCKET_PATH_BYTES
from abst.identity import Identity

QUIETLY: Final = {"ABST_LAN": "off"}
"""The environment: nothing is announced to the network that this machine is on."""


class Asking(LineOnlyReceiver):
    """A client: everything that the agent has said is in ``said``."""

    delimiter = b"\n"
    MAX_LENGTH = 2**24

    def connectionMade(self) -> None:
        self.said: list[Any] = []
        self.gone: Deferred[None] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        self.said.append(json.loads(line))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone.callback(None)


class ServiceTestCase(TestCase):
    timeout = 20

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        # A socket's path has at most 107 bytes, so this is not in trial's folder.
        self.folder = Path(tempfile.mkdtemp(prefix="abst-test-"))
        self.services: list[AgentService] = []

    async def tearDown(self) -> None:  # type: ignore[override]
        for service in self.services:
            await service.stopService()
        shutil.rmtree(self.folder)

    def home(self, name: str = "a") -> Home:
        home = Home(self.folder / name)
        if not home.path.exists():
            home.create(name)
        return home

    def start(self, home: Home) -> AgentService:
        service = AgentService(self.reactor, home, QUIETLY)
        service.startService()
        self.services.append(service)
        return service

    def assert_does_not_start(self, home: Home, *words: str, reactor: Any = None) -> None:
        service = AgentService(reactor or self.reactor, home, QUIETLY)
        error = self.assertRaises(SystemExit, service.startService)
        self.assertTrue(str(error).startswith("abst-device: "), str(error))
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))

    async def open(self, home: Home, **request: Any) -> Asking:
        endpoint = UNIXClientEndpoint(self.reactor, str(home.socket))
        asking = await endpoint.connect(Factory.forProtocol(Asking))
        assert isinstance(asking, Asking)
        assert asking.transport is not None
        asking.transport.write(json.dumps(request).encode() + b"\n")
        return asking

    async def ask(self, home: Home, **request: Any) -> dict[str, Any]:
        """Return the agent's last word on a request."""
        asking = await self.open(home, **request)
        await asking.gone
        last: dict[str, Any] = asking.said[-1]
        return last

    async def until(self, holds: Callable[[], object]) -> None:
        while not holds():
            await deferLater(self.reactor, 0.005, lambda: None)


class LanTests(ServiceTestCase):
    """How the local network is used, as the owner says while the agent runs."""

    async def test_it_is_off_and_on_and_on_another_port(self) -> None:
        home = self.home()
        self.start(home)
        self.assertEqual("off", (await self.ask(home, command="lan"))["result"]["setting"])
        said = await self.ask(home, command="lan", setting="127.0.0.1")
        (address,) = said["result"]["addresses"]
        self.assertTrue(address.startswith("127.0.0.1:"))
        again = await self.ask(home, command="lan", setting=address)
        self.assertEqual([address], again["result"]["addresses"])
        _, settings = home.open()
        self.assertEqual(address, str(settings.lan))

    async def test_an_address_that_is_not_this_machines_changes_nothing(self) -> None:
        home = self.home()
        self.start(home)
        said = await self.ask(home, command="lan", setting="192.0.2.77")
        self.assertIn("stays as it was", said["error"])
        self.assertEqual("off", (await self.ask(home, command="lan"))["result"]["setting"])


class StartTests(ServiceTestCase):
    """What may be in the way."""

    async def test_the_socket_is_for_the_owner_alone(self) -> None:
        home = self.home()
        self.start(home)
        mode = home.socket.stat().st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(0o600, stat.S_IMODE(mode))
        answer = await self.ask(home, command="status")
        self.assertEqual(str(home), answer["result"]["home"])

    async def test_a_second_agent_is_refused_and_the_first_goes_on(self) -> None:
        home = self.home()
        self.start(home)
        self.assert_does_not_start(home, "another agent is running")
        self.assertIn("result", await self.ask(home, command="status"))

    async def test_a_socket_that_a_killed_agent_has_left_is_replaced(self) -> None:
        home = self.home()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(home.socket))
        (home.path / "agent.lock").write_bytes(b"")
        self.start(home)
        self.assertIn("result", await self.ask(home, command="status"))

    async def test_stopping_gives_everything_back(self) -> None:
        home = self.home()
        for _ in range(3):
            service = self.start(home)
            await service.stopService()
            self.services.clear()
            self.assertFalse(home.socket.exists())
        os.close(home.lock())

    async def test_stopping_waits_for_a_thread_and_for_what_follows_from_it(self) -> None:
        service = self.start(self.home())
        stored, told = threading.Event(), []
        waiting = service._threads(stored.wait, 20)

        def finished(in_time: bool) -> None:
            assert service.device is not None and service._database is not None
            service._database.read("SELECT 1")
            told.append((in_time, bool(service.device.running)))

        waiting.addCallback(finished)
        stopped = service.stopService()
        await deferLater(self.reactor, 0, lambda: None)
        self.assertFalse(stopped.called)
        stored.set()
        await stopped
        self.assertEqual([(True, True)], told)
        self.services.clear()

    def test_no_home(self) -> None:
        self.assert_does_not_start(Home(self.folder / "none"), "abst init")

    def test_a_path_that_is_too_long_for_a_socket(self) -> None:
        home = self.home("x" * MAX_SOCKET_PATH_BYTES)
        self.assert_does_not_start(home, "shorter path")

    def test_a_home_that_others_can_read(self) -> None:
        home = self.home()
        home.path.chmod(0o755)
        self.assert_does_not_start(home, "chmod 700")

    def test_settings_that_cannot_be_read_stay_as_they_are(self) -> None:
        home = self.home()
        home.settings_file.write_bytes(b"{")
        self.assert_does_not_start(home, "settings.json")
        self.assertEqual(b"{", home.settings_file.read_bytes())

    def test_something_in_the_place_of_the_socket(self) -> None:
        home = self.home()
        home.socket.mkdir()
        self.assert_does_not_start(home, "agent.sock")
        # Nothing is held by an agent that has not started.
        os.close(home.lock())

    def test_a_socket_that_cannot_be_made(self) -> None:
        home = self.home()

        class Reactor:
            """The real one, on a disk that takes no sockets."""

            def __init__(self, real: Any) -> None:
                self._real = real

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

            def listenUNIX(self, *arguments: Any, **options: Any) -> None:  # noqa: N802
                raise CannotListenError("unix", str(home.socket), OSError(1, "not permitted"))

        self.assert_does_not_start(home, "agent.sock", reactor=Reactor(self.reactor))
        os.close(home.lock())

    def test_a_database_that_is_damaged_is_left_alone(self) -> None:
        home = self.home()
        home.database.write_bytes(b"this is no database" * 1000)
        self.assert_does_not_start(home, home.database.name)
        self.assertEqual(b"this is no database" * 1000, home.database.read_bytes())
        os.close(home.lock())


class CommandTests(ServiceTestCase):
    """Requests through the socket."""

    def setUp(self) -> None:
        super().setUp()
        self.one = self.home()
        self.service = self.start(self.one)
        self.peer = Identity.generate().device_id

    async def result(self, **request: Any) -> Any:
        answer = await self.ask(self.one, **request)
        self.assertIn("result", answer)
        return answer["result"]

    async def error(self, **request: Any) -> str:
        answer = await self.ask(self.one, **request)
        text = answer["error"]
        self.assertNotIn("\n", text)
        return str(text)

    async def test_trust_forget_and_the_list_of_peers(self) -> None:
        named = await self.result(command="trust", device_id=str(self.peer), name="bob")
        self.assertEqual({"peer": "bob", "device_id": str(self.peer), "name": "bob"}, named)
        (peer,) = (await self.result(command="peers"))["peers"]
        self.assertEqual(("bob", None, False), (peer["peer"], peer["path"], peer["in_session"]))
        self.assertEqual(1, len(self.one.open()[1].peers))
        await self.result(command="forget", peer="bob")
        self.assertEqual({"peers": []}, await self.result(command="peers"))
        self.assertEqual((), self.one.open()[1].peers)

    async def test_where_a_peer_listens(self) -> None:
        await self.result(command="trust", device_id=str(self.peer), name="bob")
        for address in ("192.0.2.7:4000", " [2001:DB8::1]:4000 "):
            await self.result(command="add_address", peer="bob", address=address)
        found = ["192.0.2.7:4000", "[2001:db8::1]:4000"]
        (peer,) = (await self.result(command="peers"))["peers"]
        self.assertEqual((found, []), (peer["addresses"], peer["told_addresses"]))
        (kept,) = self.one.open()[1].peers
        self.assertEqual(tuple(found), kept.addresses)
        named = await self.result(command="remove_address", peer="bob", address=found[0])
        self.assertEqual(("bob", found[1:]), (named["peer"], named["addresses"]))
        (kept,) = self.one.open()[1].peers
        self.assertEqual(tuple(found[1:]), kept.addresses)
        for request, words in (
            ({"command": "add_address", "peer": "bob", "address": "192.0.2.7"}, "HOST:PORT"),
            ({"command": "add_address", "peer": "bob"}, "'address'"),
            ({"command": "add_address", "peer": "eve", "address": "a:1"}, "no peer"),
            ({"command": "remove_address", "peer": "bob", "address": "a:1"}, "abst peers"),
        ):
            self.assertIn(words, await self.error(**request))

    async def test_what_cannot_be_trusted(self) -> None:
        own = self.service.device.device_id if self.service.device else ""
        self.assertIn("own ID", await self.error(command="trust", device_id=str(own)))
        self.assertIn("no device ID", await self.error(command="trust", device_id="nonsense"))
        self.assertIn(
            "printable", await self.error(command="trust", device_id=str(self.peer), name="\x1b")
        )
        self.assertIn("'device_id'", await self.error(command="trust"))
        await self.result(command="trust", device_id=str(self.peer), name="bob")
        other = Identity.generate().device_id
        self.assertIn(
            "already", await self.error(command="trust", device_id=str(other), name="bob")
        )

    async def test_realms_are_remembered_in_their_order(self) -> None:
        addresses = ["abst://127.0.0.1:1/", "abst://127.0.0.1:2/"]
        for address in addresses:
            await self.result(command="realm_add", realm=address)
        found = (await self.result(command="realm_list"))["realms"]
        self.assertEqual(addresses, [realm["realm"] for realm in found])
        self.assertEqual(addresses, [str(a) for a in self.one.open()[1].realms])
        self.assertIn("2 realms", await self.error(command="realm_remove", realm="127.0.0.1"))
        await self.result(command="realm_remove", realm="127.0.0.1:1")
        self.assertEqual(addresses[1:], [str(a) for a in self.one.open()[1].realms])
        self.assertIn("no realms", await self.error(command="realm_remove", realm="elsewhere"))
        self.assertIn("abst://", await self.error(command="realm_add", realm="http://x"))

    async def test_groups_and_what_happens_to_offers_are_remembered(self) -> None:
        await self.result(command="group_policy", policy="ask")
        arguments = {"name": "home", "kind": "network", "without_realm": True}
        made = await self.result(command="group_create", **arguments)
        await self.service.stopService()
        self.services.remove(self.service)
        self.start(self.one)
        self.assertEqual({"policy": "ask"}, await self.result(command="group_policy"))
        self.assertEqual([made], (await self.result(command="group_list"))["groups"])

    async def test_settings_that_cannot_be_saved_are_told(self) -> None:
        self.one.settings_file.unlink()
        self.one.settings_file.mkdir()
        self.assertIn(
            "settings.json", await self.error(command="realm_add", realm="abst://127.0.0.1:1/")
        )

    async def test_nobody_is_known_by_that_name(self) -> None:
        for command in ("forget", "ping", "message", "send"):
            self.assertIn("no peer", await self.error(command=command, peer="bob", text="x"))

    async def test_a_message_that_is_too_long(self) -> None:
        await self.result(command="trust", device_id=str(self.peer), name="bob")
        self.assertIn("at most", await self.error(command="message", peer="bob", text="x" * 10_001))

    async def test_listening_ends_with_the_listener(self) -> None:
        listeners = self.service._listeners
        one, two = [await self.open(self.one, command="listen") for _ in range(2)]
        await self.until(lambda: one.said and two.said)
        self.assertEqual(2, len(listeners))
        self.service._notify({"kind": "message", "text": "x"})
        await self.until(lambda: len(one.said) == 2 and len(two.said) == 2)
        self.assertEqual({"event": {"kind": "message", "text": "x"}}, one.said[1])
        assert one.transport is not None and two.transport is not None
        one.transport.loseConnection()
        await self.until(lambda: len(listeners) == 1)
        self.service._notify({"kind": "message", "text": "y"})
        await self.until(lambda: len(two.said) == 3)
        two.transport.loseConnection()
        await self.until(lambda: not listeners)

    async def test_many_clients_at_once(self) -> None:
        clients = [await self.open(self.one, command="status") for _ in range(30)]
        for client in clients:
            await client.gone
            self.assertIn("result", client.said[-1])

    async def test_down_asks_the_reactor_to_stop_once(self) -> None:
        stops = []
        commands = self.commands()
        commands._stop = lambda: stops.append(True)
        for _ in range(3):
            self.assertEqual({"stopping": True}, await commands.down({}, lambda event: None))
        await self.until(lambda: stops)
        await deferLater(self.reactor, 0.1, lambda: None)
        self.assertEqual([True], stops)

    def commands(self) -> Any:
        port: Any = self.service._port
        return port.factory.commands["down"].__self__


class TwoAgentsTests(ServiceTestCase):
    """Peers that are not there."""

    async def test_a_message_waits_for_its_peer(self) -> None:
        home = self.home()
        home.save_settings(Settings("a"))
        self.start(home)
        peer = Identity.generate().device_id
        await self.ask(home, command="trust", device_id=str(peer), name="bob")
        answer = await self.ask(home, command="message", peer="bob", text="are you there?")
        self.assertTrue(answer["result"]["waiting"])
        self.assertIn("no realm", answer["result"]["reason"])
        answer = await self.ask(home, command="outbox")
        self.assertEqual(["are you there?"], [item["text"] for item in answer["result"]["items"]])
        await self.services.pop().stopService()
        self.start(home)
        answer = await self.ask(home, command="outbox")
        (item,) = answer["result"]["items"]
        cancelled = await self.ask(home, command="outbox_cancel", peer="bob", number=item["number"])
        # What an earlier process had, it may have sent.
        with contextlib.suppress(KeyError):
            self.assertIn("on its way", cancelled["error"])
