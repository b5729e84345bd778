"""What comes of a realm that is added, where a real realm lets in who was invited."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogEvent, eventAsText, globalLogPublisher

from abst.address import RealmAddress
from abst.identity import Identity
from abst.realm import RealmFactory
from abst.realm.access import Mode
from tests.agent.test_service import ServiceTestCase

HERE: Final = "127.0.0.1"
WRONG: Final = "oKGio6SlpqeoqaqrrK2urw"
"""An invitation that no realm has made."""


def ignore(is_kept: bool) -> None:
    assert is_kept


class RealmCommandsTests(ServiceTestCase):
    """One agent and one realm."""

    async def setUp(self) -> None:  # type: ignore[override]
        super().setUp()
        identity = Identity.generate()
        self.realm = RealmFactory(self.reactor, identity, access=Mode.INVITED)
        endpoint = TCP4ServerEndpoint(self.reactor, 0, interface=HERE)
        self.port: IListeningPort = await endpoint.listen(self.realm)
        host: Any = self.port.getHost()
        self.address = RealmAddress(HERE, host.port, identity.pin)
        self.one = self.home()
        self.service = self.start(self.one)

    async def tearDown(self) -> None:  # type: ignore[override]
        await super().tearDown()
        await self.port.stopListening()  # type: ignore[misc]
        await self.until(lambda: not self.realm.realm.conversations)

    def link(self, invitation: str | None = None) -> str:
        """Return the realm's address with an invitation: a new one, or a given one."""
        if invitation is None:
            invitation = self.realm.realm.access.invite(1, None, "", ignore).text
        return RealmAddress(HERE, self.address.port, self.address.pin, invitation).link

    async def add(self, text: str) -> dict[str, Any]:
        answer = await self.ask(self.one, command="realm_add", realm=text)
        self.assertNotIn("invitation=", str(answer))
        result: dict[str, Any] = answer["result"]
        return result

    def kept(self) -> list[str | None]:
        """Return the invitations that the settings on the disk have."""
        return [realm.invitation for realm in self.one.open()[1].realms]

    async def test_an_invitation_is_answered_and_forgotten(self) -> None:
        link = self.link()
        answer = await self.add(link)
        self.assertEqual(
            {
                "realm": str(self.address),
                "up": True,
                "problem": None,
                "refused": False,
                "code": None,
                "known": False,
                "invited": True,
            },
            answer,
        )
        self.assertEqual([None], self.kept())
        self.assertNotIn("invitation", self.one.settings_file.read_text("utf-8"))

    async def test_a_refusal_is_told_and_shown_from_then_on(self) -> None:
        answer = await self.add(str(self.address))
        self.assertEqual(
            (False, True, "not_invited"), (answer["up"], answer["refused"], answer["code"])
        )
        for command in ("realm_list", "status"):
            (realm,) = (await self.ask(self.one, command=command))["result"]["realms"]
            self.assertEqual("not_invited", realm["code"])
            self.assertIn("'abst-realm invite' makes one", realm["problem"])

    async def test_a_wrong_invitation_is_kept_and_never_shown(self) -> None:
        logged: list[LogEvent] = []
        publisher: Any = globalLogPublisher
        publisher.addObserver(logged.append)
        self.addCleanup(publisher.removeObserver, logged.append)
        answer = await self.add(self.link(WRONG))
        self.assertEqual("wrong_invitation", answer["code"])
        self.assertEqual([WRONG], self.kept())
        self.assertEqual(0o600, self.one.settings_file.stat().st_mode & 0o777)
        for command in ("realm_list", "status"):
            self.assertNotIn(WRONG, str(await self.ask(self.one, command=command)))
        self.assertTrue(
            [event for event in logged if event["log_namespace"].startswith("abst.device")]
        )
        for event in logged:
            self.assertNotIn(WRONG, eventAsText(event) + repr(event))

    async def test_a_new_invitation_for_a_realm_that_is_known(self) -> None:
        await self.add(self.link(WRONG))
        answer = await self.add(self.link())
        self.assertEqual((True, True, True), (answer["known"], answer["invited"], answer["up"]))
        self.assertEqual([None], self.kept())
        again = await self.add(str(self.address))
        self.assertEqual((True, False, True), (again["known"], again["invited"], again["up"]))

    async def test_an_invitation_outlasts_an_agent_that_could_not_show_it(self) -> None:
        await self.port.stopListening()  # type: ignore[misc]
        answer = await self.add(self.link())
        self.assertEqual((False, False), (answer["up"], answer["refused"]))
        self.assertIn("is the realm running?", answer["problem"])
        self.assertEqual(1, len([invitation for invitation in self.kept() if invitation]))
        await self.services.pop().stopService()
        endpoint = TCP4ServerEndpoint(self.reactor, self.address.port, interface=HERE)
        self.port = await endpoint.listen(self.realm)
        self.start(self.one)
        await self.until(lambda: self.kept() == [None])

    async def test_a_realm_is_left_by_its_link_too(self) -> None:
        link = self.link(WRONG)
        await self.add(link)
        other = link.replace("127.0.0.1", "127.0.0.2")
        answer = await self.ask(self.one, command="realm_remove", realm=other)
        self.assertIn("means no realms", answer["error"])
        self.assertNotIn(WRONG, answer["error"])
        broken = other.partition("?")[0] + f"&invitation={WRONG}"
        answer = await self.ask(self.one, command="realm_remove", realm=broken)
        self.assertNotIn(WRONG, answer["error"])
        answer = await self.ask(self.one, command="realm_remove", realm=link)
        self.assertEqual({"realm": str(self.address)}, answer["result"])
        self.assertEqual([], self.kept())
