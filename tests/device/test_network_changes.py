"""Changes of the network: what netlink says, what of it counts, and how often it is told."""

from __future__ import annotations

import ipaddress
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

from abst.device.network_changes import (
    APART_SECONDS,
    FIRST_SECONDS,
    LOOK_SECONDS,
    MAX_OWN_ADDRESSES,
    Kind,
    Looking,
    NetlinkMessages,
    NetworkChanges,
    own_addresses,
)

ROOT = Path(__file__).parent.parent.parent

NEW_NEIGHBOUR = 28
CLONED = 0x200
TENTATIVE = 0x40

# Does what it is told to the network of a namespace of its own, and waits after each command until
# the change is told. Says what it was told, in order.
CHILD = """
import subprocess, sys
from twisted.internet import reactor
from abst.device.network_changes import NetworkChanges, own_addresses

commands = [line.split() for line in sys.argv[1:]]

def changed():
    print(*(["told"] + own_addresses()), flush=True)
    step()

def step():
    if not commands:
        changes.stop()
        reactor.stop()
        return
    command = commands.pop(0)
    print(*command, flush=True)
    if subprocess.run(command).returncode:
        reactor.stop()

changes = NetworkChanges(reactor, changed)
changes.start()
reactor.callWhenRunning(step)
reactor.callLater(30, reactor.stop)
reactor.run()
"""


def message(kind: int, body: bytes) -> bytes:
    """Return a message of netlink."""
    whole = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return whole + bytes(-len(whole) % 4)


def link(index: int, flags: int = 0x11043, kind: int = Kind.NEW_LINK, change: int = 0) -> bytes:
    """Return a message on a link."""
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags, change))


def address(text: str, kind: int = Kind.NEW_ADDRESS, flags: int = 0, seconds: int = 3600) -> bytes:
    """Return a message on an address that is good for some seconds."""
    packed = ipaddress.ip_address(text).packed
    family = 2 if len(packed) == 4 else 10
    body = struct.pack("=BBBBI", family, 64, flags, 0, 3)
    body += struct.pack("=HH", 4 + len(packed), 1) + packed
    body += struct.pack("=HHIIII", 20, 6, seconds, seconds, 0, 0)
    return message(kind, body)


def route(flags: int = 0, kind: int = Kind.NEW_ROUTE) -> bytes:
    """Return a message on a route."""
    return message(kind, struct.pack("=BBBBBBBBI", 10, 64, 0, 0, 254, 3, 0, 1, flags))


class NetlinkMessagesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.messages = NetlinkMessages()

    def test_what_is_new_counts(self) -> None:
        for data in (link(1), address("192.0.2.1"), address("2001:db8::1"), route()):
            self.assertTrue(self.messages.has_change(data))

    def test_what_is_gone_counts(self) -> None:
        for data in (
            link(1, kind=Kind.DELETED_LINK),
            address("192.0.2.1", Kind.DELETED_ADDRESS),
            route(kind=Kind.DELETED_ROUTE),
        ):
            self.assertTrue(self.messages.has_change(data))
            self.assertTrue(self.messages.has_change(data))

    def test_an_address_that_is_prolonged_does_not_count(self) -> None:
        """The kernel says it with each router advertisement."""
        self.messages.has_change(address("2001:db8::1"))
        self.assertFalse(self.messages.has_change(address("2001:db8::1", seconds=7200)))
        self.assertTrue(self.messages.has_change(address("2001:db8::2", seconds=7200)))

    def test_an_address_that_becomes_usable_counts(self) -> None:
        self.messages.has_change(address("2001:db8::1", flags=TENTATIVE))
        self.assertTrue(self.messages.has_change(address("2001:db8::1")))

    def test_an_address_that_comes_back_counts(self) -> None:
        self.messages.has_change(address("192.0.2.1"))
        self.messages.has_change(address("192.0.2.1", Kind.DELETED_ADDRESS))
        self.assertTrue(self.messages.has_change(address("192.0.2.1")))

    def test_a_link_that_only_scans_does_not_count(self) -> None:
        self.messages.has_change(link(2))
        self.assertFalse(self.messages.has_change(link(2, change=1)))
        self.assertTrue(self.messages.has_change(link(2, flags=0x1003)))

    def test_neighbours_and_caches_do_not_count(self) -> None:
        self.assertFalse(self.messages.has_change(message(NEW_NEIGHBOUR, bytes(12))))
        self.assertFalse(self.messages.has_change(route(CLONED)))

    def test_every_message_of_a_read_is_looked_at(self) -> None:
        noise = message(NEW_NEIGHBOUR, bytes(13))
        self.assertTrue(self.messages.has_change(noise + link(1) + noise + link(2)))
        self.assertFalse(self.messages.has_change(link(2) + noise + link(1)))

    def test_what_is_kept_is_bounded(self) -> None:
        for index in range(5000):
            self.messages.has_change(link(index))
        self.assertLessEqual(len(self.messages._said), 1024)

    @given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda body: message(20, body)))
    def test_any_bytes_are_read(self, data: bytes) -> None:
        self.assertIn(self.messages.has_change(data), (True, False))


class PaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[float] = []
        self.changes = NetworkChanges(self.clock, lambda: self.told.append(self.clock.seconds()))
        self.changes.start()

    def tearDown(self) -> None:
        self.changes.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_the_first_is_told_at_once(self) -> None:
        self.changes.notice()
        self.changes.notice()
        self.clock.advance(FIRST_SECONDS)
        self.assertEqual([FIRST_SECONDS], self.told)

    def test_many_are_told_once_a_second(self) -> None:
        for _ in range(300):
            self.changes.notice()
            self.clock.advance(0.01)
        apart = [late - early for early, late in zip(self.told, self.told[1:], strict=False)]
        self.assertIn(len(self.told), (3, 4))
        self.assertTrue(all(seconds > APART_SECONDS - 0.001 for seconds in apart), apart)

    def test_the_last_is_told(self) -> None:
        self.changes.notice()
        self.clock.advance(FIRST_SECONDS)
        self.changes.notice()
        self.clock.advance(APART_SECONDS / 2)
        self.assertEqual(1, len(self.told))
        self.clock.advance(APART_SECONDS / 2)
        self.assertEqual(2, len(self.told))

    def test_nothing_is_told_once_stopped(self) -> None:
        self.changes.notice()
        self.changes.stop()
        self.changes.notice()
        self.clock.advance(10.0)
        self.assertEqual([], self.told)

    def test_it_starts_again(self) -> None:
        self.changes.start()
        self.changes.stop()
        self.changes.start()
        self.changes.notice()
        self.clock.advance(1.0)
        self.assertEqual(1, len(self.told))


class LookingTests(SynchronousTestCase):
    def test_a_change_of_addresses_is_noticed(self) -> None:
        clock = Clock()
        addresses = ["192.0.2.1"]
        noticed: list[float] = []
        looking = Looking(clock, lambda: noticed.append(clock.seconds()), lambda: addresses)
        looking.start()
        clock.advance(LOOK_SECONDS)
        self.assertEqual([], noticed)
        addresses.append("192.0.2.2")
        clock.advance(LOOK_SECONDS)
        clock.advance(LOOK_SECONDS)
        self.assertEqual([2 * LOOK_SECONDS], noticed)
        looking.stop()
        self.assertEqual([], clock.getDelayedCalls())


class OwnAddressesTests(SynchronousTestCase):
    def test_they_can_be_reached_by_others(self) -> None:
        found = own_addresses()
        self.assertLessEqual(len(found), MAX_OWN_ADDRESSES)
        self.assertEqual(len(found), len(set(found)))
        for text in found:
            address = ipaddress.ip_address(text)
            self.assertFalse(address.is_loopback or address.is_multicast, text)
            self.assertFalse(address.version == 6 and address.is_link_local, text)

    def test_link_local_ones_have_a_scope(self) -> None:
        for text in set(own_addresses(link_local=True)) - set(own_addresses()):
            plain, _, scope = text.partition("%")
            self.assertTrue(ipaddress.ip_address(plain).is_link_local)
            self.assertTrue(scope)


class NetlinkTests(TestCase):
    """The kernel's own messages, in a network namespace that nobody else is in."""

    timeout = 60

    def setUp(self) -> None:
        tools = [shutil.which(name) for name in ("unshare", "ip")]
        if not sys.platform.startswith("linux") or os.geteuid() != 0 or None in tools:
            raise SkipTest("needs Linux, root, unshare and ip")
        tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
        if tried.returncode != 0:
            raise SkipTest("no network namespace can be made here")

    async def told(self, *commands: str) -> list[str]:
        """Run commands in a namespace; return what was said, line by line."""
        arguments = ["--net", sys.executable, "-c", CHILD, *commands]
        running: Deferred[Any] = getProcessOutputAndValue(
            "unshare", arguments, {**os.environ, "PYTHONPATH": str(ROOT)}, path=str(ROOT)
        )
        out, error, code = await running
        self.assertEqual(0, code, error.decode())
        lines: list[str] = out.decode().splitlines()
        return lines

    async def test_links_addresses_and_routes_are_told(self) -> None:
        commands = (
            "ip link set lo up",
            "ip link add abst0 type veth peer name abst1",
            "ip link set abst1 up",
            "ip link set abst0 up",
            "ip address add 192.0.2.7/24 dev abst0",
            "ip address add 2001:db8::7/64 dev abst0 nodad",
            "ip route add default via 192.0.2.1",
            "ip route del default",
            "ip address del 192.0.2.7/24 dev abst0",
            "ip link del abst0",
        )
        lines = await self.told(*commands)
        self.assertEqual(list(commands), [line for line in lines if line.startswith("ip ")])
        self.assertIn("told 192.0.2.7 2001:db8::7", lines)
        self.assertEqual("told", lines[-1])

    def test_it_is_a_reader_of_the_reactor(self) -> None:
        from twisted.internet import reactor

        changes = NetworkChanges(reactor, lambda: None)
        before = len(reactor.getReaders())
        changes.start()
        self.assertEqual(before + 1, len(reactor.getReaders()))
        changes.stop()
        self.assertEqual(before, len(reactor.getReaders()))
