"""Pairing windows: numbers, their time, and how often one may ask; then over a realm."""

from __future__ import annotations

import random

from twisted.trial.unittest import TestCase

from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import Error, FindWindow, OpenWindow, WindowFound, WindowOpened
from abst.realm.limits import Limits
from abst.realm.pairing_windows import ADDRESS_FACTOR, PairingWindows
from abst.realm.refusal import Refusal
from tests.realm.memory_realm import ALICE, BOB, CAROL, MemoryRealm

OFTEN = Limits().pairing_requests_per_minute


def device(number: int) -> bytes:
    """Return one of many device IDs."""
    return bytes(DeviceID.of_key(b"device %d" % number))


def windows(**limits: int | float) -> PairingWindows:
    """Return windows with some limits changed, and numbers that a seed decides."""
    return PairingWindows(Limits(**limits), random.Random(0).random)  # type: ignore[arg-type]


class WindowTests(TestCase):
    def opened(self, some: PairingWindows, device_id: bytes, now: float = 0.0) -> int:
        found = some.open(device_id, None, now)
        assert isinstance(found, int)
        return found

    def test_a_device_is_found_under_its_number(self) -> None:
        some = windows()
        number = self.opened(some, ALICE)
        self.assertIn(number, range(1, 10))
        self.assertEqual(ALICE, some.find(number, BOB, None, 1.0))
        self.assertEqual(Refusal(Code.NO_WINDOW), some.find(number + 1, BOB, None, 1.0))

    def test_a_window_closes_with_its_time(self) -> None:
        some = windows()
        number = self.opened(some, ALICE)
        self.assertEqual(ALICE, some.find(number, BOB, None, 59.9))
        self.assertEqual(Refusal(Code.NO_WINDOW), some.find(number, BOB, None, 60.0))
        self.assertEqual(0, len(some))

    def test_a_device_has_one_window(self) -> None:
        some = windows()
        first, second = self.opened(some, ALICE), self.opened(some, ALICE, 1.0)
        self.assertEqual(1, len(some))
        self.assertEqual(ALICE, some.find(second, BOB, None, 2.0))
        if first != second:
            self.assertEqual(Refusal(Code.NO_WINDOW), some.find(first, BOB, None, 2.0))

    def test_closing_closes_ones_own_and_may_be_repeated(self) -> None:
        some = windows()
        number = self.opened(some, ALICE)
        some.close(BOB)
        self.assertEqual(1, len(some))
        some.close(ALICE)
        some.close(ALICE)
        self.assertEqual(Refusal(Code.NO_WINDOW), some.find(number, BOB, None, 1.0))

    def test_numbers_are_short_free_and_not_the_next_one(self) -> None:
        some = windows(pairing_windows=2000)
        numbers = [self.opened(some, device(each)) for each in range(1000)]
        self.assertEqual(1000, len(set(numbers)))
        self.assertLess(max(numbers[:4]), 10)
        self.assertLess(max(numbers[:40]), 100)
        self.assertLess(max(numbers), 10_000)
        self.assertNotEqual(sorted(numbers[:20]), numbers[:20])

    def test_no_more_than_the_limit_and_room_comes_back(self) -> None:
        some = windows(pairing_windows=3)
        for each in range(3):
            self.opened(some, device(each))
        self.assertEqual(Refusal(Code.RATE_LIMITED, 60.0), some.open(ALICE, None, 1.0))
        self.assertIsInstance(some.open(device(0), None, 1.0), int)
        self.assertIsInstance(some.open(ALICE, None, 60.0), int)

    def test_a_device_that_asks_too_often_is_told_when_to_come_back(self) -> None:
        some = windows()
        for _ in range(OFTEN):
            self.assertEqual(Refusal(Code.NO_WINDOW), some.find(5, ALICE, None, 0.0))
        refusal = some.open(ALICE, None, 0.0)
        assert isinstance(refusal, Refusal)
        self.assertIs(Code.RATE_LIMITED, refusal.code)
        assert refusal.retry_after is not None
        self.assertIsInstance(some.open(ALICE, None, refusal.retry_after), int)

    def test_an_address_with_many_devices_is_bounded_too(self) -> None:
        some = windows()
        for each in range(OFTEN * ADDRESS_FACTOR):
            self.assertEqual(Refusal(Code.NO_WINDOW), some.find(5, device(each), "192.0.2.1", 0.0))
        refusal = some.find(5, device(9999), "192.0.2.1", 0.0)
        assert isinstance(refusal, Refusal)
        self.assertIs(Code.RATE_LIMITED, refusal.code)
        self.assertEqual(Refusal(Code.NO_WINDOW), some.find(5, device(9998), "192.0.2.2", 0.0))

    def test_who_is_refused_learns_nothing(self) -> None:
        """The right number, asked once too often, is refused like any other."""
        some = windows()
        number = self.opened(some, ALICE)
        for _ in range(OFTEN):
            some.find(9998, BOB, None, 0.0)
        right, wrong = some.find(number, BOB, None, 0.0), some.find(9999, BOB, None, 0.0)
        self.assertEqual(wrong, right)


class RealmTests(TestCase):
    """The same, asked by devices."""

    def setUp(self) -> None:
        self.realm = MemoryRealm()
        self.alice, self.bob = self.realm.join(ALICE), self.realm.join(BOB)

    def open(self) -> int:
        self.alice.send(OpenWindow(request=3))
        (opened,) = self.alice.take()
        assert isinstance(opened, WindowOpened)
        self.assertEqual((60.0, 3), (opened.seconds, opened.request))
        return opened.number

    def test_one_finds_the_other(self) -> None:
        number = self.open()
        self.bob.send(FindWindow(number, request=4))
        self.assertEqual([WindowFound(number, ALICE, 4)], self.bob.take())
        self.assertEqual([], self.alice.take())

    def test_a_refusal_names_the_request_and_is_counted(self) -> None:
        self.bob.send(FindWindow(9999, request=4))
        (error,) = self.bob.take()
        assert isinstance(error, Error)
        self.assertEqual(("no_window", 14, 4), (error.code, error.about, error.request))
        self.assertEqual(1, self.realm.core.counters.refused_packets[Code.NO_WINDOW])
        self.assertEqual("", self.bob.ended)

    def test_a_window_closes_when_asked_and_when_its_device_goes(self) -> None:
        for leave in (lambda: self.alice.send(OpenWindow(close=True)), self.alice.disconnect):
            number = self.open()
            leave()
            self.bob.send(FindWindow(number))
            self.assertEqual(["no_window"], self.bob.take_codes())

    def test_a_newer_connection_keeps_it(self) -> None:
        number = self.open()
        self.realm.join_again(self.alice)
        self.bob.send(FindWindow(number))
        self.assertEqual([WindowFound(number, ALICE)], self.bob.take())

    def test_whoever_scans_numbers_is_stopped(self) -> None:
        self.open()
        carol = self.realm.join(CAROL)
        for number in range(1, 200):
            carol.send(FindWindow(number))
        found = carol.take()
        limited = [
            packet
            for packet in found
            if isinstance(packet, Error) and packet.code == "rate_limited"
        ]
        self.assertEqual(199 - OFTEN, len(limited))
        self.assertTrue(all(error.retry_after for error in limited))
