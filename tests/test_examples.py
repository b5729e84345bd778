"""The examples, run as their reader runs them: as processes, with real sockets."""

import json
import shutil
import subprocess
import sys
import threading
import urllib.request

from twisted.trial.unittest import TestCase

from abst.identity import Identity
from tests.integration.command_line import (
    ENVIRONMENT,
    ROOT,
    SECONDS,
    CommandLine,
    CommandLineTestCase,
    end,
    read_line,
    shared_stage,
    temporary_folder,
    wait_until,
)


class Chatter:
    """A process of ``chat.py``; its input is a pipe.

    Attributes:
        said: what it has printed until now.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    def type(self, text: str) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end_input(self) -> None:
        """Close its standard input, as Ctrl-D does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int:
        """Return its exit status, once everything that it printed has been read."""
        status = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def stop(self) -> None:
        """Kill it if it still runs, and close its pipes."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class ExamplesTests(TestCase):
    """Both examples together: two devices chat through the embedded realm."""

    def setUp(self) -> None:
        self.folder = temporary_folder()
        self.addCleanup(shutil.rmtree, self.folder)

    def start(self, example: str, *arguments: str) -> subprocess.Popen[str]:
        """Start an example, with pipes."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / example), *arguments],
            env=ENVIRONMENT,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def start_realm(self) -> str:
        """Start the embedded realm; return its address."""
        process = self.start("embedded_realm.py", "realm.pem")
        self.addCleanup(end, process)
        self.assertIn("echo: IPv4Address(", read_line(process))
        return read_line(process).strip()

    def own_id(self, key_file: str, realm: str) -> str:
        """Return a device's ID, as it tells its person to pass it on."""
        process = self.start("chat.py", key_file, realm)
        self.addCleanup(end, process)
        said, _ = process.communicate(timeout=SECONDS)
        self.assertEqual(0, process.returncode, said)
        self.assertTrue(said.startswith("I am "), said)
        return said.removeprefix("I am ").strip()

    def make_device(self, key_file: str) -> str:
        """Make a device without starting a process, and return its ID."""
        return str(Identity.load_or_create(self.folder / key_file).device_id)

    def chatter(self, key_file: str, realm: str, peer: str) -> Chatter:
        """Start a chat; it is stopped in the end."""
        chatter = Chatter(self.start("chat.py", key_file, realm, peer))
        self.addCleanup(chatter.stop)
        return chatter

    def test_two_devices_chat_through_the_embedded_realm(self) -> None:
        realm = self.start_realm()
        alice_id, bob_id = self.own_id("alice.pem", realm), self.make_device("bob.pem")
        alice = self.chatter("alice.pem", realm, bob_id)
        # Typed before anybody is there to read it.
        alice.type("first\nsecond\n")
        bob = self.chatter("bob.pem", realm, alice_id)
        wait_until(lambda: "alice: second" in bob.said, f"bob reads: {bob.said}")
        bob.type("hällo \x1b[2J\n")
        wait_until(lambda: "bob: hällo [2J" in alice.said, f"alice reads: {alice.said}")
        alice.type("the last line has no end")
        alice.end_input()
        self.assertEqual(0, alice.wait(), alice.said)
        self.assertEqual(0, bob.wait(), bob.said)
        self.assertEqual(
            ["alice: first", "alice: second", "alice: the last line has no end"],
            [line for line in bob.said if line.startswith("alice: ")],
        )
        self.assertTrue(bob.said[-1].startswith("(alice is gone: "), bob.said)

    def test_two_devices_chat_in_forty_lines(self) -> None:
        realm = self.start_realm()
        ids = {name: self.make_device(f"{name}.pem") for name in ("alice", "bob")}
        alice = Chatter(self.start("small_chat.py", "alice.pem", realm, ids["bob"]))
        self.addCleanup(alice.stop)
        alice.type("typed before bob is there\n")
        bob = Chatter(self.start("small_chat.py", "bob.pem", realm, ids["alice"]))
        self.addCleanup(bob.stop)
        heard = f"{ids['alice']}: 'typed before bob is there'"
        wait_until(lambda: heard in bob.said, f"bob reads: {bob.said}")

    def test_two_devices_switch_lights(self) -> None:
        realm = self.start_realm()
        ids, started = {}, {}
        for name in ("porch", "hall"):
            (self.folder / name).mkdir(mode=0o700)
            ids[name] = self.make_device(f"{name}/identity.pem")
        for name, what, other in (("hall", "join", "porch"), ("porch", "make", "hall")):
            started[name] = Chatter(self.start("lights.py", name, realm, what, ids[other]))
            self.addCleanup(started[name].stop)
        hall, porch = started["hall"], started["porch"]
        wait_until(lambda: "in the group lights" in hall.said, f"the hall says: {hall.said}")
        wait_until(lambda: "hall is here" in porch.said, f"the porch says: {porch.said}")
        porch.type("lamp on\n")
        wait_until(lambda: "lamp is on" in hall.said, f"the hall says: {hall.said}")
        hall.type("?\n")
        wait_until(lambda: "light/lamp: on" in hall.said, f"the hall says: {hall.said}")

    def test_a_chat_without_the_other_side_ends_with_its_input(self) -> None:
        realm = "abst://127.0.0.1:1/"
        alice = self.chatter("alice.pem", realm, self.make_device("bob.pem"))
        wait_until(lambda: len(alice.said) == 1, f"alice says who she is: {alice.said}")
        alice.end_input()
        self.assertEqual(0, alice.wait(), alice.said)
        self.assertEqual(1, len(alice.said), alice.said)

    def test_a_side_that_is_not_trusted_is_told_so(self) -> None:
        realm = self.start_realm()
        bob_id, stranger_id = self.make_device("bob.pem"), self.make_device("stranger.pem")
        self.chatter("bob.pem", realm, stranger_id)
        alice = self.chatter("alice.pem", realm, bob_id)
        self.assertEqual(0, alice.wait(), alice.said)
        self.assertIn("does not trust this device", alice.said[-1])

    def test_wrong_use_is_explained_in_one_line(self) -> None:
        realm = "abst://127.0.0.1:1/"
        wrong = (
            ("usage: ", "chat.py"),
            ("chat: ", "chat.py", "a.pem", "http://example.org"),
            ("chat: ", "chat.py", "a.pem", realm, "nobody"),
            ("usage: ", "embedded_realm.py"),
        )
        started = [(expected, self.start(*command)) for expected, *command in wrong]
        for _, process in started:
            self.addCleanup(end, process)
        for expected, process in started:
            said, _ = process.communicate(timeout=SECONDS)
            self.assertEqual(1, process.returncode, said)
            self.assertTrue(said.splitlines()[-1].startswith(expected), said)
            self.assertNotIn("Traceback", said)


class StreamExamplesTests(CommandLineTestCase):
    """The examples that use the agents' streams."""

    def start(self, device: CommandLine, example: str, *arguments: str) -> subprocess.Popen[str]:
        """Start an example on a device; it is ended with the test."""
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / example), *arguments],
            env={**ENVIRONMENT, "ABST_HOME": str(device.home)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(end, process)
        return process

    def test_a_peer_asks_for_a_product(self) -> None:
        stage = shared_stage()
        self.assertEqual("ready\n", read_line(self.start(stage.alice, "amp_service.py", "serve")))
        asking = self.start(stage.bob, "amp_service.py", "ask", "alice", "6", "7")
        said, _ = asking.communicate(timeout=SECONDS)
        self.assertEqual("42\n", said)

    def test_amp_service_says_how_it_is_used(self) -> None:
        process = self.start(shared_stage().alice, "amp_service.py", "ask", "alice", "six")
        said, _ = process.communicate(timeout=SECONDS)
        self.assertEqual(1, process.returncode)
        self.assertIn("usage: amp_service.py", said)
        self.assertNotIn("Traceback", said)

    def test_a_web_application_knows_who_asks(self) -> None:
        stage = shared_stage()
        self.assertIn("abst:guests", read_line(self.start(stage.alice, "web_app.py")))
        forward = stage.bob.start("forward", "alice", "guests", "tcp:0", "--json")
        self.addCleanup(end, forward)
        address = json.loads(read_line(forward))["address"]
        bob_id = stage.bob.ok("id").split()[-1]
        for visit in (1, 2):
            with urllib.request.urlopen(f"http://{address}/", timeout=SECONDS) as answer:
                self.assertEqual(f"hello, {bob_id}: visit {visit}\n", answer.read().decode())
