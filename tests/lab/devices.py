"""Devices and realms as processes on the lab's hosts, and what a person does with them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from abst.cli.agent_client import AgentCall
from tests.integration import realm_process
from tests.integration.command_line import ENVIRONMENT, CommandLine, end, read_line
from tests.lab.network import Interface, Lan, Namespace

ANSWER_SECONDS = 30.0
ARRIVAL_SECONDS = 60.0
POLL_SECONDS = 0.02
LAST_LINES = 15
MAX_LINE_BYTES = 16 * 1024 * 1024
LISTENING = "0A"
"""In the column st of /proc/net/tcp."""


def seconds_until(
    condition: Callable[[], Any], what: str, within_seconds: float = ARRIVAL_SECONDS
) -> float:
    """Wait until a condition is true, and return how long that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + within_seconds:
            raise AssertionError(f"{what}: not within {within_seconds:g} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began


class LabRealm:
    """``twistd abst-realm`` on a host of its own.

    Attributes:
        address: what it printed when it was started first.
    """

    def __init__(self, folder: Path, namespace: Namespace, interface: Interface) -> None:
        self._folder = folder
        self._namespace = namespace
        self.interface = interface
        self._process: realm_process.RealmProcess | None = None
        self.start()
        self.address = str(self._running.address())

    @property
    def _running(self) -> realm_process.RealmProcess:
        assert self._process is not None
        return self._process

    @property
    def host(self) -> str:
        """Its address without the port."""
        return str(self.interface.addresses[0].ip)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = realm_process.RealmProcess(
            self._folder,
            *("--state", str(self._folder / "state")),
            *("--host", self.host),
            command=self._namespace.command(*realm_process.TWIST),
        )
        self._process.address()

    def kill(self) -> None:
        """End it without a word, as kill -9 does: the kernel closes its connections."""
        self._running.kill()


class LabDevice(CommandLine):
    """A device on a host of its own: its agent, and the command ``abst``.

    Attributes:
        name: what it calls itself, and is called by its peers.
        host: where it is.
        interface: its first way into a network, and mostly its only one.
        device_id: its ID.
    """

    environment: ClassVar[dict[str, str]] = {**ENVIRONMENT, "ABST_LAN": "on"}

    def __init__(self, home: Path, host: Namespace, interfaces: list[Interface]) -> None:
        super().__init__(home)
        self.name = home.name
        self.host = host
        self.interface = interfaces[0]
        self._files = 0
        self.device_id = self.init(self.name)
        self.up()

    def command(self, *arguments: str | bytes) -> list[str | bytes]:
        """Return the command line of a command, run on this device's host."""
        return [*self.host.command(), *super().command(*arguments)]

    # What its owner does.

    def realm_add(self, *realms: LabRealm) -> None:
        """Use realms, and wait until they are connected."""
        for realm in realms:
            self.ok("realm", "add", realm.address)
        seconds_until(
            lambda: sum(found["up"] for found in self.ask("status")["realms"]) >= len(realms),
            f"{self.name} is connected to {len(realms)} realms",
        )

    def message(self, peer: LabDevice, text: str) -> bool:
        """Send a message; return whether it was delivered at once."""
        return bool(self.json("message", peer.name, text)["delivered"])

    def wait_for(self, text: str) -> None:
        """Wait until a message has arrived."""
        seconds_until(lambda: text in self.messages(), f"{text!r} reaches {self.name}")

    def messages(self) -> list[str]:
        """Return all messages that have arrived, in their order."""
        items = self.ask("inbox")["items"]
        return [item["text"] for item in items if item["kind"] == "message"]

    def send_file(self, peer: LabDevice, size_bytes: int, within_seconds: float = 60.0) -> None:
        """Send a file, and look that it arrives whole and once."""
        self._files += 1
        path = self.home.with_suffix(f".{self._files}.bin")
        content = random.Random(path.name).randbytes(size_bytes)
        path.write_bytes(content)
        sending = self.start("send", peer.name, str(path))
        try:
            _, said = sending.communicate(timeout=within_seconds)
        finally:
            end_quietly(sending)
        if sending.returncode:
            raise AssertionError(f"{self.name} could not send a file: {said}")
        arrived = [item for item in peer.ask("inbox")["items"] if item.get("file") == path.name]
        if [item["sha256"] for item in arrived] != [hashlib.sha256(content).hexdigest()]:
            raise AssertionError(f"{path.name} arrived as {arrived}")

    def path_to(self, peer: LabDevice) -> str:
        """Return which path its session with a peer uses now, as it is shown: kind and place."""
        return str(self._session_with(peer).get("path"))

    def kind_of_path(self, peer: LabDevice) -> str:
        """Return "direct", "realm" or "none"."""
        return str(self._session_with(peer).get("path_kind", "none"))

    def _session_with(self, peer: LabDevice) -> dict[str, Any]:
        sessions = self.ask("status")["sessions"]
        return next((found for found in sessions if found["device_id"] == peer.device_id), {})

    # What happens to it.

    def move(self, lan: Lan) -> None:
        """Carry it into another network."""
        self.interface.join(lan)

    def leave(self) -> None:
        """Carry it out of reach of every network."""
        self.interface.leave()

    def suspend(self) -> None:
        """Stop its agent where it stands, as when a lid is closed; its host still answers TCP."""
        self._agent.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its agent go on."""
        self._agent.send_signal(signal.SIGCONT)

    def interface_down(self) -> None:
        """Take its first interface down, as flight mode does."""
        self.interface.down()

    def interface_up(self) -> None:
        """Bring its first interface up again."""
        self.interface.up()

    def change_address(self) -> None:
        """Take the address of its first interface away, and give it another one."""
        self.interface.change_addresses()

    @property
    def _agent(self) -> subprocess.Popen[str]:
        assert self.agent is not None
        return self.agent

    # What a test asks.

    @property
    def listening_address(self) -> str:
        """Where its agent takes calls over TCP, as HOST:PORT; the kernel knows it for sure."""
        ports = set()
        for table in ("tcp", "tcp6"):
            text = Path(f"/proc/{self._agent.pid}/net/{table}").read_text("ascii")
            rows = [line.split() for line in text.splitlines()[1:]]
            ports |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING}
        if len(ports) != 1:
            raise AssertionError(f"{self.name} listens at the ports {sorted(ports)}")
        host = self.interface.addresses[0].ip
        return f"[{host}]:{ports.pop()}" if host.version == 6 else f"{host}:{ports.pop()}"

    @property
    def resident_bytes(self) -> int:
        """How much memory its agent has in use (proc(5))."""
        pages = Path(f"/proc/{self._agent.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Ask its agent, without the cost of a process."""
        path = self.home / "agent.sock"
        with AgentCall(path, command, arguments, ANSWER_SECONDS) as call:
            return call.result

    def begin(self, command: str, **arguments: Any) -> Question:
        """Begin to ask its agent something that may take long."""
        return Question(self.home / "agent.sock", {"command": command, **arguments})

    def last_words(self) -> str:
        """Return the end of its log, with its name on every line."""
        log = self.home.with_suffix(".log").read_text("utf-8", "replace")
        return "".join(f"\n    {self.name}: {line}" for line in log.splitlines()[-LAST_LINES:])

    def tracebacks(self) -> str:
        """Return what its log says from the first traceback on, or nothing."""
        log = self.home.with_suffix(".log").read_text("utf-8", "replace")
        before, traceback, after = log.partition("Traceback")
        return f"{self.name}: {before[-300:]}{traceback}{after[:3000]}" if traceback else ""


class Question:
    """A request to an agent, whose answer need not be waited for."""

    def __init__(self, path: Path, request: dict[str, Any]) -> None:
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(json.dumps(request).encode("ascii") + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._socket.close()

    def answer(self, within_seconds: float) -> dict[str, Any] | None:
        """Return the last word on it: {"result": ...} or {"error": ...}, or None if it is late."""
        deadline = time.monotonic() + within_seconds
        while True:
            *lines, self._received = self._received.split(b"\n")
            for line in lines:
                found: dict[str, Any] = json.loads(line)
                if "event" not in found:
                    return found
            wait_seconds = max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], wait_seconds)[0]:
                return None
            data = self._socket.recv(MAX_LINE_BYTES)
            if not data:
                return {"error": "the agent closed the connection"}
            self._received += data

    def close(self) -> None:
        """Ask no more."""
        self._socket.close()


def pair(first: LabDevice, second: LabDevice) -> None:
    """Pair two devices by a code that one shows and the other is told."""
    showing = first.start("pair", "--json")
    try:
        code = json.loads(read_line(showing)).get("code")
        if not code:
            raise AssertionError(f"{first.name} has no code to show")
        second.ok("pair", code)
        if showing.wait(ANSWER_SECONDS):
            raise AssertionError(f"{first.name} did not pair")
    finally:
        end_quietly(showing)


def end_quietly(process: subprocess.Popen[str]) -> None:
    """End a process whose pipes may have been read to their ends."""
    if process.poll() is None:
        end(process)
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
