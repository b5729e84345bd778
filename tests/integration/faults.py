"""Two agents and a realm that talk while a script of faults, made from a seed, hits them.

Owns the script, who is hit and how, what the two send meanwhile, and what has to be true in the
end: nothing lost, nothing twice, messages in order, no traceback. A seed repeats the script; what
the processes are doing when a fault hits is up to the computer.
"""

import hashlib
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from abst.address import RealmAddress
from abst.agent.home import Home
from abst.cli.agent_client import AgentCall
from abst.control_client import RefusedError
from abst.errors import AbstError
from tests.integration.command_line import SECONDS, CommandLine, RealmProcess, wait_until

NAMES = ("alice", "bob")
ANSWER_SECONDS = 20.0
SETTLE_SECONDS = 90.0
RETRY_SECONDS = 0.05
FILE_BYTES = 4_000_000
FILES = 50
"""How many files at most go each way, so that a long run does not fill the disk."""

KINDS = ("kill", "stop", "suspend") if hasattr(signal, "SIGSTOP") else ("kill", "stop")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one process.

    Attributes:
        after_seconds: how long everything is left alone before.
        whom: ``alice``, ``bob`` or ``realm``.
        kind: one of ``KINDS``.
        for_seconds: how long the process is away.
    """

    after_seconds: float
    whom: str
    kind: str
    for_seconds: float


def faults(seed: int) -> Iterator[Fault]:
    """Return the script of a seed; it does not end."""
    chance = random.Random(seed)
    while True:
        yield Fault(
            chance.uniform(0.1, 1.5),
            chance.choice((*NAMES, "realm")),
            chance.choice(KINDS),
            chance.uniform(0.0, 1.5),
        )


class Target:
    """A process that goes away and comes back."""

    def process(self) -> subprocess.Popen[str]:
        """Return the process that runs now."""
        raise NotImplementedError

    def restart(self) -> None:
        """Start it again, once it has ended."""
        raise NotImplementedError

    def take_away(self, kind: str, seconds: float) -> None:
        """Hit the process with a fault; when this returns, it runs again."""
        process = self.process()
        if kind == "suspend":
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)
            return
        if kind == "kill":
            process.kill()
        else:
            process.terminate()
        process.wait(SECONDS)
        time.sleep(seconds)
        self.restart()

    def stop(self) -> None:
        """End it for good."""
        raise NotImplementedError


class Realm(Target):
    """A realm that comes back on the same port.

    Attributes:
        address: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = RealmProcess(folder)
        self.address = self._running.address

    def process(self) -> subprocess.Popen[str]:
        return self._running.process

    def restart(self) -> None:
        self._running.stop()
        self._running = RealmProcess(self._folder, RealmAddress.parse(self.address).port)

    def stop(self) -> None:
        self._running.stop()


class Agent(Target):
    """An agent, asked at its socket: a process for each question would be too slow.

    Attributes:
        name: what it calls itself, and is called by the other one.
        device_id: its ID.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._device = CommandLine(folder / name)
        self.device_id = str(Home(self._device.home).create(name).device_id)
        self._device.up()

    def process(self) -> subprocess.Popen[str]:
        assert self._device.agent is not None
        return self._device.agent

    def restart(self) -> None:
        self._device.up()

    def call(self, command: str, timeout_seconds: float | None, **arguments: Any) -> AgentCall:
        """Begin to ask the agent."""
        return AgentCall(self._device.home / "agent.sock", command, arguments, timeout_seconds)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask the agent; whatever fails raises an ``AbstError``."""
        with self.call(command, ANSWER_SECONDS, **arguments) as call:
            return call.result

    def log(self) -> str:
        """Return everything that it has logged, over all of its lives."""
        return self._device.home.with_suffix(".log").read_text("utf-8", "replace")

    def stop(self) -> None:
        self._device.kill()


class Stream:
    """What one agent sends to the other."""

    def count(self) -> int:
        """Return how much of it has to arrive."""
        raise NotImplementedError

    def send_until(self, deadline: float) -> None:
        """Send, in a thread of its own."""
        raise NotImplementedError

    def wrong(self, items: list[dict[str, Any]]) -> list[str]:
        """Return what is wrong with the receiver's inbox, for ever."""
        raise NotImplementedError

    def missing(self, items: list[dict[str, Any]]) -> list[str]:
        """Return what the receiver's inbox has not got, yet."""
        raise NotImplementedError


class MessageStream(Stream):
    """Numbered messages, one way.

    Attributes:
        taken: the numbers of those that the sender's agent has taken, so that they have to arrive.
    """

    def __init__(self, sender: Agent, receiver: Agent) -> None:
        self._sender = sender
        self._receiver = receiver
        self.taken: set[int] = set()

    def count(self) -> int:
        return len(self.taken)

    def send_until(self, deadline: float) -> None:
        """Send one after the other. One that was not answered may have been taken or not."""
        number = 0
        while time.monotonic() < deadline:
            try:
                self._sender.ask("message", peer=self._receiver.name, text=str(number))
                self.taken.add(number)
            except AbstError:
                time.sleep(RETRY_SECONDS)
            number += 1

    def wrong(self, items: list[dict[str, Any]]) -> list[str]:
        got = [int(item["text"]) for item in items if item["kind"] == "message"]
        way = f"messages from {self._sender.name}"
        found = []
        if repeated := [number for number, times in Counter(got).items() if times > 1]:
            found.append(f"{way}: twice: {repeated}")
        elif got != sorted(got):
            found.append(f"{way}: out of order: {got}")
        return found

    def missing(self, items: list[dict[str, Any]]) -> list[str]:
        got = {int(item["text"]) for item in items if item["kind"] == "message"}
        lost = sorted(self.taken - got)
        return [f"messages from {self._sender.name}: missing: {lost}"] if lost else []


class FileStream(Stream):
    """Files, one way.

    Attributes:
        taken: the hashes, by name, of those that have to arrive.
        refused: what was said of files that were given up on their way.
    """

    def __init__(self, sender: Agent, receiver: Agent, folder: Path) -> None:
        self._sender = sender
        self._receiver = receiver
        self._folder = folder
        self.taken: dict[str, str] = {}
        self.refused: list[str] = []

    def count(self) -> int:
        return len(self.taken)

    def send_until(self, deadline: float) -> None:
        """Send one after the other."""
        pause_seconds = (deadline - time.monotonic()) / FILES
        for number in range(FILES):
            path = self._folder / f"{self._sender.name}-{number}"
            content = random.Random(path.name).randbytes(FILE_BYTES)
            path.write_bytes(content)
            self._send(path, hashlib.sha256(content).hexdigest())
            if time.monotonic() + pause_seconds > deadline:
                return
            time.sleep(pause_seconds)

    def _send(self, path: Path, sha256: str) -> None:
        """Send a file. Once there is progress it is taken: the agent goes on with it by itself."""
        try:
            with self._sender.call(
                "send", SETTLE_SECONDS, peer=self._receiver.name, paths=[str(path)]
            ) as call:
                for _ in call:
                    self.taken[path.name] = sha256
        except RefusedError as problem:
            if path.name in self.taken:
                self.refused.append(f"{path.name}: given up: {problem}")
        except AbstError:
            time.sleep(RETRY_SECONDS)

    def wrong(self, items: list[dict[str, Any]]) -> list[str]:
        found = list(self.refused)
        paths = [Path(item["path"]) for item in items if item["kind"] == "file"]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        for path, content in zip(paths, contents, strict=True):
            if contents.count(content) > 1:
                found.append(f"{path.name}: twice")
            if self.taken.get(path.name, content) != content:
                found.append(f"{path.name}: arrived with another content")
        return found

    def missing(self, items: list[dict[str, Any]]) -> list[str]:
        got = {item["sha256"] for item in items if item["kind"] == "file"}
        return [f"{name}: missing" for name, sha256 in self.taken.items() if sha256 not in got]


class FaultRun:
    """A realm and two agents that trust each other, with faults to come.

    Args:
        folder: where everything is.
        seed: makes the script.

    Attributes:
        history: the faults there were.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._seed = seed
        self._folder = folder
        self._targets: dict[str, Target] = {}
        self._agents: list[Agent] = []
        self._messages: list[MessageStream] = []
        self._files: list[FileStream] = []
        self.history: list[Fault] = []

    def begin(self) -> None:
        """Start everything."""
        realm = Realm(self._folder / "realm")
        self._targets["realm"] = realm
        for name in NAMES:
            agent = Agent(self._folder, name)
            self._targets[name] = agent
            self._agents.append(agent)
        for agent, other in zip(self._agents, reversed(self._agents), strict=True):
            agent.ask("realm_add", realm=realm.address)
            agent.ask("trust", device_id=other.device_id, name=other.name)
            self._messages.append(MessageStream(agent, other))
            self._files.append(FileStream(agent, other, self._folder))

    def end(self) -> None:
        """Leave nothing running."""
        for target in self._targets.values():
            target.stop()

    def run(self, seconds: float) -> None:
        """Let both send, and the faults hit, for so long; then everything runs again."""
        deadline = time.monotonic() + seconds
        streams: list[Stream] = [*self._messages, *self._files]
        threads = [
            threading.Thread(target=stream.send_until, args=(deadline,), daemon=True)
            for stream in streams
        ]
        for thread in threads:
            thread.start()
        # A run in which one of them could send nothing would say nothing.
        wait_until(lambda: all(stream.count() for stream in streams), "everything is on its way")
        for fault in faults(self._seed):
            if time.monotonic() + fault.after_seconds > deadline:
                break
            time.sleep(fault.after_seconds)
            self.history.append(fault)
            self._targets[fault.whom].take_away(fault.kind, fault.for_seconds)
        for thread in threads:
            thread.join(2 * SETTLE_SECONDS)
            if thread.is_alive():
                raise AssertionError("a sender has not come to an end")

    def problems(self) -> list[str]:
        """Return what is wrong, after waiting for what may still arrive."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            wrong, missing = [], []
            for number, agent in enumerate(self._agents):
                missing += [f"{agent.name} keeps {item}" for item in agent.ask("outbox")["items"]]
                items = self._agents[1 - number].ask("inbox")["items"]
                for stream in (self._messages[number], self._files[number]):
                    wrong += stream.wrong(items)
                    missing += stream.missing(items)
            if wrong or not missing or time.monotonic() > deadline:
                return [*wrong, *missing, *self._tracebacks()]
            time.sleep(0.5)

    def _tracebacks(self) -> list[str]:
        found = []
        for agent in self._agents:
            before, traceback, after = agent.log().partition("Traceback")
            if traceback:
                found.append(f"{agent.name}'s log: {before[-300:]}{traceback}{after[:2000]}")
        return found

    def summary(self) -> str:
        """Say how much there was."""
        messages, files = (
            [stream.count() for stream in streams] for streams in (self._messages, self._files)
        )
        return f"{len(self.history)} faults, messages {messages}, files {files}"
