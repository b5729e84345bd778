"""What a machine does to a realm: no more files, a full disk, a slow one, a clock that is set.

Each realm is a real process, and two bystanders talk to each other through it all the time; they
must not notice anything. What is wrong stands in the log, with what to do about it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from abst.errors import Code
from abst.packets import (
    CreateGroup,
    Error,
    GroupEpoch,
    GroupMembers,
    JoinGroup,
    Packet,
    PutValue,
    ValuePut,
)
from abst.realm.state_folder import STORE_FILE
from tests.integration.raw_client import (
    Bystanders,
    RawDevice,
    identities,
    join,
)
from tests.integration.realm_process import LOOPBACK, TWIST, RealmProcess
from tests.realm.group_members import Keys

ALICE, BOB = identities(2)
NAME = bytes(32)

SLOWEST_SECONDS = 1.0
"""What a round of the bystanders may take on a busy machine; by itself it takes a millisecond."""

CONFIG = f'listen = ["{LOOPBACK}"]\n'
SHORT_SECONDS = 0.4
HASTY_CONFIG = f"""{CONFIG}
[limits]
hello_seconds = {SHORT_SECONDS}
heartbeat_seconds = 1
silence_seconds = 3
"""

SETTABLE_CLOCK = """
import os, signal, time
real, ahead = time.time, [0.0]
time.time = lambda: real() + ahead[0]
def set_clock(*_):
    with open(os.environ["CLOCK_AHEAD"]) as file:
        ahead[0] = float(file.read())
signal.signal(signal.SIGUSR2, set_clock)
from twisted.scripts.twistd import run
run()
"""
"""Starts a realm whose clock of the day is set as somebody with root's rights sets it."""

HOUR = 3600.0
SLOW_SECONDS = float(os.environ.get("ABST_SLOW_SECONDS") or 0.6)


class HardshipTestCase(TestCase):
    """One realm and one pair of bystanders for each test."""

    def start(
        self,
        config: str = CONFIG,
        command: Sequence[str] = TWIST,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Start the realm, and let the bystanders talk."""
        self.realm = RealmProcess(
            Path(self.mktemp()), config=config, command=command, environment=environment
        )
        self.addCleanup(self.realm.kill)
        self.port = self.realm.port
        self.bystanders = Bystanders(self.port)
        # Cleanups run the last first: this one after all connections are closed.
        self.addCleanup(self.bystanders.stop)
        self.addCleanup(self.check_that_nothing_was_disturbed)
        self.bystanders.check()

    @property
    def state(self) -> Path:
        """The realm's state folder."""
        return self.realm.folder / "home" / ".local" / "state" / "abst-realm"

    def check_that_nothing_was_disturbed(self) -> None:
        self.bystanders.check()
        self.assertLess(self.bystanders.slowest_seconds, SLOWEST_SECONDS)
        self.bystanders.stop()
        self.assertIn(self.realm.terminate(), (0, -15))
        for word in ("Traceback", "Unhandled"):
            self.assertNotIn(word, self.realm.output.text)

    def member(self) -> RawDevice:
        """Return a device that has made and joined a group."""
        device = RawDevice(self.port, ALICE)
        self.addCleanup(device.close)
        keys = Keys(b"hardship")
        proof = keys.proof(device.hello().nonce, device.device_id, 0)
        device.send(CreateGroup(keys.group, 0, keys.public(0), proof))
        self.assertIsInstance(device.receive(), GroupEpoch)
        device.send(JoinGroup(keys.group, 0, proof))
        self.assertIsInstance(device.receive(), GroupMembers)
        self.group = keys.group
        return device

    def put(self, device: RawDevice, content: bytes) -> Packet:
        """Put a value, and return the answer."""
        device.send(PutValue(self.group, NAME, content))
        return device.receive()


class FilesTests(HardshipTestCase):
    def test_no_more_files_may_be_opened(self) -> None:
        """Newcomers wait or are cut off; who is there goes on; later there is room again."""
        self.start()
        process = self.realm.process.pid
        before = resource.prlimit(process, resource.RLIMIT_NOFILE)
        few = self.realm.open_files() + 8
        resource.prlimit(process, resource.RLIMIT_NOFILE, (few, before[1]))
        strangers = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(30)]
        line = self.realm.log_line("files", "LimitNOFILE")
        self.bystanders.check(30)
        begun = self.realm.cpu_seconds()
        time.sleep(0.3)
        self.assertLess(self.realm.cpu_seconds() - begun, 0.2, "it waits, and does not spin")
        for stranger in strangers:
            stranger.close()
        resource.prlimit(process, resource.RLIMIT_NOFILE, before)
        with join(self.port, BOB):
            pass
        self.assertEqual(1, self.realm.output.text.count(line.partition("]")[2]))


class DiskTests(HardshipTestCase):
    def test_a_full_disk(self) -> None:
        """What cannot be kept is refused and nothing else; with room, it goes on."""
        folder = Path(self.mktemp()).resolve()
        mount = f'mount -t tmpfs -o size=600k tmpfs "{folder}" && exec "$@"'
        folder.mkdir(parents=True)
        alone = ("unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh")
        if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
            raise SkipTest("this machine lets nobody mount a small disk")
        self.start(f'{CONFIG}state = "{folder}"\n', [*alone, *TWIST])
        inside = Path(f"/proc/{self.realm.process.pid}/root{folder}")
        member = self.member()
        self.assertIsInstance(self.put(member, b"first"), ValuePut)
        filling = inside / "filling"
        with contextlib.suppress(OSError), filling.open("wb", 0) as file:
            while True:
                file.write(bytes(4096))
        answer = self.put(member, bytes(60_000))
        assert isinstance(answer, Error), answer
        self.assertEqual(Code.NOT_KEPT, answer.code)
        self.realm.log_line("full", "make room")
        self.bystanders.check(30)
        filling.unlink()
        self.assertIsInstance(self.put(member, bytes(60_000)), ValuePut)

    def test_a_slow_disk(self) -> None:
        """A commit takes as long as it takes; packets go on meanwhile."""
        self.start()
        member = self.member()
        with contextlib.closing(
            sqlite3.connect(self.state / STORE_FILE, isolation_level=None)
        ) as other:
            other.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            member.send(PutValue(self.group, NAME, b"slowly"))
            self.bystanders.check(100)
            with join(self.port, BOB) as bob:
                bob.send_to(bob.device_id, b"to itself")
                bob.receive()
            time.sleep(max(0.0, begun + SLOW_SECONDS - time.monotonic()))
            other.execute("COMMIT")
        self.assertIsInstance(member.receive(), ValuePut)
        self.assertGreater(time.monotonic() - begun, SLOW_SECONDS)


class ClockTests(HardshipTestCase):
    def set_clock(self, seconds: float) -> None:
        """Set the realm's clock of the day."""
        self.ahead.write_text(str(seconds), "ascii")
        self.realm.process.send_signal(signal.SIGUSR2)

    def test_the_clock_is_set(self) -> None:
        """Nobody is taken for silent, and who is silent is closed as soon as ever."""
        self.ahead = Path(self.mktemp()).resolve()
        command = (sys.executable, "-c", SETTABLE_CLOCK, "--pidfile=", "-n", "abst-realm")
        self.start(HASTY_CONFIG, command, {"CLOCK_AHEAD": str(self.ahead)})
        member = self.member()
        for seconds in (HOUR, -HOUR):
            self.set_clock(seconds)
            begun = time.monotonic()
            with RawDevice(self.port, BOB) as late:
                (error,) = late.rest()
            assert isinstance(error, Error)
            self.assertEqual(Code.HELLO_LATE, error.code)
            self.assertLess(time.monotonic() - begun, SHORT_SECONDS + SLOWEST_SECONDS)
            self.bystanders.check()
            self.assertIsInstance(self.put(member, b"kept"), ValuePut)
