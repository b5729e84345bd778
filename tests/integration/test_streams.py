"""Programs that know nothing of ABST, between real agents, through a realm and direct."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import SkipTest

from tests.integration.command_line import (
    ENVIRONMENT,
    ROOT,
    SECONDS,
    CommandLine,
    CommandLineTestCase,
    RealmProcess,
    SharedStage,
    end,
    read_line,
    shared_stage,
    wait_until,
)

TWIST = (sys.executable, "-P", "-m", "twisted", "--log-format=text")

# A program that takes any client endpoint string: it says what it is given, and prints the answer.
CLIENT = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

class Client(Protocol):
    def connectionMade(self):
        self.heard, self.done = b"", Deferred()
        self.transport.write(sys.argv[2].encode().decode("unicode_escape").encode())
    def dataReceived(self, data):
        self.heard += data
    def connectionLost(self, reason):
        self.done.callback(None)

async def main(reactor):
    client = await connectProtocol(clientFromString(reactor, sys.argv[1]), Client())
    await client.done
    sys.stdout.buffer.write(client.heard)

react(lambda reactor: main(reactor))
"""


class CountingServer:
    """A program behind a port: it reads to the end, and then says what it has read.

    Attributes:
        endpoint: where it takes connections.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp:127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(SECONDS)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                digest = hashlib.sha256()
                while piece := connection.recv(65536):
                    digest.update(piece)
                connection.sendall(digest.hexdigest().encode())


@functools.cache
def direct_stage() -> SharedStage:
    """Return two devices that meet on loopback, and have a realm all the same."""
    stage = shared_stage.__wrapped__()
    for device, other, name in (
        (stage.alice, stage.bob, "bob"),
        (stage.bob, stage.alice, "alice"),
    ):
        device.ok("lan", "127.0.0.1")
        device.ok("peers", "add-address", name, other.json("lan", "127.0.0.1")["addresses"][0])
    return stage


class Program:
    """A stock Twisted service, with what it logs in a file."""

    def __init__(self, device: CommandLine, log: Path, *arguments: str) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*TWIST, *arguments],
                env={**ENVIRONMENT, "ABST_HOME": str(device.home)},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def stop(self) -> None:
        """End it."""
        end(self.process)


class StreamTestCase(CommandLineTestCase):
    """What the tests share: programs, forwards, and what is served."""

    def program(self, device: CommandLine, *arguments: str) -> Program:
        """Start a stock service with a device's home in its environment."""
        program = Program(device, self.folder / "program.log", *arguments)
        self.addCleanup(program.stop)
        return program

    def site(self, device: CommandLine, listen: str = "abst:web") -> Path:
        """Let a stock web server offer a folder to peers; return the folder."""
        folder = self.folder / "site"
        folder.mkdir()
        (folder / "small.txt").write_text("hello\n")
        (folder / "large.bin").write_bytes(os.urandom(3_000_000))
        self.program(device, "web", "--listen", listen, "--path", str(folder))
        self.offered(device, "web")
        return folder

    def offered(self, device: CommandLine, service: str) -> None:
        """Wait until a program offers a service."""
        wait_until(
            lambda: service in [one["service"] for one in device.json("status")["programs"]],
            f"nobody offers {service}",
        )

    def forward(
        self, device: CommandLine, peer: str, service: str
    ) -> tuple[subprocess.Popen[str], str]:
        """Start a forward; return its process, and where it listens."""
        process = device.start("forward", peer, service, "tcp:0", "--json")
        self.addCleanup(end, process)
        line = read_line(process)
        event = json.loads(line)
        self.assertEqual("listening", event["kind"])
        return process, event["address"]

    def curl(self, address: str, path: str) -> subprocess.CompletedProcess[bytes]:
        """Fetch something."""
        if shutil.which("curl") is None:
            raise SkipTest("this machine has no curl")
        return subprocess.run(
            ["curl", "--silent", "--max-time", "20", f"http://{address}/{path}"],
            capture_output=True,
            check=False,
            timeout=SECONDS,
        )

    def client(self, home: Path, text: str, says: str) -> subprocess.CompletedProcess[str]:
        """Run a program that connects to an endpoint string."""
        return subprocess.run(
            [sys.executable, "-P", "-c", CLIENT, text, says],
            env={**ENVIRONMENT, "ABST_HOME": str(home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )


if TYPE_CHECKING:
    Behaviour = StreamTestCase
else:
    # What subclasses mix with a test case. As one itself it would be run with nothing to carry it.
    Behaviour = object


class StreamBehaviour(Behaviour):
    """What programs do between two devices; the subclasses say what carries it."""

    stage: SharedStage
    path_kind = ""

    def test_a_stock_web_server_and_curl(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        folder = self.site(alice)
        _, address = self.forward(bob, "alice", "web")
        large = (folder / "large.bin").read_bytes()
        with ThreadPoolExecutor(8) as threads:
            done = list(threads.map(lambda _: self.curl(address, "large.bin"), range(8)))
        self.assertEqual([(0, large)] * 8, [(one.returncode, one.stdout) for one in done])
        wait_until(lambda: not bob.json("status")["streams"], "streams are left over")
        wait_until(lambda: not alice.json("status")["streams"], "streams are left over")

    def test_a_client_program_with_an_endpoint_string(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        self.site(alice)
        done = self.client(bob.home, "abst:alice:web", r"GET /small.txt HTTP/1.0\r\n\r\n")
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertTrue(done.stdout.startswith("HTTP/1.0 200 OK"), done.stdout)
        self.assertTrue(done.stdout.endswith("\n\nhello\n"), done.stdout)

    def test_a_stock_web_server_with_somebody_s_application(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        self.program(
            alice, "web", "--listen", "abst:hello", "--wsgi", "wsgiref.simple_server.demo_app"
        )
        self.offered(alice, "hello")
        done = self.client(bob.home, "abst:alice:hello", r"GET /x HTTP/1.0\r\n\r\n")
        self.assertTrue(done.stdout.startswith("HTTP/1.0 200 OK"), done.stdout)
        self.assertIn("Hello world!", done.stdout)
        # The peer's name is as good as an address: it has proved it.
        self.assertIn(f"SERVER_NAME = '{alice.ok('id').strip()}'", done.stdout)

    def test_another_stock_service(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        self.program(alice, "words", "--irc-port", "abst:irc", "--auth", "memory:joe:secret")
        self.offered(alice, "irc")
        said = r"PASS secret\r\nNICK joe\r\nUSER joe 0 * :Joe\r\nQUIT\r\n"
        done = self.client(self.folder, f"abst:alice:irc:home={bob.home}", said)
        self.assertEqual((0, ""), (done.returncode, done.stderr))
        self.assertIn(" 001 joe :connected to Twisted IRC", done.stdout)

    def test_one_direction_ends_alone_through_the_whole_chain(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        server = CountingServer()
        self.addCleanup(server.stop)
        alice.ok("expose", "count", server.endpoint)
        self.addCleanup(alice.run, "expose", "remove", "count")
        _, address = self.forward(bob, "alice", "count")
        data = os.urandom(5_000_000)
        host, _, port = address.rpartition(":")
        with closing(socket.create_connection((host, int(port)), SECONDS)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(1000):
                answer += piece
        self.assertEqual(hashlib.sha256(data).hexdigest().encode(), answer)

    def test_the_status_shows_what_is_open(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        self.site(alice)
        _, address = self.forward(bob, "alice", "web")
        host, _, port = address.rpartition(":")
        with closing(socket.create_connection((host, int(port)), SECONDS)) as connection:
            connection.sendall(b"GET /small.txt HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1)
            (stream,) = wait_until(lambda: bob.json("status")["streams"], "no stream")
            self.assertEqual(
                ("alice", "web", self.path_kind, 36),
                tuple(stream[key] for key in ("peer", "service", "path_kind", "sent_bytes")),
            )
            (forward,) = bob.json("status")["forwards"]
            self.assertEqual(
                ("alice", "web", address),
                tuple(forward[key] for key in ("peer", "service", "address")),
            )
            shown = bob.ok("status")
            self.assertIn(f"forward  {address}, to web of alice\n", shown)
            self.assertIn("streams  1 for web, with alice over ", shown)
            self.assertIn(
                "offered  web  by a program that runs  for all peers\n", alice.ok("status")
            )


class RealmStreamTests(StreamBehaviour, StreamTestCase):
    path_kind = "realm"

    def setUp(self) -> None:
        super().setUp()
        self.stage = shared_stage()


class DirectStreamTests(StreamBehaviour, StreamTestCase):
    path_kind = "direct"

    def setUp(self) -> None:
        super().setUp()
        self.stage = direct_stage()


class RefusalTests(StreamTestCase):
    """What cannot be had, and how it is said."""

    def setUp(self) -> None:
        super().setUp()
        self.stage = shared_stage()

    def test_a_service_that_does_not_exist(self) -> None:
        bob = self.stage.bob
        process, address = self.forward(bob, "alice", "nothing")
        self.assertEqual(56, self.curl(address, "").returncode)  # The connection was reset.
        event = json.loads(read_line(process))
        self.assertEqual("failed", event["kind"])
        self.assertIn("no such service", event["reason"])
        self.site(self.stage.alice, "abst:nothing")
        self.assertEqual(b"hello\n", self.curl(address, "small.txt").stdout)
        self.assertEqual({"kind": "working"}, json.loads(read_line(process)))
        done = self.client(bob.home, "abst:alice:nowhere", "")
        self.assertIn("no such service", done.stderr)

    def offered(self, device: CommandLine, service: str) -> None:
        """Wait for the service that the test wants instead."""
        super().offered(device, "nothing" if service == "web" else service)

    def test_a_peer_that_is_not_admitted(self) -> None:
        alice, bob = self.stage.alice, self.stage.bob
        carol = self.device("carol")
        alice.ok("trust", carol.ok("id").strip(), "--name", "carol")
        self.addCleanup(alice.run, "forget", "carol")
        self.program(alice, "web", "--listen", "abst:private:peers=carol")
        super().offered(alice, "private")
        alice.ok("expose", "secret", "tcp:127.0.0.1:1", "--peer", "carol")
        self.addCleanup(alice.run, "expose", "remove", "secret")
        for service in ("private", "secret"):
            done = self.client(bob.home, f"abst:alice:{service}", "")
            self.assertIn("ask its owner to admit", done.stderr)

    def test_a_peer_that_is_not_known(self) -> None:
        done = self.stage.bob.run("forward", "nobody", "web", "tcp:0")
        self.assert_refused(done, "nobody", "abst peers")
        done = self.stage.bob.run("forward", "alice", "web", "nonsense:0")
        self.assert_refused(done, "no endpoint")

    def test_no_agent_runs(self) -> None:
        carol = self.device("carol")
        program = self.program(carol, "web", "--listen", "abst:web")
        self.assertNotEqual(0, program.process.wait(SECONDS))
        self.assertIn(f"{carol.home} is not running: 'abst up' starts it", program.log.read_text())
        done = self.client(carol.home, "abst:alice:web", "")
        self.assertIn("'abst up' starts it", done.stderr)


class ExposeTests(CommandLineTestCase):
    """What is exposed, over restarts."""

    def test_it_is_kept_until_it_is_removed(self) -> None:
        device = self.device("laptop")
        device.up()
        self.assertEqual("web", device.json("expose", "web", "tcp:127.0.0.1:80")["service"])
        self.assertIn("exposed ssh  unix:/run/x", device.ok("expose", "ssh", "unix:/run/x"))
        device.kill()
        device.up()
        listed = device.json("expose", "list")["exposed"]
        self.assertEqual(["ssh", "web"], [one["service"] for one in listed])
        self.assertEqual([None, None], [one["problem"] for one in listed])
        device.ok("expose", "remove", "ssh")
        self.assertEqual("web  tcp:127.0.0.1:80  for all peers\n", device.ok("expose", "list"))
        self.assertIn("exposed  web  tcp:127.0.0.1:80", device.ok("status"))

    def test_what_cannot_be_exposed(self) -> None:
        device = self.device("laptop")
        device.up()
        for words, said in (
            (("abst.files", "tcp:127.0.0.1:80"), "ABST's own"),
            (("a b", "tcp:127.0.0.1:80"), "letters"),
            (("web", "80"), "no endpoint"),
            (("web", "unix:x.sock"), "begin with /"),
            (("web", "tcp:127.0.0.1:80", "--peer", "nobody"), "abst peers"),
        ):
            self.assert_refused(device.run("expose", *words), said)
        self.assert_refused(device.run("expose", "remove", "web"), "abst expose list")
        self.assertEqual([], device.json("expose", "list")["exposed"])


class RestartTests(StreamTestCase):
    """Agents that stop while programs use them."""

    def setUp(self) -> None:
        super().setUp()
        self.realm = RealmProcess(self.folder / "realm")
        self.addCleanup(self.realm.stop)
        self.alice, self.bob = self.device("alice"), self.device("bob")
        identities = [device.ok("id").strip() for device in (self.alice, self.bob)]
        for device, other, name in (
            (self.alice, identities[1], "bob"),
            (self.bob, identities[0], "alice"),
        ):
            device.up()
            device.ok("realm", "add", self.realm.address)
            device.ok("trust", other, "--name", name)

    def fetched(self, address: str) -> bool:
        return self.curl(address, "small.txt").stdout == b"hello\n"

    def test_a_program_offers_its_service_again_when_the_agent_is_back(self) -> None:
        self.site(self.alice)
        _, address = self.forward(self.bob, "alice", "web")
        wait_until(lambda: self.fetched(address), "nothing comes")
        for stop in (self.alice.kill, functools.partial(self.alice.ok, "down")):
            stop()
            self.alice.stop()
            self.alice.up()
            wait_until(lambda: self.fetched(address), "nothing comes after the restart")
        log = (self.folder / "program.log").read_text()
        self.assertEqual(2, log.count("web is offered again when it is back"), log)
        self.assertEqual(2, log.count("web is offered again\n"), log)

    def test_a_forward_ends_with_its_agent_and_says_so(self) -> None:
        process = self.bob.start("forward", "alice", "web", "tcp:0")
        self.addCleanup(end, process)
        read_line(process)
        self.bob.ok("down")
        self.bob.agent = None
        _, said = process.communicate(timeout=SECONDS)
        self.assertEqual(1, process.returncode)
        self.assertIn("the agent has stopped, and this forward with it", said)

    def test_a_forward_ends_with_ctrl_c_and_listens_no_more(self) -> None:
        process, address = self.forward(self.bob, "alice", "web")
        status, said = self.interrupt(process)
        self.assertEqual((130, ""), (status, said.strip()))
        host, _, port = address.rpartition(":")

        def is_closed() -> bool:
            with closing(socket.socket()) as probe:
                return probe.connect_ex((host, int(port))) != 0

        wait_until(is_closed, "it still listens")
        self.assertEqual([], self.bob.json("status")["forwards"])
