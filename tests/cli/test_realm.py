"""``abst realm``: what is asked, what is said of what came of it, and what is never shown."""

from __future__ import annotations

import json
from typing import Any, Final

from abst.errors import Code, explain
from tests.cli.asking import AskingTestCase

PIN: Final = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
INVITATION: Final = "oKGio6SlpqeoqaqrrK2urw"
ADDRESS: Final = f"abst://realm.test:42278/?pin={PIN}"
LINK: Final = f"{ADDRESS}&invitation={INVITATION}"


def answer(**fields: Any) -> dict[str, Any]:
    """Return what the agent answers when a realm is added."""
    usual = {"up": True, "problem": None, "refused": False, "code": None}
    return {"realm": ADDRESS, **usual, "known": False, "invited": True, **fields}


def refused(code: Code, **fields: Any) -> dict[str, Any]:
    """Return the same when the realm has refused the device."""
    return answer(up=False, problem=explain(code), refused=True, code=str(code), **fields)


class AddTests(AskingTestCase):
    """Adding a realm."""

    def test_the_realm_accepts_this_device(self) -> None:
        out, said = self.result(answer(), "realm", "add", LINK)
        self.assertEqual((f"added {ADDRESS}\nconnected\n", ""), (out, said))
        self.assertEqual({"command": "realm_add", "realm": LINK}, self.asked())

    def test_a_link_from_a_qr_code_or_a_letter(self) -> None:
        self.result(answer(), "realm", "add", f"  {LINK.replace('abst:', 'ABST:', 1)}\n")
        self.assertEqual(LINK, self.asked()["realm"])

    def test_the_realm_is_not_there_yet(self) -> None:
        problem = "realm.test:42278 refused the connection: is the realm running?"
        out, said = self.result(answer(up=False, problem=problem), "realm", "add", LINK)
        self.assertEqual(f"added {ADDRESS}\n", out)
        self.assertEqual(f"not connected: {problem}; it goes on trying\n", said)

    def test_nothing_is_known_yet(self) -> None:
        _, said = self.result(answer(up=False, problem="not connected yet"), "realm", "add", LINK)
        self.assertEqual("not connected yet; it goes on trying\n", said)

    def test_the_realm_refuses(self) -> None:
        for code, words in (
            (Code.NOT_INVITED, "invitation: 'abst-realm invite' makes one"),
            (Code.WRONG_INVITATION, "a new one: 'abst-realm invite' makes one"),
            (Code.NOT_LISTED, "which 'abst id' shows"),
            (Code.REVOKED, "has shut this device out"),
        ):
            status, out, said = self.abst([{"result": refused(code)}], "realm", "add", LINK)
            self.assertEqual((1, f"added {ADDRESS}\n"), (status, out))
            self.assertTrue(said.startswith("abst: "), said)
            self.assertEqual(1, said.count("\n"), said)
            self.assertIn(words, said)
            self.assertIn("the realm stays added", said)
            is_for_want_of_one = code in (Code.NOT_INVITED, Code.WRONG_INVITATION)
            self.assertEqual(is_for_want_of_one, "'abst realm add LINK'" in said)

    def test_a_realm_that_is_known_gets_the_new_invitation(self) -> None:
        out, _ = self.result(answer(known=True), "realm", "add", LINK)
        self.assertEqual(f"known already, and has the new invitation: {ADDRESS}\nconnected\n", out)

    def test_a_realm_that_is_known(self) -> None:
        out, _ = self.result(answer(known=True, invited=False), "realm", "add", ADDRESS)
        self.assertEqual(f"known already: {ADDRESS}\nconnected\n", out)

    def test_an_agent_of_an_earlier_version_still_runs(self) -> None:
        for option in ((), ("--json",)):
            out, said = self.result({"realm": ADDRESS}, "realm", "add", ADDRESS, *option)
            self.assertIn(ADDRESS, out)
            self.assertEqual("", said)

    def test_json_has_the_same_status(self) -> None:
        for result, expected in ((answer(), 0), (refused(Code.REVOKED), 1)):
            status, out, said = self.abst([{"result": result}], "realm", "add", LINK, "--json")
            self.assertEqual((expected, result, ""), (status, json.loads(out), said))

    def test_what_is_no_link_is_not_shown_whole(self) -> None:
        for wrong in (LINK + "x", LINK.replace("pin", "pim"), LINK.replace("&", " &")):
            status, out, said = self.abst([], "realm", "add", wrong)
            self.assertEqual((2, ""), (status, out))
            self.assertIn("LINK", said)
            self.assertNotIn(INVITATION[:8], said)


class ListTests(AskingTestCase):
    """How realms stand."""

    def test_each_says_what_to_do(self) -> None:
        realms = [answer(), refused(Code.NOT_LISTED)]
        out, _ = self.result({"realms": realms}, "realm", "list")
        up, down = out.splitlines()
        self.assertEqual(f"{ADDRESS}  connected", up)
        self.assertTrue(down.startswith(f"{ADDRESS}  not connected: "), down)
        self.assertIn("for 'abst-realm allow'", down)

    def test_removing_one_by_its_link_shows_no_secret(self) -> None:
        error = {"error": "'abst://realm.test:42278/' means no realms"}
        status, _, said = self.abst([error], "realm", "remove", LINK)
        self.assertEqual(1, status)
        self.assertNotIn(INVITATION, said)
