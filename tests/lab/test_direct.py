"""Devices that reach each other directly, with a realm behind them or none at all."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from tests.integration.command_line import ENVIRONMENT, end
from tests.lab.conversation import Talk
from tests.lab.devices import LabDevice, pair, seconds_until
from tests.lab.lab import Lab, LabTestCase
from tests.lab.network import ROOT

DIRECT_SECONDS = 5.0
"""How long devices that can reach each other may take until they do so directly."""

DEAD_LAN_SECONDS = 35.0
DOWN_SECONDS = 2.0
QUICK_SECONDS = 1.0
ROUNDS = 20
ROUND_SECONDS = 3.0
FLOOD_SECONDS = 15.0
FLOOD_EACH_SECOND = 2000
FLOOD_BYTES = 40_000_000


def seconds_until_direct(
    first: LabDevice, second: LabDevice, within_seconds: float = DIRECT_SECONDS
) -> float:
    """Wait until both use a direct path, and return how long that took."""
    return seconds_until(
        lambda: first.kind_of_path(second) == second.kind_of_path(first) == "direct",
        f"{first.name} and {second.name} talk directly",
        within_seconds,
    )


class AtHome:
    """A laptop and a phone in one LAN behind NAT, paired, with a realm outside."""

    def __init__(self, lab: Lab, *, two_ways: bool = False, ipv4: str = "") -> None:
        self.internet = lab.internet()
        self.realm = lab.realm(self.internet)
        self.home, self.cafe = lab.lan("home", ipv4), lab.lan("cafe", ipv4)
        others = [self.cafe] if two_ways else []
        self.laptop = lab.device("laptop", self.home)
        self.phone = lab.device("phone", self.home, *others)
        self.router = self.home.nat_to(self.internet)
        self.cafe.nat_to(self.internet)
        for device in (self.laptop, self.phone):
            device.realm_add(self.realm)
        pair(self.laptop, self.phone)


class DirectTestCase(LabTestCase):
    """What the tests of direct paths share."""

    def exchange(self, first: LabDevice, second: LabDevice) -> None:
        """Send messages, files and pings both ways, which all go directly."""
        for sender, receiver in ((first, second), (second, first)):
            sender.message(receiver, f"from {sender.name}")
            receiver.wait_for(f"from {sender.name}")
            sender.send_file(receiver, 2_000_000)
            answers = sender.ok("ping", receiver.name, "--count", "1", "--json").splitlines()
            self.assertEqual("direct", json.loads(answers[0])["path_kind"], answers[0])

    def assert_direct(self, first: LabDevice, second: LabDevice) -> None:
        """Assert that both see their session on a direct path."""
        self.assertEqual("direct", first.kind_of_path(second), first.path_to(second))
        self.assertEqual("direct", second.kind_of_path(first), second.path_to(first))

    def stranger(self, beside: LabDevice, *arguments: str) -> None:
        """Announce what is not true from a device's host, until the test ends."""
        words = (sys.executable, "-m", "tests.lab.stranger", *arguments)
        process = subprocess.Popen(
            beside.host.command(*words, *beside.listening_address.split(":")),
            cwd=ROOT,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(end, process)


class WithoutRealmTests(DirectTestCase):
    """Two devices in one LAN, and no realm anywhere."""

    def test_pair_and_talk(self) -> None:
        with Lab() as lab:
            home = lab.lan("home")
            laptop, phone = lab.device("laptop", home), lab.device("phone", home)
            pair(laptop, phone)
            self.exchange(laptop, phone)
            self.assert_direct(laptop, phone)

    def test_ipv6_only(self) -> None:
        with Lab() as lab:
            home = lab.lan("home", ipv4=None, ipv6="fd00:ab57::/64")
            laptop, phone = lab.device("laptop", home), lab.device("phone", home)
            pair(laptop, phone)
            self.exchange(laptop, phone)
            self.assert_direct(laptop, phone)

    def test_no_multicast(self) -> None:
        """Nothing is discovered; a person tells one of them where the other one is."""
        with Lab() as lab:
            office = lab.lan("office", multicast=False)
            laptop, phone = lab.device("laptop", office), lab.device("phone", office)
            laptop.ok("trust", phone.device_id, "--name", "phone")
            phone.ok("trust", laptop.device_id, "--name", "laptop")
            laptop.ok("peers", "add-address", "phone", phone.listening_address)
            self.exchange(laptop, phone)
            self.assert_direct(laptop, phone)

    def test_restart(self) -> None:
        """An agent that was killed and started again is found again."""
        with Lab() as lab:
            home = lab.lan("home")
            laptop, phone = lab.device("laptop", home), lab.device("phone", home)
            pair(laptop, phone)
            self.exchange(laptop, phone)
            phone.kill()
            phone.up()
            laptop.message(phone, "are you there?")
            phone.wait_for("are you there?")
            self.assert_direct(laptop, phone)


class MoveTests(DirectTestCase):
    """From one path to the other, with messages both ways all along."""

    def test_direct_soon_after_meeting(self) -> None:
        with Lab() as lab:
            stage = AtHome(lab)
            laptop, phone = stage.laptop, stage.phone
            with Talk(laptop, phone):
                paired = seconds_until_direct(laptop, phone)
                phone.move(stage.cafe)
                seconds_until(lambda: phone.kind_of_path(laptop) == "realm", "the realm relays")
                phone.move(stage.home)
                moved = seconds_until_direct(laptop, phone)
            self.tell(f"direct {paired:.1f} s after pairing, {moved:.1f} s after coming home")

    def test_away_and_home_again(self) -> None:
        with Lab() as lab:
            stage = AtHome(lab)
            laptop, phone = stage.laptop, stage.phone
            seconds_until_direct(laptop, phone)
            away, home = [], []
            with Talk(laptop, phone) as talk:
                for _ in range(ROUNDS):
                    phone.move(stage.cafe)
                    away.append(talk.comeback_seconds(time.monotonic()))
                    time.sleep(ROUND_SECONDS)
                    phone.move(stage.home)
                    home.append(seconds_until_direct(laptop, phone))
                    time.sleep(ROUND_SECONDS)
            self.tell(
                f"{ROUNDS} times away and home: longest silence "
                f"{talk.longest_silence_seconds:.1f} s, heard again away after at most "
                f"{max(away):.1f} s, direct at home after at most {max(home):.1f} s; "
                f"{talk.counts} messages"
            )

    def test_dead_lan(self) -> None:
        """The LAN carries nothing between the devices any more, and nobody says so."""
        with Lab() as lab:
            stage = AtHome(lab)
            seconds_until_direct(stage.laptop, stage.phone)
            with Talk(stage.laptop, stage.phone) as talk:
                time.sleep(2)
                stage.home.isolate()
                talk.comeback_seconds(time.monotonic() + QUICK_SECONDS)
                self.assertEqual("realm", stage.laptop.kind_of_path(stage.phone))
                stage.home.isolate(False)
                back = seconds_until_direct(stage.laptop, stage.phone, within_seconds=60)
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.1f} s, direct again {back:.1f} s after it")
            self.assertLessEqual(silence, DEAD_LAN_SECONDS)

    def test_interface_down(self) -> None:
        """A phone with two networks loses the one of the direct path."""
        with Lab() as lab:
            stage = AtHome(lab, two_ways=True)
            seconds_until_direct(stage.laptop, stage.phone)
            with Talk(stage.laptop, stage.phone) as talk:
                time.sleep(2)
                stage.phone.interface_down()
                time.sleep(8)
                self.assertEqual("realm", stage.laptop.kind_of_path(stage.phone))
                stage.phone.interface_up()
                back = seconds_until_direct(stage.laptop, stage.phone)
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.1f} s, direct {back:.1f} s after it is up again")
            self.assertLessEqual(silence, DOWN_SECONDS)

    def test_change_of_address(self) -> None:
        with Lab() as lab:
            stage = AtHome(lab)
            seconds_until_direct(stage.laptop, stage.phone)
            with Talk(stage.laptop, stage.phone) as talk:
                time.sleep(2)
                stage.phone.change_address()
                talk.comeback_seconds(time.monotonic())
                back = seconds_until_direct(stage.laptop, stage.phone)
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.1f} s, direct {back:.1f} s after it was heard")

    def test_realm_dies(self) -> None:
        """What is direct goes on as if nothing had happened."""
        with Lab() as lab:
            stage = AtHome(lab)
            seconds_until_direct(stage.laptop, stage.phone)
            with Talk(stage.laptop, stage.phone) as talk:
                time.sleep(2)
                stage.realm.kill()
                time.sleep(5)
                self.assert_direct(stage.laptop, stage.phone)
            self.tell(f"longest silence {talk.longest_silence_seconds:.2f} s")
            self.assertLess(talk.longest_silence_seconds, QUICK_SECONDS)

    def test_world_goes_silent(self) -> None:
        """The way to the realm dies without a word: the direct path does not care."""
        with Lab() as lab:
            stage = AtHome(lab)
            seconds_until_direct(stage.laptop, stage.phone)
            with Talk(stage.laptop, stage.phone) as talk:
                stage.router.silence()
                time.sleep(DEAD_LAN_SECONDS + 10)
                self.assert_direct(stage.laptop, stage.phone)
            self.assertLess(talk.longest_silence_seconds, QUICK_SECONDS)


class DeceivedTests(DirectTestCase):
    """Addresses and announcements that lie."""

    def test_same_addresses_in_two_lans(self) -> None:
        """Both LANs use the same range, and at home somebody else has got the phone's address."""
        with Lab() as lab:
            stage = AtHome(lab, ipv4="192.168.1.0/24")
            laptop, phone = stage.laptop, stage.phone
            seconds_until_direct(laptop, phone)
            laptop.ok("peers", "add-address", "phone", phone.listening_address)
            address = phone.interface.addresses[0]
            other = lab.device("other", stage.home)
            with Talk(laptop, phone) as talk:
                phone.move(stage.cafe)
                other.interface.change_addresses(address)
                talk.comeback_seconds(time.monotonic())
                time.sleep(10)
                self.assertEqual("realm", laptop.kind_of_path(phone))
                self.assertEqual(address, phone.interface.addresses[0])
            self.tell(f"longest silence {talk.longest_silence_seconds:.1f} s")

    def test_stranger_who_claims_to_be_the_phone(self) -> None:
        with Lab() as lab:
            stage = AtHome(lab)
            laptop, phone = stage.laptop, stage.phone
            seconds_until_direct(laptop, phone)
            self.stranger(lab.device("mallory", stage.home), "--claim", phone.device_id)
            with Talk(laptop, phone) as talk:
                phone.move(stage.cafe)
                talk.comeback_seconds(time.monotonic())
                time.sleep(10)
                self.assertEqual("realm", laptop.kind_of_path(phone))
                phone.move(stage.home)
                back = seconds_until_direct(laptop, phone)
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.1f} s, direct {back:.1f} s after coming home")

    def test_stranger_who_floods(self) -> None:
        """Thousands of announcements cost neither the session nor the memory."""
        with Lab() as lab:
            stage = AtHome(lab)
            laptop, phone = stage.laptop, stage.phone
            seconds_until_direct(laptop, phone)
            before = laptop.resident_bytes
            mallory = lab.device("mallory", stage.home)
            self.stranger(mallory, "--each-second", str(FLOOD_EACH_SECOND))
            with Talk(laptop, phone) as talk:
                time.sleep(FLOOD_SECONDS)
                self.assert_direct(laptop, phone)
            grown = laptop.resident_bytes - before
            silence = talk.longest_silence_seconds
            self.tell(f"longest silence {silence:.2f} s, {grown / 1e6:.1f} MB more memory")
            self.assertLess(silence, DOWN_SECONDS)
            self.assertLess(grown, FLOOD_BYTES)
