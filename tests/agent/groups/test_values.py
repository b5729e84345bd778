"""The commands about values, between agents in memory."""

from __future__ import annotations

import base64
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups import early_changes, values
from abst.agent.groups.told import bytes_asked, bytes_told
from abst.device.groups.mirror import Mirror
from abst.errors import AbstError, DishonestRealmError
from tests.agent.groups.memory_agents import MemoryAgent, MemoryAgentTestCase

NO_TEXT = b"\xff\x00"
NO_TEXT_BASE64 = base64.b64encode(NO_TEXT).decode()


class BytesTests(SynchronousTestCase):
    @given(st.binary(max_size=50))
    def test_any_bytes_come_back(self, content: bytes) -> None:
        self.assertEqual(content, bytes_asked(bytes_told("name", content), "name"))

    def test_what_is_neither_text_nor_base64(self) -> None:
        for arguments in ({"name": "\udcff"}, {"name_base64": "?"}, {"name_base64": "YQ"}):
            self.assertRaises(AbstError, bytes_asked, arguments, "name")


class ValueTests(MemoryAgentTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.agents("alice", "bob")
        self.alice.ask("group_create", name="fam")
        self.alice.ask("group_give", group="fam", peer="bob")

    def set(self, agent: MemoryAgent, name: str, value: str, **options: Any) -> int:
        told = agent.ask("value_set", group="fam", name=name, value=value, **options)
        return int(told["revision"])

    def get(self, agent: MemoryAgent, name: str) -> dict[str, Any]:
        return agent.ask("value_get", group="fam", name=name)

    def names(self, told: dict[str, Any]) -> list[str]:
        return [value["name"] for value in told["values"]]

    def realm_away(self) -> None:
        self.network.realm.stop()
        self.network.advance(10)

    def realm_back(self) -> None:
        self.network.realm.start()
        self.network.advance(90)

    def test_what_one_keeps_the_others_get(self) -> None:
        self.assertEqual(1, self.set(self.alice, "light", "on"))
        found = self.get(self.bob, "light")
        self.assertEqual(("light", "on", 1, "alice", 2), tuple(found[k] for k in _VALUE))
        self.assertEqual((0.0, False, None), tuple(found[k] for k in _STANDING))
        self.assertEqual((None, self.alice.device_id), (found["ends_at"], found["writer_id"]))

    def test_what_is_no_text(self) -> None:
        named = {"group": "fam", "name_base64": NO_TEXT_BASE64}
        told = self.alice.ask("value_set", **named, value_base64=NO_TEXT_BASE64)
        self.assertEqual(NO_TEXT_BASE64, told["name_base64"])
        found = self.bob.ask("value_get", **named)
        self.assertEqual((NO_TEXT_BASE64, False), (found["value_base64"], "value" in found))

    def test_a_conflict_says_the_revision(self) -> None:
        self.set(self.alice, "light", "on")
        for revision in (0, 7):
            arguments = {"name": "light", "value": "x", "if_revision": revision}
            words = ("'light' is at revision 1", "nothing was changed")
            self.assert_refused(self.bob, "value_set", *words, group="fam", **arguments)
            self.assert_refused(
                self.bob, "value_delete", *words, group="fam", name="light", if_revision=revision
            )
        self.assertEqual(2, self.set(self.bob, "light", "off", if_revision=1))
        arguments = {"name": "new", "value": "x", "if_revision": 1}
        self.assert_refused(self.bob, "value_set", "revision 0", group="fam", **arguments)
        for wrong in (-1, "1", True, 1.0, 2**63):
            keep: dict[str, Any] = {"name": "light", "value": "x", "if_revision": wrong}
            self.assert_refused(self.bob, "value_set", "whole number", group="fam", **keep)

    def test_deleting(self) -> None:
        self.set(self.alice, "light", "on")
        self.assertEqual(2, self.bob.ask("value_delete", group="fam", name="light")["revision"])
        self.assertEqual(0, self.bob.ask("value_delete", group="fam", name="light")["revision"])
        self.assert_refused(
            self.alice, "value_get", "no value 'light' in fam", group="fam", name="light"
        )

    def test_the_list_comes_in_pages(self) -> None:
        self.patch(values, "PAGE_VALUES", 2)
        for name in ("b", "a/2", "a/1", "a/3", "c"):
            self.set(self.alice, name, "x")
        first = self.bob.ask("value_list", group="fam", prefix="a/")
        self.assertEqual((["a/1", "a/2"], {"after": "a/2"}), (self.names(first), first["more"]))
        last = self.bob.ask("value_list", group="fam", prefix="a/", **first["more"])
        self.assertEqual((["a/3"], None), (self.names(last), last["more"]))
        everything = self.bob.ask("value_list", group="fam", prefix="", after="b")
        self.assertEqual((["c"], None, 0.0), (self.names(everything), everything["more"], 0.0))

    def test_without_the_realm_it_is_what_was_checked(self) -> None:
        self.set(self.alice, "light", "on")
        self.realm_away()
        found = self.get(self.bob, "light")
        self.assertEqual("on", found["value"])
        self.assertGreaterEqual(found["checked_seconds_ago"], 9)
        self.assertIn("not connected", found["problem"])
        listed = self.bob.ask("value_list", group="fam", prefix="")
        self.assertEqual(["light"], self.names(listed))
        self.assertGreaterEqual(listed["checked_seconds_ago"], 9)
        self.assert_refused(self.bob, "value_get", "may be old", "connected", group="fam", name="x")
        for command, more in (("value_set", {"value": "x"}), ("value_delete", {})):
            self.assert_refused(self.bob, command, "realm", group="fam", name="light", **more)
        self.realm_back()
        self.assertEqual(0.0, self.get(self.bob, "light")["checked_seconds_ago"])

    def test_a_restart_keeps_what_was_checked(self) -> None:
        self.set(self.alice, "light", "on")
        self.network.advance(2)
        self.bob.kill()
        self.network.realm.stop()
        self.bob = self.bob.again()
        self.network.advance(10)
        self.assertEqual("on", self.get(self.bob, "light")["value"])

    def test_a_command_right_after_the_start_waits_for_the_realm(self) -> None:
        self.alice.kill()
        self.alice = self.alice.again()
        self.assertEqual(1, self.set(self.alice, "light", "on"))

    def test_giving_up_waiting_for_an_answer_does_no_harm(self) -> None:
        for command, more in (
            ("value_set", {"name": "light", "value": "on"}),
            ("value_get", {"name": "light"}),
            ("value_list", {"prefix": ""}),
            ("value_watch", {"prefix": "", "initial": True}),
        ):
            asking, _ = self.alice.call(command, group="fam", **more)
            self.assertNoResult(asking)
            asking.cancel()
            self.failureResultOf(asking, CancelledError)
        self.network.settle()
        self.assertEqual("on", self.get(self.bob, "light")["value"])
        self.assertEqual(2, self.set(self.alice, "light", "off"))

    def test_expiry_is_told(self) -> None:
        _, events = self.bob.begin("value_watch", group="fam", prefix="")
        self.set(self.alice, "code", "4711", seconds=5)
        self.assertEqual("1970-", str(self.get(self.bob, "code")["ends_at"])[:5])
        self.network.advance(10)
        self.assert_refused(self.bob, "value_get", "no value", group="fam", name="code")
        _, put, expired = events
        self.assertEqual(("put", "4711"), (put["change"], put["value"]))
        self.assertEqual({"change": "expired", "name": "code", "revision": 2}, expired)

    def test_watching(self) -> None:
        self.set(self.alice, "a/1", "x")
        self.set(self.alice, "b", "x")
        watching, events = self.bob.begin("value_watch", group="fam", prefix="a/", initial=True)
        _, later = self.bob.begin("value_watch", group="fam", prefix="a/")
        self.assertEqual(("put", "a/1", 1), tuple(events[0][k] for k in _CHANGE))
        self.assertEqual(["watching"], [events[1]["kind"], *(e["change"] for e in events[2:])])
        self.set(self.alice, "a/2", "y")
        self.set(self.alice, "b", "y")
        self.alice.ask("value_delete", group="fam", name="a/1")
        self.network.settle()
        changes = [tuple(event[k] for k in _CHANGE) for event in events[2:]]
        self.assertEqual([("put", "a/2", 3), ("deleted", "a/1", 5)], changes)
        self.assertEqual("y", events[2]["value"])
        self.assertEqual("alice", events[3]["writer"])
        self.assertEqual(events[2:], later[1:])
        watching.cancel()
        self.failureResultOf(watching, CancelledError)
        self.set(self.alice, "a/2", "z")
        self.assertEqual((4, 4), (len(events), len(later)))

    def test_much_that_is_there_comes_as_it_is_read(self) -> None:
        self.patch(values, "BATCH_BYTES", 100)
        for number in range(5):
            self.set(self.alice, f"n{number}", "x" * 60)
        _, events = self.bob.begin("value_watch", group="fam", prefix="", initial=True)
        told = [event.get("name", event.get("kind")) for event in events]
        self.assertEqual(["n0", "n1", "more"], told)
        # What changes meanwhile is told once, as it is then, and in its order.
        answers = self.bob.answers
        for value in ("y", "z"):
            self.set(self.alice, "n0", value)
            self.set(self.alice, "n3", value)
        self.alice.ask("value_delete", group="fam", name="n4")
        for _ in range(3):
            answers.put(True)
        self.network.settle()
        told = [event.get("name", event.get("kind")) for event in events[3:]]
        self.assertEqual(["n2", "n0", "n3", "n4", "watching"], told)
        self.assertEqual(["z", "z"], [event["value"] for event in events[4:6]])
        self.assertEqual("deleted", events[6]["change"])

    def test_more_than_can_wait(self) -> None:
        self.patch(values, "BATCH_BYTES", 1)
        self.patch(early_changes, "MAX_WAITING", 2)
        self.set(self.alice, "n0", "x")
        watching, _ = self.bob.begin("value_watch", group="fam", prefix="", initial=True)
        for number in range(3):
            self.set(self.alice, f"m{number}", "x")
        self.assertNoResult(watching)
        self.bob.answers.put(True)
        self.assertIn("smaller part", str(self.failureResultOf(watching, AbstError).value))

    def test_a_realm_that_does_not_answer(self) -> None:
        self.network.realm.receive = lambda conversation, data: None  # type: ignore[method-assign]
        self.assert_refused(self.alice, "value_get", "within 15 seconds", group="fam", name="x")

    def test_watching_goes_on_after_the_realm_was_away(self) -> None:
        _, events = self.bob.begin("value_watch", group="fam", prefix="")
        self.realm_away()
        _, away = self.bob.begin("value_watch", group="fam", prefix="", initial=True)
        self.assertIn("not connected", away[0]["problem"])
        self.realm_back()
        self.set(self.alice, "light", "on")
        self.network.settle()
        for seen in (events, away):
            self.assertEqual(["light"], [event["name"] for event in seen[1:]])

    def test_watching_ends_with_the_group(self) -> None:
        watching, _ = self.bob.begin("value_watch", group="fam", prefix="")
        self.bob.ask("group_leave", group="fam")
        self.assertIn("left the group", str(self.failureResultOf(watching, AbstError).value))

    def test_a_realm_that_lies(self) -> None:
        self.set(self.alice, "light", "on")
        self.get(self.bob, "light")
        watching, _ = self.bob.begin("value_watch", group="fam", prefix="")
        self.assert_refused(self.bob, "value_start_again", "not seen to lie", group="fam")
        mirror: Mirror = self.bob.device.groups.all()[0].values._mirror
        mirror.accuse(DishonestRealmError("rolled_back", "it has forgotten a change"))
        self.assertIn("not honest", str(self.failureResultOf(watching, AbstError).value))
        for command, more in (
            ("value_set", {"name": "light", "value": "x"}),
            ("value_delete", {"name": "light"}),
            ("value_watch", {"prefix": ""}),
        ):
            self.assert_refused(self.bob, command, "not honest", group="fam", **more)
        found = self.get(self.bob, "light")
        self.assertEqual(("on", True), (found["value"], found["dishonest"]))
        self.assertIn("it has forgotten a change", found["problem"])
        listed = self.bob.ask("value_list", group="fam", prefix="")
        self.assertEqual((["light"], True), (self.names(listed), listed["dishonest"]))
        (group,) = self.bob.ask("group_list")["groups"]
        self.assertIn("not honest", group["values_problem"])
        self.bob.ask("value_start_again", group="fam")
        self.network.settle()
        found = self.get(self.bob, "light")
        self.assertEqual(("on", False, None), tuple(found[k] for k in ("value", *_STANDING[1:])))

    def test_a_value_that_is_too_large(self) -> None:
        value = "x" * 65_537
        self.assert_refused(self.alice, "value_set", "65536", group="fam", name="x", value=value)
        self.assertEqual(1, self.set(self.alice, "x", value[1:]))

    def test_names_that_are_none(self) -> None:
        self.assert_refused(self.alice, "value_set", "name", group="fam", name="", value="x")
        name = "x" * 1025
        self.assert_refused(self.alice, "value_set", "1024", group="fam", name=name, value="x")


_VALUE = ("name", "value", "revision", "writer", "size_bytes")
_STANDING = ("checked_seconds_ago", "dishonest", "problem")
_CHANGE = ("change", "name", "revision")
