"""Whom a device trusts, and what it makes of what they say."""

from __future__ import annotations

from typing import Final

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.address import format_pin, pin_of_key
from abst.device.peers import MAX_ADDRESSES, Peer, PeerBook, printable
from abst.device_id import DeviceID
from abst.errors import AbstError, WrongKeyError
from abst.identity import Identity
from abst.packets import MAX_NAME_CHARACTERS

ALICE: Final = Identity.generate()
BOB: Final = Identity.generate()


class PeerTests(TestCase):
    def test_the_key_must_be_that_of_the_id(self) -> None:
        peer = Peer(ALICE.device_id, "Alice")
        peer.check_key(ALICE.public_key)
        error = self.assertRaises(WrongKeyError, peer.check_key, BOB.public_key)
        self.assertEqual(str(ALICE.device_id), error.expected)
        self.assertEqual(str(BOB.device_id), error.found)
        self.assertIn("Alice", str(error))

    def test_a_pinned_key_is_the_only_one(self) -> None:
        """Even a key with the same ID, should somebody find one."""
        peer = Peer(ALICE.device_id, "Alice", BOB.public_key)
        error = self.assertRaises(WrongKeyError, peer.check_key, ALICE.public_key)
        self.assertEqual(format_pin(pin_of_key(BOB.public_key)), error.expected)
        self.assertEqual(format_pin(pin_of_key(ALICE.public_key)), error.found)

    def test_it_is_shown_by_its_name_or_by_its_id(self) -> None:
        self.assertEqual("Alice", str(Peer(ALICE.device_id, "Alice")))
        self.assertEqual(str(ALICE.device_id), str(Peer(ALICE.device_id)))


class PeerBookTests(TestCase):
    def setUp(self) -> None:
        self.saves = 0
        self.book = PeerBook((), self.save)

    def save(self) -> None:
        self.saves += 1

    def test_every_change_is_saved_and_nothing_else(self) -> None:
        self.book.trust(ALICE.device_id, "Alice")
        self.assertEqual(1, self.saves)
        self.book.met(ALICE.device_id, ALICE.public_key, "other")
        self.assertEqual(2, self.saves)
        self.book.met(ALICE.device_id, ALICE.public_key, "another")
        self.assertEqual(2, self.saves)
        self.book.forget(ALICE.device_id)
        self.assertEqual(3, self.saves)
        self.book.forget(ALICE.device_id)
        self.assertEqual(3, self.saves)

    def test_the_first_key_is_pinned_and_stays(self) -> None:
        self.book.trust(ALICE.device_id)
        self.assertIsNone(self.found(ALICE).public_key)
        self.book.met(ALICE.device_id, ALICE.public_key, "")
        self.assertEqual(ALICE.public_key, self.found(ALICE).public_key)
        self.book.met(ALICE.device_id, BOB.public_key, "")
        self.book.trust(ALICE.device_id, "Alice")
        self.assertEqual(ALICE.public_key, self.found(ALICE).public_key)

    def test_a_device_that_was_forgotten_begins_anew(self) -> None:
        self.book.trust(ALICE.device_id, "Alice")
        self.book.met(ALICE.device_id, ALICE.public_key, "")
        self.book.forget(ALICE.device_id)
        self.assertIsNone(self.book.get(ALICE.device_id))
        self.book.trust(ALICE.device_id)
        self.assertEqual(Peer(ALICE.device_id), self.found(ALICE))

    def test_a_name_given_here_goes_before_the_name_that_it_gives_itself(self) -> None:
        self.book.trust(ALICE.device_id, "Alice")
        self.book.met(ALICE.device_id, ALICE.public_key, "root")
        self.assertEqual("Alice", self.found(ALICE).name)
        self.book.trust(BOB.device_id)
        self.book.met(BOB.device_id, BOB.public_key, "Bob's laptop")
        self.assertEqual("Bob's laptop", self.found(BOB).name)
        self.book.trust(BOB.device_id, "Bob")
        self.assertEqual("Bob", self.found(BOB).name)
        self.book.trust(BOB.device_id)
        self.assertEqual("Bob", self.found(BOB).name)

    @given(st.text())
    @example("a" * (MAX_NAME_CHARACTERS - 1) + " b")
    def test_no_name_disturbs_a_terminal(self, name: str) -> None:
        book = PeerBook()
        book.trust(ALICE.device_id)
        shown = book.met(ALICE.device_id, ALICE.public_key, name + "\x1b[2J\n\u202e").name
        self.assertTrue(shown.isprintable())
        self.assertLessEqual(len(shown), MAX_NAME_CHARACTERS)
        self.assertEqual(shown, shown.strip())

    def test_no_newline_and_no_escape_is_printable(self) -> None:
        self.assertEqual("a[31mb", printable("a\x1b[31m\r\nb\0\u202e\u200b"))
        self.assertEqual("Zoë 太郎", printable("Zoë 太郎"))

    def test_they_are_listed_by_name(self) -> None:
        self.book.trust(ALICE.device_id, "b")
        self.book.trust(BOB.device_id, "a")
        self.assertEqual(["a", "b"], [peer.name for peer in self.book])
        self.assertEqual(2, len(self.book))

    def found(self, identity: Identity) -> Peer:
        peer = self.book.get(identity.device_id)
        assert peer is not None
        return peer


class FindingTests(TestCase):
    """What a person may write for a peer."""

    def setUp(self) -> None:
        self.alice = Peer(DeviceID(bytes.fromhex("aaaa0000000080008000000000000001")), "Alice")
        self.bob = Peer(DeviceID(bytes.fromhex("aaaa0000000080008000000000000002")), "Bob")
        self.other = Peer(DeviceID(bytes.fromhex("bbbb0000000080008000000000000003")), "bob")
        self.book = PeerBook((self.alice, self.bob, self.other))

    def assert_not_found(self, text: str, *words: str) -> None:
        error = self.assertRaises(AbstError, self.book.find, text)
        for word in words:
            self.assertIn(word, str(error))

    def test_a_name_an_id_or_its_beginning(self) -> None:
        for text in ("Alice", "alice", " ALICE\n", str(self.alice.device_id).upper()):
            self.assertEqual(self.alice, self.book.find(text))
        self.assertEqual(self.other, self.book.find("bbbb"))

    def test_an_exact_name_goes_before_one_in_other_letters(self) -> None:
        self.assertEqual(self.bob, self.book.find("Bob"))
        self.assertEqual(self.other, self.book.find("bob"))

    def test_what_means_several_names_them_all(self) -> None:
        self.assert_not_found("BOB", str(self.bob.device_id), str(self.other.device_id))
        self.assert_not_found("aaaa0000", str(self.alice.device_id), str(self.bob.device_id))

    def test_what_means_nobody_says_what_to_do(self) -> None:
        self.assert_not_found("carol", "abst peers", "abst trust")
        self.assert_not_found("", "abst peers")

    def test_less_than_four_digits_are_no_id(self) -> None:
        self.assert_not_found("bbb", "abst peers")


class NetworkTests(TestCase):
    """Who is introduced by a network, and who stays when it is over."""

    def setUp(self) -> None:
        self.book = PeerBook()
        self.device_id = ALICE.device_id
        self.home, self.club = bytes(16), bytes(range(16))

    def introduce(self, network: bytes) -> Peer:
        return self.book.introduce(self.device_id, ALICE.public_key, "alice", network)

    def test_an_introduced_device_is_trusted_with_its_key(self) -> None:
        peer = self.introduce(self.home)
        self.assertTrue(peer.is_trusted and peer.is_introduced)
        self.assertEqual((ALICE.public_key, (self.home,)), (peer.public_key, peer.networks))

    def test_the_last_network_that_it_leaves_was_the_reason(self) -> None:
        self.introduce(self.home)
        self.introduce(self.club)
        self.assertFalse(self.book.part(self.device_id, self.home))
        self.assertTrue(self.book.part(self.device_id, self.club))
        self.assertFalse(self.book.part(self.device_id, self.club))

    def test_whom_a_person_has_paired_stays(self) -> None:
        self.book.trust(self.device_id, "friend")
        peer = self.introduce(self.home)
        self.assertEqual(("friend", False), (peer.name, peer.is_introduced))
        self.assertFalse(self.book.part(self.device_id, self.home))

    def test_who_is_paired_after_the_introduction_stays_too(self) -> None:
        self.introduce(self.home)
        self.book.pend(self.device_id, ALICE.public_key, bytes(32), "alice")
        self.book.settle(self.device_id, bytes(32))
        self.assertFalse(self.book.part(self.device_id, self.home))

    def test_nothing_is_saved_when_nothing_changes(self) -> None:
        saved: list[None] = []
        self.book = PeerBook(changed=lambda: saved.append(None))
        self.introduce(self.home)
        self.introduce(self.home)
        self.assertEqual(1, len(saved))

    def test_no_name_disturbs_a_terminal(self) -> None:
        peer = self.book.introduce(self.device_id, ALICE.public_key, "a\x1b[2J" * 40, self.home)
        self.assertTrue(peer.name.isprintable())
        self.assertLessEqual(len(peer.name), 64)


class AddressTests(TestCase):
    def setUp(self) -> None:
        self.saved = 0

        def changed() -> None:
            self.saved += 1

        self.book = PeerBook((Peer(ALICE.device_id, "phone"),), changed)

    def test_a_persons_addresses_are_added_once_and_removed(self) -> None:
        self.book.add_address(ALICE.device_id, "192.0.2.7:4000")
        peer = self.book.add_address(ALICE.device_id, " 192.0.2.7:4000")
        self.assertEqual(("192.0.2.7:4000",), peer.addresses)
        self.assertEqual(1, self.saved)
        self.assertEqual((), self.book.remove_address(ALICE.device_id, "192.0.2.7:4000").addresses)
        with self.assertRaises(AbstError):
            self.book.remove_address(ALICE.device_id, "192.0.2.7:4000")

    def test_there_are_only_so_many(self) -> None:
        for port in range(1, MAX_ADDRESSES + 1):
            self.book.add_address(ALICE.device_id, f"192.0.2.7:{port}")
        with self.assertRaises(AbstError):
            self.book.add_address(ALICE.device_id, "192.0.2.7:4000")

    def test_what_a_peer_tells_is_bounded_and_checked(self) -> None:
        told = ["nonsense", "192.0.2.7:4000", "192.0.2.7:4000", *(f"h:{n}" for n in range(1, 99))]
        self.book.told_addresses(ALICE.device_id, told)
        peer = self.book.get(ALICE.device_id)
        assert peer is not None
        self.assertEqual(MAX_ADDRESSES, len(peer.told_addresses))
        self.assertEqual(("192.0.2.7:4000", "h:1"), peer.told_addresses[:2])
        self.book.told_addresses(ALICE.device_id, told)
        self.assertEqual(1, self.saved)
