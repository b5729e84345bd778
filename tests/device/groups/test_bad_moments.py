"""Groups at bad moments: realms that go, disks that are full, members that mean no good."""

from __future__ import annotations

from tests.device.groups.stage import GroupTestCase


class RealmTests(GroupTestCase):
    def test_a_realm_that_is_used_no_more_and_then_again(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        address = self.network.realm.address
        alice.removeRealm(address)
        self.network.settle()
        self.assertEqual((False, frozenset()), (ours.is_joined, ours.here))
        alice.addRealm(address)
        self.network.advance(5)
        self.assertTrue(ours.is_joined)
        ours.send(b"back")
        self.network.settle()
        self.assertEqual([b"back"], self.diary(bobs).messages)
