"""``abst group``: what it asks the agent, and what it says."""

from __future__ import annotations

import json
from typing import Any

from abst.cli.group_lines import event_lines, group_line
from abst.cli.items import item_line
from tests.cli.asking import BAD, DEVICE_ID, GROUP, GROUP_ID, SHOWN, AskingTestCase

OFFER: dict[str, Any] = {
    "kind": "group offer",
    "group": BAD,
    "group_id": GROUP_ID,
    "group_kind": "network",
    "peer": "alice",
    "device_id": DEVICE_ID,
    "member_count": 3,
    "received_at": "2026-11-23T12:16:08+00:00",
}
MEMBER: dict[str, Any] = {
    "name": BAD,
    "device_id": DEVICE_ID,
    "this_device": False,
    "here": False,
    "invited": False,
    "peer": None,
    "connected": False,
}


class MakingTests(AskingTestCase):
    """Groups are made, offered, and taken."""

    def test_create(self) -> None:
        out, said = self.result(GROUP, "group", "create", "fam")
        self.assertEqual({"command": "group_create", "name": "fam", "realm": None}, self.asked())
        self.assertEqual(f"made {GROUP_ID}  fam  2 members, 1 other here\n", out)
        self.assertIn("abst group give", said)
        self.result(GROUP, "group", "create", "fam", "--realm", "realm.test")
        self.assertEqual("realm.test", self.asked()["realm"])

    def test_a_name_that_is_no_text(self) -> None:
        status, _, said = self.abst([], "group", "create", "\udcff")
        self.assertEqual((2, []), (status, self.agent.requests))
        self.assertIn("UTF-8", said)

    def test_give(self) -> None:
        answer = {**GROUP, "peer": BAD, "device_id": DEVICE_ID, "accepted": True, "reason": None}
        out, said = self.result(answer, "group", "give", "fam", "bob")
        self.assertEqual((f"{SHOWN} is in fam now\n", ""), (out, said))
        self.assertEqual({"command": "group_give", "group": "fam", "peer": "bob"}, self.asked())
        late = {**answer, "accepted": False, "reason": "bob is away"}
        out, said = self.result(late, "group", "give", "fam", "bob")
        self.assertEqual(f"offered fam to {SHOWN}: bob is away\n", out)
        self.assertIn("by itself", said)
        out, _ = self.result(late, "group", "give", "fam", "bob", "--json")
        self.assertEqual(late, json.loads(out))

    def test_offers(self) -> None:
        out, _ = self.result({"offers": [OFFER], "policy": "ask"}, "group", "offers")
        self.assertIn(f"{GROUP_ID}  {SHOWN} (network)  3 members, offered by alice at ", out)
        out, said = self.result({"offers": [], "policy": "ask"}, "group", "offers")
        self.assertEqual("", out)
        self.assertIn("abst group give", said)

    def test_accept_and_refuse(self) -> None:
        for word, accepts in (("accept", True), ("refuse", False)):
            out, _ = self.result(OFFER, "group", word, "fam")
            asked = {"command": "group_answer", "group": "fam", "accepts": accepts}
            self.assertEqual(asked, self.asked())
            self.assertTrue(out.startswith(f"{'accepted' if accepts else 'refused'} {GROUP_ID}"))

    def test_policy(self) -> None:
        out, _ = self.result({"policy": "accept"}, "group", "policy")
        self.assertEqual({"command": "group_policy", "policy": None}, self.asked())
        self.assertIn("others wait", out)
        self.result({"policy": "ask"}, "group", "policy", "ask")
        self.assertEqual("ask", self.asked()["policy"])
        self.assertEqual(2, self.abst([], "group", "policy", "perhaps")[0])


class ShowingTests(AskingTestCase):
    """How groups stand."""

    def test_list(self) -> None:
        away = {**GROUP, "group": BAD, "kind": "network", "joined": False, "problem": "no realm"}
        out, _ = self.result({"groups": [GROUP, away]}, "group", "list")
        self.assertEqual(
            [
                f"{GROUP_ID}  fam  2 members, 1 other here",
                f"{GROUP_ID}  {SHOWN} (network)  2 members, not joined: no realm",
            ],
            out.splitlines(),
        )
        out, said = self.result({"groups": []}, "group", "list")
        self.assertEqual("", out)
        self.assertIn("abst group create", said)

    def test_a_realm_that_lies_stands_in_the_list(self) -> None:
        line = group_line({**GROUP, "values_problem": "the realm is not honest"})
        self.assertIn("the realm is not honest ('abst kv", line)

    def test_members(self) -> None:
        members = [
            {**MEMBER, "name": "alice", "this_device": True},
            {**MEMBER, "here": True, "connected": True},
            {**MEMBER, "name": "carol", "invited": True, "peer": "C."},
            {**MEMBER, "name": "", "connected": True},
            MEMBER,
        ]
        out, said = self.result({**GROUP, "members": members}, "group", "members", "fam")
        self.assertEqual({"command": "group_members", "group": "fam"}, self.asked())
        self.assertEqual(
            [
                f"{DEVICE_ID}  alice  this device",
                f"{DEVICE_ID}  {SHOWN}  here",
                f"{DEVICE_ID}  carol (here called C.)  has not accepted yet",
                f"{DEVICE_ID}  -  connected, but not here",
                f"{DEVICE_ID}  {SHOWN}  away",
            ],
            out.splitlines(),
        )
        self.assertEqual("", said)
        problems = {**GROUP, "members": [], "problem": "no way", "values_problem": "it lies"}
        _, said = self.result(problems, "group", "members", "fam")
        self.assertIn("no way", said)
        self.assertIn("it lies", said)


class ChangingTests(AskingTestCase):
    """Groups are renamed, left, and given new keys."""

    def test_remove(self) -> None:
        answer = {**GROUP, "member": BAD, "device_id": DEVICE_ID, "moved": True}
        out, said = self.result(answer, "group", "remove", "fam", "bob")
        self.assertEqual({"command": "group_remove", "group": "fam", "member": "bob"}, self.asked())
        self.assertEqual(f"removed {SHOWN} from fam\n", out)
        self.assertIn("epoch is 3", said)
        _, said = self.result({**answer, "moved": False}, "group", "remove", "fam", "bob")
        self.assertIn("as soon as its realm is reached", said)

    def test_rotate(self) -> None:
        out, _ = self.result({**GROUP, "moved": True}, "group", "rotate", "fam")
        self.assertEqual("fam has a new key: its epoch is 3\n", out)
        out, _ = self.result({**GROUP, "moved": False}, "group", "rotate", "fam")
        self.assertIn("as soon as", out)

    def test_rename_and_leave(self) -> None:
        out, _ = self.result(GROUP, "group", "rename", "old", "fam")
        self.assertEqual({"command": "group_rename", "group": "old", "name": "fam"}, self.asked())
        self.assertEqual(f"{GROUP_ID} is called fam now\n", out)
        out, _ = self.result(GROUP, "group", "leave", "fam")
        self.assertEqual("left fam\n", out)


class TalkingTests(AskingTestCase):
    """Messages go and come."""

    EVENT: dict[str, Any] = {
        "kind": "group message",
        "group": "fam",
        "group_id": GROUP_ID,
        "peer": BAD,
        "device_id": DEVICE_ID,
        "text": "one\ntwo",
        "received_at": "2026-11-23T12:16:08+00:00",
    }

    def test_send_says_who_is_here(self) -> None:
        out, _ = self.result(GROUP, "group", "send", "fam", "hello")
        self.assertEqual({"command": "group_send", "group": "fam", "text": "hello"}, self.asked())
        self.assertEqual("sent to fam: 1 other member here\n", out)
        out, _ = self.result({**GROUP, "here_count": 0}, "group", "send", "fam", "hello")
        self.assertIn("nobody has got it", out)

    def test_the_help_says_that_messages_are_not_stored(self) -> None:
        for words in (("send", "--help"), ("listen", "--help")):
            _, out, _ = self.abst([], "group", *words)
            self.assertIn("not stored", " ".join(out.split()))

    def test_listen(self) -> None:
        other = {**self.EVENT, "kind": "member arrived"}
        problem = {**self.EVENT, "kind": "problem", "problem": "it is\nlost"}
        events = [{"kind": "listening"}, other, problem, self.EVENT, self.EVENT]
        answers = [{"event": event} for event in events]
        status, out, said = self.abst(answers, "group", "listen", "fam", "--count", "1")
        self.assertEqual(0, status)
        arrived, *message = out.splitlines()
        self.assertIn(f"fam: {SHOWN} is here", arrived)
        self.assertTrue(message[0].endswith(f"{SHOWN} in fam: one"), message)
        self.assertEqual(["    two"], message[1:])
        self.assertIn("abst: fam: it is lost", said)
        status, out, _ = self.abst(answers, "group", "listen", "--json", "--count", "2")
        self.assertEqual((0, None), (status, self.asked()["group"]))
        self.assertEqual(events, [json.loads(line) for line in out.splitlines()])

    def test_every_event_has_a_line(self) -> None:
        facts = {"epoch": 4, "count": 2, "code": "queue_full", "reason": "removed"}
        for kind, words in (
            ("joined", "fam: joined"),
            ("member left", f"fam: {SHOWN} is not here any more"),
            ("epoch", "fam: has a new key: its epoch is 4"),
            ("messages missed", f"fam: 2 messages of {SHOWN} did not come"),
            ("messages dropped", f"fam: 2 messages did not reach {SHOWN} (queue_full)"),
            ("over", "fam: removed"),
        ):
            self.assertTrue(event_lines({**self.EVENT, **facts, "kind": kind}).endswith(words))

    def test_an_offer_among_what_arrives(self) -> None:
        line = item_line(OFFER)
        self.assertIn(f"alice  offers the network {SHOWN}: 'abst group accept'", line)
