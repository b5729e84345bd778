"""A device at a realm that does not let everybody in: invitations, refusals, and their end."""

from __future__ import annotations

from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory
from abst.device.connect_problem import lasting_refusal
from abst.device.link import NOT_YET, RealmLink
from abst.errors import AbstError, Code, RealmRefusedError, WrongKeyError
from abst.realm.access import Mode
from abst.realm.store.interface import AccessChange, Done
from abst.realm.store.memory import MemoryStore
from abst.testing import MemoryNetwork
from tests.device.test_link import ALICE, BOB, OTHER, RealTestCase, Watcher
from tests.device.test_pairing_attempt import Person

WRONG: Final = "oKGio6SlpqeoqaqrrK2urw"
"""An invitation that no realm has made."""


def ignore(is_kept: bool) -> None:
    assert is_kept


class FailingStore(MemoryStore):
    """A store that answers later that it could keep nothing, while its disk is full."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self._waiting: list[Done] = []

    def change_access(self, change: AccessChange, done: Done) -> None:
        if self.is_full:
            self._waiting.append(done)
        else:
            super().change_access(change, done)

    def fail(self) -> None:
        """Answer."""
        waiting, self._waiting = self._waiting, []
        for done in waiting:
            done(False)


class RefusalTests(SynchronousTestCase):
    """Which refusals last."""

    def test_some_need_somebody_and_some_pass(self) -> None:
        for code in (Code.NOT_INVITED, Code.WRONG_INVITATION, Code.NOT_LISTED, Code.REVOKED):
            problem = RealmRefusedError(str(code))
            self.assertIs(problem, lasting_refusal(problem))
        for code in (Code.REALM_FULL, Code.RESTARTING, Code.REPLACED, Code.TOO_MANY_CONNECTIONS):
            self.assertIsNone(lasting_refusal(RealmRefusedError(str(code))))
        wrong_key = WrongKeyError("the realm", "a", "b")
        self.assertIs(wrong_key, lasting_refusal(wrong_key))
        self.assertIsNone(lasting_refusal(RealmRefusedError("of-tomorrow")))
        self.assertIsNone(lasting_refusal(AbstError("the network is down")))


class InvitationTests(RealTestCase):
    """A real realm that lets in who was invited."""

    async def invited(self, uses: int = 1) -> tuple[RealmAddress, str]:
        """Start a realm; return its address, and an invitation."""
        address = await self.serve(access=Mode.INVITED)
        invitation = self.factory.realm.access.invite(uses, None, "", ignore)
        return address, invitation.text

    def link_with(self, address: RealmAddress, invitation: str | None) -> tuple[RealmLink, Watcher]:
        link = RealmAddress(address.host, address.port, address.pin, invitation)
        return self.link(link)

    def tries(self) -> list[float]:
        """Return in how many seconds whatever waits goes on."""
        now = self.reactor.seconds()
        return [call.getTime() - now for call in self.reactor.getDelayedCalls()]

    async def test_an_invitation_lets_a_device_in_for_good(self) -> None:
        address, invitation = await self.invited()
        link, _ = self.link_with(address, invitation)
        self.assertEqual(invitation, link.invitation)
        await self.until(lambda: link.is_up)
        self.assertIsNone(link.invitation)
        await link.stop()
        # It is on the list now, and needs none.
        again, _ = await self.linked(address)
        self.assertTrue(again.is_up)

    async def test_without_one_it_is_told_what_to_do_and_waits_a_minute(self) -> None:
        address, _ = await self.invited()
        link, watcher = self.link(address)
        await self.until(lambda: watcher.problems)
        (problem,) = watcher.problems
        assert isinstance(problem, RealmRefusedError)
        self.assertEqual(Code.NOT_INVITED, problem.code)
        self.assertEqual(60, problem.retry_after_seconds)
        self.assertIs(problem, link.refusal)
        self.assertIn("'abst-realm invite' makes one", str(link.problem))
        await self.until(lambda: any(59 < seconds < 61 for seconds in self.tries()))
        self.assertEqual(1, len(watcher.problems))

    async def test_a_wrong_one_is_told_and_kept(self) -> None:
        address, _ = await self.invited()
        link, watcher = self.link_with(address, WRONG)
        await self.until(lambda: watcher.problems)
        assert isinstance(link.refusal, RealmRefusedError)
        self.assertEqual(Code.WRONG_INVITATION, link.refusal.code)
        self.assertEqual(WRONG, link.invitation)

    async def test_a_new_one_is_shown_at_once(self) -> None:
        """Nobody who has just been given an invitation waits for a minute."""
        address, invitation = await self.invited()
        link, watcher = self.link(address)
        await self.until(lambda: watcher.problems)
        link.invite(invitation)
        self.assertEqual((NOT_YET, None), (link.problem, link.refusal))
        await self.until(lambda: link.is_up)
        self.assertEqual((None, None), (link.invitation, link.refusal))
        self.assertEqual(1, len(watcher.problems))

    async def test_one_that_comes_while_it_connects_is_the_one_that_is_shown(self) -> None:
        address, invitation = await self.invited()
        link, watcher = self.link_with(address, WRONG)
        link.invite(invitation)
        await self.until(lambda: link.is_up)
        self.assertEqual([], watcher.problems)

    async def test_one_for_a_link_that_is_up_is_kept_for_the_next_connection(self) -> None:
        address, invitation = await self.invited(uses=2)
        link, watcher = self.link_with(address, invitation)
        await self.until(lambda: link.is_up)
        link.invite(invitation)
        self.assertTrue(link.is_up)
        self.assertEqual(invitation, link.invitation)
        self.drop_all()
        await self.until(lambda: watcher.told == ["up", "down", "up"])
        self.assertIsNone(link.invitation)

    async def test_a_device_that_is_shut_out_is_told_at_once(self) -> None:
        address, invitation = await self.invited()
        link, watcher = self.link_with(address, invitation)
        await self.until(lambda: link.is_up)
        self.factory.realm.access.revoke(bytes(ALICE.device_id), ignore)
        self.factory.settle()
        await self.until(lambda: watcher.problems)
        assert isinstance(link.refusal, RealmRefusedError)
        self.assertEqual(Code.REVOKED, link.refusal.code)
        self.assertEqual(["up", "down"], watcher.told)
        await self.until(lambda: any(59 < seconds < 61 for seconds in self.tries()))

    async def test_one_whose_taking_the_realm_cannot_keep_is_shown_again(self) -> None:
        store = FailingStore()
        address = await self.serve(access=Mode.INVITED, store=store)
        invitation = self.factory.realm.access.invite(1, None, "", ignore).text
        store.is_full = True
        link, watcher = self.link_with(address, invitation)
        await self.until(lambda: link.is_up)
        self.assertIsNone(link.invitation)
        store.fail()
        self.factory.settle()
        await self.until(lambda: watcher.problems)
        assert isinstance(link.refusal, RealmRefusedError)
        self.assertEqual(Code.NOT_INVITED, link.refusal.code)
        self.assertEqual(invitation, link.invitation)
        store.is_full = False
        link.network_changed()
        await self.until(lambda: link.is_up)
        self.assertIsNone(link.invitation)

    async def test_what_is_wrong_now_takes_the_place_of_an_earlier_refusal(self) -> None:
        address, _ = await self.invited()
        link, _ = self.link(address)
        await self.until(lambda: link.refusal)
        await self.stop_listening()
        link.network_changed()
        await self.until(lambda: "is the realm running?" in str(link.problem))
        self.assertIsNone(link.refusal)

    async def test_a_wrong_key_lasts_too(self) -> None:
        address = await self.serve()
        link, watcher = self.link(RealmAddress(address.host, address.port, OTHER.pin))
        await self.until(lambda: watcher.problems)
        self.assertIsInstance(link.refusal, WrongKeyError)


class HooksFactory(DeviceFactory):
    """An application that wants to hear how its realms stand."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def realmConnectionMade(self, realm: RealmAddress) -> None:
        self.heard.append(realm)
        raise RuntimeError("a mistake in an application")

    def realmConnectionFailed(self, realm: RealmAddress, problem: AbstError) -> None:
        self.heard.append(problem)


class DeviceTests(RealTestCase):
    """A device with two realms, one of which does not let it in."""

    async def test_the_other_realm_goes_on_and_the_application_hears_it(self) -> None:
        open_realm = await self.serve()
        closed_realm = await self.serve(access=Mode.LISTED)
        invitation = RealmAddress(closed_realm.host, closed_realm.port, closed_realm.pin, WRONG)
        factory = HooksFactory()
        device = Device(self.reactor, BOB, factory, realms=[invitation, open_realm])
        self.assertEqual(WRONG, device.realms[0].invitation)
        self.assertEqual([None, None], [address.invitation for address in device.links])
        device.startService()
        try:
            await self.until(lambda: len(factory.heard) == 2)
            (refusal,) = (heard for heard in factory.heard if heard != open_realm)
            self.assertEqual("not_listed", refusal.code)
            self.assertIn(open_realm, factory.heard)
            (up,) = device.links_up()
            self.assertEqual(open_realm, up.path.realm)
            told = device.own_hello(bytes(16), 0, paired=True, pairing=False).realms
            self.assertEqual([str(closed_realm), str(open_realm)], told)
            self.assertNotIn(WRONG, repr(device.links) + device.why_no_realm())
        finally:
            await device.stopService()
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    async def test_a_realm_that_is_added_again_gets_the_new_invitation(self) -> None:
        address = await self.serve(access=Mode.INVITED)
        device = Device(self.reactor, BOB, DeviceFactory(), realms=[address])
        device.startService()
        try:
            link = device.links[address]
            await self.until(lambda: link.refusal)
            made = self.factory.realm.access.invite(1, None, "", ignore)
            device.addRealm(RealmAddress(address.host, address.port, address.pin, made.text))
            self.assertEqual([link], list(device.links.values()))
            await self.until(lambda: link.is_up)
            self.assertIsNone(device.realms[0].invitation)
        finally:
            await device.stopService()


class MemoryTests(SynchronousTestCase):
    """The same in memory, as an application tests it."""

    def test_who_is_let_in_nowhere_is_told_so_instead_of_pairing(self) -> None:
        """The link to pair with names a realm, and has no invitation in it."""
        network = MemoryNetwork()
        network.realm.realm.access.set_mode(Mode.LISTED)
        for lan, seconds in ((None, 3), (network.lan().port(), 70)):
            device = network.device("alice", DeviceFactory(), lan=lan)
            person = Person()
            device.open_pairing(person)
            network.advance(seconds)
            self.assertIsInstance(person.outcome, AbstError)
            self.assertIn("not paired, since no realm can be used", str(person.outcome))
            self.assertIn("for 'abst-realm allow'", str(person.outcome))
            network.kill(device)

    def test_a_device_is_refused_until_it_has_an_invitation(self) -> None:
        network = MemoryNetwork()
        access = network.realm.realm.access
        access.set_mode(Mode.INVITED)
        factory = HooksFactory()
        device = network.device("alice", factory)
        network.advance(1)
        (refusal,) = factory.heard
        (link,) = device.links.values()
        self.assertEqual(Code.NOT_INVITED, refusal.code)
        self.assertIs(refusal, link.refusal)
        network.advance(58)
        self.assertEqual([refusal], factory.heard)
        invitation = access.invite(1, None, "", ignore).text
        device.addRealm(RealmAddress(network.realm.address.host, invitation=invitation))
        self.assertEqual(invitation, device.realms[0].invitation)
        network.settle()
        self.assertTrue(link.is_up)
        self.assertEqual((None, None), (link.refusal, link.invitation))
        self.assertEqual(network.realm.address, factory.heard[-1])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
