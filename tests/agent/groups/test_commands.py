"""The commands about groups and networks, between agents in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError

from abst.agent.groups.policy import OfferPolicy
from abst.errors import AbstError
from tests.agent.groups.memory_agents import MemoryAgent, MemoryAgentTestCase


class FormingTests(MemoryAgentTestCase):
    """Groups are made and given."""

    def test_a_group_is_made_and_given(self) -> None:
        alice, bob = self.agents("alice", "bob")
        made = alice.ask("group_create", name="fam")
        self.assertEqual(("fam", "group", True, 0), tuple(made[k] for k in _STANDING))
        given = alice.ask("group_give", group="fam", peer="bob")
        self.assertEqual(
            (True, "bob", 2), (given["accepted"], given["peer"], given["member_count"])
        )
        (group,) = bob.ask("group_list")["groups"]
        self.assertEqual(("fam", "group", True, 1), tuple(group[k] for k in _STANDING))
        members = {m["name"]: m for m in bob.ask("group_members", group="fam")["members"]}
        self.assertEqual({"alice", "bob"}, set(members))
        self.assertEqual((True, True), (members["bob"]["this_device"], members["bob"]["here"]))
        self.assertEqual((True, True), (members["alice"]["here"], members["alice"]["connected"]))

    def test_who_is_away_gets_it_when_it_comes(self) -> None:
        alice, bob = self.agents("alice", "bob")
        bob.kill()
        alice.ask("group_create", name="fam")
        given = alice.ask("group_give", group="fam", peer="bob")
        self.assertFalse(given["accepted"])
        self.assertIn("away", given["reason"])
        members = {m["name"]: m for m in alice.ask("group_members", group="fam")["members"]}
        self.assertTrue(members["bob"]["invited"])
        alice.kill()
        alice, bob = alice.again(), bob.again()
        self.network.advance(20)
        self.assertEqual(["fam"], [g["group"] for g in bob.ask("group_list")["groups"]])
        members = {m["name"]: m for m in alice.ask("group_members", group="fam")["members"]}
        self.assertEqual((False, True), (members["bob"]["invited"], members["bob"]["here"]))

    def test_who_has_never_been_met_is_met_first(self) -> None:
        alice, bob = (MemoryAgent(self.network, name) for name in ("alice", "bob"))
        alice.ask("group_create", name="fam")
        self.network.introduce(alice.device, bob.device)
        self.assertIsNone(alice.peers.find("bob").public_key)
        self.assertTrue(alice.ask("group_give", group="fam", peer="bob")["accepted"])

    def test_an_offer_waits_for_a_person(self) -> None:
        alice, bob = self.agents("alice", "bob", policy=OfferPolicy.ASK)
        alice.ask("group_create", name="fam")
        given = alice.ask("group_give", group="fam", peer="bob")
        self.assertEqual((False, "bob has not answered yet"), (given["accepted"], given["reason"]))
        self.assertEqual([], bob.ask("group_list")["groups"])
        self.assertEqual({"groups": 0, "networks": 0, "offers": 1}, bob.groups.status())
        (offer,) = bob.ask("group_offers")["offers"]
        self.assertEqual(("fam", "alice", 2), tuple(offer[k] for k in _OFFERED))
        self.assertIn(offer, bob.heard)
        # It is made again when the agent has been started again.
        bob.kill()
        bob = bob.again()
        self.network.advance(20)
        self.assertEqual("fam", bob.ask("group_answer", group="fam", accepts=True)["group"])
        self.assertTrue(bob.ask("group_list")["groups"][0]["joined"])
        self.assertEqual([], bob.ask("group_offers")["offers"])

    def test_a_refusal_is_told(self) -> None:
        alice, bob = self.agents("alice", "bob", policy=OfferPolicy.REFUSE)
        alice.ask("group_create", name="fam")
        self.assert_refused(alice, "group_give", "does not want it", group="fam", peer="bob")
        self.network.advance(2)
        self.assertEqual(1, alice.ask("group_list")["groups"][0]["member_count"])
        self.assertEqual([], bob.ask("group_list")["groups"])

    def test_giving_up_waiting_takes_nothing_back(self) -> None:
        alice, bob = self.agents("alice", "bob", policy=OfferPolicy.ASK)
        alice.ask("group_create", name="fam")
        giving, _ = alice.begin("group_give", group="fam", peer="bob")
        giving.cancel()
        self.failureResultOf(giving, CancelledError)
        bob.ask("group_answer", group="fam", accepts=True)
        self.assertEqual(1, alice.ask("group_list")["groups"][0]["here_count"])

    def test_the_policy_is_told_and_set(self) -> None:
        (alice,) = self.agents("alice")
        self.assertEqual({"policy": "accept"}, alice.ask("group_policy"))
        self.assertEqual({"policy": "ask"}, alice.ask("group_policy", policy="ask"))
        self.assertEqual((OfferPolicy.ASK, 1), (alice.offers.policy, alice.saves))
        self.assert_refused(alice, "group_policy", "accept, ask, refuse", policy="x")

    def test_which_realm(self) -> None:
        (alice,) = self.agents("alice")
        self.network.add_realm()
        (bob,) = self.agents("bob")
        first, second = (str(address) for address in bob.device.links)
        self.assertEqual(first, bob.ask("group_create", name="a")["realm"])
        self.assertEqual(second, bob.ask("group_create", name="a", realm="realm2.test")["realm"])
        self.assert_refused(bob, "group_create", "abst realm list", name="a", realm="elsewhere")
        for address in list(alice.device.links):
            alice.device.removeRealm(address)
        self.assert_refused(alice, "group_create", "abst realm add", name="a")
        self.assert_refused(alice, "group_create", "--no-realm", name="a", kind="network")
        made = alice.ask("group_create", name="a", kind="network", without_realm=True)
        self.assertEqual((None, None), (made["realm"], made["problem"]))

    def test_a_realm_with_a_group_is_kept(self) -> None:
        (alice,) = self.agents("alice")
        (realm,) = alice.device.links
        alice.groups.check_unused(realm)
        alice.ask("group_create", name="fam")
        error = self.assertRaises(AbstError, alice.groups.check_unused, realm)
        self.assertIn("'abst group leave' it first", str(error))

    def test_names_that_are_none(self) -> None:
        (alice,) = self.agents("alice")
        for name in ("", " ", "a\nb", "x" * 65):
            self.assert_refused(alice, "group_create", "64", name=name)
        self.assertEqual([], alice.ask("group_list")["groups"])


class BeingTests(MemoryAgentTestCase):
    """What members do in a group."""

    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob, self.carol = self.agents("alice", "bob", "carol")
        self.alice.ask("group_create", name="fam")
        for peer in ("bob", "carol"):
            self.alice.ask("group_give", group="fam", peer=peer)

    def test_messages_reach_who_listens(self) -> None:
        _, every = self.bob.begin("group_listen")
        listening, events = self.bob.begin("group_listen", group="fam")
        self.assertEqual(2, self.alice.ask("group_send", group="fam", text="hi")["here_count"])
        self.network.settle()
        kinds = [event["kind"] for event in events]
        self.assertEqual(["listening", "group message"], kinds)
        message = events[1]
        self.assertEqual(("fam", "alice", "hi"), tuple(message[k] for k in _SAID))
        self.assertEqual(self.alice.device_id, message["device_id"])
        self.assertEqual((events, [message]), (every, self.bob.heard))
        listening.cancel()
        self.failureResultOf(listening, CancelledError)
        self.alice.ask("group_send", group="fam", text="again")
        self.assertEqual((2, 3), (len(events), len(every)))

    def test_one_listens_to_one_group(self) -> None:
        self.alice.ask("group_create", name="other")
        self.alice.ask("group_give", group="other", peer="bob")
        _, events = self.bob.begin("group_listen", group="other")
        self.alice.ask("group_send", group="fam", text="hi")
        self.assertEqual([{"kind": "listening"}], events)

    def test_what_is_no_text_is_passed_over(self) -> None:
        self.alice.device.groups.all()[0].send(b"\xff")
        self.network.settle()
        self.assertEqual([], self.bob.heard)

    def test_a_message_does_not_wait_for_the_realm(self) -> None:
        self.network.realm.stop()
        self.network.advance(5)
        self.assert_refused(self.alice, "group_send", "not sent", group="fam", text="hi")
        self.network.realm.start()
        self.network.advance(60)
        self.assertEqual([], self.bob.heard)
        self.assert_refused(self.alice, "group_send", "10000", group="fam", text="x" * 10_001)

    def test_a_removal_does_not_wait_for_the_realm(self) -> None:
        self.network.realm.stop()
        self.network.advance(5)
        self.assertFalse(self.alice.ask("group_remove", group="fam", member="carol")["moved"])
        self.assertFalse(self.alice.ask("group_rotate", group="fam")["moved"])
        self.network.realm.start()
        self.network.advance(90)
        for agent in (self.alice, self.bob):
            (group,) = agent.ask("group_list")["groups"]
            self.assertEqual((True, 2), (group["joined"], group["member_count"]))
            self.assertGreaterEqual(group["epoch"], 1)

    def test_arrivals_departures_and_new_keys_are_told(self) -> None:
        _, events = self.bob.begin("group_listen", group="fam")
        self.carol.kill()
        self.network.advance(1)
        self.assertEqual(["member left"], self.kinds(events))
        self.carol = self.carol.again()
        self.network.advance(20)
        self.assertIn("member arrived", self.kinds(events))
        events.clear()
        self.assertTrue(self.alice.ask("group_rotate", group="fam")["moved"])
        self.network.advance(2)
        self.assertIn({"kind": "epoch", "epoch": 1}, [_part(e, "kind", "epoch") for e in events])
        self.assertEqual(1, self.carol.ask("group_list")["groups"][0]["epoch"])

    def test_who_is_removed_is_out(self) -> None:
        removed = self.alice.ask("group_remove", group="fam", member="carol")
        self.assertEqual(
            (True, 1, 2), tuple(removed[k] for k in ("moved", "epoch", "member_count"))
        )
        self.network.advance(5)
        _, events = self.carol.begin("group_listen")
        self.alice.ask("group_send", group="fam", text="secret")
        self.network.advance(1)
        self.assertEqual([], [e for e in events if e["kind"] == "group message"])
        self.assertIn("secret", [item.get("text") for item in self.bob.heard])

    def test_a_member_that_calls_itself_like_another(self) -> None:
        (group,) = self.carol.device.groups.all()
        group.roster.rename(self.carol.identity, "bob")
        group.roster_changed()
        self.network.advance(1)
        arguments = {"group": "fam", "member": "bob"}
        ids = (self.bob.device_id, self.carol.device_id)
        self.assert_refused(self.alice, "group_remove", "several", *ids, **arguments)
        self.carol.ask("group_send", group="fam", text="I am bob")
        self.network.settle()
        self.assertEqual("carol", self.alice.heard[-1]["peer"])
        removed = self.alice.ask("group_remove", group="fam", member="carol")
        self.assertEqual(self.carol.device_id, removed["device_id"])

    def test_rename_and_leave(self) -> None:
        self.bob.ask("group_rename", group="fam", name="home")
        self.network.advance(1)
        self.assertEqual("home", self.carol.ask("group_list")["groups"][0]["group"])
        listening, events = self.carol.begin("group_listen", group="home")
        self.carol.ask("group_leave", group="home")
        self.assertEqual({}, self.successResultOf(listening))
        self.assertEqual("over", events[-1]["kind"])
        self.network.advance(2)
        self.assertEqual([], self.carol.ask("group_list")["groups"])
        self.assertEqual(2, self.alice.ask("group_list")["groups"][0]["member_count"])

    def test_what_is_meant(self) -> None:
        for command in ("group_members", "group_leave", "group_rotate"):
            self.assert_refused(self.alice, command, "abst group list", group="x")
        self.assert_refused(self.alice, "group_leave", "no network", group="fam", kind="network")
        again = self.alice.ask("group_create", name="fam")["group_id"]
        self.assert_refused(self.alice, "group_leave", "several groups", again, group="fam")
        self.alice.ask("group_leave", group=again[:8])
        self.assertEqual(1, len(self.alice.ask("group_list")["groups"]))
        self.assert_refused(self.alice, "group_remove", "no member", group="fam", member="x")
        self.assert_refused(self.alice, "group_give", "already", group="fam", peer="bob")
        self.assert_refused(self.alice, "group_give", "no peer", group="fam", peer="x")

    def kinds(self, events: list[dict[str, Any]]) -> list[str]:
        return [event["kind"] for event in events if event["kind"] != "listening"]


class NetworkTests(MemoryAgentTestCase):
    """Networks are groups whose members are introduced."""

    def test_pair_once_and_know_all(self) -> None:
        alice, bob = self.agents("alice", "bob")
        carol = MemoryAgent(self.network, "carol")
        self.meet(alice, carol)
        alice.ask("group_create", name="home", kind="network")
        for peer in ("bob", "carol"):
            given = alice.ask("group_give", group="home", peer=peer, kind="network")
            self.assertTrue(given["accepted"])
        self.network.advance(10)
        introduced = bob.peers.find("carol")
        self.assertTrue(introduced.is_introduced)
        group_id = alice.ask("group_list", kind="network")["groups"][0]["group_id"]
        self.assertEqual(
            [{"network": "home", "group_id": group_id}], bob.groups.networks_of(introduced)
        )
        self.assertEqual({"groups": 0, "networks": 1, "offers": 0}, bob.groups.status())
        error = self.assertRaises(AbstError, bob.groups.check_in_no_network, introduced)
        self.assertIn("'abst network remove home carol'", str(error))
        # A group that carol offers has to wait at bob's: no person has paired the two.
        carol.ask("group_create", name="club")
        self.assertFalse(carol.ask("group_give", group="club", peer="bob")["accepted"])
        self.assertEqual(["club"], [o["group"] for o in bob.ask("group_offers")["offers"]])
        # A network is a group as well.
        bob.ask("group_send", group="home", text="hi")
        self.network.settle()
        self.assertIn("hi", [item.get("text") for item in carol.heard])
        alice.ask("group_remove", group="home", member="carol", kind="network")
        self.network.advance(5)
        self.assertEqual(["alice"], [str(p) for p in bob.peers])

    def test_without_a_realm(self) -> None:
        alice, _ = self.agents("alice", "bob")
        alice.ask("group_create", name="home", kind="network", without_realm=True)
        self.assertTrue(alice.ask("group_give", group="home", peer="bob")["accepted"])
        self.assert_refused(alice, "group_send", "no realm", group="home", text="x")
        self.assert_refused(alice, "group_rotate", "no realm", group="home")
        self.assert_refused(alice, "value_get", "without a realm", group="home", name="x")
        self.assertTrue(alice.ask("group_remove", group="home", member="bob")["moved"])


def _part(event: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: event[key] for key in keys if key in event}


_STANDING = ("group", "kind", "joined", "here_count")
_OFFERED = ("group", "peer", "member_count")
_SAID = ("group", "peer", "text")
