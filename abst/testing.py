"""An in-memory realm and devices, for the tests of applications.

The realm, the links' protocol, the channels' TLS and the sessions are the real ones; only sockets
and the clock are not. Nothing happens between calls: ``MemoryNetwork.settle`` passes packets until
all is quiet, ``MemoryNetwork.advance`` lets time go by.

    network = MemoryNetwork()
    alice = network.device("alice", ChatFactory())
    bob = network.device("bob", ChatFactory())
    network.introduce(alice, bob)
    connected = alice.connect(bob.device_id)
    network.settle()
    protocol = network.result(connected)
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory
from abst.device.announcement import Announcement, AnyAnnouncement, OpenAnnouncement
from abst.device.carriers import Pipe, PipeOwner
from abst.device.lan import LanOwner
from abst.device.link import Backoff, LinkOwner
from abst.device.paths import Path
from abst.device.realm_client import Answered, Delivered, RealmClient, Refused, Welcomed
from abst.device.requests import Requests
from abst.device_id import DeviceID
from abst.errors import PeerUnreachableError, RemoteProtocolError, explain
from abst.identity import Identity
from abst.packets import Error, WindowFound, WindowOpened
from abst.realm.conversation import Conversation, Realm, State
from abst.realm.limits import Limits

Result = TypeVar("Result")

MAX_TURNS = 100_000


class MemoryRealm:
    """A realm without sockets.

    Attributes:
        address: what devices name it by.
        realm: the real core, with its counters.
        relayed: every byte that the realm has been given, for looking whether it could read any.
    """

    def __init__(self, clock: Clock, host: str, seed: int, limits: Limits | None = None) -> None:
        self.address = RealmAddress(host)
        self.relayed = bytearray()
        self._clock = clock
        self._random = random.Random(seed)
        self.realm = Realm(limits or Limits(), self._random.randbytes, self._random.random)
        self._timer: Any = None
        self._is_on = True
        self._links: list[MemoryLink] = []

    def stop(self) -> None:
        """Vanish without a word, as a killed process does."""
        self._is_on = False
        for link in list(self._links):
            link.cut()

    def start(self) -> None:
        """Be there again."""
        self._is_on = True

    def open(self, link: MemoryLink) -> Conversation | None:
        """Return a conversation for a device's new connection, or None while the realm is off."""
        if not self._is_on:
            return None
        conversation = self.realm.open(("192.0.2.1", 40000), self._clock.seconds())
        conversation.identify(link.identity.device_id)
        conversation.carrier = link
        self._links.append(link)
        return conversation

    def receive(self, conversation: Conversation, data: bytes) -> None:
        """Take a device's bytes."""
        self.relayed += data
        conversation.receive_data(data, self._clock.seconds())
        self.settle()

    def lost(self, link: MemoryLink, conversation: Conversation) -> None:
        """Hear that a device's connection is gone."""
        if link in self._links:
            self._links.remove(link)
        conversation.carrier = None
        conversation.connection_lost()
        self.settle()

    def settle(self) -> None:
        """Hand out what the realm wants to send."""
        while self.realm.touched:
            conversation = self.realm.touched.pop()
            link = conversation.carrier
            if not isinstance(link, MemoryLink):
                continue
            while data := conversation.data_to_send():
                link.arrive(data)
            if conversation.state is State.CLOSED:
                link.closed_by_realm()
        if not self.realm.conversations:
            self._disarm()
            return
        due = self.realm.next_deadline()
        if due is not None and (self._timer is None or not self._timer.active()):
            self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._ring)

    def _disarm(self) -> None:
        """Leave nothing on the clock when nobody is here, as the real one does."""
        self.realm.deadlines.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _ring(self) -> None:
        self.realm.handle_deadline(self._clock.seconds())
        self.settle()


class MemoryLink:
    """A device's connection to a ``MemoryRealm``; what ``RealmLink`` is to a real one."""

    def __init__(
        self,
        clock: Clock,
        identity: Identity,
        realm: MemoryRealm,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
    ) -> None:
        self.path = Path("realm", realm.address)
        self.is_up = False
        self.max_content_bytes = 0
        self.problem: str | None = "not connected yet"
        self.observed_address: tuple[str, int] | None = None
        self.identity = identity
        self._clock = clock
        self._realm = realm
        self._owner = owner
        self._backoff = Backoff(random_fraction)
        self._client: RealmClient | None = None
        self._conversation: Conversation | None = None
        self._stopped = True
        self._last_words: str | None = None
        self._calls: list[Any] = []
        self._requests = Requests()

    def start(self) -> None:
        """Begin to connect."""
        self._stopped = False
        self._later(0, self._connect)

    def stop(self) -> Deferred[Any]:
        """Close, and connect no more."""
        self._flush()
        self._stopped = True
        self._hang_up("stopped")
        self._forget_calls()
        return succeed(None)

    def send(self, target_device: bytes, content: bytes) -> None:
        """Send bytes to another device."""
        if self._client is not None and self.is_up:
            self._client.send(target_device, content)
            self._later(0, self._flush)

    def flush(self) -> None:
        """Do nothing: what was queued goes on the next turn."""

    def open_window(self) -> Deferred[WindowOpened]:
        """Ask the realm for a number under which this device can be found for a while."""
        return self._ask(lambda client: client.open_window())

    def close_window(self) -> None:
        """Ask the realm that this device be found no more."""
        if self._client is not None and self.is_up:
            self._client.close_window()
            self._later(0, self._flush)

    def find_window(self, number: int) -> Deferred[WindowFound]:
        """Ask the realm which device has a number."""
        return self._ask(lambda client: client.find_window(number))

    def network_changed(self) -> None:
        """Do nothing: in memory a connection is there or not."""

    def _ask(self, ask: Callable[[RealmClient], int]) -> Deferred[Any]:
        if self._client is None or not self.is_up:
            return fail(PeerUnreachableError(self.problem or "the realm is not connected"))
        self._later(0, self._flush)
        return self._requests.add(ask(self._client))

    def cut(self) -> None:
        """Lose the connection without a word to either side."""
        self._hang_up("the connection was cut")

    def vanish(self) -> None:
        """Lose the connection without a word, and connect no more."""
        self._stopped = True
        self.cut()
        self._forget_calls()

    def arrive(self, data: bytes) -> None:
        """Take the realm's bytes, on the next turn."""
        client = self._client
        self._later(0, lambda: self._receive(client, data))

    def closed_by_realm(self) -> None:
        """Hear that the realm has closed the connection, after what it has sent."""
        client = self._client
        self._later(0, lambda: self._end(client))

    def _forget_calls(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()

    def _end(self, client: RealmClient | None) -> None:
        if client is self._client:
            self._hang_up(self._last_words or "closed by the realm")

    def _later(self, seconds: float, call: Callable[[], Any]) -> None:
        self._calls = [waiting for waiting in self._calls if waiting.active()]
        self._calls.append(self._clock.callLater(seconds, call))

    def _connect(self) -> None:
        if self._stopped or self._client is not None:
            return
        self._conversation = self._realm.open(self)
        if self._conversation is None:
            self.problem = "the realm is off"
            self._again()
            return
        self._client = RealmClient(self.identity.device_id, self._clock.seconds())
        self._last_words = None
        self._flush()
        self._watch(self._client)

    def _again(self) -> None:
        self._later(self._backoff.next_wait_seconds(), self._connect)

    def _watch(self, client: RealmClient) -> None:
        """Call the client whenever it wants to be called."""
        if client is not self._client:
            return
        try:
            client.handle_deadline(self._clock.seconds())
        except RemoteProtocolError as problem:
            self._hang_up(str(problem))
            return
        self._flush()
        wait = max(0.01, client.next_deadline() - self._clock.seconds())
        self._later(wait, lambda: self._watch(client))

    def _receive(self, client: RealmClient | None, data: bytes) -> None:
        if client is None or client is not self._client:
            return
        try:
            client.receive_data(data, self._clock.seconds())
        except RemoteProtocolError as problem:
            self._hang_up(str(problem))
            return
        while (event := client.next_event()) is not None:
            match event:
                case Welcomed():
                    self.max_content_bytes = event.max_content_bytes
                    self.observed_address = event.observed_address
                    self.is_up = True
                    self.problem = None
                    self._backoff.connected(self._clock.seconds())
                    self._owner.link_up(self)
                case Delivered():
                    self._owner.content_received(self, event.source_device, event.content)
                case Answered():
                    self._requests.answered(event)
                case Refused():
                    self._refused(event.error, event.closes)
        self._owner.contents_over(self)
        self._flush()

    def _refused(self, error: Error, closes: bool) -> None:
        self._backoff.refused(error)
        if error.target_device is not None or not closes:
            self._owner.content_refused(self, error)
        else:
            self._last_words = explain(error.code, error.reason)

    def _flush(self) -> None:
        if self._client is None or self._conversation is None:
            return
        data = self._client.data_to_send()
        if data:
            self._realm.receive(self._conversation, data)

    def _hang_up(self, problem: str) -> None:
        conversation, self._conversation = self._conversation, None
        self._client = None
        was_up, self.is_up = self.is_up, False
        self.problem = problem
        self._backoff.disconnected(self._clock.seconds())
        self._requests.lost()
        if conversation is not None:
            self._realm.lost(self, conversation)
        if was_up:
            self._owner.link_down(self)
        if not self._stopped:
            self._again()


class MemoryPipe:
    """One end of a direct connection in memory; what ``TcpPipe`` is on a real network."""

    def __init__(self, lan: MemoryLan, address: str, local: str) -> None:
        self.address = self.remote = address
        self.local = local
        self.owner: PipeOwner | None = None
        self.other: MemoryPipe | None = None
        self._lan = lan

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self.other is not None and not self._lan.is_silent:
            self._lan.later(self.other.arrive, data)

    def abort(self) -> None:
        """Close at once."""
        self.close()

    def close(self) -> None:
        """Close once what was written is out."""
        self.owner = None
        other, self.other = self.other, None
        if other is not None and not self._lan.is_silent:
            self._lan.later(other.lost, "the other side closed")

    def arrive(self, data: bytes) -> None:
        """Take the other end's bytes."""
        if self.owner is not None:
            self.owner.pipe_received(self, data)

    def lost(self, why: str) -> None:
        """Hear that the connection is gone."""
        self.other = None
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.pipe_lost(self, PeerUnreachableError(f"{self.address}: {why}"))


class MemoryLan:
    """A local network in memory; ``port`` gives each device its place in it.

    Attributes:
        is_silent: bytes vanish, and nobody is told.
        latency_seconds: how long bytes take.
        announces: whether devices find each other; else addresses have to be told.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_silent = False
        self.latency_seconds = 0.0
        self.announces = True
        self._clock = clock
        self._ports: dict[str, MemoryLanPort] = {}
        self._pipes: list[MemoryPipe] = []

    def port(self, addresses: int = 1) -> MemoryLanPort:
        """Return a place for a device, with so many addresses, which is there until it leaves."""
        first = len(self._ports) + 1
        texts = [f"198.51.100.{number}:4000" for number in range(first, first + addresses)]
        found = MemoryLanPort(self, texts)
        self._ports.update(dict.fromkeys(texts, found))
        return found

    def cut(self) -> None:
        """Lose every connection at once; both ends are told."""
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            pipe.lost("the connection was reset")

    def connect(self, source: MemoryLanPort, address: str) -> MemoryPipe | None:
        """Return an end of a new connection to an address, or None when nobody is there."""
        target = self._ports.get(address)
        if target is None or target.owner is None or not (target.is_here and source.is_here):
            return None
        if self.is_silent:
            return None
        near = MemoryPipe(self, address, source.address)
        far = MemoryPipe(self, source.address, address)
        near.other, far.other = far, near
        self._pipes += [near, far]
        target.owner.pipe_accepted(far)
        return near

    def others(self, port: MemoryLanPort) -> list[MemoryLanPort]:
        """Return who announces himself to a device."""
        if self.is_silent or not self.announces or not port.is_here:
            return []
        everybody = dict.fromkeys(self._ports.values())
        found = [other for other in everybody if other is not port and other.is_here]
        return [other for other in found if other.owner is not None]

    def later(self, call: Callable[..., Any], *args: Any) -> None:
        """Do something after as long as bytes take."""
        self._clock.callLater(self.latency_seconds, call, *args)


class MemoryLanPort:
    """One device's place in a ``MemoryLan``; what ``LocalNetwork`` is to a real one.

    Attributes:
        address: where the device is, or the first of its addresses.
        is_here: whether it is in this network just now.
        owner: the device, once it has started.
    """

    port = 4000
    problem: str | None = None

    def __init__(self, lan: MemoryLan, addresses: list[str]) -> None:
        self.address = addresses[0]
        self.is_here = True
        self._addresses = addresses
        self.owner: LanOwner | None = None
        self._lan = lan
        self._announcement: Announcement | None = None
        self._open: OpenAnnouncement | None = None

    def start(self, owner: LanOwner) -> None:
        """Be there, and tell the others."""
        self.owner = owner
        self._announcement = Announcement.make(owner.device_id, os.urandom)
        self._announce()

    def stop(self) -> Deferred[Any]:
        """Be gone."""
        self.owner = None
        return succeed(None)

    def leave(self) -> None:
        """Leave the network; what was connected is lost, and this device knows."""
        self.is_here = False
        self._lan.cut()
        if self.owner is not None:
            self.owner.network_changed()

    def come(self) -> None:
        """Come back to it."""
        self.is_here = True
        if self.owner is not None:
            self.owner.network_changed()
        self._announce()

    def addresses(self) -> list[str]:
        """Return where this device can be dialled."""
        return list(self._addresses) if self.is_here else []

    def dial(self, address: str) -> Deferred[Pipe]:
        """Connect."""
        pipe = self._lan.connect(self, address)
        if pipe is None:
            return fail(PeerUnreachableError(f"{address}: nobody is there"))
        return succeed(pipe)

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a device announces itself."""
        found = []
        for other in self._lan.others(self):
            if other._announcement is not None and other._announcement.matches(device_id):
                found += other.addresses()
        return found

    def open_announcements(self) -> list[OpenAnnouncement]:
        """Return who waits to be paired."""
        return [other._open for other in self._lan.others(self) if other._open is not None]

    def announce_pairing(self, name: str, number: int | None) -> None:
        """Announce openly that this device waits to be paired."""
        assert self.owner is not None
        self._open = OpenAnnouncement.make(self.owner.device_id, name, number, os.urandom)
        self._announce()

    def stop_pairing(self) -> None:
        """Announce that no more."""
        self._open = None

    def _announce(self) -> None:
        for other in self._lan.others(self):
            for announcement in (self._announcement, self._open):
                if announcement is not None:
                    self._lan.later(other.hear, announcement)
            if other._announcement is not None:
                self._lan.later(self.hear, other._announcement)

    def hear(self, announcement: AnyAnnouncement) -> None:
        """Tell the device who announces himself."""
        if self.owner is not None and self.is_here:
            self.owner.announcement_seen(announcement)


class MemoryNetwork:
    """Realms and devices on one clock.

    Args:
        seed: decides everything that is random but for keys.
    """

    def __init__(self, seed: int = 0) -> None:
        self.clock = Clock()
        self._random = random.Random(seed)
        self._numbers: Iterator[int] = itertools.count(1)
        self._realms: dict[RealmAddress, MemoryRealm] = {}
        self.realm = self.add_realm()

    def add_realm(self, limits: Limits | None = None) -> MemoryRealm:
        """Return a new realm; devices made from now on use it after the earlier ones."""
        host = f"realm{next(self._numbers)}.test"
        realm = MemoryRealm(self.clock, host, self._random.getrandbits(32), limits)
        self._realms[realm.address] = realm
        return realm

    def lan(self) -> MemoryLan:
        """Return a new local network; give a device ``lan=lan.port()`` to be in it."""
        return MemoryLan(self.clock)

    def device(
        self,
        name: str,
        factory: DeviceFactory,
        *,
        identity: Identity | None = None,
        **options: Any,
    ) -> Device:
        """Return a new device, started, on every realm.

        Args:
            name: what it calls itself.
            factory: builds its protocols.
            identity: who it is, for a device that is killed and starts again; a new one if None.
            options: further arguments of ``Device``.
        """
        device = Device(
            self.clock,
            identity or Identity.generate(),
            factory,
            realms=tuple(self._realms),
            name=name,
            make_link=self._make_link,
            **options,
        )
        device.random_fraction = self._random.random
        device.startService()
        return device

    def kill(self, device: Device) -> None:
        """Let a device vanish without a word, as a killed process does."""
        for link in device.links.values():
            assert isinstance(link, MemoryLink)
            link.vanish()
        device.stopService()

    def introduce(self, *devices: Device) -> None:
        """Let devices trust each other."""
        for device, other in itertools.permutations(devices, 2):
            device.trust(other.device_id, other.device_name)

    def settle(self) -> None:
        """Pass packets until nothing is left to pass; no time goes by."""
        for _ in range(MAX_TURNS):
            due = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self._now()]
            if not due:
                return
            self.clock.advance(0)
        raise AssertionError("the network never comes to rest")

    def advance(self, seconds: float, step: float = 0.5) -> None:
        """Let time go by, settling after each step."""
        end = self._now() + seconds
        while self._now() < end:
            self.clock.advance(min(step, end - self._now()))
            self.settle()

    def result(self, deferred: Deferred[Result]) -> Result:
        """Return what a Deferred has fired with.

        Raises:
            AssertionError: it has not fired yet.
            Exception: whatever it failed with.
        """
        found: list[Any] = []

        def look(result: Any) -> Any:
            found.append(result)
            # A failure is going to be raised, so it need not be logged too.
            return None if isinstance(result, Failure) else result

        if deferred.called:
            deferred.addBoth(look)
        if not found:
            raise AssertionError("not yet")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: Result = found[0]
        return result

    def _now(self) -> float:
        return float(self.clock.seconds())

    def _make_link(
        self,
        reactor: Any,
        identity: Identity,
        address: RealmAddress,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
    ) -> MemoryLink:
        # Not the device's own randomness: the seed decides.
        return MemoryLink(reactor, identity, self._realms[address], owner, self._random.random)
