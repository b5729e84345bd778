"""The operator's commands, at a realm in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredQueue, ensureDeferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.address import RealmAddress
from abst.device_id import DeviceID
from abst.errors import AbstError, Code
from abst.identity import Identity
from abst.packets import Hello
from abst.realm.access import Mode
from abst.realm.capacity import Capacity
from abst.realm.device_operations import NOT_KEPT
from abst.realm.limits import Limits
from abst.realm.operations import Operations, Reloaded
from abst.realm.protocol import RealmFactory
from abst.realm.state_folder import STORE_FILE
from abst.realm.store.interface import AccessChange, Addition, Change, Done, GroupRecord
from abst.realm.store.memory import MemoryStore
from abst.realm.store.tables import Tables
from tests.realm.memory_realm import ALICE, BOB, CAROL

ADDRESS = RealmAddress("realm.example.org", 4000, bytes(32))
NOW = 1_800_000_000.0


class Store(MemoryStore):
    """A store whose disk may be full."""

    is_full = False

    def change_access(self, change: AccessChange, done: Done) -> None:
        if self.is_full:
            done(False)
        else:
            super().change_access(change, done)


class Service:
    """Who runs the realm, as far as commands know it."""

    started_at = 0.0
    capacity = Capacity(1024, 4096)

    def __init__(self, state: Path) -> None:
        self.state = state
        self.addresses = [ADDRESS]
        self.reloaded: Awaitable[Reloaded] = succeed(Reloaded(["access"], ["listen"]))

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        return succeed(function(*arguments))

    def reload(self) -> Awaitable[Reloaded]:
        return self.reloaded


class OperationsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = Store()
        state = Path(self.mktemp())
        state.mkdir()
        self.service = Service(state)
        self.begin(Mode.INVITED)

    def begin(self, mode: Mode) -> None:
        """Begin with a realm that certain devices may use."""
        self.clock: Any = Clock()
        self.factory = RealmFactory(
            self.clock, Identity.generate(), access=mode, store=self.store, wall=lambda: NOW
        )
        self.realm = self.factory.realm
        self.commands = Operations(self.service, self.factory).by_name()
        self.events: list[dict[str, Any]] = []

    def begun(self, command: str, **arguments: Any) -> Deferred[dict[str, Any]]:
        """Return a command that is under way."""
        return ensureDeferred(self.commands[command](arguments, self.events.append))  # type: ignore[arg-type]

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Return what a command answers."""
        return self.successResultOf(self.begun(command, **arguments))

    def refused(self, command: str, **arguments: Any) -> str:
        """Return why a command is refused, in one line."""
        failure = self.failureResultOf(self.begun(command, **arguments), AbstError)
        text = str(failure.value)
        self.assertNotIn("\n", text)
        return text

    def invite(self, **changes: Any) -> dict[str, Any]:
        return self.ask("invite", **{"uses": 1, "seconds": 3600, "note": "Ada", **changes})

    def token_of(self, answer: dict[str, Any]) -> str:
        token = RealmAddress.parse(answer["links"][0]).invitation
        assert token is not None
        return token

    def come(self, device: bytes, invitation: str | None = None) -> str | None:
        """Have a device say Hello; return the code with which it is closed, or None."""
        conversation = self.realm.open(("192.0.2.7", 5000), self.factory.now())
        conversation.identify(device)
        hello = codec.encode(Hello(device, invitation=invitation))
        conversation.receive_data(hello, self.factory.now())
        return conversation.closed_for


class InviteTests(OperationsTestCase):
    def test_who_has_the_link_gets_in_and_others_do_not(self) -> None:
        answer = self.invite()
        self.assertEqual(Code.NOT_INVITED, self.come(BOB))
        self.assertIsNone(self.come(ALICE, self.token_of(answer)))
        self.assertEqual(Code.WRONG_INVITATION, self.come(CAROL, self.token_of(answer)))

    def test_what_is_told_of_it(self) -> None:
        answer = self.invite(uses=3)
        (link,) = answer.pop("links")
        self.assertTrue(link.startswith(f"{ADDRESS}&invitation="), link)
        self.assertEqual("2027-01-15T08:00:00+00:00", answer["made"])
        self.assertEqual("2027-01-15T09:00:00+00:00", answer["expires"])
        self.assertEqual(
            (3, "Ada", "invited"), (answer["uses_left"], answer["note"], answer["access"])
        )
        listed = self.ask("invitations")
        self.assertNotIn(self.token_of({"links": [link]}), str(listed))
        del answer["access"]
        self.assertEqual({"invitations": [answer], "more": False}, listed)

    def test_any_number_for_ever(self) -> None:
        answer = self.invite(uses=0, seconds=None)
        self.assertEqual((None, None), (answer["uses_left"], answer["expires"]))

    def test_every_port_has_its_link(self) -> None:
        self.service.addresses = [ADDRESS, RealmAddress("realm.example.org", 4001)]
        self.assertEqual(2, len(self.invite()["links"]))

    def test_a_realm_without_an_address_makes_none(self) -> None:
        self.service.addresses = []
        self.assertIn("see 'listen'", self.refused("invite", uses=1, seconds=60, note=""))
        self.assertEqual([], self.ask("invitations")["invitations"])

    def test_what_is_no_number_is_refused(self) -> None:
        wrong: list[dict[str, Any]] = [
            *({"uses": uses} for uses in (-1, 1.5, "1", True, None, 10**9)),
            *({"seconds": seconds} for seconds in (-1, 1.5, "1", True, 10**12)),
        ]
        for changes in wrong:
            arguments = {"uses": 1, "seconds": 60, "note": "", **changes}
            self.assertIn("whole number", self.refused("invite", **arguments))
        self.assertIn("note", self.refused("invite", uses=1, seconds=60, note="x" * 1000))

    def test_a_realm_for_listed_devices_takes_none(self) -> None:
        self.begin(Mode.LISTED)
        said = self.refused("invite", uses=1, seconds=60, note="")
        self.assertIn("abst-realm allow", said)

    def test_one_that_is_not_kept_is_not_told(self) -> None:
        self.store.is_full = True
        self.assertEqual(NOT_KEPT, self.refused("invite", uses=1, seconds=60, note=""))
        self.assertEqual([], self.ask("invitations")["invitations"])

    def test_one_that_is_withdrawn_lets_nobody_in(self) -> None:
        answer = self.invite()
        self.assertEqual({"name": answer["name"]}, self.ask("withdraw", name=answer["name"]))
        self.assertEqual(Code.WRONG_INVITATION, self.come(ALICE, self.token_of(answer)))
        self.assertIn("lists them", self.refused("withdraw", name=answer["name"]))


class DeviceTests(OperationsTestCase):
    def test_an_allowed_device_needs_no_invitation(self) -> None:
        self.begin(Mode.LISTED)
        self.assertEqual(Code.NOT_LISTED, self.come(ALICE))
        answer = self.ask("allow", device=str(ALICE), note="Ada")
        self.assertEqual({"device_id": str(ALICE), "access": "listed"}, answer)
        self.assertIsNone(self.come(ALICE))

    def test_a_revoked_device_is_gone_at_once_and_for_good(self) -> None:
        self.assertIsNone(self.come(ALICE, self.token_of(self.invite(uses=0))))
        (conversation,) = [it for it in self.realm.conversations if it.device_id == ALICE]
        answer = self.ask("revoke", device=str(ALICE)[:6])
        self.assertEqual({"device_id": str(ALICE), "was_here": True}, answer)
        self.assertEqual(Code.REVOKED, conversation.closed_for)
        self.assertEqual(Code.REVOKED, self.come(ALICE, self.token_of(self.invite())))
        self.assertEqual("revoked", str(self.come(ALICE)))

    def test_a_revocation_that_is_not_kept_is_in_force_and_said(self) -> None:
        self.ask("allow", device=str(ALICE), note="")
        self.store.is_full = True
        self.assertIn("try again", self.refused("revoke", device=str(ALICE)))
        self.assertEqual(Code.REVOKED, self.come(ALICE))

    def test_the_beginning_of_an_id_has_to_mean_one_device(self) -> None:
        first = DeviceID(bytes.fromhex("6fa1b3c290de8f11a2b3c4d5e6f70819"))
        second = DeviceID(bytes.fromhex("6fa1ffff90de8f11a2b3c4d5e6f70819"))
        for device in (first, second):
            self.ask("allow", device=str(device), note="")
        self.assertIn("2 devices", self.refused("revoke", device="6fa1"))
        self.assertIn("whole ID", self.refused("revoke", device="7"))
        self.assertIn("whole ID", self.refused("revoke", device=""))
        self.assertEqual(str(second), self.ask("revoke", device=" 6FA1FF ")["device_id"])

    def test_a_device_that_nobody_has_seen_can_be_shut_out(self) -> None:
        self.assertFalse(self.ask("revoke", device=str(BOB))["was_here"])
        self.assertEqual(Code.REVOKED, self.come(BOB))

    def test_they_are_listed_with_what_is_known(self) -> None:
        invitation = self.invite()
        self.come(ALICE, self.token_of(invitation))
        self.ask("allow", device=str(BOB), note="a tablet")
        found = {device["device_id"]: device for device in self.listed(here=False)}
        self.assertEqual({str(ALICE), str(BOB)}, set(found))
        alice, bob = found[str(ALICE)], found[str(BOB)]
        self.assertEqual((True, True, 1), (alice["allowed"], alice["here"], alice["connections"]))
        self.assertEqual((invitation["name"], "Ada"), (alice["invitation"], alice["note"]))
        self.assertEqual("2027-01-15", alice["last_here"])
        self.assertEqual((False, None, "a tablet"), (bob["here"], bob["last_here"], bob["note"]))
        self.assertEqual([str(ALICE)], [it["device_id"] for it in self.listed(here=True)])

    def test_an_open_realm_lists_who_is_here_and_on_no_list(self) -> None:
        self.begin(Mode.OPEN)
        self.come(ALICE)
        (alice,) = self.listed(here=False)
        self.assertEqual((None, True), (alice["allowed"], alice["here"]))

    def test_the_realms_own_devices_are_no_devices(self) -> None:
        self.realm.access.own_devices.add(ALICE)
        self.assertIsNone(self.come(ALICE))
        self.assertEqual([], self.listed(here=False))
        self.assertEqual(0, self.ask("stats")["devices_here"])

    def test_what_counts_of_the_month_is_told_where_it_is_counted(self) -> None:
        self.ask("allow", device=str(ALICE), note="")
        self.assertIsNone(self.listed(here=False)[0]["month_bytes"])
        self.realm.use_limits(Limits(device_bytes_per_month=1000))
        self.assertTrue(self.realm.meter.spend(ALICE, 10))
        self.assertEqual(10, self.listed(here=False)[0]["month_bytes"])
        self.assertEqual(10, self.ask("stats")["month_bytes"])

    def test_many_are_told_page_by_page(self) -> None:
        self.commands = Operations(self.service, self.factory, page=3).by_name()
        for number in range(8):
            self.ask("allow", device=str(DeviceID.of_key(b"%d" % number)), note="")
        found = self.listed(here=False)
        self.assertEqual(8, len({device["device_id"] for device in found}))

    def listed(self, *, here: bool) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more, after = True, ""
        while more:
            answer = self.ask("devices", here=here, after=after)
            self.assertLessEqual(len(answer["devices"]), 3)
            found += answer["devices"]
            more, after = answer["more"], found[-1]["device_id"] if found else ""
        return found


class NumbersTests(OperationsTestCase):
    def test_the_groups_with_what_they_take(self) -> None:
        group = DeviceID.of_key(b"garden")
        self.store.put_group(GroupRecord(group, 3, bytes(32), ALICE, 20_000), lambda ok: None)
        self.begin(Mode.OPEN)
        tables = Tables(self.service.state / STORE_FILE)
        values = [
            Change(1, b"a" * 32, bytes(32), bytes(32), b"sealed"),
            Change(2, b"b" * 32, bytes(32), bytes(32), b"sealed too"),
            Change(3, b"a" * 32, bytes(32), bytes(32), b"gone", deleted=True),
        ]
        tables.add(Addition(group, values, 777, emptied=[1]))
        tables.commit()
        tables.close()
        (found,) = self.ask("groups")["groups"]
        self.assertEqual(
            {
                "group_id": str(group),
                "epoch": 3,
                "members_here": 0,
                "values": 1,
                "stored_bytes": 777,
                "maker": str(ALICE),
                "last_used": "2024-10-04",
            },
            found,
        )

    def test_what_the_realm_counts_and_affords(self) -> None:
        self.come(ALICE, self.token_of(self.invite()))
        self.come(BOB)
        self.clock.advance(5)
        stats = self.ask("stats")
        self.assertEqual(5.0, stats["uptime_seconds"])
        self.assertEqual(
            (1, 1, 0), (stats["devices_here"], stats["devices_allowed"], stats["invitations"])
        )
        self.assertEqual({"allowed": 1024, "needed": 4096}, stats["open_files"])
        self.assertEqual({"not_invited": 1}, stats["counters"]["refused_connections"])
        self.assertEqual(10_000, stats["limits"]["connections"])
        self.assertEqual([str(ADDRESS)], stats["addresses"])

    def test_a_reload_tells_what_counts_now(self) -> None:
        self.assertEqual({"changed": ["access"], "restart": ["listen"]}, self.ask("reload"))


class BackupTests(OperationsTestCase):
    """The copy is there as long as somebody waits."""

    def setUp(self) -> None:
        super().setUp()
        Tables(self.service.state / STORE_FILE).close()
        self.answers: DeferredQueue[Any] = DeferredQueue()

    def test_it_goes_with_the_answer(self) -> None:
        asked = self.begun("backup", answers=self.answers)
        (event,) = self.events
        copy = self.service.state / event["snapshot"]
        self.assertEqual(0o600, copy.stat().st_mode & 0o777)
        Tables(copy).close()
        self.answers.put(True)
        self.assertEqual({}, self.successResultOf(asked))
        self.assertFalse(copy.exists())

    def test_it_goes_with_whoever_has_asked(self) -> None:
        asked = self.begun("backup", answers=self.answers)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse((self.service.state / self.events[0]["snapshot"]).exists())

    def test_one_that_fails_leaves_nothing(self) -> None:
        (self.service.state / STORE_FILE).unlink()
        self.assertIn("cannot be copied", self.refused("backup", answers=self.answers))
        self.assertEqual([], list(self.service.state.iterdir()))
