"""``abst network``, and where else networks are shown."""

from __future__ import annotations

import json
from typing import Any

from abst.cli.status import describe
from tests.cli.asking import BAD, DEVICE_ID, GROUP, GROUP_ID, SHOWN, AskingTestCase

NETWORK = {**GROUP, "group": "home", "kind": "network"}
LONELY = {**NETWORK, "realm": None, "joined": False}


class NetworkTests(AskingTestCase):
    def test_create(self) -> None:
        out, _ = self.result(NETWORK, "network", "create", "home")
        self.assertEqual(("network", "home"), (self.asked()["kind"], self.asked()["name"]))
        self.assertEqual((None, False), (self.asked()["realm"], self.asked()["without_realm"]))
        self.assertEqual(f"made {GROUP_ID}  home (network)  2 members, 1 other here\n", out)
        out, _ = self.result(LONELY, "network", "create", "home", "--no-realm")
        self.assertTrue(self.asked()["without_realm"])
        self.assertIn("2 members, without a realm", out)
        arguments = ("network", "create", "home", "--no-realm", "--realm", "realm.test")
        self.assertEqual(2, self.abst([], *arguments)[0])

    def test_add_remove_rename_leave(self) -> None:
        given = {**NETWORK, "peer": "bob", "device_id": DEVICE_ID, "accepted": True, "reason": None}
        gone = {**LONELY, "member": "bob", "device_id": DEVICE_ID, "moved": True}
        for words, command, answer, says in (
            (("add", "home", "bob"), "group_give", given, "bob is in home now"),
            (("remove", "home", "bob"), "group_remove", gone, "removed bob from home"),
            (("rename", "x", "home"), "group_rename", NETWORK, f"{GROUP_ID} is called home now"),
            (("leave", "home"), "group_leave", NETWORK, "left home"),
        ):
            out, said = self.result(answer, "network", *words)
            self.assertEqual((f"{says}\n", ""), (out, said))
            self.assertEqual((command, "network"), (self.asked()["command"], self.asked()["kind"]))

    def test_list_and_members(self) -> None:
        out, _ = self.result({"groups": [NETWORK, LONELY]}, "network", "list")
        self.assertEqual(2, len(out.splitlines()))
        self.assertEqual("network", self.asked()["kind"])
        out, _ = self.result({"groups": [NETWORK]}, "network", "list", "--json")
        self.assertEqual({"networks": [NETWORK]}, json.loads(out))
        member: dict[str, Any] = {
            "name": BAD,
            "device_id": DEVICE_ID,
            "this_device": False,
            "here": False,
            "invited": False,
            "peer": BAD,
            "connected": True,
        }
        out, _ = self.result({**LONELY, "members": [member]}, "network", "members", "home")
        self.assertEqual(f"{DEVICE_ID}  {SHOWN}  connected\n", out)


class ElsewhereTests(AskingTestCase):
    def test_peers_show_their_networks(self) -> None:
        peer: dict[str, Any] = {
            "device_id": DEVICE_ID,
            "name": "bob",
            "path": None,
            "key_pinned": True,
            "introduced": True,
            "networks": [{"network": BAD, "group_id": GROUP_ID}, {"network": "b", "group_id": "c"}],
        }
        out, _ = self.result({"peers": [peer]}, "peers")
        self.assertEqual(f"    in {SHOWN}, b, known by that alone", out.splitlines()[1])
        out, _ = self.result({"peers": [{**peer, "introduced": False}]}, "peers")
        self.assertEqual(f"    in {SHOWN}, b", out.splitlines()[1])

    def test_the_status_counts_them(self) -> None:
        status: dict[str, Any] = {
            "name": "a",
            "device_id": DEVICE_ID,
            "home": "/h",
            "version": "1",
            "uptime_seconds": 1.5,
            "peers": 1,
            "lan": {"setting": "off", "on": False, "addresses": [], "problem": None},
            "realms": [],
            "sessions": [],
        }
        without = describe({**status, "groups": 0, "networks": 0, "offers": 0})
        self.assertEqual(describe(status), without)
        lines = describe({**status, "groups": 2, "networks": 1, "offers": 3}).splitlines()
        self.assertIn("groups   2", lines)
        self.assertIn("networks 1", lines)
        self.assertIn("offers   3: 'abst group offers' lists them", lines)
