"""A session that moves between a local network and a realm, on a clock and with no real network."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.device.dialling import DIRECT_RETRY_SECONDS
from abst.device.paths import DEAD_SECONDS
from abst.testing import MemoryLanPort
from tests.device.doubles import HIGHER, LOWER, Base, Notes, NotesFactory, legs_of
from tests.device.test_schedule import Schedule


class LanBase(Base):
    """Alice and Bob on one realm and in one local network."""

    def setUp(self) -> None:
        self.ports: list[MemoryLanPort] = []
        super().setUp()

    def make(self, name: str, identity: Any, factory: Any = None, **options: Any) -> Any:
        if not self.ports:
            self.lan = self.network.lan()
        self.ports.append(self.lan.port())
        return super().make(name, identity, factory, lan=self.ports[-1], **options)

    def kinds(self, *ends: Notes) -> list[str | None]:
        return [None if end.path is None else end.path.kind for end in ends]


class DirectTests(LanBase):
    def test_a_session_begins_directly_where_that_is_possible(self) -> None:
        ours, theirs = self.pair()
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        self.exchange(ours, theirs)
        self.assertEqual(0, self.network.realm.realm.counters.relayed_packets)

    def test_no_realm_is_needed(self) -> None:
        self.network.realm.stop()
        self.network.settle()
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))

    def test_the_path_says_where_how_fast_and_why(self) -> None:
        ours, _ = self.pair()
        path = ours.path
        assert path is not None
        self.assertEqual(self.ports[1].address, path.address)
        self.assertEqual("there is no other", path.reason)
        self.assertIsNotNone(path.rtt_seconds)
        self.assertEqual(f"direct {self.ports[1].address}", str(path))

    def test_the_realm_is_dialled_a_little_later_when_nobody_answers_directly(self) -> None:
        self.ports[1].is_here = False
        begun = self.network.clock.seconds()
        waiting = self.alice.connect(self.bob.device_id)
        while not waiting.called:
            self.network.advance(0.01, 0.01)
        self.assertLess(self.network.clock.seconds() - begun, 0.3)
        self.network.result(waiting)

    def test_who_leaves_goes_on_through_the_realm_and_comes_back(self) -> None:
        ours, theirs = self.pair()
        for _ in range(5):
            self.ports[0].leave()
            self.network.advance(1, 0.05)
            self.exchange(ours, theirs)
            self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
            self.ports[0].come()
            self.network.advance(1, 0.05)
            self.exchange(ours, theirs)
            self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        self.assertEqual(1, ours.made)
        self.assertIsNone(ours.ended)

    def test_the_older_path_stays_until_the_newer_one_is_used(self) -> None:
        """Make before break: not for a moment is there no path."""
        self.ports[1].is_here = False
        ours, theirs = self.pair()
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
        self.ports[1].come()
        self.network.advance(5, 0.05)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        self.assertNotIn(None, ours.paths + theirs.paths)
        self.assertEqual(1, legs_of(self.alice, self.bob.device_id))
        self.assertEqual(1, legs_of(self.bob, self.alice.device_id))
        assert ours.path is not None
        self.assertEqual("direct is better than through a realm", ours.path.reason)

    def test_a_network_that_falls_silent_is_left_after_missed_answers(self) -> None:
        ours, theirs = self.pair()
        self.lan.is_silent = True
        waiting = [ours.sendPacket(5, "x"), theirs.sendPacket(6, "y")]
        begun = self.network.clock.seconds()
        while not all(item.called for item in waiting):
            self.network.advance(0.1, 0.1)
            self.assertLess(self.network.clock.seconds() - begun, DEAD_SECONDS)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
        self.assertEqual((["y"], ["x"]), (ours.contents, theirs.contents))
        self.assertNotIn(None, ours.paths)

    def test_a_silent_network_is_noticed_also_when_nothing_is_said(self) -> None:
        class Kept(Notes):
            keep_alive = True

        self.alice.factory = NotesFactory(Kept)
        ours, theirs = self.pair()
        self.lan.is_silent = True
        self.network.advance(DEAD_SECONDS)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))

    def test_a_ping_on_its_way_moves_along(self) -> None:
        ours, _ = self.pair()
        self.lan.is_silent = True
        waiting = ours.ping()
        self.network.advance(10, 0.1)
        seconds: float = self.network.result(waiting)
        self.assertLess(seconds, 10)

    def test_who_uses_the_lan_no_more_goes_on_through_the_realm(self) -> None:
        ours, theirs = self.pair()
        self.alice.use_lan(None)
        self.network.advance(1, 0.05)
        self.exchange(ours, theirs)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))

    def test_a_change_of_address_is_told_over_the_path_that_is_there(self) -> None:
        self.lan.announces = False
        self.ports[0].is_here = self.ports[1].is_here = False
        ours, theirs = self.pair()
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
        for port in self.ports:
            port.come()
        self.network.advance(5, 0.05)
        self.exchange(ours, theirs)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))

    def test_the_realm_may_die_while_they_talk_directly(self) -> None:
        ours, theirs = self.pair()
        self.network.realm.stop()
        self.network.advance(100)
        self.exchange(ours, theirs)
        self.assertIsNone(ours.ended)

    def test_told_addresses_are_tried_where_nobody_announces_himself(self) -> None:
        """Each tells in Hello, through the realm, where it listens."""
        self.lan.announces = False
        ours, theirs = self.pair()
        self.network.advance(5, 0.05)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        peer = self.alice.peers.get(self.bob.device_id)
        assert peer is not None
        self.assertEqual((self.ports[1].address,), peer.told_addresses[:1])

    def test_an_address_that_a_person_tells_is_enough(self) -> None:
        self.lan.announces = False
        self.network.realm.stop()
        self.network.settle()
        self.alice.peers.add_address(self.bob.device_id, self.ports[1].address)
        ours, theirs = self.pair()
        self.exchange(ours, theirs)

    def test_direct_is_tried_again_and_again(self) -> None:
        class Kept(Notes):
            keep_alive = True

        self.alice.factory = NotesFactory(Kept)
        self.lan.announces = False
        self.ports[1].is_here = False
        ours, theirs = self.pair()
        self.network.advance(2 * DIRECT_RETRY_SECONDS)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
        self.ports[1].is_here = True
        self.alice.peers.add_address(self.bob.device_id, self.ports[1].address)
        self.network.advance(DIRECT_RETRY_SECONDS + 2)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))

    def test_a_stranger_at_a_peers_address_is_refused_and_the_realm_is_used(self) -> None:
        self.lan.announces = False
        self.ports[1].is_here = False
        carol = self.make("carol", self.identities[0].__class__.generate())
        self.alice.peers.add_address(self.bob.device_id, self.ports[-1].address)
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))
        self.assertEqual([], self.built(carol))

    def test_many_devices_that_come_back_at_once_neither_storm_nor_stay_connected(self) -> None:
        others = [self.make(str(n), HIGHER.__class__.generate()) for n in range(28)]
        everybody = [self.alice, self.bob, *others]
        self.network.settle()
        self.network.introduce(*everybody)
        dials = {device: self.dials(device) for device in everybody}
        for device in everybody:
            device._greetings.add(peer.device_id for peer in device.peers.all())
        self.network.advance(30, 0.1)
        for device in everybody:
            begun = dials[device]
            for second in range(30):
                self.assertLessEqual(sum(second <= at < second + 1 for at in begun), 8 + 6)
        # Who was dialled need not dial: each two have met once, or twice when both were quick.
        pairs = 30 * 29 / 2
        self.assertGreaterEqual(sum(map(len, dials.values())), pairs)
        self.assertLess(sum(map(len, dials.values())), 1.6 * pairs)
        self.network.advance(15, 1)
        for device in everybody:
            self.assertEqual(0, sum(legs_of(device, other.device_id) for other in everybody))
        ours = self.connect(self.alice, others[-1])
        self.exchange(ours, others[-1].session_with(self.alice.device_id))


class MovesTests(SynchronousTestCase):
    """Every order of a path that comes, goes, gets worse or better keeps the session's promises."""

    steps = st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 8)),
            st.tuples(st.just("lan_up"), st.integers(0, 1), st.booleans()),
            st.tuples(st.just("lan_cut")),
            st.tuples(st.just("lan_silent"), st.booleans()),
            st.tuples(st.just("lan_speed"), st.sampled_from([0.0, 0.01, 0.3, 2.0])),
            st.tuples(st.just("realm"), st.integers(0, 1), st.booleans()),
            st.tuples(st.just("cut"), st.integers(0, 1), st.integers(0, 1)),
            st.tuples(st.just("turn"), st.integers(1, 12)),
            st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 40.0])),
            st.tuples(st.just("connect"), st.integers(0, 1)),
            st.tuples(st.just("lose"), st.integers(0, 1)),
            st.tuples(st.just("restart"), st.integers(0, 1)),
        ),
        max_size=30,
    )

    @settings(max_examples=80, deadline=None)
    @given(steps=steps, seed=st.integers(0, 2**16))
    def test_every_order(self, steps: list[tuple[Any, ...]], seed: int) -> None:
        Moves(seed).run(steps)


class Moves(Schedule):
    """The schedule of two realms, with a local network beside them."""

    def make_device(self, side: int, peers: Any) -> Any:
        if not hasattr(self, "lan"):
            self.lan = self.network.lan()
            self.ports: dict[int, MemoryLanPort] = {}
        self.ports[side] = self.lan.port()
        return self.network.device(
            str(side),
            NotesFactory(),
            identity=(LOWER, HIGHER)[side],
            peers=peers,
            lan=self.ports[side],
        )

    def heal(self) -> None:
        super().heal()
        self.lan.is_silent = False
        self.lan.latency_seconds = 0.0

    def lan_up(self, side: int, up: bool) -> None:
        if up:
            self.ports[side].come()
        else:
            self.ports[side].leave()

    def lan_cut(self) -> None:
        self.lan.cut()

    def lan_silent(self, silent: bool) -> None:
        self.lan.is_silent = silent

    def lan_speed(self, seconds: float) -> None:
        self.lan.latency_seconds = seconds
