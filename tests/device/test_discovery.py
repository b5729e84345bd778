"""Discovery on this machine's loopback, with the real zeroconf; and what it does with a flood."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from abst.device.announcement import (
    SERVICE_TYPE,
    Announcement,
    AnyAnnouncement,
    OpenAnnouncement,
    recognise,
)
from abst.device.discovery import (
    MAX_RENEWAL_SECONDS,
    MIN_RENEWAL_SECONDS,
    RETRY_SECONDS,
    SETTLE_SECONDS,
    STOP_SECONDS,
    Discovery,
    Sightings,
)
from abst.device.dns_sd import (
    MAX_ADDRESSES,
    MAX_KNOWN,
    MAX_LOOKS_PER_SECOND,
    Address,
)
from abst.device_id import DeviceID
from abst.identity import Identity
from tests.test_spec import numbers, page

LOOPBACK = "127.0.0.1"
NOT_HERE = "192.0.2.1"
AUTHORITATIVE_RESPONSE = 0x8400


@functools.cache
def multicast_works() -> bool:
    """Tell whether what is sent to a group on loopback comes back."""
    group = socket.inet_aton("224.0.0.251")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind(("", 0))
            here = socket.inet_aton(LOOPBACK)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + here)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            one.settimeout(1.0)
            one.sendto(b"?", ("224.0.0.251", one.getsockname()[1]))
            return one.recv(16) == b"?"
        except OSError:
            return False


class Owner:
    """Takes notes.

    Attributes:
        known: what has been seen and not gone, with its addresses.
        calls: every call, with its time.
    """

    def __init__(self, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.known: dict[str, tuple[AnyAnnouncement, list[Address]]] = {}
        self.calls: list[tuple[str, str, float]] = []
        self._seconds = seconds
        self._waiting: list[tuple[Callable[[Owner], Any], Deferred[Any]]] = []

    def seen(self, announcement: AnyAnnouncement, addresses: list[Address]) -> None:
        self.known[announcement.instance] = (announcement, addresses)
        self._note("seen", announcement.instance)

    def gone(self, instance: str) -> None:
        del self.known[instance]
        self._note("gone", instance)

    def of(self, device_id: DeviceID) -> list[AnyAnnouncement]:
        """Return the announcements of a device that are known."""
        return [found for found, _ in self.known.values() if recognise(found, [device_id])]

    def when(self, holds: Callable[[Owner], Any]) -> Deferred[Any]:
        """Return what a function of this says, once that is true."""
        waiting: Deferred[Any] = Deferred()
        self._waiting.append((holds, waiting))
        self._check()
        return waiting

    def _note(self, what: str, instance: str) -> None:
        self.calls.append((what, instance, self._seconds()))
        self._check()

    def _check(self) -> None:
        before, self._waiting = self._waiting, []
        for holds, waiting in before:
            if found := holds(self):
                waiting.callback(found)
            else:
                self._waiting.append((holds, waiting))


def announcements(count: int) -> list[Announcement]:
    """Return announcements of a device."""
    device_id = Identity.generate().device_id
    return [Announcement.make(device_id, os.urandom) for _ in range(count)]


class SightingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.owner = Owner()
        self.sightings = Sightings(self.owner)

    def test_what_has_not_changed_is_told_once(self) -> None:
        (found,) = announcements(1)
        for _ in range(3):
            self.sightings.seen(found, [("192.0.2.1", 1)])
        self.sightings.seen(found, [("192.0.2.2", 1)])
        self.assertEqual(["seen", "seen"], [what for what, _, _ in self.owner.calls])
        self.assertEqual([("192.0.2.2", 1)], self.owner.known[found.instance][1])

    def test_what_was_never_seen_is_not_gone(self) -> None:
        (found,) = announcements(1)
        self.sightings.gone(found.instance)
        self.sightings.seen(found, [("192.0.2.1", 1)])
        self.sightings.gone(found.instance)
        self.sightings.gone(found.instance)
        self.assertEqual(["seen", "gone"], [what for what, _, _ in self.owner.calls])

    def test_a_flood_is_bounded_and_the_newest_are_known(self) -> None:
        flood = announcements(MAX_KNOWN + 50)
        for found in flood:
            self.sightings.seen(found, [("192.0.2.1", 1)])
        self.assertEqual(MAX_KNOWN, len(self.sightings))
        self.assertEqual({it.instance for it in flood[50:]}, set(self.owner.known))

    def test_addresses_are_bounded(self) -> None:
        (found,) = announcements(1)
        self.sightings.seen(found, [(f"192.0.2.{host}", 1) for host in range(200)])
        self.assertEqual(MAX_ADDRESSES, len(self.owner.known[found.instance][1]))

    def test_everything_is_forgotten(self) -> None:
        for found in announcements(3):
            self.sightings.seen(found, [("192.0.2.1", 1)])
        self.sightings.clear()
        self.assertEqual(0, len(self.sightings))
        self.assertEqual({}, self.owner.known)


class SpecificationTests(SynchronousTestCase):
    def test_numbers(self) -> None:
        found = numbers(page("discovery.md"), "Numbers")
        expected = {
            "minutes before an announcement is renewed, at least": MIN_RENEWAL_SECONDS / 60,
            "minutes before an announcement is renewed, at most": MAX_RENEWAL_SECONDS / 60,
            "announcements known at once, at most": MAX_KNOWN,
            "addresses of one announcement, at most": MAX_ADDRESSES,
            "announcements looked at in a second, at most": MAX_LOOKS_PER_SECOND,
        }
        self.assertEqual(expected, {name: found[name] for name in expected})


class ClockReactor(Clock):
    """A clock that tests move, and the real reactor's threads."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.callFromThread = reactor.callFromThread
        self.getThreadPool: Callable[[], Any] = reactor.getThreadPool


class HangingPool:
    """Threads that never come back."""

    def callInThreadWithCallback(self, *args: Any) -> None:
        """Do nothing."""


class DiscoveryCase(TestCase):
    """Devices on loopback. Others may be there too, of other tests: only our own are looked at."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor

        if not multicast_works():
            raise SkipTest("multicast does not work on this machine's loopback")
        self.reactor: Any = reactor
        self.alice = Identity.generate().device_id
        self.bob = Identity.generate().device_id
        self.alices, self.bobs = Owner(reactor.seconds), Owner(reactor.seconds)

    def discovery(
        self,
        device_id: DeviceID,
        owner: Owner,
        clock: ClockReactor | None = None,
        interface: str = LOOPBACK,
    ) -> Discovery:
        """Return a device's discovery, which the end of the test stops."""
        found = Discovery(
            clock or self.reactor, device_id, owner, os.urandom, interfaces=[interface]
        )
        self.addCleanup(found.stop)
        return found

    async def settled(self, discovery: Discovery) -> None:
        """Wait until what was asked for is done, or has failed."""
        while discovery._working:
            await deferToThread(lambda: None)


class TwoDevicesTests(DiscoveryCase):
    async def meet(self) -> tuple[Discovery, Discovery]:
        """Return Alice's and Bob's, who see each other."""
        one = self.discovery(self.alice, self.alices)
        other = self.discovery(self.bob, self.bobs)
        one.start(1001)
        other.start(1002)
        await self.alices.when(lambda owner: owner.of(self.bob))
        await self.bobs.when(lambda owner: owner.of(self.alice))
        return one, other

    async def test_they_see_each_other_and_not_themselves(self) -> None:
        await self.meet()
        (found,) = self.alices.of(self.bob)
        self.assertIsInstance(found, Announcement)
        self.assertEqual([(LOOPBACK, 1002)], self.alices.known[found.instance][1])
        self.assertEqual([], self.alices.of(self.alice))
        self.assertEqual([], self.bobs.of(self.bob))

    async def test_a_device_that_stops_is_gone(self) -> None:
        _, other = await self.meet()
        started = self.reactor.seconds()
        await other.stop()
        self.assertLess(self.reactor.seconds() - started, STOP_SECONDS)
        await self.alices.when(lambda owner: not owner.of(self.bob))

    async def test_a_pairing_window_is_announced_openly_while_it_is_open(self) -> None:
        _, other = await self.meet()
        (before,) = self.alices.of(self.bob)
        other.announce_pairing("Bob's laptop", 7)
        await self.alices.when(lambda owner: len(owner.of(self.bob)) == 2)
        (found,) = (it for it in self.alices.of(self.bob) if isinstance(it, OpenAnnouncement))
        self.assertEqual((self.bob, "Bob's laptop", 7), (found.device_id, found.name, found.number))
        self.assertEqual([(LOOPBACK, 1002)], self.alices.known[found.instance][1])
        other.stop_pairing()
        await self.alices.when(
            lambda owner: not {found, before} & set(owner.of(self.bob)) and owner.of(self.bob)
        )

    async def test_a_change_of_the_network_gives_a_new_name(self) -> None:
        _, other = await self.meet()
        (before,) = self.alices.of(self.bob)
        for _ in range(5):
            other.network_changed()
        await self.alices.when(
            lambda owner: owner.of(self.bob) and before not in owner.of(self.bob)
        )
        await self.bobs.when(lambda owner: owner.of(self.alice))
        await self.alices.when(lambda owner: len(owner.of(self.bob)) == 1)

    async def test_a_device_that_comes_later_is_told_of_both_announcements(self) -> None:
        one = self.discovery(self.alice, self.alices)
        one.start(1001)
        one.announce_pairing("Alice", None)
        await self.settled(one)
        self.discovery(self.bob, self.bobs).start(1002)
        await self.bobs.when(lambda owner: len(owner.of(self.alice)) == 2)

    async def test_it_starts_again_after_a_stop(self) -> None:
        _, other = await self.meet()
        await other.stop()
        await self.alices.when(lambda owner: not owner.of(self.bob))
        self.assertEqual([], self.bobs.of(self.alice))
        other.start(1003)
        await self.alices.when(lambda owner: owner.of(self.bob))
        (found,) = self.alices.of(self.bob)
        self.assertEqual([(LOOPBACK, 1003)], self.alices.known[found.instance][1])


class TimeTests(DiscoveryCase):
    async def test_an_announcement_is_renewed_within_the_hour(self) -> None:
        clock = ClockReactor(self.reactor)
        one = self.discovery(self.alice, self.alices, clock)
        self.discovery(self.bob, self.bobs).start(1002)
        one.start(1001)
        (before,) = await self.bobs.when(lambda owner: owner.of(self.alice))
        clock.advance(MIN_RENEWAL_SECONDS - 1)
        self.assertEqual(before, one._announcement)
        clock.advance(MAX_RENEWAL_SECONDS - MIN_RENEWAL_SECONDS + 2)
        self.assertNotEqual(before, one._announcement)
        (after,) = await self.bobs.when(
            lambda owner: before not in owner.of(self.alice) and owner.of(self.alice)
        )
        self.assertEqual(one._announcement, after)

    async def test_a_network_that_cannot_is_logged_once_and_tried_again(self) -> None:
        logged: list[LogEvent] = []
        note = cast(ILogObserver, logged.append)
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        clock = ClockReactor(self.reactor)
        one = self.discovery(self.alice, self.alices, clock, NOT_HERE)
        one.start(1001)
        await self.settled(one)
        self.assertTrue(one.problem)
        for again in (RETRY_SECONDS, RETRY_SECONDS, SETTLE_SECONDS):
            if again == SETTLE_SECONDS:
                one.network_changed()
            clock.advance(again)
            self.assertTrue(one._working)
            await self.settled(one)
        lines = [it for it in logged if it["log_namespace"].startswith("abst.")]
        self.assertEqual(1, len(lines), lines)
        one._station._interfaces = [LOOPBACK]
        one._station.on_loopback = True
        clock.advance(RETRY_SECONDS)
        await self.settled(one)
        self.assertIsNone(one.problem)
        await one.stop()
        self.assertEqual([], clock.getDelayedCalls())

    async def test_who_was_missed_in_a_flood_is_asked_for_when_it_is_over(self) -> None:
        clock = ClockReactor(self.reactor)
        one = self.discovery(self.alice, self.alices, clock)
        one.start(1001)
        await self.settled(one)
        before = one._opening
        for _ in range(2):
            one._station.ignored += 1
            clock.advance(RETRY_SECONDS)
            self.assertEqual(before, one._opening)
        for _ in range(2):
            clock.advance(RETRY_SECONDS)
            await self.settled(one)
            self.assertEqual(before + 1, one._opening)

    async def test_stopping_gives_up_on_a_thread_that_hangs(self) -> None:
        clock = ClockReactor(self.reactor)
        clock.getThreadPool = HangingPool
        one = Discovery(clock, self.alice, self.alices, os.urandom, interfaces=[LOOPBACK])
        one.start(1001)
        stopped = one.stop()
        clock.advance(STOP_SECONDS - 0.1)
        self.assertNoResult(stopped)
        clock.advance(0.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual([], clock.getDelayedCalls())


class FloodTests(DiscoveryCase):
    async def test_a_flooder_is_read_slowly_and_a_peer_is_found_all_the_same(self) -> None:
        one = self.discovery(self.alice, self.alices)
        one.start(1001)
        await self.settled(one)
        flood = announcements(MAX_LOOKS_PER_SECOND + 30)
        await deferToThread(shout, flood)
        self.discovery(self.bob, self.bobs).start(1002)
        wanted = {it.instance for it in flood}
        await self.alices.when(lambda owner: wanted <= set(owner.known))
        await self.alices.when(lambda owner: owner.of(self.bob))
        times = [at for _, instance, at in self.alices.calls if instance in wanted]
        self.assertEqual(len(wanted), len(times))
        self.assertGreater(times[MAX_LOOKS_PER_SECOND] - times[0], 0.5)

    async def test_what_waits_is_bounded(self) -> None:
        one = self.discovery(self.alice, self.alices)
        one.start(1001)
        await self.settled(one)
        ear = one._station._ear
        assert ear is not None
        loop: Any = ear._loop
        more = 100

        def browse() -> None:
            for found in announcements(MAX_LOOKS_PER_SECOND + MAX_KNOWN + more):
                ear.add_service(ear._zeroconf, SERVICE_TYPE, f"{found.instance}.{SERVICE_TYPE}")

        # All at once, before zeroconf's loop looks at the clock.
        loop.call_soon_threadsafe(browse)
        for _ in range(2):
            await deferToThread(
                lambda: asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(10)
            )
        self.assertGreaterEqual(one.ignored, more)  # Others of other tests may be there too.

    async def test_what_did_not_come_along_is_asked_for(self) -> None:
        """A responder need not send the rest with the service's name."""
        one = self.discovery(self.alice, self.alices)
        one.start(1001)
        await self.settled(one)
        (found,) = announcements(1)
        speaker = await deferToThread(say_the_name_alone, found)
        try:
            await self.alices.when(lambda owner: found.instance in owner.known)
        finally:
            await deferToThread(speaker.close)

    async def test_nonsense_is_not_passed_on(self) -> None:
        one = self.discovery(self.alice, self.alices)
        one.start(1001)
        await self.settled(one)
        (good, bad) = announcements(2)
        odd = {
            "Printer of Bob": good.properties(),
            bad.instance: {b"v": b"1", b"n": b"00", b"h": b"x"},
        }
        await deferToThread(shout_properties, odd, port=1)
        await deferToThread(shout_properties, {good.instance: good.properties()}, port=0)
        (last,) = announcements(1)
        await deferToThread(shout, [last])
        await self.alices.when(lambda owner: last.instance in owner.known)
        self.assertFalse({good.instance, bad.instance} & set(self.alices.known))


def info_of(instance: str, properties: dict[bytes, bytes], port: int) -> Any:
    """Return a service as zeroconf describes it."""
    zeroconf: Any = importlib.import_module("zeroconf")
    return zeroconf.ServiceInfo(
        SERVICE_TYPE,
        f"{instance}.{SERVICE_TYPE}",
        port,
        properties=dict(properties),
        server=f"{instance.replace(' ', '-')}.local.",
        parsed_addresses=[LOOPBACK],
    )


def say_the_name_alone(found: Announcement) -> Any:
    """Announce that there is a service, and tell the rest to who asks until it is closed."""
    zeroconf: Any = importlib.import_module("zeroconf")
    speaker = zeroconf.Zeroconf(interfaces=[LOOPBACK])
    info = info_of(found.instance, found.properties(), port=1)
    speaker.loop.call_soon_threadsafe(speaker.registry.async_add, info)
    packet = zeroconf.DNSOutgoing(AUTHORITATIVE_RESPONSE)
    packet.add_answer_at_time(info.dns_pointer(), 0)
    speaker.send(packet)
    return speaker


def shout(found: list[Announcement]) -> None:
    """Announce all of these at once, as no honest device would."""
    shout_properties({it.instance: it.properties() for it in found}, port=1)


def shout_properties(services: dict[str, dict[bytes, bytes]], port: int) -> None:
    """Announce services by their names, ten in a packet."""
    zeroconf: Any = importlib.import_module("zeroconf")
    speaker = zeroconf.Zeroconf(interfaces=[LOOPBACK])
    try:
        named = list(services.items())
        for start in range(0, len(named), 10):
            packet = zeroconf.DNSOutgoing(AUTHORITATIVE_RESPONSE)
            for instance, properties in named[start : start + 10]:
                info = info_of(instance, properties, port)
                for record in (info.dns_pointer(), info.dns_service(), info.dns_text()):
                    packet.add_answer_at_time(record, 0)
                for address in info.dns_addresses():
                    packet.add_answer_at_time(address, 0)
            speaker.send(packet)
    finally:
        speaker.close()
