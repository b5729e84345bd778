"""Networks: who becomes whose peer, and who is forgotten."""

from __future__ import annotations

from abst.device import Device
from abst.device.groups.group import Group
from abst.errors import GroupError
from tests.device.groups.stage import GroupTestCase


class NetworkTestCase(GroupTestCase):
    def found(self, *names: str) -> list[Device]:
        """Return devices of which the first is paired with each other one, and they with it."""
        devices = [self.device(name) for name in names]
        first = devices[0]
        for device in devices[1:]:
            self.network.introduce(first, device)
        self.network.settle()
        for device in devices[1:]:
            self.result(first.connect(device.device_id))
        return devices

    def form(self, first: Device, *others: Device, name: str = "home") -> Group:
        """Return the first one's end of a new network of all these."""
        network = first.groups.create(name, realm=self.network.realm.address, kind="network")
        for other in others:
            self.result(first.groups.give(network, other.device_id))
        self.network.advance(5)
        return network

    def peers(self, device: Device) -> list[str]:
        """Return the names of a device's peers."""
        return sorted(peer.name for peer in device.peers)


class IntroductionTests(NetworkTestCase):
    def test_one_pairing_introduces_to_all(self) -> None:
        alice, bob, carol, dave = self.found("alice", "bob", "carol", "dave")
        self.form(alice, bob, carol, dave)
        for device in (alice, bob, carol, dave):
            others = sorted({"alice", "bob", "carol", "dave"} - {device.device_name})
            self.assertEqual(others, self.peers(device))
        session = self.result(bob.connect(dave.device_id))
        self.assertEqual("dave", session.peer.name)
        peer = bob.peers.get(dave.device_id)
        assert peer is not None
        self.assertEqual((True, dave.public_key), (peer.is_introduced, peer.public_key))

    def test_who_was_away_is_introduced_when_it_comes(self) -> None:
        alice, bob, carol = self.found("alice", "bob", "carol")
        store = self.store()
        self.network.kill(bob)
        bob = self.device("bob", identity=bob.identity, group_store=store)
        bob.trust(alice.device_id, "alice")
        network = self.form(alice, bob)
        self.network.kill(bob)
        self.result(alice.groups.give(network, carol.device_id))
        bob = self.device("bob", identity=bob.identity, group_store=store, peers=bob.peers)
        self.network.advance(10)
        self.assertEqual(["alice", "carol"], self.peers(bob))
        self.assertEqual(["alice", "bob"], self.peers(carol))

    def test_a_removed_device_is_forgotten_by_all(self) -> None:
        alice, bob, carol = self.found("alice", "bob", "carol")
        network = self.form(alice, bob, carol)
        self.result(self.of(carol, network).remove(bob.device_id))
        self.network.advance(5)
        self.assertEqual(["carol"], self.peers(alice))
        self.assertEqual(["alice"], self.peers(carol))
        waiting = bob.connect(carol.device_id)
        self.network.advance(30)
        self.failureResultOf(waiting)

    def test_who_leaves_forgets_whom_it_was_introduced_to(self) -> None:
        alice, bob, carol = self.found("alice", "bob", "carol")
        network = self.form(alice, bob, carol)
        bob.groups.leave(self.of(bob, network))
        self.network.advance(5)
        self.assertEqual(["alice"], self.peers(bob))
        self.assertEqual(["carol"], self.peers(alice))

    def test_a_device_in_two_networks_stays_a_peer_through_the_other(self) -> None:
        alice, bob = self.found("alice", "bob")
        home = self.form(alice, bob)
        self.form(alice, bob, name="club")
        self.result(home.remove(bob.device_id))
        self.network.advance(5)
        self.assertEqual(["bob"], self.peers(alice))
        self.assertEqual(["alice"], self.peers(bob))

    def test_networks_of_one_name_are_told_apart_by_their_ids(self) -> None:
        (alice,) = self.found("alice")
        first, second = self.form(alice), self.form(alice)
        error = self.assertRaises(GroupError, alice.groups.find, "home", "network")
        self.assertIn(str(first.group_id), str(error))
        self.assertIs(second, alice.groups.find(str(second.group_id)))

    def test_a_new_name_reaches_all(self) -> None:
        alice, bob = self.found("alice", "bob")
        network = self.form(alice, bob)
        self.of(bob, network).rename("flat")
        self.network.settle()
        self.assertEqual("flat", network.name)

    def test_without_a_realm_of_its_own(self) -> None:
        alice, bob, carol = self.found("alice", "bob", "carol")
        network = alice.groups.create("home", realm=None, kind="network")
        for other in (bob, carol):
            self.result(alice.groups.give(network, other.device_id))
        self.network.advance(5)
        self.assertEqual(["alice", "carol"], self.peers(bob))
        self.assertIsNone(network.problem)
        self.assertRaises(GroupError, network.send, b"x")
        self.result(network.remove(carol.device_id))
        self.network.advance(5)
        self.assertEqual(["alice"], self.peers(bob))

    def test_who_joins_learns_the_networks_realms(self) -> None:
        alice, bob = self.found("alice", "bob")
        other = self.network.add_realm()
        alice.addRealm(other.address)
        self.network.settle()
        self.form(alice, bob)
        self.assertIn(other.address, bob.links)

    def test_a_stranger_is_not_introduced(self) -> None:
        alice, bob = self.found("alice", "bob")
        network = self.form(alice, bob)
        mallory = self.device("mallory")
        mallory.trust(bob.device_id)
        waiting = mallory.connect(bob.device_id)
        self.network.advance(30)
        self.failureResultOf(waiting)
        self.assertNotIn(mallory.device_id, network.roster.members())


class LocalNetworkTests(NetworkTestCase):
    def test_rosters_travel_without_any_realm(self) -> None:
        lan = self.network.lan()
        self.network.realm.stop()
        devices = [self.device(name, lan=lan.port()) for name in ("alice", "bob", "carol")]
        alice, bob, carol = devices
        self.network.introduce(alice, bob)
        self.network.introduce(alice, carol)
        self.network.settle()
        for other in (bob, carol):
            self.result(alice.connect(other.device_id))
        network = alice.groups.create("home", realm=None, kind="network")
        for other in (bob, carol):
            self.result(alice.groups.give(network, other.device_id))
        self.network.advance(5)
        self.assertEqual(["alice", "carol"], self.peers(bob))
        session = self.result(bob.connect(carol.device_id))
        self.assertEqual("direct", session.path.kind)
