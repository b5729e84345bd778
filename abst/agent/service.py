"""The agent as a Twisted service: home, lock, device, and the socket for commands."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from abst.address import RealmAddress
from abst.agent.commands import Commands
from abst.agent.files.files import Files
from abst.agent.groups.commands import GroupCommands
from abst.agent.groups.factory import AgentGroupFactory
from abst.agent.groups.news import GroupNews
from abst.agent.groups.offers import GroupOffers
from abst.agent.groups.values import ValueCommands
from abst.agent.home import Home, Settings
from abst.agent.inbox import Inbox
from abst.agent.lan_setting import ENVIRONMENT, LanSetting
from abst.agent.realm_commands import RealmCommands
from abst.agent.records import DATABASE_KIND, MIGRATIONS, Records
from abst.agent.sessions import AgentFactory
from abst.agent.streams.commands import StreamCommands
from abst.agent.streams.exposures import Exposures
from abst.agent.streams.gate import MAX_CONNECTIONS, Gate
from abst.agent.threads import Threads
from abst.control import ControlFactory, Emit, make_room
from abst.database import Database
from abst.device import Device, PeerBook
from abst.device.groups.store import SqliteGroupStore
from abst.device.lan import Lan, LocalNetwork
from abst.device.session_store import SqliteSessionStore
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.logs import LoggingService
from abst.open_files import allow_open_files
from abst.systemd import SystemdNotifier

OPEN_FILES: Final = 4096
"""Streams, what is forwarded and exposed, and programs that use the gate, each with its bounds."""

OUTBOX_SECONDS: Final = 30 * 24 * 3600.0
"""How long what is sent waits for a device that is away."""


class AgentService(LoggingService, MultiService):
    """A device with a home.

    Attributes:
        device: the device; None before the service is started.
        lan: how it uses the local network.
    """

    name = "abst-device"
    log = Logger(namespace="abst.agent")

    def __init__(
        self, reactor: Any, home: Home, environment: Mapping[str, str] = os.environ
    ) -> None:
        super().__init__()
        self._environment = environment
        self._reactor = reactor
        self._home = home
        self._lock: int | None = None
        self._database: Database | None = None
        self._port: IListeningPort | None = None
        self._gate: Gate | None = None
        self._gate_port: IListeningPort | None = None
        self._exposures: Exposures | None = None
        self._offers: GroupOffers | None = None
        self._realms: RealmCommands | None = None
        self._saved_realms: list[str] = []
        self._listeners: set[Emit] = set()
        self._settings = Settings()
        self.lan = LanSetting()
        self._threads = Threads()
        self._systemd = SystemdNotifier(reactor, environment)
        self._files: Files | None = None
        self.device: Device | None = None

    def startService(self) -> None:
        """Take the home, start the device, and listen for commands.

        Raises:
            SystemExit: something is in the way; the text says what.
        """
        allow_open_files(OPEN_FILES)
        try:
            self._open()
        except AbstError as error:
            self._give_back()
            raise SystemExit(f"abst-device: {error}") from None
        super().startService()
        assert self._exposures is not None and self._files is not None
        self._files.start()
        ensureDeferred(self._exposures.start())
        self._systemd.ready(lambda: "running")

    def stopService(self) -> Deferred[Any]:
        """Stop listening, end the sessions, and give the home back."""
        self._systemd.stopping()
        return ensureDeferred(self._stop())

    def _open(self) -> None:
        identity, settings = self._home.open()
        sockets = (self._home.socket, self._home.streams_socket)
        self._lock = self._home.lock()
        # With the lock in hand, a socket that is still there is one that a killed agent has left.
        for socket in sockets:
            make_room(socket)
        self._database = Database(self._home.database, DATABASE_KIND, MIGRATIONS)
        inbox = Inbox(Records(self._database))
        peers = PeerBook(settings.peers, self._save)
        self._settings = settings
        self._saved_realms = [realm.link for realm in settings.realms]
        self.lan = LanSetting.parse(self._environment.get(ENVIRONMENT) or str(settings.lan))
        self._offers = GroupOffers(peers, settings.group_offers, self._notify)
        news = GroupNews(peers, self._notify)
        self.device = Device(
            self._reactor,
            identity,
            AgentFactory(inbox, self._notify, self._session_over, self._realm_changed),
            realms=settings.realms,
            peers=peers,
            name=settings.name,
            session_seconds=OUTBOX_SECONDS,
            store=SqliteSessionStore(self._database),
            lan=self._make_lan(self.lan),
            tells_observed_address=settings.tells_observed_address,
            group_factory=AgentGroupFactory(self._offers, news),
            group_store=SqliteGroupStore(self._database),
        )
        self.device.setServiceParent(self)
        self._files = Files(self.device, inbox, self._home.inbox, self._notify, self._threads)
        self._gate = Gate(self._reactor, self.device)
        self._exposures = Exposures(self._reactor, self.device, settings.exposures, self._save)
        groups = GroupCommands(self.device, self._offers, news, self._save)
        self._realms = RealmCommands(self.device, groups, self._save)
        commands = Commands(
            self.device,
            self._home,
            inbox,
            self._files,
            self._listeners,
            self._reactor.stop,
            self,
            self._realms,
            StreamCommands(self.device, self._gate, self._exposures),
            groups,
            ValueCommands(self.device, news),
        )
        try:
            self._gate_port = self._reactor.listenUNIX(
                str(self._home.streams_socket), self._gate, backlog=MAX_CONNECTIONS, mode=0o600
            )
            # The last one: who can ask for commands finds everything else in its place.
            self._port = self._reactor.listenUNIX(
                str(self._home.socket), ControlFactory(commands.by_name()), mode=0o600
            )
        except CannotListenError as error:
            raise AbstError(str(error)) from None
        self.log.info("the agent is ready: {home}", home=str(self._home))

    async def _stop(self) -> None:
        for port in (self._port, self._gate_port):
            if port is not None:
                await port.stopListening()  # type: ignore[misc]
        if self._gate is not None:
            self._gate.stop()
        if self._files is not None:
            self._files.stop()
        # A file that is stored now can still be told to its sender, and goes on record.
        await self._threads.close()
        await super().stopService()
        self._give_back()

    def _give_back(self) -> None:
        """Leave the home to whoever comes next."""
        if self._database is not None:
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def set_lan(self, setting: LanSetting) -> None:
        """Use the local network in another way, from now on and after restarts.

        Raises:
            AbstError: that is not possible, and nothing has changed.
        """
        assert self.device is not None
        lan = self._make_lan(setting)
        await self.device.use_lan(lan)
        if lan is not None and lan.port is None:
            problem = lan.problem
            await self.device.use_lan(self._make_lan(self.lan))
            raise AbstError(f"{problem}: it stays as it was")
        self.lan = setting
        self._settings = replace(self._settings, lan=setting)
        self._save()

    def _make_lan(self, setting: LanSetting) -> Lan | None:
        if not setting.is_on:
            return None
        return LocalNetwork(self._reactor, port=setting.port, interface=setting.interface)

    def _save(self) -> None:
        device, exposures, offers = self.device, self._exposures, self._offers
        if device is None or exposures is None or offers is None:
            return
        settings = replace(
            self._settings,
            name=device.device_name,
            realms=device.realms,
            peers=device.peers.all(),
            exposures=exposures.all(),
            group_offers=offers.policy,
        )
        try:
            self._home.save_settings(settings)
        except AbstError as error:
            self.log.error("the settings cannot be saved: {error}", error=str(error))
            raise
        self._saved_realms = [realm.link for realm in device.realms]

    def _realm_changed(self, realm: RealmAddress) -> None:
        device = self.device
        if device is None or self._realms is None:
            return
        if [realm.link for realm in device.realms] != self._saved_realms:
            # An invitation was taken, and is not kept any longer.
            with contextlib.suppress(AbstError):
                self._save()
        self._realms.changed(realm)

    def _session_over(self, device_id: DeviceID, problem: AbstError) -> None:
        if self._files is not None:
            self._files.session_over(device_id, problem)

    def _notify(self, item: dict[str, Any]) -> None:
        for emit in tuple(self._listeners):
            emit(item)
