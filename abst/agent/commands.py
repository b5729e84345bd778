"""What the agent does when the command line asks: one method for each command.

Owns the meaning of the commands and the words of their results; ``control`` owns how they come.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater

from abst import __version__
from abst.agent.files.files import Files
from abst.agent.files.sending import SendCommand
from abst.agent.groups.commands import GroupCommands
from abst.agent.groups.values import ValueCommands
from abst.agent.home import Home
from abst.agent.inbox import Inbox
from abst.agent.lan_setting import LanSetting
from abst.agent.packets import MAX_MESSAGE_CHARACTERS, MESSAGE, NOTHING
from abst.agent.reachability import Reachability
from abst.agent.realm_commands import RealmCommands
from abst.agent.sessions import AgentProtocol
from abst.agent.streams.commands import StreamCommands
from abst.control import Command, Emit
from abst.device import Device, NearbyDevice, PairingObserver, Path, Peer, parse_target
from abst.device_id import DeviceID
from abst.errors import AbstError, PeerUnreachableError
from abst.packets import MAX_NAME_CHARACTERS

MAX_PINGS: Final = 1_000_000


class NetworkOwner(Protocol):
    """Whoever decides how the device uses the local network."""

    lan: LanSetting

    async def set_lan(self, setting: LanSetting) -> None:
        """Use it in another way, from now on and after restarts."""


class Commands:
    """The agent's commands.

    Args:
        device: the device.
        home: its home.
        inbox: its inbox.
        files: what sends files.
        listeners: who hears of what arrives.
        stop: ends the agent.
        network: how the device uses the local network.
        realms: the commands about realms.
        streams: the commands about streams.
        groups: the commands about groups and networks.
        values: the commands about values.
    """

    def __init__(
        self,
        device: Device,
        home: Home,
        inbox: Inbox,
        files: Files,
        listeners: set[Emit],
        stop: Callable[[], None],
        network: NetworkOwner,
        realms: RealmCommands,
        streams: StreamCommands,
        groups: GroupCommands,
        values: ValueCommands,
    ) -> None:
        self._device = device
        self._home = home
        self._inbox = inbox
        self._files = files
        self._listeners = listeners
        self._stop = stop
        self._network = network
        self._realms = realms
        self._streams = streams
        self._groups = groups
        self._values = values
        self._reach = Reachability(device)
        self._stopping = False
        self._started = device.reactor.seconds()

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "status": self.status,
            "peers": self.peers,
            "trust": self.trust,
            "forget": self.forget,
            "add_address": self.add_address,
            "remove_address": self.remove_address,
            "lan": self.lan,
            "pair": self.pair,
            "ping": self.ping,
            "message": self.message,
            "outbox": self.outbox,
            "outbox_cancel": self.outbox_cancel,
            "listen": self.listen,
            "send": self.send,
            "inbox": self.inbox,
            "down": self.down,
            **self._realms.by_name(),
            **self._streams.by_name(),
            **self._groups.by_name(),
            **self._values.by_name(),
        }

    async def status(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell who this device is, and how its realms and sessions stand."""
        device = self._device
        return {
            "device_id": str(device.device_id),
            "name": device.device_name,
            "home": str(self._home),
            "version": __version__,
            "uptime_seconds": round(device.reactor.seconds() - self._started, 1),
            "lan": self._lan(),
            **self._realms.status(),
            "peers": len(device.peers),
            "sessions": [
                {
                    "peer": str(peer),
                    "device_id": str(peer.device_id),
                    "waiting": session.transport.is_waiting,
                    **_way(session.path),
                }
                for peer in device.peers
                if (session := device.session_with(peer.device_id)) is not None
            ],
            **self._streams.status(),
            **self._groups.status(),
        }

    async def peers(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the trusted devices."""
        return {"peers": [self._peer(peer) for peer in self._device.peers]}

    async def trust(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Trust a device."""
        try:
            device_id = DeviceID.parse(str(arguments["device_id"]))
        except ValueError as error:
            raise AbstError(str(error)) from None
        name = str(arguments.get("name") or "")
        if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
            raise AbstError(f"a name has at most {MAX_NAME_CHARACTERS} printable characters")
        self._refuse_taken_name(name, device_id)
        return _named(self._device.trust(device_id, name))

    async def forget(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Stop trusting a device."""
        peer = self._find(arguments)
        self._groups.check_in_no_network(peer)
        self._device.forget(peer.device_id)
        return _named(peer)

    async def add_address(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Note where a peer listens."""
        peer, address = self._find(arguments), str(arguments["address"])
        return _with_addresses(self._device.peers.add_address(peer.device_id, address))

    async def remove_address(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Take back where a peer listens."""
        peer, address = self._find(arguments), str(arguments["address"])
        return _with_addresses(self._device.peers.remove_address(peer.device_id, address))

    async def lan(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell how the local network is used; ``setting`` changes it."""
        text = arguments.get("setting")
        if text is not None:
            await self._network.set_lan(LanSetting.parse(str(text)))
        return self._lan()

    def _lan(self) -> dict[str, Any]:
        lan = self._device.lan
        return {
            "setting": str(self._network.lan),
            "on": lan is not None,
            "addresses": [] if lan is None else lan.addresses(),
            "problem": None if lan is None else lan.problem,
        }

    async def pair(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Pair with another device; ``target`` is a code, a link or an ID, or missing to wait."""
        observer = _PairingTold(emit)
        text = arguments.get("target")
        if text is None:
            attempt = self._device.open_pairing(observer)
        else:
            attempt = self._device.pair_with(parse_target(str(text)), observer)
        answers = arguments["answers"]
        asked = answers.get()
        asked.addCallback(lambda same: attempt.person_says(same is True))
        asked.addErrback(lambda failure: failure.trap(CancelledError))
        try:
            peer = await observer.done
        finally:
            asked.cancel()
            attempt.cancel()
        return _named(peer)

    async def ping(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Measure round trips to a peer."""
        peer = self._find(arguments)
        count = min(max(int(arguments.get("count", 3)), 1), MAX_PINGS)
        interval = max(float(arguments.get("interval_seconds", 1.0)), 0.0)
        times: list[float] = []
        for sequence in range(1, count + 1):
            if sequence > 1:
                await deferLater(self._device.reactor, interval, lambda: None)
            protocol = await self._reach.connect(peer)
            seconds = await self._reach.in_time(protocol.ping(), peer)
            times.append(seconds)
            emit(
                {
                    "peer": str(peer),
                    "sequence": sequence,
                    "rtt_seconds": round(seconds, 6),
                    **_way(protocol.path),
                }
            )
        return {
            "peer": str(peer),
            "sent": count,
            "received": len(times),
            "min_seconds": round(min(times), 6),
            "mean_seconds": round(sum(times) / len(times), 6),
            "max_seconds": round(max(times), 6),
        }

    async def message(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Send a message; done when the peer has it."""
        peer = self._find(arguments)
        text = str(arguments["text"])
        if len(text) > MAX_MESSAGE_CHARACTERS:
            raise AbstError(f"a message has at most {MAX_MESSAGE_CHARACTERS} characters")
        protocol = self._device.open(peer.device_id)
        assert isinstance(protocol, AgentProtocol)
        delivered = protocol.send_message(text)
        why = await self._delivered_or_not(delivered, peer)
        result = {**_named(protocol.peer), "delivered": why is None}
        return result if why is None else {**result, "waiting": True, "reason": why}

    async def _delivered_or_not(self, delivered: Deferred[None], peer: Peer) -> str | None:
        """Return None once a message is delivered, or why it has to wait.

        Raises:
            AbstError: waiting would not help: the devices do not trust each other.
        """
        try:
            await self._reach.connect(peer)
        except BaseException as problem:
            delivered.addErrback(lambda failure: None)  # Nobody waits for it any more.
            if isinstance(problem, PeerUnreachableError):
                return self._reach.why_away(peer)
            raise
        try:
            await self._reach.in_time(delivered, peer)
        except PeerUnreachableError as problem:
            return str(problem)
        return None

    async def outbox(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List what waits to be delivered."""
        items = []
        for peer in self._device.peers:
            protocol = self._device.session_with(peer.device_id)
            if protocol is None:
                continue
            for number, packet_id, content, in_flight in protocol.transport.waiting():
                if packet_id == MESSAGE:
                    text = content["text"]
                    items.append({**_named(peer), "number": number, "text": text, "out": in_flight})
        return {"items": items}

    async def outbox_cancel(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Take a message back that has not left yet."""
        peer = self._find(arguments)
        number = int(arguments["number"])
        protocol = self._device.session_with(peer.device_id)
        if protocol is not None:
            for found, packet_id, _, _ in protocol.transport.waiting():
                if found == number and packet_id == MESSAGE:
                    if protocol.transport.replace_packet(number, NOTHING, {}):
                        return {**_named(peer), "number": number}
                    raise AbstError(f"message {number} is on its way already")
        raise AbstError(f"no message {number} waits for {peer}: 'abst outbox' lists them")

    async def listen(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell of everything that arrives, until nobody listens any more."""
        self._listeners.add(emit)
        try:
            emit({"kind": "listening"})
            await Deferred()
        finally:
            self._listeners.discard(emit)
        return {}

    async def send(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Send files and folders; done when the peer has stored them."""
        peer = self._find(arguments)
        paths = [pathlib.Path(path) for path in arguments["paths"]]
        await self._reach.connect(peer)
        why_away = partial(self._reach.why_away, peer)
        sending = SendCommand(peer, emit, self._device.reactor, why_away)
        return await sending.send(partial(self._files.send, peer.device_id, paths))

    async def inbox(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List what has arrived."""
        return {"items": self._inbox.items()}

    async def down(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """End the agent, once the answer is out."""
        if not self._stopping:
            self._stopping = True
            self._device.reactor.callLater(0.05, self._stop)
        return {"stopping": True}

    # What commands share.

    def _find(self, arguments: dict[str, Any]) -> Peer:
        return self._device.peers.find(str(arguments["peer"]))

    def _refuse_taken_name(self, name: str, device_id: DeviceID) -> None:
        for peer in self._device.peers:
            if name and peer.name == name and peer.device_id != device_id:
                raise AbstError(f"another peer is called {name!r} already: choose another name")

    def _peer(self, peer: Peer) -> dict[str, Any]:
        session = self._device.session_with(peer.device_id)
        return {
            **_with_addresses(peer),
            **_way(None if session is None else session.path),
            "key_pinned": peer.public_key is not None,
            "introduced": peer.is_introduced,
            "networks": self._groups.networks_of(peer),
            "in_session": session is not None,
        }


class _PairingTold(PairingObserver):
    """Tells the command line what a pairing wants shown.

    Attributes:
        done: fires with the peer, or fails.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.done: Deferred[Peer] = Deferred()

    def offer_ready(self, code: str | None, link: str, seconds: float) -> None:
        """Show the code and the link."""
        self._emit({"kind": "offer", "code": code, "link": link, "seconds": seconds})

    def compare(self, words: str) -> None:
        """Ask the person."""
        self._emit({"kind": "compare", "words": words})

    def nearby(self, devices: list[NearbyDevice]) -> None:
        """Show who else waits to be paired."""
        found = [{"device_id": str(one.device_id), "name": one.name} for one in devices]
        self._emit({"kind": "nearby", "devices": found})

    def paired(self, peer: Peer) -> None:
        """Be done."""
        if not self.done.called:
            self.done.callback(peer)

    def failed(self, problem: AbstError) -> None:
        """Be done, without a peer."""
        if not self.done.called:
            self.done.errback(problem)


def _named(peer: Peer) -> dict[str, Any]:
    return {"peer": str(peer), "device_id": str(peer.device_id), "name": peer.name}


def _way(path: Path | None) -> dict[str, Any]:
    """Return what is known of the path that carries a session."""
    return {
        "path": None if path is None else str(path),
        "path_kind": "none" if path is None else path.kind,
        "path_address": None if path is None else path.address,
        "path_rtt_seconds": None if path is None else path.rtt_seconds,
        "path_reason": None if path is None else path.reason,
    }


def _with_addresses(peer: Peer) -> dict[str, Any]:
    return {
        **_named(peer),
        "addresses": list(peer.addresses),
        "told_addresses": list(peer.told_addresses),
    }
