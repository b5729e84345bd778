"""Agents and realms as real processes, and files that are large enough to be in the middle of."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from abst.agent.files.draft import PARTIAL_SUFFIX
from abst.agent.home import Home
from abst.cli.agent_client import AgentCall
from abst.control_client import NotRunningError
from abst.errors import AbstError
from tests.integration.command_line import ENVIRONMENT, temporary_folder, wait_until
from tests.integration.realm_process import RealmProcess

MEGABYTE: Final = 1024 * 1024
PATIENCE_SECONDS: Final = 60.0
IS_SLOW: Final = os.environ.get("ABST_SLOW_TESTS") == "1"

FLAT_BYTES: Final = 24 * MEGABYTE
"""How much a process may grow while a file goes by that is many times larger."""


def free_port() -> int:
    """Return a port that is free, for a realm that is to come back at the same one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def resident_bytes(process: int) -> int:
    """Return how much memory a process has in use (proc(5))."""
    pages = Path(f"/proc/{process}/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def write_file(path: Path, size_bytes: int) -> str:
    """Write a file of random bytes; return its hash."""
    source = random.Random(size_bytes)
    hashed = hashlib.sha256()
    with path.open("wb") as file:
        while size_bytes:
            data = source.randbytes(min(MEGABYTE, size_bytes))
            file.write(data)
            hashed.update(data)
            size_bytes -= len(data)
    return hashed.hexdigest()


def hash_of(path: Path) -> str:
    """Return the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Agent:
    """``python -m abst.agent`` with a home of its own.

    Attributes:
        home: its home.
        device_id: who it is.
        process: the process, or None when it does not run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.home = Home(folder / name)
        self.device_id = str(self.home.create(name).device_id)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, file_bytes: int | None = None) -> None:
        """Start it; ``file_bytes`` is the largest file that it may write."""

        def limit() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        self.process = subprocess.Popen(
            [sys.executable, "-m", "abst.agent", "--home", str(self.home)],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            preexec_fn=limit,
        )
        wait_until(self.is_answering, "the agent answers")

    def is_answering(self) -> bool:
        """Tell whether it takes requests."""
        try:
            return bool(self.ask("status"))
        except NotRunningError:
            return False

    def is_up(self, number: int) -> bool:
        """Tell whether it is connected to a realm."""
        return bool(self.ask("realm_list")["realms"][number]["up"])

    def kill(self) -> None:
        """Kill it, as a crash does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def call(self, command: str, **arguments: Any) -> AgentCall:
        """Begin a request."""
        return AgentCall(self.home.socket, command, arguments, PATIENCE_SECONDS)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Return the result of a request."""
        with self.call(command, **arguments) as call:
            return call.result

    def send(self, peer: str, path: Path) -> AgentCall:
        """Begin to send a file."""
        return self.call("send", peer=peer, paths=[str(path)])

    def inbox(self) -> list[str]:
        """Return the names of what is in its inbox, drafts included."""
        folder = self.home.inbox
        return sorted(os.listdir(folder)) if folder.exists() else []

    def drafts(self) -> list[str]:
        """Return the names of what is on its way into its inbox."""
        return [name for name in self.inbox() if name.endswith(PARTIAL_SUFFIX)]

    def log(self) -> str:
        """Return what it has logged."""
        return self.home.log.read_text()


class DevicesTestCase(TestCase):
    """Alice and Bob on a realm."""

    def setUp(self) -> None:
        self.folder = temporary_folder()
        self.realms: list[RealmProcess] = []
        self.port = free_port()
        self.start_realm("realm", self.port)
        self.alice, self.bob = Agent(self.folder, "alice"), Agent(self.folder, "bob")
        self.agents = [self.alice, self.bob]
        for agent in self.agents:
            agent.start()
        self.add_realm(self.realms[0])
        self.alice.ask("trust", device_id=self.bob.device_id, name="bob")
        self.bob.ask("trust", device_id=self.alice.device_id, name="alice")
        self.wait_for_realm(0)

    def tearDown(self) -> None:
        for agent in self.agents:
            agent.kill()
        for realm in self.realms:
            realm.kill()
        logs = "".join(agent.log() for agent in self.agents)
        shutil.rmtree(self.folder)
        self.assertNotIn("Traceback", logs)

    def start_realm(self, name: str, port: int) -> RealmProcess:
        endpoint = f"tcp:{port}:interface=127.0.0.1"
        state = self.folder / name
        realm = RealmProcess(state, "--listen", endpoint, "--state", str(state / "state"))
        self.realms.append(realm)
        realm.address()
        return realm

    def add_realm(self, realm: RealmProcess) -> None:
        for agent in self.agents:
            agent.ask("realm_add", realm=str(realm.address()))

    def wait_for_realm(self, number: int) -> None:
        """Wait until both are connected to a realm."""
        for agent in self.agents:
            wait_until(partial(agent.is_up, number), "the realm is there")

    def file(self, size_bytes: int, name: str = "file.bin") -> tuple[Path, str]:
        path = self.folder / name
        return path, write_file(path, size_bytes)

    def finish(self, call: AgentCall, sha256: str, name: str = "file.bin") -> None:
        """Wait for the end of a file, and compare what has arrived."""
        with call:
            (sent,) = call.result["files"]
        self.assertEqual(sha256, sent["sha256"])
        self.assertEqual(sha256, hash_of(self.bob.home.inbox / sent["stored_as"]))
        self.assertEqual([name], self.bob.inbox())

    def until_sent(self, call: AgentCall, sent_bytes: int) -> None:
        """Read the progress of a file until so much of it is across."""
        for event in call:
            if event.get("sent_bytes", 0) >= sent_bytes:
                self.assertLess(event["sent_bytes"], event["size_bytes"])
                return
        self.fail("the file was across before that")


class ExchangeTests(DevicesTestCase):
    def test_messages_and_files_both_ways(self) -> None:
        for one, other, peer in ((self.alice, self.bob, "bob"), (self.bob, self.alice, "alice")):
            self.assertTrue(one.ask("message", peer=peer, text="hello ü")["delivered"])
            path, sha256 = self.file(3 * MEGABYTE + 7)
            (sent,) = one.ask("send", peer=peer, paths=[str(path)])["files"]
            self.assertEqual(sha256, sent["sha256"])
            self.assertEqual(sha256, hash_of(other.home.inbox / "file.bin"))
            items = other.ask("inbox")["items"]
            self.assertEqual(["message", "file"], [item["kind"] for item in items])
            self.assertEqual("hello ü", items[0]["text"])
            self.assertEqual(sha256, items[1]["sha256"])
        (answer,) = self.alice.ask("status")["sessions"]
        self.assertEqual(f"realm 127.0.0.1:{self.port}", answer["path"])

    def test_several_files_at_once_both_ways(self) -> None:
        calls = []
        for number in range(3):
            path, sha256 = self.file(2 * MEGABYTE, f"{number}.bin")
            calls.append((self.alice.send("bob", path), sha256, self.bob))
            calls.append((self.bob.send("alice", path), sha256, self.alice))
        for call, sha256, receiver in calls:
            with call:
                (sent,) = call.result["files"]
            self.assertEqual(sha256, hash_of(receiver.home.inbox / sent["stored_as"]))

    def test_a_client_that_goes_away_cancels_its_file(self) -> None:
        path, _ = self.file(60 * MEGABYTE)
        call = self.alice.send("bob", path)
        self.until_sent(call, MEGABYTE)
        self.assertEqual(1, len(self.bob.drafts()))
        call.close()
        wait_until(lambda: not self.bob.inbox(), "the draft is removed")
        self.assertEqual([], self.bob.ask("inbox")["items"])
        path, sha256 = self.file(MEGABYTE, "next.bin")
        self.finish(self.alice.send("bob", path), sha256, "next.bin")


class KilledTests(DevicesTestCase):
    """``kill -9`` in the middle of a file; the file is one that takes a while."""

    SIZE: Final = 60 * MEGABYTE

    def setUp(self) -> None:
        super().setUp()
        self.path, self.sha256 = self.file(self.SIZE)

    def test_the_receiver(self) -> None:
        """Its socket, its lock and its half file are there; it goes on where it was."""
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        self.bob.kill()
        self.assertTrue(self.bob.home.socket.exists())
        self.assertEqual(1, len(self.bob.drafts()))
        self.bob.start()
        self.finish(call, self.sha256)

    def test_the_sender(self) -> None:
        """Whoever asked it is told that it is gone; the file goes on without being asked."""
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        self.alice.kill()
        self.assertRaises(AbstError, lambda: call.result)
        call.close()
        self.alice.start()
        wait_until(lambda: self.bob.inbox() == ["file.bin"], "the file arrives")
        self.assertEqual(self.sha256, hash_of(self.bob.home.inbox / "file.bin"))

    def test_the_realm(self) -> None:
        """It comes back at the same port; nobody does anything, and the file arrives."""
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        self.realms[0].kill()
        self.start_realm("realm", self.port)
        self.finish(call, self.sha256)

    def test_the_first_of_two_realms(self) -> None:
        second = self.start_realm("second", free_port())
        self.add_realm(second)
        self.wait_for_realm(1)
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        begun = time.monotonic()
        self.realms[0].kill()
        self.finish(call, self.sha256)
        self.assertLess(time.monotonic() - begun, 15)
        (session,) = self.alice.ask("status")["sessions"]
        self.assertEqual(f"realm 127.0.0.1:{second.port}", session["path"])

    def test_a_receiver_that_begins_anew_refuses_clearly(self) -> None:
        """Its home was lost, and it does not know its peers any more."""
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        self.bob.kill()
        self.bob.home.settings_file.unlink()
        self.bob.start()
        self.bob.ask("realm_add", realm=str(self.realms[0].address()))
        problem = self.assertRaises(AbstError, lambda: call.result)
        self.assertNotIn("\n", str(problem))
        self.assertIn("bob", str(problem))
        call.close()
        wait_until(lambda: not self.bob.inbox(), "the draft is removed")

    def test_suspended_for_a_moment(self) -> None:
        """A receiver that stops reading holds the sender back, and nothing else happens."""
        call = self.alice.send("bob", self.path)
        self.until_sent(call, 5 * MEGABYTE)
        assert self.bob.process is not None
        self.bob.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        self.bob.process.send_signal(signal.SIGCONT)
        self.finish(call, self.sha256)


class FullDiskTests(DevicesTestCase):
    """A receiver whose disk takes no more: here a limit on the size of its files."""

    def test_the_sender_is_told_and_the_next_file_is_stored(self) -> None:
        self.bob.kill()
        self.bob.start(file_bytes=8 * MEGABYTE)
        self.wait_for_realm(0)
        path, _ = self.file(12 * MEGABYTE)
        problem = self.assertRaises(
            AbstError, self.alice.ask, "send", peer="bob", paths=[str(path)]
        )
        self.assertIn("cannot store it: File too large", str(problem))
        self.assertEqual([], self.bob.inbox())
        path, sha256 = self.file(2 * MEGABYTE, "next.bin")
        self.finish(self.alice.send("bob", path), sha256, "next.bin")


class MemoryTests(DevicesTestCase):
    """What a large file costs in memory: nothing."""

    def test_memory_stays_flat(self) -> None:
        self.assert_flat(300 * MEGABYTE)

    def test_memory_stays_flat_with_a_file_that_does_not_fit_into_it(self) -> None:
        if not IS_SLOW:
            raise SkipTest("ABST_SLOW_TESTS=1 sends 2 GB")
        self.assert_flat(2048 * MEGABYTE)

    def assert_flat(self, size_bytes: int) -> None:
        assert self.alice.process is not None and self.bob.process is not None
        processes = {
            "sender": self.alice.process.pid,
            "realm": self.realms[0].process.pid,
            "receiver": self.bob.process.pid,
        }
        path, sha256 = self.file(size_bytes)
        warm = dict.fromkeys(processes, 0)
        most = dict.fromkeys(processes, 0)
        begun = time.monotonic()
        with self.alice.send("bob", path) as call:
            for event in call:
                is_warm = event.get("sent_bytes", 0) > 30 * MEGABYTE
                for name, process in processes.items():
                    found = resident_bytes(process)
                    if is_warm:
                        warm[name] = warm[name] or found
                    most[name] = max(most[name], found)
            (sent,) = call.result["files"]
        seconds = time.monotonic() - begun
        self.assertEqual(sha256, sent["sha256"])
        self.assertEqual(size_bytes, (self.bob.home.inbox / "file.bin").stat().st_size)
        figures = ", ".join(
            f"{name} {warm[name] / MEGABYTE:.0f} to {most[name] / MEGABYTE:.0f} MB"
            for name in processes
        )
        sys.stdout.write(
            f"\n    {size_bytes / MEGABYTE:.0f} MB in {seconds:.1f} s, "
            f"{size_bytes / MEGABYTE / seconds:.0f} MB/s; {figures} ... "
        )
        for name in processes:
            self.assertLess(most[name] - warm[name], FLAT_BYTES, figures)
