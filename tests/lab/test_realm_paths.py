"""Devices that reach each other through realms only, over networks that fail as networks do."""

from __future__ import annotations

import time

from tests.lab.conversation import Talk
from tests.lab.devices import LabDevice, LabRealm, pair
from tests.lab.lab import Lab, LabTestCase
from tests.lab.network import Lan

DEAD_SECONDS = 90.0
SUSPENDED_SECONDS = 120.0

# How long at most until both hear each other again; the wait before a try to connect is random.
AFTER_DEATH_SECONDS = 60.0
AFTER_SLEEP_SECONDS = 5.0
AFTER_RESTART_SECONDS = 5.0
AFTER_CHANGE_SECONDS = 40.0


class Apart:
    """A laptop at home and a phone in a café, each behind NAT, which know the same realms."""

    def __init__(self, lab: Lab, *names: str) -> None:
        self.internet = lab.internet()
        self.realms = [lab.realm(self.internet, name) for name in names or ("realm",)]
        self.home, self.cafe = lab.lan("home"), lab.lan("cafe")
        self.home_router, self.cafe_router = (
            lan.nat_to(self.internet) for lan in (self.home, self.cafe)
        )
        self.laptop, self.phone = self.pair(lab, "laptop", "phone")

    def pair(self, lab: Lab, first: str, second: str) -> tuple[LabDevice, LabDevice]:
        """Put one device into each of the two LANs, and pair them."""
        devices = self.device(lab, first, self.home), self.device(lab, second, self.cafe)
        pair(*devices)
        return devices

    def device(self, lab: Lab, name: str, lan: Lan) -> LabDevice:
        """Make a device that knows the realms."""
        device = lab.device(name, lan)
        device.realm_add(*self.realms)
        return device

    @property
    def realm(self) -> LabRealm:
        """The first realm."""
        return self.realms[0]


class RealmPathTests(LabTestCase):
    """Both ways, through whatever happens."""

    def test_behind_nat(self) -> None:
        with Lab() as lab:
            apart = Apart(lab)
            laptop, phone = apart.laptop, apart.phone
            laptop.message(phone, "hello")
            phone.wait_for("hello")
            phone.message(laptop, "hello yourself")
            laptop.wait_for("hello yourself")
            laptop.send_file(phone, 2_000_000)
            phone.send_file(laptop, 2_000_000)
            self.assertEqual("realm", laptop.kind_of_path(phone))

    def test_silence_and_sleep(self) -> None:
        """Nothing gets through for 90 s, without a word; beside that, an agent sleeps for 120 s."""
        with Lab() as lab:
            apart = Apart(lab)
            tablet = apart.device(lab, "tablet", apart.internet)
            watch = apart.device(lab, "watch", apart.internet)
            pair(tablet, watch)
            with Talk(apart.laptop, apart.phone) as cut, Talk(tablet, watch) as asleep:
                watch.suspend()
                for router in (apart.home_router, apart.cafe_router):
                    router.silence()
                time.sleep(DEAD_SECONDS)
                for router in (apart.home_router, apart.cafe_router):
                    router.silence(False)
                back = cut.comeback_seconds(time.monotonic())
                self.tell(f"both are back {back:.1f} s after {DEAD_SECONDS:g} s of silence")
                self.assertLessEqual(back, AFTER_DEATH_SECONDS)
                time.sleep(max(0.0, SUSPENDED_SECONDS - DEAD_SECONDS - back))
                watch.resume()
                back = asleep.comeback_seconds(time.monotonic())
                self.tell(f"both are back {back:.1f} s after a sleep of {SUSPENDED_SECONDS:g} s")
                self.assertLessEqual(back, AFTER_SLEEP_SECONDS)
            self.tell(f"messages: {cut.counts}, and {asleep.counts}")

    def test_another_realm(self) -> None:
        """Of two realms the one that is used is killed for good."""
        with Lab() as lab:
            apart = Apart(lab, "oslo", "rome")
            with Talk(apart.laptop, apart.phone) as talk:
                time.sleep(2)
                used = apart.laptop.path_to(apart.phone)
                (realm,) = [realm for realm in apart.realms if realm.host in used]
                realm.kill()
                time.sleep(5)
                self.assertNotIn(realm.host, apart.laptop.path_to(apart.phone))
            self.tell(f"longest silence {talk.longest_silence_seconds:.2f} s")

    def test_killed_realm_comes_back(self) -> None:
        with Lab() as lab:
            apart = Apart(lab)
            with Talk(apart.laptop, apart.phone) as talk:
                time.sleep(2)
                apart.realm.kill()
                apart.realm.start()
                back = talk.comeback_seconds(time.monotonic())
                time.sleep(2)
            self.tell(f"both are back {back:.1f} s after the realm is")
            self.assertLessEqual(back, AFTER_RESTART_SECONDS)

    def test_lossy_link(self) -> None:
        """One frame of ten is lost, and each takes 200 ms."""
        with Lab() as lab:
            apart = Apart(lab)
            apart.cafe.netem(loss=10, delay_ms=200)
            with Talk(apart.laptop, apart.phone) as talk:
                apart.laptop.send_file(apart.phone, 100_000, within_seconds=100)
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.1f} s, {talk.counts} messages")

    def test_change_of_address(self) -> None:
        with Lab() as lab:
            apart = Apart(lab)
            with Talk(apart.laptop, apart.phone) as talk:
                time.sleep(2)
                apart.phone.change_address()
                back = talk.comeback_seconds(time.monotonic())
                time.sleep(2)
            self.tell(f"both are back {back:.1f} s after a new address")
            self.assertLessEqual(back, AFTER_CHANGE_SECONDS)
