"""The door: who is let in, how often, and that a flood keeps nobody out who is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm import gate as gate_module
from abst.realm.gate import BURST_SECONDS, Gate, Place, Shut, address_of, network_of
from abst.realm.limits import Limits

HERE, THERE = "192.0.2.1", "198.51.100.7"


class AddressTests(SynchronousTestCase):
    def test_ipv4_is_itself_in_whatever_clothes(self) -> None:
        for host in ("192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"):
            self.assertEqual(bytes([192, 0, 2, 1]), network_of(host))
            self.assertEqual(bytes([192, 0, 2, 1]), address_of(host))

    def test_of_ipv6_the_first_half_counts(self) -> None:
        self.assertEqual(network_of("2001:db8:1:2::1"), network_of("2001:db8:1:2:ffff::9"))
        self.assertNotEqual(network_of("2001:db8:1:2::1"), network_of("2001:db8:1:3::1"))
        self.assertNotEqual(address_of("2001:db8:1:2::1"), address_of("2001:db8:1:2::2"))
        self.assertEqual(network_of("fe80::1%eth0"), network_of("fe80::2%eth1"))

    @given(st.text())
    def test_anything_is_something(self, text: str) -> None:
        self.assertIsInstance(network_of(text), bytes)


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.gate = Gate(
            Limits(address_connections=3, address_handshakes_per_second=2, handshakes_per_second=4)
        )
        self.now = 1000.0

    def enter(self, host: str | None = HERE) -> Place:
        place = self.gate.enter(host, self.now)
        assert isinstance(place, Place), place
        return place

    def shake_hands(self, host: str, number: int) -> list[Shut | None]:
        """Return what is said to that many handshakes, on connections that do not last."""
        said: list[Shut | None] = []
        for _ in range(number):
            place = self.enter(host)
            said.append(place.shake_hands(self.now))
            place.leave()
        return said

    def test_an_address_has_so_many_connections(self) -> None:
        places = [self.enter() for _ in range(3)]
        self.assertIs(Shut.ADDRESS_CONNECTIONS, self.gate.enter(HERE, self.now))
        self.enter(THERE)
        places[0].leave()
        places[0].leave()
        self.enter()
        self.assertIs(Shut.ADDRESS_CONNECTIONS, self.gate.enter(HERE, self.now))
        self.assertEqual(4, len(self.gate))

    def test_nothing_is_remembered_of_who_has_gone(self) -> None:
        places = [self.enter(f"192.0.2.{number}") for number in range(100)]
        for place in places:
            place.leave()
        self.assertEqual(0, len(self.gate))
        self.assertEqual({}, self.gate._connections)

    def test_an_address_begins_so_many_handshakes(self) -> None:
        place = self.enter()
        said = [place.shake_hands(self.now) for _ in range(2 * BURST_SECONDS + 1)]
        self.assertEqual([*[None] * 10, Shut.ADDRESS_HANDSHAKES], said)
        self.assertIs(Shut.ADDRESS_HANDSHAKES, self.gate.enter(HERE, self.now))
        self.assertIsNone(self.enter(THERE).shake_hands(self.now))
        self.now += 0.5
        self.assertIsNone(place.shake_hands(self.now))
        self.assertIs(Shut.ADDRESS_HANDSHAKES, place.shake_hands(self.now))

    def test_who_says_nothing_begins_no_handshake(self) -> None:
        for _ in range(100):
            self.enter().leave()
        self.assertIsNone(self.enter().shake_hands(self.now))

    def test_strangers_share_and_who_is_known_does_not(self) -> None:
        self.enter(THERE).admitted()
        for number in range(5):
            self.shake_hands(f"192.0.2.{number}", 4)
        self.assertIs(Shut.HANDSHAKES, self.gate.enter("203.0.113.9", self.now))
        self.assertEqual([None] * 10, self.shake_hands(THERE, 10))
        self.now += 0.25
        self.assertEqual([None], self.shake_hands("203.0.113.9", 1))

    def test_who_is_known_is_let_in_when_it_may_not_shake_hands(self) -> None:
        """The legs of its circuits need no handshake."""
        self.enter().admitted()
        self.assertIs(Shut.ADDRESS_HANDSHAKES, self.shake_hands(HERE, 11)[-1])
        self.enter()

    def test_of_those_who_are_known_the_least_recent_are_forgotten(self) -> None:
        self.patch(gate_module, "MAX_KNOWN", 2)
        for host in (HERE, THERE, HERE, "203.0.113.1"):
            self.enter(host).admitted()
        self.assertEqual({network_of(HERE), network_of("203.0.113.1")}, set(self.gate._known))

    def test_this_machine_is_many(self) -> None:
        for host in ("127.0.0.1", "::1", None):
            places = [self.enter(host) for _ in range(10)]
            for place in places:
                place.admitted()
            self.assertEqual({None}, {place.shake_hands(self.now) for place in places * 5})

    def test_this_machine_is_a_stranger_too(self) -> None:
        place = self.enter("127.0.0.1")
        said = [place.shake_hands(self.now) for _ in range(4 * BURST_SECONDS + 1)]
        self.assertEqual([*[None] * 20, Shut.HANDSHAKES], said)

    def test_other_limits_count_at_once_and_end_nothing(self) -> None:
        places = [self.enter() for _ in range(3)]
        self.gate.use_limits(Limits(address_connections=1))
        self.assertIs(Shut.ADDRESS_CONNECTIONS, self.gate.enter(HERE, self.now))
        for place in places:
            place.leave()
        self.enter()

    @given(
        st.lists(
            st.tuples(st.sampled_from("abc"), st.sampled_from(["enter", "leave"])), max_size=60
        )
    )
    def test_however_they_come_and_go_no_address_has_more_than_it_may(
        self, steps: list[tuple[str, str]]
    ) -> None:
        gate = Gate(Limits(address_connections=3))
        places: dict[str, list[Place]] = {name: [] for name in "abc"}
        for name, step in steps:
            if step == "enter":
                place = gate.enter(name, 0.0)
                self.assertEqual(len(places[name]) >= 3, isinstance(place, Shut))
                places[name] += [place] if isinstance(place, Place) else []
            elif places[name]:
                places[name].pop().leave()
            self.assertEqual(sum(map(len, places.values())), len(gate))
