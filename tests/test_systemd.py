"""What systemd is told, over real sockets; and a realm that tells it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from abst.agent.home import Home
from abst.agent.service import AgentService
from abst.systemd import (
    MAX_STATUS_CHARACTERS,
    STATUS_SECONDS,
    SystemdNotifier,
    message,
    notify_socket,
    watchdog_seconds,
)
from tests.integration.raw_client import identities, join
from tests.integration.realm_process import LOOPBACK, TWISTD, RealmProcess

PATIENCE_SECONDS = 20.0

OPEN_PORT = """
import os, socket, sys
port = socket.create_server(("127.0.0.1", 0))
os.dup2(port.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="abst", LISTEN_PID=str(os.getpid()))
print(port.getsockname()[1], flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Opens a port as systemd does for a service, and becomes the service."""


class EnvironmentTests(SynchronousTestCase):
    def test_messages_go_where_systemd_wants_them(self) -> None:
        for name, expected in (
            ("/run/systemd/notify", "/run/systemd/notify"),
            ("@abstract", "\0abstract"),
            ("@", None),
            ("", None),
            ("run/notify", None),
            ("vsock:2:1", None),
        ):
            self.assertEqual(expected, notify_socket({"NOTIFY_SOCKET": name}), name)
        self.assertIsNone(notify_socket({}))

    def test_the_watchdog_is_for_one_process(self) -> None:
        self.assertEqual(30.0, watchdog_seconds({"WATCHDOG_USEC": "30000000"}, 7))
        asked = {"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}
        self.assertEqual(0.5, watchdog_seconds(asked, 7))
        self.assertIsNone(watchdog_seconds(asked, 8))

    def test_what_is_no_time_is_no_watchdog(self) -> None:
        for text in ("", "0", "-5", "soon", "1e6", "9" * 400, "٣"):
            self.assertIsNone(watchdog_seconds({"WATCHDOG_USEC": text}, 7), text)
        self.assertIsNone(watchdog_seconds({}, 7))


class MessageTests(SynchronousTestCase):
    def test_each_value_is_a_line(self) -> None:
        self.assertEqual(b"READY=1\nSTATUS=here: 3\n", message(READY="1", STATUS="here: 3"))

    def test_no_value_can_say_more_than_its_own_line(self) -> None:
        self.assertEqual(b"STATUS=a STOPPING=1\n", message(STATUS="a\nSTOPPING=1"))


class Systemd:
    """The socket on which systemd would listen, in a folder of its own."""

    def __init__(self) -> None:
        # A socket's path has at most 107 bytes, so this is not in trial's folder.
        self.folder = tempfile.mkdtemp(prefix="abst-test-")
        self.path = os.path.join(self.folder, "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def close(self) -> None:
        self.socket.close()
        shutil.rmtree(self.folder)

    def next(self) -> str:
        """Return what comes next, as soon as it has come."""
        self.socket.settimeout(PATIENCE_SECONDS)
        return self.socket.recv(4096).decode("utf-8")

    def all(self) -> list[str]:
        """Return everything that has come."""
        self.socket.setblocking(False)
        found = []
        try:
            while True:
                found.append(self.socket.recv(4096).decode("utf-8"))
        except BlockingIOError:
            return found


class NotifierTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.systemd = Systemd()
        self.addCleanup(self.systemd.close)
        self.clock = Clock()
        self.status = "here: 0"

    def notifier(self, **environment: str) -> SystemdNotifier:
        return SystemdNotifier(self.clock, {"NOTIFY_SOCKET": self.systemd.path, **environment})

    def test_it_says_ready_once(self) -> None:
        self.notifier().ready(lambda: self.status)
        self.assertEqual(["READY=1\nSTATUS=here: 0\n"], self.systemd.all())

    def test_nothing_is_said_before(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="10000000")
        self.clock.advance(100)
        notifier.stopping()
        self.assertEqual([], self.systemd.all())

    def test_the_status_is_told_when_it_has_changed(self) -> None:
        self.notifier().ready(lambda: self.status)
        self.clock.advance(STATUS_SECONDS)
        self.status = "here: 1"
        self.assertEqual(1, len(self.systemd.all()))
        self.clock.advance(STATUS_SECONDS)
        self.clock.advance(STATUS_SECONDS)
        self.assertEqual(["STATUS=here: 1\n"], self.systemd.all())

    def test_a_long_status_is_cut(self) -> None:
        self.notifier().ready(lambda: "x" * 10_000)
        self.assertIn(f"STATUS={'x' * MAX_STATUS_CHARACTERS}\n", self.systemd.next())

    def test_the_watchdog_hears_twice_in_its_time_while_the_reactor_turns(self) -> None:
        self.notifier(WATCHDOG_USEC="10000000").ready(lambda: self.status)
        self.systemd.all()
        self.clock.pump([1] * 20)
        self.assertEqual(["WATCHDOG=1\n"] * 4, self.systemd.all())

    def test_a_reactor_that_was_stuck_makes_up_for_nothing(self) -> None:
        self.notifier(WATCHDOG_USEC="10000000").ready(lambda: self.status)
        self.systemd.all()
        self.clock.advance(60)
        self.assertEqual(["WATCHDOG=1\n"], self.systemd.all())

    def test_a_watchdog_of_another_process_hears_nothing(self) -> None:
        other = str(os.getpid() + 1)
        self.notifier(WATCHDOG_USEC="10000000", WATCHDOG_PID=other).ready(lambda: self.status)
        self.systemd.all()
        self.clock.advance(60)
        self.assertEqual([], self.systemd.all())

    def test_a_reload_is_two_messages(self) -> None:
        notifier = self.notifier()
        notifier.ready(lambda: self.status)
        self.systemd.all()
        before = time.monotonic_ns() // 1000
        notifier.reloading()
        self.status = "here: 2"
        notifier.reloaded()
        begun, done = self.systemd.all()
        name, microseconds = begun.splitlines()
        self.assertEqual("RELOADING=1", name)
        asked_at = int(microseconds.removeprefix("MONOTONIC_USEC="))
        self.assertTrue(before <= asked_at <= time.monotonic_ns() // 1000)
        self.assertEqual("READY=1\nSTATUS=here: 2\n", done)

    def test_who_is_not_ready_reloads_in_silence(self) -> None:
        notifier = self.notifier()
        notifier.reloading()
        notifier.reloaded()
        self.assertEqual([], self.systemd.all())

    def test_it_says_that_it_stops_and_nothing_more(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="10000000")
        notifier.ready(lambda: self.status)
        self.systemd.all()
        notifier.stopping()
        notifier.stopping()
        self.assertEqual(["STOPPING=1\nSTATUS=stopping\n"], self.systemd.all())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_without_systemd_there_is_not_even_a_timer(self) -> None:
        notifier = SystemdNotifier(self.clock, {"WATCHDOG_USEC": "10000000"})
        notifier.ready(lambda: self.status)
        self.assertEqual([], self.clock.getDelayedCalls())
        notifier.stopping()

    def test_a_systemd_that_is_gone_or_full_ends_nothing(self) -> None:
        notifier = self.notifier(WATCHDOG_USEC="10000000")
        notifier.ready(lambda: self.status)
        for _ in range(2000):  # More than the kernel keeps for a socket that nobody reads.
            self.clock.advance(5)
        self.assertLess(len(self.systemd.all()), 2000)
        self.systemd.socket.close()
        self.clock.advance(5)
        notifier.stopping()


class RealmTests(TestCase):
    def setUp(self) -> None:
        self.systemd = Systemd()
        self.addCleanup(self.systemd.close)
        self.folder = Path(self.mktemp()).absolute()

    def start(self, *listen: str, **environment: str) -> RealmProcess:
        """Start a realm as the service is; it is killed with the test's end."""
        arguments = [word for endpoint in listen for word in ("--listen", endpoint)]
        environment["NOTIFY_SOCKET"] = self.systemd.path
        realm = RealmProcess(self.folder, *arguments, command=TWISTD, environment=environment)
        self.addCleanup(realm.kill)
        return realm

    def test_a_realm_is_ready_when_it_can_be_reached(self) -> None:
        realm = self.start(LOOPBACK, LOOPBACK, WATCHDOG_USEC="400000")
        self.assertEqual("READY=1\nSTATUS=devices here: 0\n", self.systemd.next())
        address = self.folder / "home" / ".local" / "state" / "abst-realm" / "address"
        self.assertEqual(2, len(address.read_text("ascii").splitlines()))
        (device,) = identities(1)
        with join(realm.address(1).port, device):
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (told := self.systemd.next()) != "WATCHDOG=1\nSTATUS=devices here: 1\n":
                self.assertIn("WATCHDOG=1\n", told)
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual("WATCHDOG=1\n", self.systemd.next())
        realm.terminate()
        self.assertEqual("STOPPING=1\nSTATUS=stopping\n", self.systemd.all()[-1])

    def test_a_realm_whose_second_port_is_taken_is_never_ready(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            realm = self.start(LOOPBACK, f"tcp:{port}:interface=127.0.0.1")
            self.assertEqual(1, realm.wait())
        self.assertEqual([], self.systemd.all())

    def test_a_realm_takes_a_port_that_systemd_has_opened(self) -> None:
        command = (sys.executable, "-c", OPEN_PORT, *TWISTD)
        endpoint = "systemd:domain=INET:index=0"
        realm = RealmProcess(self.folder, "--listen", endpoint, command=command)
        self.addCleanup(realm.kill)
        opened = realm.output.wait_for(str.isdecimal, "port")
        self.assertEqual(int(opened), realm.port)
        (device,) = identities(1)
        with join(realm.port, device):
            pass


class AgentTests(TestCase):
    async def test_an_agent_is_ready_when_it_takes_commands(self) -> None:
        from twisted.internet import reactor

        systemd = Systemd()
        self.addCleanup(systemd.close)
        home = Home(Path(systemd.folder) / "home")
        home.create("phone")
        environment = {"ABST_LAN": "off", "NOTIFY_SOCKET": systemd.path}
        service = AgentService(reactor, home, environment)
        service.startService()
        self.assertTrue(home.socket.exists())
        self.assertEqual(["READY=1\nSTATUS=running\n"], systemd.all())
        await service.stopService()
        self.assertEqual(["STOPPING=1\nSTATUS=stopping\n"], systemd.all())
