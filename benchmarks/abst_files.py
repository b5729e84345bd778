"""``abst send``: two devices, an agent each, and a realm. They may not talk directly."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.abst_realm import AbstRealm
from benchmarks.command import run
from benchmarks.errors import ServerFailed
from benchmarks.movers import RECEIVER, RELAY, SENDER, Prepared
from benchmarks.process import ServerProcess

_CHECKOUT = Path(__file__).parent.parent
_ENVIRONMENT = {"ABST_LAN": "off"}
_START_SECONDS = 30.0
_LOOK_SECONDS = 0.05


class AbstFiles:
    """The command line and the agents of the checkout."""

    name = "abst"

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        """``command`` starts a realm; ``folder`` is made for it."""
        self._realm = AbstRealm(folder, command)
        self.version = self._realm.version

    @contextlib.contextmanager
    def prepare(self, file: Path, folder: Path) -> Iterator[Prepared]:
        """Start a realm and two agents that trust each other; see :class:`Mover`."""
        sender, receiver = (_Device(folder / role) for role in (SENDER, RECEIVER))
        with contextlib.ExitStack() as stack:
            realm = stack.enter_context(self._realm.start(folder))
            address = next(word for word in realm.output().split() if word.startswith("abst://"))
            agents = [stack.enter_context(each.start(address)) for each in (sender, receiver)]
            sender.trust(receiver)
            receiver.trust(sender)
            # Their session stands, and each knows where the other is.
            sender.run("ping", RECEIVER, "--count", "1")
            yield Prepared(
                standing=[(RELAY, realm), (SENDER, agents[0]), (RECEIVER, agents[1])],
                commands=[(SENDER, sender.command("send", RECEIVER, str(file)))],
                inbox=receiver.home / "inbox",
                cwd=_CHECKOUT,
                environment=_ENVIRONMENT,
            )


class _Device:
    def __init__(self, home: Path) -> None:
        self.home = home

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "abst.cli", "--home", str(self.home), *arguments]

    def run(self, *arguments: str) -> str:
        return run(self.command(*arguments), _CHECKOUT, _ENVIRONMENT)

    def start(self, realm: str) -> ServerProcess:
        """Make the device, start its agent, and tell it the realm."""
        self.run("init", "--name", self.home.name)
        folder = self.home.with_name(f"{self.home.name}-agent")
        folder.mkdir()
        command = self.command("up", "--foreground")
        agent = ServerProcess(command, folder, _CHECKOUT, _ENVIRONMENT)
        deadline = time.monotonic() + _START_SECONDS
        try:
            while not (self.home / "agent.sock").exists():
                agent.check()
                if time.monotonic() > deadline:
                    raise ServerFailed(f"an agent does not start:\n{agent.output()}")
                time.sleep(_LOOK_SECONDS)
            self.run("realm", "add", realm)
        except BaseException:
            agent.stop()
            raise
        return agent

    def trust(self, other: _Device) -> None:
        self.run("trust", other.run("id").strip(), "--name", other.home.name)
