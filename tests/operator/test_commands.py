"""What each command asks the realm, and what it tells the operator."""

from __future__ import annotations

import itertools
import json
from typing import Any

from abst.operator.place import find_place
from abst.operator.stats import rates
from tests.operator.fake_realm import OperatorTestCase

DEVICE = "6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819"
LINK = "abst://realm.example.org:42278/?invitation=cNkrsPW5vBHbuH_IZbwhuQ"
BAD = "\x1b[2Jbob"
SHOWN = r"\x1b[2Jbob"

INVITATION: dict[str, Any] = {
    "name": "kqzvbn",
    "uses_left": 1,
    "made": "2026-11-23T10:00:00+00:00",
    "expires": "2026-11-30T10:00:00+00:00",
    "note": BAD,
}
HERE: dict[str, Any] = {
    "device_id": DEVICE,
    "allowed": True,
    "here": True,
    "connections": 1,
    "sent_bytes": 2_000_000,
    "month_bytes": None,
    "since": "2026-11-23T10:00:00+00:00",
    "last_here": "2026-11-23",
    "invitation": "kqzvbn",
    "note": BAD,
}
AWAY: dict[str, Any] = {
    **HERE,
    "device_id": DEVICE.replace("6", "7"),
    "allowed": False,
    "here": False,
    "connections": 0,
    "month_bytes": 5_000_000,
    "last_here": None,
    "invitation": "",
    "note": "",
}
COUNTERS: dict[str, Any] = {
    "relayed_packets": 100,
    "relayed_bytes": 5000,
    "circuit_bytes": 0,
    "dropped_packets": {"queue_full": 2},
    "refused_packets": {},
    "refused_connections": {"not_invited": 3, "revoked": 9},
}
STATS: dict[str, Any] = {
    "version": "0.1.0",
    "uptime_seconds": 90.0,
    "addresses": ["abst://realm.example.org:42278/"],
    "access": "invited",
    "devices_here": 2,
    "devices_allowed": 3,
    "devices_revoked": 1,
    "invitations": 1,
    "open_connections": 2,
    "circuits_waiting": 0,
    "circuits_joined": 1,
    "groups": 4,
    "stored_bytes": 3_000_000,
    "queued_bytes": 0,
    "month_bytes": 7_000_000,
    "open_files": {"allowed": 1024, "needed": 17560},
    "counters": COUNTERS,
    "limits": {"connections": 300, "circuits": 60},
}


class InviteTests(OperatorTestCase):
    answer_to_invite: dict[str, Any] = {"links": [LINK], "access": "invited", **INVITATION}

    def test_the_link_stands_alone_for_scripts(self) -> None:
        out, said = self.result(self.answer_to_invite, "invite")
        self.assertEqual(f"{LINK}\n", out)
        self.assertIn("good for 1 device, until 2026-11-30", said)
        request = {"command": "invite", "uses": 1, "seconds": 7 * 86400, "note": ""}
        self.assertEqual([request], self.requests)

    def test_a_terminal_is_shown_a_code_that_a_camera_reads(self) -> None:
        self.answer(lambda request: [{"result": self.answer_to_invite}])
        status, out, _ = self.operator("invite", is_terminal=True)
        self.assertEqual(0, status)
        self.assertIn("█", out)
        self.assertIn(f"\n{LINK}\n", out)

    def test_how_long_and_for_how_many(self) -> None:
        answer = {**self.answer_to_invite, "uses_left": None, "expires": None}
        words = ("--uses", "0", "--expires", "never", "--note", "Ada")
        _, said = self.result(answer, "invite", *words)
        self.assertIn("good for any number of devices, until it is withdrawn", said)
        (request,) = self.requests
        self.assertEqual((0, None, "Ada"), tuple(request[it] for it in ("uses", "seconds", "note")))

    def test_spans_of_time(self) -> None:
        self.answer(lambda request: [{"result": self.answer_to_invite}])
        for text, seconds in (("30min", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600)):
            self.operator("invite", "--expires", text)
            self.assertEqual(seconds, self.requests[-1]["seconds"])

    def test_an_open_realm_needs_none(self) -> None:
        _, said = self.result({**self.answer_to_invite, "access": "open"}, "invite")
        self.assertIn("devices get in without a link", said)

    def test_for_scripts(self) -> None:
        out, _ = self.result(self.answer_to_invite, "invite", "--json")
        self.assertEqual(self.answer_to_invite, json.loads(out))


class ListTests(OperatorTestCase):
    def test_invitations(self) -> None:
        out, _ = self.result({"invitations": [INVITATION], "more": False}, "invitations")
        head, line = out.splitlines()
        self.assertEqual(["NAME", "USES", "MADE", "EXPIRES", "NOTE"], head.split())
        self.assertIn("kqzvbn", line)
        self.assertTrue(line.endswith(SHOWN), line)

    def test_no_invitation(self) -> None:
        out, said = self.result({"invitations": [], "more": False}, "invitations")
        self.assertEqual("", out)
        self.assertIn("'abst-realm invite' makes one", said)

    def test_one_is_withdrawn(self) -> None:
        out, _ = self.result({"name": "kqzvbn"}, "invitations", "withdraw", "kqzvbn")
        self.assertEqual("withdrawn: kqzvbn\n", out)
        self.assertEqual([{"command": "withdraw", "name": "kqzvbn"}], self.requests)

    def test_devices(self) -> None:
        out, _ = self.result({"devices": [AWAY, HERE], "more": False}, "devices")
        _, first, second = out.splitlines()
        self.assertIn(DEVICE, first)
        for words in ("allowed", "here", "kqzvbn", "2.0 MB", SHOWN):
            self.assertIn(words, first)
        for words in ("revoked", "never", "5.0 MB"):
            self.assertIn(words, second)

    def test_pages_are_asked_for_until_there_are_no_more(self) -> None:
        def answers(request: dict[str, Any]) -> list[Any]:
            device = {"": HERE, DEVICE: AWAY}[request["after"]]
            return [{"result": {"devices": [device], "more": device is HERE}}]

        self.answer(answers)
        status, out, _ = self.operator("devices", "--here", "--json")
        self.assertEqual(0, status)
        self.assertEqual({"devices": [HERE, AWAY]}, json.loads(out))
        self.assertEqual([True, True], [request["here"] for request in self.requests])

    def test_groups(self) -> None:
        group = {
            "group_id": DEVICE,
            "epoch": 3,
            "members_here": 2,
            "values": 17,
            "stored_bytes": 4096,
            "maker": DEVICE,
            "last_used": "2026-11-23",
        }
        out, _ = self.result({"groups": [group], "more": False}, "groups")
        self.assertEqual(
            [DEVICE, "3", "2", "17", "4.1", "kB", DEVICE, "2026-11-23"], out.splitlines()[1].split()
        )

    def test_nothing_to_list(self) -> None:
        self.answer(lambda request: [{"result": {"devices": [], "groups": [], "more": False}}])
        for words in (("devices",), ("devices", "--here"), ("groups",)):
            status, out, said = self.operator(*words)
            self.assertEqual((0, "", 1), (status, out, said.count("\n")))


class DecisionTests(OperatorTestCase):
    def test_allow(self) -> None:
        answer = {"device_id": DEVICE, "access": "listed"}
        out, said = self.result(answer, "allow", DEVICE, "--note", "Ada")
        self.assertEqual((f"allowed: {DEVICE}\n", ""), (out, said))
        self.assertEqual([{"command": "allow", "device": DEVICE, "note": "Ada"}], self.requests)

    def test_revoke(self) -> None:
        out, said = self.result({"device_id": DEVICE, "was_here": False}, "revoke", "6fa1")
        self.assertEqual((f"revoked: {DEVICE}\n", "it was not here\n"), (out, said))
        self.assertEqual([{"command": "revoke", "device": "6fa1"}], self.requests)

    def test_reload(self) -> None:
        answer = {"changed": ["access", "limits.circuits"], "restart": ["listen"]}
        out, said = self.result(answer, "reload")
        self.assertEqual("changed: access, limits.circuits\n", out)
        self.assertIn("started again for: listen", said)

    def test_a_reload_of_nothing_new(self) -> None:
        out, said = self.result({"changed": [], "restart": []}, "reload")
        self.assertEqual(("changed: nothing\n", ""), (out, said))


class StatsTests(OperatorTestCase):
    def test_for_people(self) -> None:
        out, _ = self.result(STATS, "stats")
        for words in (
            "up for 1 min 30 s",
            "invited: 3 allowed, 1 revoked, 1 invitations",
            "100 packets, 5.0 kB",
            "2 queue_full",
            "9 revoked, 3 not_invited",
            "300 connections and 60 circuits: 1024 files may be open, the limits need 17560",
            "month     7.0 MB",
        ):
            self.assertIn(words, out)

    def test_rates_are_of_the_last_seconds(self) -> None:
        later = {
            **STATS,
            "uptime_seconds": 92.0,
            "counters": {**COUNTERS, "relayed_packets": 300, "relayed_bytes": 25_000},
        }
        restarted = {**STATS, "uptime_seconds": 1.0}
        answers = iter([STATS, restarted, {**STATS, "uptime_seconds": 3.0}, STATS, later])
        self.answer(lambda request: [{"result": next(answers)}])
        place = find_place(self.state, None)
        first, _, third = itertools.islice(rates(place, pause=lambda seconds: None), 3)
        self.assertEqual(0.0, first["packets_per_second"])
        self.assertEqual(100.0, third["packets_per_second"])
        self.assertEqual(10_000.0, third["bytes_per_second"])
