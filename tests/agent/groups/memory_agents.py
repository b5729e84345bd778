"""Agents in memory, as far as groups go: real devices, a real realm, and the agent's commands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue, ensureDeferred
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups.commands import GroupCommands
from abst.agent.groups.factory import AgentGroupFactory
from abst.agent.groups.news import GroupNews
from abst.agent.groups.offers import GroupOffers
from abst.agent.groups.policy import OfferPolicy
from abst.agent.groups.values import ValueCommands
from abst.agent.inbox import Inbox
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Records
from abst.agent.sessions import AgentFactory
from abst.control import Command
from abst.database import Database
from abst.device import PeerBook
from abst.device.groups.store import SqliteGroupStore
from abst.errors import AbstError
from abst.identity import Identity
from abst.testing import MemoryNetwork


class MemoryAgent:
    """An agent's groups.

    Attributes:
        device: the device.
        offers: what peers offer it.
        heard: what was told to whoever listens to everything.
        saves: how often the settings were saved.
        answers: what a person answers to the command that was called last.
    """

    def __init__(
        self,
        network: MemoryNetwork,
        name: str,
        *,
        identity: Identity | None = None,
        peers: PeerBook | None = None,
        database: Path | None = None,
        policy: OfferPolicy = OfferPolicy.ACCEPT,
    ) -> None:
        self.name = name
        self.identity = identity or Identity.generate()
        self.peers = peers or PeerBook()
        self.path = database or Path(tempfile.mkdtemp(prefix="abst-test-")) / "device.sqlite3"
        self.heard: list[dict[str, Any]] = []
        self.saves = 0
        self._network = network
        self._database = Database(self.path, DATABASE_KIND, MIGRATIONS)
        self.offers = GroupOffers(self.peers, policy, self.heard.append)
        news = GroupNews(self.peers, self.heard.append)
        self.device = network.device(
            name,
            AgentFactory(Inbox(Records(self._database)), self.heard.append),
            identity=self.identity,
            peers=self.peers,
            group_factory=AgentGroupFactory(self.offers, news),
            group_store=SqliteGroupStore(self._database),
        )
        self.groups = GroupCommands(self.device, self.offers, news, self._save)
        self.commands: dict[str, Command] = {
            **self.groups.by_name(),
            **ValueCommands(self.device, news).by_name(),
        }

    @property
    def device_id(self) -> str:
        """Who it is."""
        return str(self.device.device_id)

    def begin(self, command: str, **arguments: Any) -> tuple[Deferred[Any], list[dict[str, Any]]]:
        """Begin a command; return a Deferred of its result, and the list of its events."""
        begun = self.call(command, **arguments)
        self._network.settle()
        return begun

    def call(self, command: str, **arguments: Any) -> tuple[Deferred[Any], list[dict[str, Any]]]:
        """Do the same before anything that it sends arrives."""
        events: list[dict[str, Any]] = []
        self.answers: DeferredQueue[Any] = DeferredQueue()
        arguments["answers"] = self.answers

        async def run() -> dict[str, Any]:
            return await self.commands[command](arguments, events.append)

        return ensureDeferred(run()), events

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Return the result of a command, for which time goes by as long as it takes."""
        done, _ = self.begin(command, **arguments)
        for _ in range(40):
            if done.called:
                break
            self._network.advance(0.5)
        result: dict[str, Any] = self._network.result(done)
        return result

    def kill(self) -> None:
        """End it without a word."""
        self._network.kill(self.device)
        self._database.close()

    def again(self) -> MemoryAgent:
        """Return the agent that starts in its place, with what is on its disk."""
        return MemoryAgent(
            self._network,
            self.name,
            identity=self.identity,
            peers=self.peers,
            database=self.path,
            policy=self.offers.policy,
        )

    def _save(self) -> None:
        self.saves += 1


class MemoryAgentTestCase(SynchronousTestCase):
    """A test with agents that trust each other.

    Attributes:
        network: where they are.
    """

    def setUp(self) -> None:
        self.network = MemoryNetwork()

    def agents(self, *names: str, **options: Any) -> list[MemoryAgent]:
        """Return new agents that have all met each other."""
        agents = [MemoryAgent(self.network, name, **options) for name in names]
        self.meet(*agents)
        return agents

    def meet(self, *agents: MemoryAgent) -> None:
        """Let agents trust each other, and let each pair of them have a session."""
        self.network.introduce(*(agent.device for agent in agents))
        for number, agent in enumerate(agents):
            for other in agents[:number]:
                agent.device.connect(other.device.device_id)
        self.network.advance(1)

    def assert_refused(
        self, agent: MemoryAgent, command: str, *words: str, **arguments: Any
    ) -> None:
        """Assert that a command fails with these words, in one line."""
        error = self.assertRaises(AbstError, agent.ask, command, **arguments)
        self.assertNotIn("\n", str(error))
        for word in words:
            self.assertIn(word, str(error))
