"""What is read of a realm, and what of devices is shown."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.device_id import DeviceID
from abst.packets import ConnectToDevice
from abst.realm.limits import Limits
from abst.realm.web.numbers import (
    MAX_DEVICES_SHOWN,
    DeviceHere,
    Numbers,
    blurred,
    devices_here,
    read,
)
from tests.realm.group_members import Keys
from tests.realm.memory_realm import ALICE, BOB, CAROL, MemoryRealm, send


class NumbersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.realm = MemoryRealm()

    def read(self) -> Numbers:
        return read(self.realm.core, 2, 3)

    def test_it_counts_who_is_here_and_who_is_not_yet(self) -> None:
        self.realm.join(ALICE)
        self.realm.connect(BOB)
        found = self.read()
        self.assertEqual((1, 1, 2, 3), (found.here, found.awaited, found.newcomers, found.legs))
        self.assertEqual(4, found.connections)

    def test_the_realms_own_devices_are_counted_nowhere(self) -> None:
        self.realm.core.access.own_devices.update((ALICE, BOB))
        self.realm.join(ALICE)
        self.realm.connect(BOB)
        self.realm.join(CAROL)
        found = self.read()
        self.assertEqual((1, 0), (found.here, found.awaited))
        self.assertEqual(1, self.realm.core.here)
        self.assertEqual([CAROL[:4].hex()], [it.id for it in self.devices()])

    def devices(self, *, blurs: bool = True) -> list[DeviceHere]:
        return devices_here(self.realm.core, self.realm.now, blurs=blurs)

    def test_devices_are_shown_by_what_they_have_sent(self) -> None:
        alice, bob = self.realm.join(ALICE), self.realm.join(BOB)
        self.realm.now += 7.5
        packet = send(BOB, ALICE, b"x" * 100)
        bob.send(packet * 3)
        alice.send(send(ALICE, CAROL, b"nobody is there"))
        first, second = self.devices()
        self.assertEqual((BOB[:4].hex(), 7), (first.id, first.seconds))
        self.assertEqual((3, 3 * len(packet)), (first.packets, first.bytes))
        self.assertEqual((0, 0), (second.packets, second.bytes))
        self.assertEqual("192.0.2.x", first.address)
        self.assertEqual("192.0.2.7", self.devices(blurs=False)[0].address)

    def test_so_many_devices_are_shown_and_no_more(self) -> None:
        self.realm = MemoryRealm(Limits(connections=MAX_DEVICES_SHOWN + 50))
        for number in range(MAX_DEVICES_SHOWN + 20):
            self.realm.join(DeviceID.of_key(b"%d" % number))
        self.assertEqual(MAX_DEVICES_SHOWN, len(self.devices()))
        self.assertEqual(MAX_DEVICES_SHOWN + 20, self.read().here)

    def test_it_counts_circuits_groups_and_what_waits(self) -> None:
        alice, bob = self.realm.join(ALICE), self.realm.join(BOB)
        alice.send(ConnectToDevice(ALICE, BOB))
        keys = Keys(b"these")
        alice.send(keys.create(alice))
        for line in (alice, bob):
            line.send(keys.join(line))
        bob.stop_reading()
        for _ in range(3):
            alice.send(send(ALICE, BOB, b"x" * 30_000))
        found = self.read()
        self.assertEqual((1, 0), (found.circuits_waiting, found.circuits_joined))
        self.assertEqual((1, 2), (found.groups, found.members))
        self.assertEqual(self.realm.core.queued_bytes, found.queue_bytes)

    def test_it_knows_the_list(self) -> None:
        access = self.realm.core.access
        access.allow(ALICE, "", lambda is_kept: None)
        access.allow(BOB, "", lambda is_kept: None)
        access.revoke(BOB, lambda is_kept: None)
        access.invite(1, None, "", lambda is_kept: None)
        found = self.read()
        self.assertEqual((1, 1, 1), (found.listed, found.revoked, found.invitations))
        self.assertEqual("open", found.mode)


class BlurTests(SynchronousTestCase):
    def test_what_tells_customers_apart_is_left_out(self) -> None:
        for host, shown in (
            ("192.0.2.77", "192.0.2.x"),
            ("2001:db8:1:2::9", "2001:db8::x"),
            ("::1", "0:0::x"),
            ("fe80::c8ba:88ff:feb1:dcf4%eth0", "fe80:0::x"),
            ("", ""),
            ("someone.example.org", ""),
        ):
            self.assertEqual(shown, blurred(host), host)
