"""What strangers in one network, and realms that lie about it, can do to two devices: little."""

from __future__ import annotations

import os
import re
from typing import Any

from twisted.internet.defer import fail

from abst.device.connection import IDLE_SECONDS
from abst.device.dialling import MAX_ADDRESSES_AT_ONCE
from abst.device.knock import RANDOM_BYTES, knock
from abst.errors import PeerUnreachableError
from tests.device.doubles import Notes, Stranger, connection_of, quietly
from tests.device.test_moves import LanBase


class RepeatingBase(LanBase):
    """A stranger, who knows nobody's ID, repeats what Bob announces as if it were his own."""

    def setUp(self) -> None:
        super().setUp()
        self.stranger = Stranger(self.network, self.lan)

    def repeat(self) -> None:
        announcement = self.ports[1]._announcement
        assert announcement is not None
        self.stranger.repeat(announcement)


class KnockTests(RepeatingBase):
    """What a stranger hears from one device opens no other device's door."""

    def test_a_knock_that_was_made_for_a_stranger_does_not_open_the_peers_door(self) -> None:
        """Bob would show his certificate, and so his ID, to one who has never known it."""
        self.repeat()
        self.pair()
        ((heard,), here) = self.stranger.heard, self.ports[1].address
        found = re.search(rb"[0-9a-f]{32}\.[0-9a-f]{32}", heard)
        assert found is not None
        visit = self.stranger.visit(here, found[0])
        self.assertIsNone(visit.shown)
        self.assertTrue(visit.is_over)
        # Who knows the ID sees it at the same door.
        name = knock(self.bob.device_id, os.urandom(RANDOM_BYTES), here)
        self.assertEqual(self.bob.device_id, self.stranger.visit(here, name).shown)

    def test_a_stranger_who_repeats_an_announcement_is_in_nobodys_way(self) -> None:
        self.repeat()
        ours, theirs = self.pair()
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        self.exchange(ours, theirs)


class FloodTests(RepeatingBase):
    """He does so at ever new addresses, takes every connection, and finishes no handshake.

    Bob himself is not in this network.
    """

    def setUp(self) -> None:
        super().setUp()
        self.ports[1].leave()
        self.network.advance(5)
        self.ours, self.theirs = self.pair()
        self.exchange(self.ours, self.theirs)
        self.assertEqual(["realm", "realm"], self.kinds(self.ours, self.theirs))
        self.repeat()

    def flood(self, seconds: float, step: float = 0.5, addresses: int = 1) -> None:
        for _ in range(int(seconds / step)):
            self.stranger.move(addresses)
            self.network.advance(step, min(step, 0.1))

    def link(self, device: Any) -> Any:
        return next(iter(device.links.values()))

    def test_he_is_dialled_at_a_few_addresses_at_once(self) -> None:
        self.flood(5, 0.02, addresses=8)
        self.assertLessEqual(len(self.stranger.heard), MAX_ADDRESSES_AT_ONCE)
        connection = connection_of(self.alice, self.bob.device_id)
        assert connection is not None
        self.assertLessEqual(len(connection.ways.legs), MAX_ADDRESSES_AT_ONCE + 1)
        self.exchange(self.ours, self.theirs)

    def test_a_device_whose_realm_comes_back_finds_its_peer_there(self) -> None:
        waiting = self.ours.sendPacket(5, "x")
        self.link(self.alice).cut()
        self.flood(60)
        self.successResultOf(waiting)
        self.assertEqual(["there", "x"], self.theirs.contents)

    def test_a_peer_that_comes_back_to_the_realm_is_found_there(self) -> None:
        """It has nothing to say by itself, and nobody hears its greeting."""
        self.bob._greetings.add = lambda device_ids: None  # type: ignore[method-assign]
        self.link(self.bob).vanish()
        self.network.advance(2 * IDLE_SECONDS)
        waiting = self.ours.sendPacket(5, "x")
        self.flood(40)
        self.assertNoResult(waiting)
        self.link(self.bob).start()
        self.flood(120)
        self.successResultOf(waiting)
        self.assertEqual(["there", "x"], self.theirs.contents)


class ObservedAddressTests(LanBase):
    """A realm tells a device where it sees it, and devices tell each other."""

    def lie(self, host: str) -> None:
        """Have the realm say that it sees every device at a host."""
        realm: Any = self.network.realm.realm
        honest = realm.open
        realm.open = lambda observed, now: honest((host, 1), now)
        for device in (self.alice, self.bob):
            link: Any = next(iter(device.links.values()))
            link.cut()
        self.network.advance(5)

    def assert_they_talk_directly(self) -> tuple[Notes, Notes]:
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        self.assertEqual(["direct", "direct"], self.kinds(ours, theirs))
        return ours, theirs

    def test_what_is_no_address_breaks_no_hello(self) -> None:
        for host in ("h" * 500, "h" * 495, "", "not an address", "\x00"):
            self.ports = []
            self.setUp()
            self.lie(host)
            self.assert_they_talk_directly()
            self.tearDown()

    def test_what_is_no_address_breaks_no_hello_over_the_realm_either(self) -> None:
        self.lie("h" * 500)
        for port in self.ports:
            port.leave()
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        self.assertEqual(["realm", "realm"], self.kinds(ours, theirs))

    def test_the_address_of_a_peer_is_dialled_whatever_the_realm_says(self) -> None:
        """A device does not dial itself; a realm must not choose what it takes for itself."""
        self.lie(self.ports[1].address.partition(":")[0])
        # Bob cannot dial, so that all depends on Alice.
        self.ports[1].dial = lambda address: fail(PeerUnreachableError("no"))  # type: ignore[method-assign]
        quietly(self.alice.connect(self.bob.device_id))
        self.network.advance(10)
        self.assert_they_talk_directly()
