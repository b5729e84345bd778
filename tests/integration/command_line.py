"""Real processes for the tests of the command line: a realm, agents, and the command ``abst``."""

import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import TestCase

from abst.agent.home import Home

ROOT = Path(__file__).parent.parent.parent
SECONDS = 30.0

# What runs is this checkout, wherever trial has put the current folder.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("ABST_", "XDG_"))},
    "PYTHONPATH": str(ROOT),
    # Tests listen on loopback, and announce nothing to the network that this machine is on.
    "ABST_LAN": "off",
}


def temporary_folder() -> Path:
    """Return a new folder with a short path: a socket's path has at most 107 bytes."""
    return Path(tempfile.mkdtemp(prefix="abst-test-", dir="/tmp"))


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of ``condition``, which is asked again and again."""
    deadline = time.monotonic() + SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {SECONDS:.0f} s")
        time.sleep(0.02)
    return value


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line of a process's stdout; a silent process is killed."""
    assert process.stdout is not None
    watchdog = threading.Timer(SECONDS, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def processes_of(folder: Path, module: str = "") -> list[int]:
    """Return the numbers of the processes whose command lines name a folder, and a module."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes()
            words = line.split(b"\0")
            if os.fsencode(folder) in line and (not module or module.encode() in words):
                found.append(int(path.parent.name))
    return found


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process that still runs, and close its pipes."""
    if process.poll() is None:
        process.kill()
    process.communicate(timeout=SECONDS)


class RealmProcess:
    """A realm that takes every device, on a port of its own, or on one that an earlier one had.

    Attributes:
        process: the process.
        address: what it prints.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "twisted", "abst-realm"),
                *("--listen", f"tcp:{port}:interface=127.0.0.1", "--state", str(folder)),
                *("--access", "open"),
            ],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = ""
        while not self.address.startswith("abst://"):
            line = read_line(self.process)
            if not line:
                raise AssertionError("the realm did not start")
            self.address = line.strip()
        # It logs to stdout too, and must not stop when nobody reads.
        assert self.process.stdout is not None
        self._drain = threading.Thread(target=self.process.stdout.read, daemon=True)
        self._drain.start()

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(SECONDS)
        self._drain.join(SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


class CommandLine:
    """The command ``abst`` with one home.

    Attributes:
        home: the home.
        environment: what stands in the environment of what is started.
    """

    environment: ClassVar[dict[str, str]] = ENVIRONMENT

    def __init__(self, home: Path) -> None:
        self.home = home
        self.agent: subprocess.Popen[str] | None = None

    def command(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the command line of a command."""
        return [sys.executable, "-P", "-m", "abst.cli", "--home", str(self.home), *arguments]

    def run(
        self, *arguments: str | bytes, folder: Path = ROOT, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``changes`` are environment variables."""
        return subprocess.run(
            self.command(*arguments),
            env={**self.environment, **changes},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def ok(self, *arguments: str | bytes, folder: Path = ROOT) -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self.run(*arguments, folder=folder)
        if done.returncode != 0:
            raise AssertionError(f"{arguments}: status {done.returncode}\n{done.stderr}")
        return done.stdout

    def json(self, *arguments: str | bytes, folder: Path = ROOT) -> Any:
        """Return the one JSON document that a command prints."""
        return json.loads(self.ok(*arguments, "--json", folder=folder))

    def start(self, *arguments: str | bytes) -> subprocess.Popen[str]:
        """Start a command that runs for a while."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def init(self, name: str) -> str:
        """Make the device, and return its ID."""
        return self.ok("init", "--name", name).strip()

    def up(self) -> None:
        """Start the agent as a child of this process, which knows its number."""
        log = self.home.with_suffix(".log").open("ab")
        with log:
            self.agent = subprocess.Popen(
                self.command("up", "--foreground"),
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                text=True,
            )
        wait_until(self.is_answering, "the agent answers")

    def is_answering(self) -> bool:
        """Tell whether an agent listens at the home's socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.home / "agent.sock")) == 0

    def kill(self) -> None:
        """End the agent without a word, as a crash does."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait(SECONDS)
            self.agent = None

    def stop(self) -> None:
        """End the agent, however it was started."""
        self.kill()
        if (self.home / "agent.sock").exists():
            self.run("down")


class SharedStage:
    """A realm, and two devices there that trust each other.

    Attributes:
        realm: the realm.
        alice: one device, whose agent runs; it calls the other one bob.
        bob: the other one.
    """

    def __init__(self) -> None:
        self._folder = temporary_folder()
        self.alice, self.bob = (CommandLine(self._folder / name) for name in ("alice", "bob"))
        atexit.register(self._clear)
        self.realm = RealmProcess(self._folder / "realm")
        identities = [self.alice.init("alice"), self.bob.init("bob")]
        for device, other, name in (
            (self.alice, identities[1], "bob"),
            (self.bob, identities[0], "alice"),
        ):
            device.up()
            device.ok("realm", "add", self.realm.address)
            device.ok("trust", other, "--name", name)

    def _clear(self) -> None:
        self.alice.stop()
        self.bob.stop()
        if hasattr(self, "realm"):
            self.realm.stop()
        shutil.rmtree(self._folder)


@functools.cache
def shared_stage() -> SharedStage:
    """Return the stage that the tests of this process share; trial has no set-up of a class."""
    return SharedStage()


class CommandLineTestCase(TestCase):
    """A test with homes in a folder of its own."""

    def setUp(self) -> None:
        self.folder = temporary_folder()
        self.addCleanup(shutil.rmtree, self.folder)

    def device(self, name: str) -> CommandLine:
        """Return a device that exists, with no agent running; it is stopped in the end."""
        device = CommandLine(self.folder / name)
        self.addCleanup(device.stop)
        Home(device.home).create(name)
        return device

    def assert_refused(
        self, done: subprocess.CompletedProcess[str], *words: str, status: int = 1
    ) -> None:
        """Assert that a command failed with one line on stderr that has these words."""
        self.assertEqual(status, done.returncode, done)
        lines = [line for line in done.stderr.splitlines() if "started the agent" not in line]
        self.assertEqual(1, len(lines), done.stderr)
        self.assertTrue(lines[0].startswith("abst: "), lines[0])
        for word in words:
            self.assertIn(word, lines[0])

    def interrupt(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Send Ctrl-C; return the exit status and what was said on stderr."""
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        return process.returncode, said
