"""A month's bytes: counted by device and in all, over restarts, whatever the clock does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.errors import Code
from abst.packets import (
    BackHeartbeat,
    Circuit,
    ConnectToDevice,
    Error,
    GetValue,
    Hello,
    LeaveGroup,
    OpenWindow,
    PutValue,
    WindowOpened,
)
from abst.realm import meter as meter_module
from abst.realm.limits import Limits
from abst.realm.meter import SAVE_SECONDS, Meter
from abst.realm.store.interface import Done, Volumes
from abst.realm.store.memory import MemoryStore
from tests.realm.group_members import Keys, message
from tests.realm.memory_realm import ALICE, BOB, CAROL, MemoryLeg, MemoryRealm, send

KEYS = Keys(b"garden")
DAY = 86400


def at(year: int, month: int, day: int = 15, hour: int = 12) -> float:
    """Return a time in seconds since 1970."""
    return datetime(year, month, day, hour, tzinfo=UTC).timestamp()


class CountingStore(MemoryStore):
    """A store that notes how often volumes are put, and may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[Volumes] = []
        self.is_full = False

    def put_volumes(self, volumes: Volumes, done: Done) -> None:
        """Keep how much has been sent, if there is room."""
        self.puts.append(volumes)
        if self.is_full:
            done(False)
        else:
            super().put_volumes(volumes, done)


class MeterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wall = at(2026, 11)
        self.store = CountingStore()
        self.meter = self.begin()

    def begin(self, each: int = 1000, in_all: int = 0) -> Meter:
        limits = Limits(device_bytes_per_month=each, bytes_per_month=in_all)
        return Meter(limits, self.store, lambda: self.wall, {bytes(CAROL)})

    def left(self, device: bytes = ALICE, meter: Meter | None = None) -> int:
        """Use up what a device may still send, and return how much that was."""
        meter = meter or self.meter
        return sum(
            size for size in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1) if meter.spend(device, size)
        )

    def test_each_device_has_its_own(self) -> None:
        self.assertTrue(self.meter.spend(ALICE, 900))
        self.assertFalse(self.meter.spend(ALICE, 101))
        self.assertTrue(self.meter.spend(ALICE, 100))
        self.assertFalse(self.meter.spend(ALICE, 1))
        self.assertTrue(self.meter.spend(BOB, 1000))

    def test_all_together_have_one(self) -> None:
        meter = self.begin(0, 1000)
        self.assertTrue(meter.spend(ALICE, 600))
        self.assertFalse(meter.spend(BOB, 401))
        self.assertTrue(meter.spend(BOB, 400))
        self.assertFalse(meter.spend(ALICE, 1))

    def test_the_realms_own_are_not_counted(self) -> None:
        meter = self.begin(10, 10)
        self.assertTrue(meter.spend(CAROL, 1000))
        self.assertFalse(meter.charge((CAROL, CAROL), 1000))
        self.assertEqual(0.0, meter.seconds_without((CAROL,)))
        self.assertTrue(meter.spend(ALICE, 10))

    def test_without_a_limit_there_is_nothing_to_count(self) -> None:
        self.assertFalse(self.begin(0, 0).is_on)
        self.assertTrue(self.begin(1, 0).is_on)
        self.assertTrue(self.begin(0, 1).is_on)

    def test_circuits_count_for_both_and_once_in_all(self) -> None:
        meter = self.begin(1000, 1800)
        self.assertFalse(meter.charge((ALICE, BOB), 900))
        self.assertEqual((100, 100), (self.left(ALICE, meter), self.left(BOB, meter)))
        self.assertEqual(700, self.left(b"d" * 16, meter))
        self.assertTrue(meter.charge((ALICE, BOB), 1))

    def test_a_month_begins_at_its_first_second(self) -> None:
        for this, following in (
            (at(2026, 11), at(2026, 12, 1, 0)),
            (at(2028, 2), at(2028, 3, 1, 0)),
        ):
            self.setUp()
            self.wall = this
            self.assertEqual(1000, self.left())
            self.assertEqual(following - this, self.meter.seconds_left())
            self.assertEqual(following - this, self.meter.seconds_without((BOB, ALICE)))
            self.wall = following - 1
            self.assertFalse(self.meter.spend(ALICE, 1))
            self.wall = following
            self.assertEqual(1000, self.left())

    def test_the_year_ends_as_other_months_do(self) -> None:
        self.wall = at(2026, 12, 31, 23)
        self.assertEqual(1000, self.left())
        self.assertEqual(3600, self.meter.seconds_left())
        self.wall += 3600
        self.assertEqual(1000, self.left())

    def test_a_clock_that_is_set_back_brings_nothing(self) -> None:
        self.wall = at(2026, 12, 1)
        self.assertEqual(1000, self.left())
        self.wall = at(2026, 11, 30)
        self.assertEqual(0, self.left())
        self.assertEqual(at(2026, 12, 1, 0) - self.wall, self.meter.seconds_left())
        self.wall = at(2026, 12, 2)
        self.assertEqual(0, self.left())
        self.wall = at(2027, 1, 1)
        self.assertEqual(1000, self.left())

    def test_a_clock_that_was_far_ahead_blocks_nobody_beyond_this_month(self) -> None:
        self.wall = at(2040, 5)
        self.assertEqual(1000, self.left())
        self.meter.save()
        for again in (False, True):
            if again:
                self.assertTrue(self.meter.spend(BOB, 1))
                self.meter.save()
                self.meter = self.begin()
            self.wall = at(2026, 11)
            self.assertEqual(0, self.left())
        self.wall = at(2026, 12)
        self.assertEqual(1000, self.left())

    def test_it_is_kept_now_and_then_and_at_the_end(self) -> None:
        self.meter.spend(ALICE, 100)
        self.assertEqual([], self.store.puts)
        self.wall += SAVE_SECONDS
        self.meter.spend(BOB, 50)
        month = 12 * 2026 + 10
        self.assertEqual([Volumes(month, 100, {ALICE: 100})], self.store.puts)
        self.meter.save()
        self.meter.save()
        self.assertEqual([Volumes(month, 150, {BOB: 50})], self.store.puts[1:])
        again = self.begin()
        self.assertEqual((900, 950), (self.left(ALICE, again), self.left(BOB, again)))

    def test_what_the_disk_does_not_take_is_given_to_it_again(self) -> None:
        self.meter.spend(ALICE, 100)
        self.store.is_full = True
        self.meter.save()
        self.store.is_full = False
        self.meter.save()
        self.assertEqual(900, self.left(ALICE, self.begin()))

    def test_the_counts_of_another_month_are_not_kept(self) -> None:
        self.meter.spend(ALICE, 100)
        self.meter.save()
        self.wall = at(2026, 12)
        self.meter.spend(BOB, 1)
        self.meter.save()
        self.assertEqual({BOB: 1}, self.store.volumes().by_device)

    def test_those_that_are_too_many_share_one(self) -> None:
        self.patch(meter_module, "MAX_DEVICES", 2)
        self.assertEqual([1000] * 3, [self.left(bytes([number]) * 16) for number in range(3)])
        self.assertEqual(0, self.left(bytes([7]) * 16))
        self.assertEqual(3, len(self.meter._by_device))

    @given(
        st.lists(
            st.tuples(st.sampled_from([ALICE, BOB]), st.integers(1, 400), st.integers(-40, 40)),
            max_size=30,
        )
    )
    def test_no_month_has_more_than_it_may(self, steps: list[tuple[bytes, int, int]]) -> None:
        """Months end only when a later one begins than any before; a restart changes nothing."""
        self.setUp()
        meter = self.begin(1000, 1500)
        used: dict[Any, int] = {}
        latest = 0
        for device, size, days in steps:
            self.wall += days * DAY
            today = datetime.fromtimestamp(self.wall, UTC)
            month = 12 * today.year + today.month
            if month > latest or month < latest - 1:
                used = {} if month > latest else used
                latest = month
            fits = used.get(device, 0) + size <= 1000 and used.get("all", 0) + size <= 1500
            self.assertEqual(fits, meter.spend(device, size))
            if fits:
                used[device] = used.get(device, 0) + size
                used["all"] = used.get("all", 0) + size
            if not size % 3:
                meter.save()
                meter = self.begin(1000, 1500)


class RealmTests(SynchronousTestCase):
    """What a device notices of it."""

    def setUp(self) -> None:
        self.begin(Limits(device_bytes_per_month=20_000))

    def begin(self, limits: Limits) -> None:
        self.store = CountingStore()
        self.realm = MemoryRealm(limits, self.store)
        self.realm.now = at(2026, 11, 30)
        self.left_seconds = DAY // 2
        self.alice, self.bob = self.realm.join(ALICE), self.realm.join(BOB)

    def codes(self, errors: Iterable[Any]) -> list[tuple[Any, ...]]:
        assert all(isinstance(error, Error) for error in errors)
        return [(error.code, error.about, error.retry_after) for error in errors]

    def test_what_is_dropped_is_reported_with_the_time(self) -> None:
        packet = send(ALICE, BOB, bytes(900))
        for _ in range(25):
            self.alice.send(packet)
        fitting = 20_000 // len(packet)
        self.assertEqual(fitting, len(self.bob.take()))
        errors = self.alice.take_errors()
        self.assertEqual({("volume_spent", 2, self.left_seconds)}, set(self.codes(errors)))
        self.assertEqual({BOB}, {error.target_device for error in errors})
        self.assertEqual(25 - fitting, sum(error.dropped or 0 for error in errors))
        self.assertEqual(25 - fitting, self.realm.dropped(Code.VOLUME_SPENT))
        # It still receives, and says that it is here.
        self.bob.send(send(BOB, ALICE, b"x"))
        self.assertEqual(1, len(self.alice.take()))
        self.alice.send(Hello(ALICE))
        self.assertIsInstance(self.alice.take()[0], BackHeartbeat)

    def spend_all(self) -> None:
        while self.realm.core.meter.spend(ALICE, 1):
            pass

    def test_messages_are_dropped_and_requests_refused(self) -> None:
        for line in (self.alice, self.bob):
            line.send(KEYS.create(line), KEYS.join(line))
            line.take()
        self.alice.take()
        self.spend_all()
        self.alice.send(
            message(ALICE, KEYS.group, b"x"),
            OpenWindow(request=1),
            ConnectToDevice(ALICE, BOB, 2),
            LeaveGroup(KEYS.group, 3),
            # One in the form that is decoded, and two in the canonical one, which is not.
            GetValue(KEYS.group, bytes(32)),
            codec.encode(PutValue(KEYS.group, bytes(32), b"x", request=4)) * 2,
        )
        errors = self.alice.take_errors()
        self.assertEqual(
            {("volume_spent", self.left_seconds)}, {(it.code, it.retry_after) for it in errors}
        )
        self.assertEqual([6, 13, 1, 7, 9, 8, 8], [error.about for error in errors])
        self.assertEqual([None, 1, 2, 3, None, 4, 4], [error.request for error in errors])
        self.assertEqual({}, self.store._kept)
        self.assertEqual([], self.bob.take())
        self.assertEqual(6, self.realm.core.counters.refused_packets[Code.VOLUME_SPENT])

    def test_a_circuit_to_who_has_sent_all_is_refused_and_one_that_is_open_ends(self) -> None:
        self.bob.send(ConnectToDevice(BOB, ALICE))
        (for_bob,), (for_alice,) = self.bob.take(), self.alice.take()
        assert isinstance(for_bob, Circuit)
        assert isinstance(for_alice, Circuit)
        legs = [MemoryLeg(self.realm, circuit.token) for circuit in (for_bob, for_alice)]
        for leg in legs:
            leg.come()
        seat = legs[0].seat
        assert seat is not None
        seat.circuit.count(10_000, self.realm.now)
        self.assertFalse(legs[0].was_reset)
        seat.circuit.count(10_000, self.realm.now)
        self.realm.settle()
        self.assertTrue(legs[0].was_reset and legs[1].was_reset)
        self.assertEqual(["circuit_spent"], self.alice.take_codes())
        self.bob.take()
        carol = self.realm.join(CAROL)
        carol.send(ConnectToDevice(CAROL, ALICE))
        self.assertEqual([("volume_spent", 1, self.left_seconds)], self.codes(carol.take_errors()))

    def test_a_stop_keeps_the_counts_and_a_new_realm_goes_on_with_them(self) -> None:
        self.alice.send(send(ALICE, BOB, bytes(900)))
        self.assertEqual([], self.store.puts)
        self.realm.core.announce_restart()
        self.assertGreater(self.store.volumes().by_device[ALICE], 900)
        again = MemoryRealm(Limits(device_bytes_per_month=1000), self.store)
        again.now = self.realm.now
        alice, bob = again.join(ALICE), again.join(BOB)
        alice.send(send(ALICE, BOB, bytes(100)))
        self.assertEqual(["volume_spent"], alice.take_codes())
        self.assertEqual([], bob.take())

    def test_a_limit_that_is_changed_counts_what_was_sent_since_there_was_one(self) -> None:
        self.alice.send(send(ALICE, BOB, bytes(900)))
        self.realm.core.use_limits(Limits())
        self.alice.send(OpenWindow(), send(ALICE, BOB, bytes(30_000)))
        self.assertIsInstance(self.alice.take()[0], WindowOpened)
        self.realm.core.use_limits(Limits(device_bytes_per_month=1000))
        self.alice.send(send(ALICE, BOB, bytes(900)))
        self.assertEqual(["volume_spent"], self.alice.take_codes())
