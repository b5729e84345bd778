"""What happens to groups that peers offer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups.offers import GroupOffers
from abst.agent.groups.policy import OfferPolicy
from abst.device import Peer, PeerBook
from abst.device.groups.protocol import GroupOffer
from abst.device_id import DeviceID
from abst.errors import AbstError


def id_of(number: int) -> DeviceID:
    return DeviceID.parse(f"{number:08x}-0000-8000-8000-000000000000")


PAIRED = Peer(id_of(1), "bob")
INTRODUCED = Peer(id_of(2), "carol", is_introduced=True)


def offer_of(peer: Peer, name: str = "fam", number: int = 3) -> GroupOffer:
    return GroupOffer(peer, id_of(number), "group", name, 2)


class OffersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.peers = PeerBook((PAIRED, INTRODUCED))
        self.offers = GroupOffers(self.peers, OfferPolicy.ACCEPT, self.told.append)

    def waits(self, offer: GroupOffer) -> Deferred[bool]:
        decided = self.offers.decide(offer)
        assert isinstance(decided, Deferred)
        self.assertNoResult(decided)
        return decided

    def test_whom_a_person_has_paired_is_believed(self) -> None:
        self.assertIs(True, self.offers.decide(offer_of(PAIRED)))
        self.assertEqual(([], []), (self.offers.all(), self.told))

    def test_whom_a_network_has_introduced_has_to_wait(self) -> None:
        decided = self.waits(offer_of(INTRODUCED))
        (told,) = self.told
        self.assertEqual(("group offer", "fam", "carol"), tuple(told[k] for k in _SHOWN))
        self.assertEqual([told], [waiting.told() for waiting in self.offers.all()])
        self.offers.answer("fam", accepts=True)
        self.assertIs(True, self.successResultOf(decided))
        self.assertEqual([], self.offers.all())

    def test_the_owner_may_want_to_be_asked_or_left_alone(self) -> None:
        self.offers.policy = OfferPolicy.ASK
        decided = self.waits(offer_of(PAIRED))
        self.offers.answer("fam", accepts=False)
        self.assertIs(False, self.successResultOf(decided))
        self.offers.policy = OfferPolicy.REFUSE
        for peer in (PAIRED, INTRODUCED):
            self.assertIs(False, self.offers.decide(offer_of(peer)))

    def test_who_is_not_trusted_any_more_is_refused(self) -> None:
        decided = self.waits(offer_of(INTRODUCED))
        self.peers.forget(INTRODUCED.device_id)
        error = self.assertRaises(AbstError, self.offers.answer, "fam", accepts=True)
        self.assertIn("carol is not trusted any more", str(error))
        self.assertIs(False, self.successResultOf(decided))

    def test_two_of_one_name_are_told_apart(self) -> None:
        one, two = (self.waits(offer_of(INTRODUCED, number=number)) for number in (3, 4))
        error = self.assertRaises(AbstError, self.offers.answer, "fam", accepts=True)
        self.assertIn("00000004-", str(error))
        self.offers.answer("00000004", accepts=True)
        self.assertIs(True, self.successResultOf(two))
        self.offers.answer(str(id_of(3)).upper(), accepts=False)
        self.assertIs(False, self.successResultOf(one))

    def test_what_nobody_offers(self) -> None:
        self.waits(offer_of(INTRODUCED))
        for text in ("home", "000", "0404", ""):
            error = self.assertRaises(AbstError, self.offers.answer, text, accepts=True)
            self.assertIn("abst group offers", str(error))

    def test_the_device_stops(self) -> None:
        decided = self.waits(offer_of(INTRODUCED))
        decided.cancel()
        self.failureResultOf(decided, CancelledError)
        self.assertEqual([], self.offers.all())

    def test_a_group_without_a_name(self) -> None:
        self.waits(replace(offer_of(INTRODUCED), name=""))
        self.assertEqual(str(id_of(3)), self.told[0]["group"])


_SHOWN = ("kind", "group", "peer")


class PolicyTests(SynchronousTestCase):
    def test_words(self) -> None:
        for policy in OfferPolicy:
            self.assertIs(policy, OfferPolicy.parse(str(policy)))
        error = self.assertRaises(AbstError, OfferPolicy.parse, "perhaps")
        self.assertIn("accept, ask, refuse", str(error))
