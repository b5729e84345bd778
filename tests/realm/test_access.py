"""Who may use a realm: the modes, the list, the invitations, and what of it lasts."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from abst.device_id import DeviceID
from abst.errors import AbstError, Code
from abst.realm import access as access_module
from abst.realm.access import Access, Invitation, Mode
from abst.realm.store.interface import AccessChange, DeviceRecord, Done, InvitationRecord, Store
from abst.realm.store.memory import MemoryStore
from abst.realm.store.sqlite import SqliteStore
from tests.realm.group_members import SlowStore
from tests.realm.memory_realm import ALICE, BOB, CAROL
from tests.realm.values.stage import Turns

DAY = 86400
NOON = 20_000.5 * DAY


def ignore(is_kept: bool) -> None:
    """Take an answer that the test does not look at."""


class AccessCase(SynchronousTestCase):
    """A realm's list, and the time."""

    mode = Mode.INVITED

    def setUp(self) -> None:
        self.wall = NOON
        self.store: Any = SlowStore()
        self.store.is_slow = False
        self.access = self.open(self.mode)

    def open(self, mode: Mode, store: Store | None = None) -> Access:
        """Return what a realm knows that begins with a store."""
        access = Access(mode, store or self.store, lambda: self.wall, os.urandom)
        self.revoked: list[bytes] = []
        self.not_kept: list[bytes] = []
        self.came: list[bytes] = []
        access.revoked = self.revoked.append
        access.not_kept = self.not_kept.append
        access.came = lambda record: self.came.append(record.device)
        return access

    def invite(self, uses: int = 1, seconds: int | None = None) -> Invitation:
        expires = None if seconds is None else int(self.wall) + seconds
        return self.access.invite(uses, expires, "for the cellar", ignore)

    def names(self) -> list[str]:
        return [record.name for record in self.access.invitations()]


class ModeTests(AccessCase):
    def test_an_open_realm_lets_in_everybody_who_was_not_revoked(self) -> None:
        access = self.open(Mode.OPEN)
        self.assertIsNone(access.admit(ALICE, None))
        access.revoke(ALICE, ignore)
        self.assertEqual(Code.REVOKED, access.admit(ALICE, None))
        self.assertIsNone(access.admit(BOB, "whatever it is"))
        self.assertEqual([ALICE], [record.device for record in access.devices()])

    def test_where_invitations_are_taken_one_is_needed(self) -> None:
        self.assertEqual(Code.NOT_INVITED, self.access.admit(ALICE, None))
        self.assertEqual(Code.WRONG_INVITATION, self.access.admit(ALICE, ""))
        self.access.allow(ALICE, "", ignore)
        self.assertIsNone(self.access.admit(ALICE, None))
        self.assertFalse(self.access.is_admitted(BOB))

    def test_a_list_takes_no_invitation_and_spends_none(self) -> None:
        invitation = self.invite()
        self.access.set_mode(Mode.LISTED)
        self.assertEqual(Code.NOT_LISTED, self.access.admit(ALICE, invitation.text))
        self.assertEqual(Code.NOT_LISTED, self.access.admit(ALICE, None))
        self.access.allow(BOB, "", ignore)
        self.assertIsNone(self.access.admit(BOB, None))
        self.assertEqual([invitation.record], self.access.invitations())

    def test_another_mode_reports_who_may_not_be_here_any_more(self) -> None:
        access = self.open(Mode.OPEN)
        access.allow(ALICE, "", ignore)
        access.present = lambda: {ALICE, BOB, CAROL}
        access.own_devices.add(bytes(CAROL))
        access.set_mode(Mode.LISTED)
        self.assertEqual([BOB], self.revoked)
        self.assertIs(Mode.LISTED, access.mode)

    def test_the_realms_own_devices_may_always_be_here(self) -> None:
        self.access.own_devices.add(bytes(ALICE))
        for mode in Mode:
            self.access.set_mode(mode)
            self.assertIsNone(self.access.admit(ALICE, None))
        self.assertEqual([], self.access.devices())


class ListTests(AccessCase):
    def test_revoking_reports_the_device_and_allowing_ends_it(self) -> None:
        self.access.allow(ALICE, "the cellar", ignore)
        self.access.admit(ALICE, None)
        self.wall += 5
        self.access.revoke(ALICE, ignore)
        self.assertEqual([ALICE], self.revoked)
        self.assertEqual(Code.REVOKED, self.access.admit(ALICE, self.invite().text))
        since, seen = int(NOON) + 5, int(NOON // DAY)
        self.assertEqual(
            [DeviceRecord(ALICE, False, since, seen, "", "the cellar")], self.access.devices()
        )
        self.access.allow(ALICE, "again", ignore)
        self.assertIsNone(self.access.admit(ALICE, None))
        self.assertEqual(
            [DeviceRecord(ALICE, True, since, seen, "", "again")], self.access.devices()
        )

    def test_a_device_that_is_allowed_again_keeps_its_note(self) -> None:
        self.access.admit(ALICE, self.invite().text)
        self.access.revoke(ALICE, ignore)
        self.access.allow(ALICE, "", ignore)
        self.assertEqual(["for the cellar"], [it.note for it in self.access.devices()])

    def test_a_device_that_was_never_here_can_be_revoked(self) -> None:
        self.access.revoke(ALICE, ignore)
        self.assertEqual(Code.REVOKED, self.access.admit(ALICE, None))

    def test_the_day_on_which_a_device_was_here_is_kept_once(self) -> None:
        self.access.allow(ALICE, "", ignore)
        self.assertEqual(0, self.access.devices()[0].seen)
        changes: list[AccessChange] = []
        keep = self.store.change_access

        def note(change: AccessChange, done: Done) -> None:
            changes.append(change)
            keep(change, done)

        self.store.change_access = note
        for _ in range(3):
            self.access.admit(ALICE, None)
        self.wall += DAY
        self.access.admit(ALICE, None)
        self.wall -= 3 * DAY
        self.access.admit(ALICE, None)
        self.assertEqual([20_000, 20_001], [change.devices[0].seen for change in changes])
        self.assertEqual(20_001, self.open(self.mode).devices()[0].seen)

    def test_a_disk_that_does_not_take_the_day_is_asked_once(self) -> None:
        self.access.allow(ALICE, "", ignore)
        asked: list[AccessChange] = []

        def fail(change: AccessChange, done: Done) -> None:
            asked.append(change)
            done(False)

        self.store.change_access = fail
        for day in (1, 2):
            self.wall += DAY
            for _ in range(3):
                self.assertIsNone(self.access.admit(ALICE, None))
            self.assertEqual(day, len(asked))
        self.assertEqual([], self.not_kept)

    def test_a_note_that_cannot_be_kept_is_refused(self) -> None:
        for note in ("x" * (access_module.MAX_NOTE_CHARACTERS + 1), "half of \udc80 a letter"):
            self.assertRaises(ValueError, self.access.allow, ALICE, note, ignore)
            self.assertRaises(ValueError, self.access.invite, 1, None, note, ignore)
        self.assertEqual([], self.access.devices())


class InvitationTests(AccessCase):
    def test_it_puts_a_device_on_the_list_once(self) -> None:
        invitation = self.invite(uses=2)
        for _ in range(3):
            self.assertIsNone(self.access.admit(ALICE, invitation.text))
        self.assertEqual([ALICE], self.came)
        (record,) = self.access.devices()
        day = int(NOON // DAY)
        self.assertEqual(
            DeviceRecord(
                ALICE, True, int(NOON), day, invitation.record.name, invitation.record.note
            ),
            record,
        )
        self.assertEqual([1], [it.uses_left for it in self.access.invitations()])
        self.assertIsNone(self.access.admit(BOB, invitation.text))
        self.assertEqual(Code.WRONG_INVITATION, self.access.admit(CAROL, invitation.text))
        self.assertIsNone(self.access.admit(ALICE, invitation.text))
        self.assertEqual([], self.access.invitations())

    def test_0_is_any_number(self) -> None:
        invitation = self.invite(uses=0)
        for number in range(20):
            device = DeviceID.of_key(b"%d" % number)
            self.assertIsNone(self.access.admit(device, invitation.text))
        self.assertEqual([invitation.record], self.access.invitations())

    def test_its_time_ends(self) -> None:
        invitation = self.invite(seconds=60)
        self.wall += 59
        self.assertIsNone(self.access.admit(ALICE, invitation.text))
        invitation = self.invite(seconds=60)
        self.wall += 60
        self.assertEqual(Code.WRONG_INVITATION, self.access.admit(BOB, invitation.text))
        self.assertEqual([], self.access.invitations())
        self.assertIsNone(self.access.admit(ALICE, None))

    def test_those_whose_time_is_over_are_forgotten_with_the_next(self) -> None:
        self.invite(seconds=60)
        self.wall += 60
        invitation = self.invite()
        self.assertEqual([invitation.record], list(self.store.invitations()))

    def test_withdrawing_lets_in_nobody_more(self) -> None:
        invitation = self.invite(uses=0)
        self.access.admit(ALICE, invitation.text)
        self.assertTrue(self.access.withdraw(invitation.record.name, ignore))
        self.assertFalse(self.access.withdraw(invitation.record.name, ignore))
        self.assertEqual(Code.WRONG_INVITATION, self.access.admit(BOB, invitation.text))
        self.assertIsNone(self.access.admit(ALICE, None))

    def test_every_letter_counts(self) -> None:
        invitation = self.invite(uses=0)
        text = invitation.text
        self.assertRegex(text, r"\A[A-Za-z0-9_-]{22}\Z")
        near = {
            text[:at] + other + text[at + 1 :]
            for at in range(len(text))
            for other in "AQgw-"
            if other != text[at]
        }
        for wrong in (
            *near,
            text[:-1],
            text + "=",
            text + "A",
            text.swapcase(),
            "\ud800",
            "x" * 200,
        ):
            self.assertEqual(Code.WRONG_INVITATION, self.access.admit(ALICE, wrong), wrong)
        self.assertIsNone(self.access.admit(ALICE, text))

    def test_nothing_but_a_hash_of_it_is_kept(self) -> None:
        invitation = self.invite()
        self.assertEqual(
            hashlib.sha256(invitation.text.encode()).digest(), invitation.record.digest
        )
        self.assertRegex(invitation.record.name, r"\A[a-z]{6}\Z")
        kept = repr(vars(self.access)) + repr(vars(self.store))
        self.assertIn(invitation.record.name, kept)
        self.assertNotIn(invitation.text, kept)

    def test_two_have_different_names_and_texts(self) -> None:
        invitations = [self.invite() for _ in range(50)]
        self.assertEqual(50, len({it.text for it in invitations}))
        self.assertEqual(50, len(set(self.names())))
        devices = [DeviceID.of_key(b"%d" % number) for number in range(50)]
        for device, invitation in zip(devices, invitations, strict=True):
            self.assertIsNone(self.access.admit(device, invitation.text))
        self.assertEqual([], self.access.invitations())

    def test_there_is_an_end_to_both(self) -> None:
        many = [
            InvitationRecord(f"i{number}", bytes([1]) * 32, 1, 0)
            for number in range(access_module.MAX_INVITATIONS)
        ]
        crowd = [
            DeviceRecord(number.to_bytes(16, "big"), True, 0)
            for number in range(access_module.MAX_DEVICES - 1)
        ]
        self.store.change_access(AccessChange(crowd, many[1:]), ignore)
        self.access = self.open(Mode.INVITED)
        invitation = self.invite(uses=0)
        self.assertRaises(AbstError, self.invite)
        self.assertIsNone(self.access.admit(ALICE, invitation.text))
        self.assertEqual(Code.REALM_FULL, self.access.admit(BOB, invitation.text))
        self.assertFalse(self.access.is_admitted(BOB))

    def test_a_number_of_uses_is_none_below_0(self) -> None:
        self.assertRaises(ValueError, self.access.invite, -1, None, "", ignore)


class DiskTests(AccessCase):
    """What is in force before it is kept, and what is left of it when it never is."""

    def setUp(self) -> None:
        super().setUp()
        self.heard: list[bool] = []

    def again(self) -> Access:
        """Return what a realm knows that is started with what is on the disk now."""
        return Access(self.mode, self.store, lambda: self.wall, os.urandom)

    def test_a_device_is_in_at_once_and_on_the_disk_with_its_use_or_not_at_all(self) -> None:
        invitation = self.invite()
        self.store.is_slow = True
        self.assertIsNone(self.access.admit(ALICE, invitation.text))
        self.assertTrue(self.access.is_admitted(ALICE))
        self.assertEqual([], self.came)
        killed = self.again()
        self.assertFalse(killed.is_admitted(ALICE))
        self.assertEqual([invitation.record], killed.invitations())
        self.store.answer_access()
        self.assertEqual([ALICE], self.came)
        killed = self.again()
        self.assertTrue(killed.is_admitted(ALICE))
        self.assertEqual([], killed.invitations())

    def test_what_the_disk_does_not_take_lets_nobody_in_and_spends_nothing(self) -> None:
        invitation = self.invite()
        self.store.is_slow = True
        self.access.admit(ALICE, invitation.text)
        self.assertEqual(Code.WRONG_INVITATION, self.access.admit(BOB, invitation.text))
        self.store.answer_access(is_kept=False)
        self.assertEqual([ALICE], self.not_kept)
        self.assertEqual([], self.came)
        self.assertFalse(self.access.is_admitted(ALICE))
        self.assertEqual([invitation.record], self.access.invitations())
        self.assertIsNone(self.access.admit(BOB, invitation.text))

    def test_a_disk_that_fails_at_once_is_no_way_in(self) -> None:
        invitation = self.invite()
        self.store.change_access = lambda change, done: done(False)
        self.assertEqual(Code.NOT_INVITED, self.access.admit(ALICE, invitation.text))
        self.assertEqual([ALICE], self.not_kept)
        self.assertFalse(self.access.is_admitted(ALICE))

    def test_what_the_operator_asks_for_is_undone_but_for_a_revocation(self) -> None:
        kept = self.invite()
        self.access.allow(BOB, "", ignore)
        self.store.is_slow = True
        self.access.allow(ALICE, "", self.heard.append)
        self.access.revoke(BOB, self.heard.append)
        self.access.invite(0, None, "", self.heard.append)
        self.access.withdraw(kept.record.name, self.heard.append)
        for _ in range(4):
            self.store.answer_access(is_kept=False)
        self.assertEqual([False] * 4, self.heard)
        self.assertFalse(self.access.is_admitted(ALICE))
        self.assertEqual(Code.REVOKED, self.access.refusal_of(BOB))
        self.assertEqual([kept.record], self.access.invitations())
        self.assertTrue(self.again().is_admitted(BOB))

    def test_a_revocation_that_is_not_kept_stays_until_the_device_is_allowed(self) -> None:
        self.access.allow(BOB, "", ignore)
        self.store.is_slow = True
        self.access.revoke(BOB, ignore)
        self.store.answer_access(is_kept=False)
        self.access.allow(BOB, "", ignore)
        self.store.answer_access(is_kept=False)
        self.assertEqual(Code.REVOKED, self.access.refusal_of(BOB))
        self.access.allow(BOB, "", ignore)
        self.store.answer_access()
        self.assertTrue(self.access.is_admitted(BOB))
        self.access.allow(BOB, "another note", ignore)
        self.store.answer_access(is_kept=False)
        self.assertTrue(self.access.is_admitted(BOB))

    def test_the_newer_word_counts_while_both_are_on_their_way(self) -> None:
        self.store.is_slow = True
        self.access.allow(ALICE, "", ignore)
        self.access.revoke(ALICE, ignore)
        self.store.answer_access()
        self.assertEqual(Code.REVOKED, self.access.refusal_of(ALICE))
        self.store.answer_access()
        self.assertEqual(Code.REVOKED, self.access.refusal_of(ALICE))
        self.assertEqual(Code.REVOKED, self.again().refusal_of(ALICE))

    def test_what_is_refused_at_once_undoes_nothing_that_was_asked_for_before(self) -> None:
        self.store.is_slow = True
        for device in (ALICE, BOB):
            self.access.allow(device, "", ignore)
        self.store.change_access = lambda change, done: done(False)
        self.access.allow(ALICE, "another note", ignore)
        self.access.revoke(BOB, ignore)
        self.assertTrue(self.access.is_admitted(ALICE))
        self.assertEqual(Code.REVOKED, self.access.refusal_of(BOB))
        for _ in range(2):
            self.store.answer_access()
        self.access.allow(BOB, "", ignore)
        self.assertTrue(self.access.is_admitted(ALICE))
        self.assertEqual(Code.REVOKED, self.access.refusal_of(BOB))


DEVICES = [bytes(DeviceID.of_key(b"device %d" % number)) for number in range(4)]
devices = st.sampled_from(DEVICES)


class AccessMachine(RuleBasedStateMachine):
    """Whatever is asked for, and whatever the disk takes of it.

    A device that was revoked is refused until somebody has allowed it since. An invitation lets in
    no more devices than it should. Once the disk has answered, a realm that begins anew knows what
    this one does, but for revocations that were not kept.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wall = NOON
        self.store = self.make_store()
        self.invitations: dict[str, tuple[Invitation, int]] = {}
        self.shut_out: set[bytes] = set()
        self.access = self.begin()

    def make_store(self) -> Any:
        return SlowStore()

    def answer(self, is_kept: bool) -> None:
        if self.store.waiting_access:
            self.store.answer_access(is_kept=is_kept)

    def reopen(self) -> None:
        """Have a store that knows what the disk does; the test's own does."""

    def begin(self) -> Access:
        return Access(Mode.INVITED, self.store, lambda: self.wall, os.urandom)

    @rule(device=devices, number=st.integers(0, 3), days=st.sampled_from([0, 0, 1]))
    def admit(self, device: bytes, number: int, days: int) -> None:
        self.wall += days * DAY
        texts = [it.text for it, _ in self.invitations.values()]
        before = self.access.is_admitted(device)
        refusal = self.access.admit(device, texts[number] if number < len(texts) else None)
        assert not before or refusal is None
        assert (refusal is None) is self.access.is_admitted(device)

    @rule(uses=st.integers(0, 2), seconds=st.sampled_from([None, DAY]))
    def invite(self, uses: int, seconds: int | None) -> None:
        expires = None if seconds is None else int(self.wall) + seconds
        invitation = self.access.invite(uses, expires, "", ignore)
        self.invitations[invitation.record.name] = invitation, uses

    @rule(number=st.integers(0, 3))
    def withdraw(self, number: int) -> None:
        for name in list(self.invitations)[number : number + 1]:
            self.access.withdraw(name, ignore)

    @rule(device=devices)
    def allow(self, device: bytes) -> None:
        self.access.allow(device, "", ignore)
        self.shut_out.discard(device)

    @rule(device=devices)
    def revoke(self, device: bytes) -> None:
        self.access.revoke(device, ignore)
        self.shut_out.add(device)

    @rule(is_kept=st.sampled_from([True, True, False]))
    def hear_from_the_disk(self, is_kept: bool) -> None:
        # What fails, fails with all that was asked for after it.
        self.answer(is_kept)
        while not is_kept and self.store.waiting_access:
            self.answer(False)

    @rule()
    def begin_anew(self) -> None:
        while self.store.waiting_access:
            self.answer(True)
        self.reopen()
        again = self.begin()
        changes = self.access._decisions._unkept.values()
        unkept = {change.devices[0].device for change in changes}
        for device in DEVICES:
            if device not in unkept:
                assert again._devices.get(device) == self.access._devices.get(device)
        assert again.invitations() == self.access.invitations()
        self.access = again
        self.shut_out -= unkept

    @invariant()
    def who_is_shut_out_stays_out(self) -> None:
        for device in self.shut_out:
            assert self.access.refusal_of(device) is Code.REVOKED

    @invariant()
    def an_invitation_lets_in_no_more_than_it_should(self) -> None:
        for invitation, uses in self.invitations.values():
            name = invitation.record.name
            came = [it for it in self.access.devices() if it.invitation == name]
            assert not uses or len(came) <= uses


class SqliteAccessMachine(AccessMachine):
    """The same with a file, which takes everything."""

    def make_store(self) -> Any:
        self.turns = Turns()
        self.folder = Path(tempfile.mkdtemp())
        return _Waiting(self.turns, self.folder / "groups.db")

    def answer(self, is_kept: bool) -> None:
        self.turns.run_until(lambda: not self.store.waiting_access)

    def reopen(self) -> None:
        self.close()
        self.store = _Waiting(self.turns, self.folder / "groups.db")

    def close(self) -> None:
        closed: list[object] = []
        self.store.close().addCallback(closed.append)
        self.turns.run_until(lambda: closed)

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.folder)


class _Waiting(SqliteStore):
    """A store that can be asked whether something waits."""

    def __init__(self, reactor: Any, path: Path) -> None:
        super().__init__(reactor, path)
        self.waiting_access: list[AccessChange] = []

    def change_access(self, change: AccessChange, done: Any) -> None:
        def answered(is_kept: bool) -> None:
            self.waiting_access.pop(0)
            done(is_kept)

        self.waiting_access.append(change)
        super().change_access(change, answered)


class StateMachineTests(SynchronousTestCase):
    def test_whatever_is_asked_for_and_whatever_the_disk_takes(self) -> None:
        run_state_machine_as_test(
            AccessMachine, settings=settings(max_examples=20, stateful_step_count=30)
        )

    def test_the_same_with_a_file(self) -> None:
        run_state_machine_as_test(
            SqliteAccessMachine, settings=settings(max_examples=5, stateful_step_count=15)
        )


class MemoryStoreTests(SynchronousTestCase):
    def test_a_realm_without_a_disk_keeps_what_it_knows_as_long_as_it_runs(self) -> None:
        access = Access(Mode.INVITED, MemoryStore(), lambda: NOON, os.urandom)
        invitation = access.invite(1, None, "", ignore)
        self.assertIsNone(access.admit(ALICE, invitation.text))
        self.assertTrue(access.is_admitted(ALICE))
