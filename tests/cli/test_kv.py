"""``abst kv``: what it asks the agent, and what it says."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from abst.cli.kv import MAX_INPUT_BYTES
from tests.cli.asking import BAD, DEVICE_ID, GROUP_ID, SHOWN, AskingTestCase
from tests.cli.fake_agent import run_abst

OF = {"group": "fam", "group_id": GROUP_ID}
STANDING = {"checked_seconds_ago": 0.0, "dishonest": False, "problem": None}
VALUE: dict[str, Any] = {
    "name": "light",
    "size_bytes": 2,
    "revision": 7,
    "writer": BAD,
    "writer_id": DEVICE_ID,
    "written_at": "2026-11-23T12:16:08+00:00",
    "written_seconds_ago": 61.5,
    "ends_at": None,
}
NO_TEXT = b"\xff\x00"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


class SetTests(AskingTestCase):
    SET = {**OF, "name": "light", "revision": 8}

    def value(self) -> bytes:
        return base64.b64decode(self.asked()["value_base64"])

    def test_a_value_as_text(self) -> None:
        out, said = self.result(self.SET, "kv", "fam", "set", "light", "on ☀")
        self.assertEqual(("set light, revision 8\n", ""), (out, said))
        self.assertEqual("on ☀".encode(), self.value())
        asked = {key: value for key, value in self.asked().items() if key != "value_base64"}
        expected = {"command": "value_set", "group": "fam", "name": "light"}
        self.assertEqual({**expected, "if_revision": None, "seconds": None}, asked)

    def test_a_value_from_a_file_or_standard_input(self) -> None:
        file = Path(self.mktemp())
        file.write_bytes(NO_TEXT)
        self.result(self.SET, "kv", "fam", "set", "light", "--file", str(file))
        self.assertEqual(NO_TEXT, self.value())
        self.read_from(NO_TEXT * 2)
        self.result(self.SET, "kv", "fam", "set", "light", "--stdin")
        self.assertEqual(NO_TEXT * 2, self.value())

    def test_more_than_anybody_takes_is_not_read(self) -> None:
        self.read_from(b"x" * (MAX_INPUT_BYTES + 1))
        status, _, said = self.abst([], "kv", "fam", "set", "light", "--stdin")
        self.assertEqual((1, []), (status, self.agent.requests))
        self.assertIn("at most", said)

    def test_there_is_one_value(self) -> None:
        for words in ((), ("on", "--stdin"), ("--stdin", "--file", "x")):
            self.assertEqual(2, self.abst([], "kv", "fam", "set", "light", *words)[0], words)

    def test_conditions_and_times(self) -> None:
        words = ("kv", "fam", "set", "light", "on", "--if-revision", "7", "--expires")
        for text, seconds in (("1h30m", 5400), ("45s", 45), ("7d", 604800), ("1d1h1m1s", 90061)):
            self.result(self.SET, *words, text)
            self.assertEqual((7, seconds), (self.asked()["if_revision"], self.asked()["seconds"]))
        for text in ("", "0s", "5", "1m1h", "-1s", "1.5h", "40000d", "9999999999s"):
            self.assertEqual(2, self.abst([], *words, text)[0], text)

    def test_a_conflict_is_one_line(self) -> None:
        error = {"error": "nothing was changed: 'light' is at revision 9"}
        status, out, said = self.abst([error], "kv", "fam", "set", "light", "x")
        self.assertEqual((1, ""), (status, out))
        self.assertEqual("abst: nothing was changed: 'light' is at revision 9\n", said)

    def test_delete(self) -> None:
        out, _ = self.result(self.SET, "kv", "fam", "delete", "light", "--if-revision", "7")
        self.assertEqual("deleted light, revision 8\n", out)
        self.assertEqual(7, self.asked()["if_revision"])
        out, _ = self.result({**self.SET, "revision": 0}, "kv", "fam", "delete", "light")
        self.assertEqual("nothing was there under light\n", out)

    def test_help_without_a_group(self) -> None:
        status, out, _ = run_abst("kv", "set", "--help")
        self.assertEqual(0, status)
        self.assertIn("kv GROUP set [OPTIONS] NAME [VALUE]", out)


class GetTests(AskingTestCase):
    TEXT = {**OF, **VALUE, "value": "on\n\x1b[2J", **STANDING}
    BYTES = {**OF, **VALUE, "value_base64": encoded(NO_TEXT), **STANDING}
    STALE = {**TEXT, "checked_seconds_ago": 65.0, "problem": "its realm is\nnot connected"}

    def test_text_and_bytes_go_to_a_pipe_as_they_are(self) -> None:
        arguments = ("kv", "fam", "get", "light")
        status, out, said = self.abst_bytes([{"result": self.TEXT}], *arguments)
        self.assertEqual((0, b"on\n\x1b[2J", ""), (status, out, said))
        self.assertEqual({"command": "value_get", "group": "fam", "name": "light"}, self.asked())
        status, out, said = self.abst_bytes([{"result": self.BYTES}], *arguments)
        self.assertEqual((0, NO_TEXT, ""), (status, out, said))

    def test_a_terminal_gets_lines_that_do_it_no_harm(self) -> None:
        arguments = ("kv", "fam", "get", "light")
        _, out, _ = self.abst_bytes([{"result": self.TEXT}], *arguments, is_terminal=True)
        self.assertEqual(b"on\n\\x1b[2J\n", out)
        answers = [{"result": self.BYTES}]
        status, out, said = self.abst_bytes(answers, *arguments, is_terminal=True)
        self.assertEqual((1, b""), (status, out))
        self.assertIn("--out FILE", said)

    def test_into_a_file(self) -> None:
        file = Path(self.mktemp())
        out, said = self.result(self.BYTES, "kv", "fam", "get", "light", "--out", str(file))
        self.assertEqual((NO_TEXT, ""), (file.read_bytes(), out))
        self.assertIn("wrote 2 bytes", said)

    def test_json(self) -> None:
        out, _ = self.result(self.BYTES, "kv", "fam", "get", "light", "--json")
        self.assertEqual(self.BYTES, json.loads(out))

    def test_what_is_old_says_so(self) -> None:
        _, out, said = self.abst_bytes([{"result": self.STALE}], "kv", "fam", "get", "light")
        self.assertEqual(b"on\n\x1b[2J", out)
        line = "abst: its realm is not connected: this is what was checked last, 1 min 5 s ago\n"
        self.assertEqual(line, said)
        never = {**self.STALE, "checked_seconds_ago": None}
        _, _, said = self.abst_bytes([{"result": never}], "kv", "fam", "get", "light")
        self.assertEqual("abst: its realm is not connected: this is what was checked last\n", said)


class ListTests(AskingTestCase):
    def test_size_revision_writer_and_age(self) -> None:
        odd = {**VALUE, "name_base64": encoded(b"\xff")}
        del odd["name"]
        answer = {**OF, "values": [VALUE, odd], "more": None, **STANDING}
        out, said = self.result(answer, "kv", "fam", "list", "li")
        self.assertEqual("li", self.asked()["prefix"])
        tail = f"2 bytes, revision 7, by {SHOWN}, 1 min 1 s ago"
        self.assertEqual([f"light  {tail}", f"\\xff  {tail}"], out.splitlines())
        self.assertEqual("", said)

    def test_nothing(self) -> None:
        answer: dict[str, Any] = {**OF, "values": [], "more": None, **STANDING}
        for words, says in (((), "abst kv GROUP set"), (("li",), "none")):
            out, said = self.result(answer, "kv", "fam", "list", *words)
            self.assertEqual("", out)
            self.assertIn(says, said)

    def test_a_realm_that_lies_is_a_warning(self) -> None:
        standing = {"checked_seconds_ago": 5.0, "dishonest": True, "problem": "it lies"}
        answer = {**OF, "values": [VALUE], "more": None, **standing}
        out, said = self.result(answer, "kv", "fam", "list")
        self.assertIn("light", out)
        self.assertEqual("abst: it lies: this is what was checked last, 5 s ago\n", said)

    def test_more_than_one_answer_holds(self) -> None:
        first = {**OF, "values": [VALUE], "more": {"after_base64": "/w=="}, **STANDING}
        last = {**OF, "values": [{**VALUE, "name": "z"}], "more": None, **STANDING}
        pages = iter([first, last])
        agent = self.start_agent(lambda request: [{"result": next(pages)}])
        _, out, _ = run_abst("--home", str(agent.home), "kv", "fam", "list", "--json")
        self.assertEqual(["light", "z"], [value["name"] for value in json.loads(out)["values"]])
        self.assertEqual(["/w=="], [r["after_base64"] for r in agent.requests[1:]])
        self.assertNotIn("after_base64", agent.requests[0])


class WatchTests(AskingTestCase):
    CHANGE: dict[str, Any] = {"change": "put", "name": BAD, "revision": 8, "value": "on\n"}

    def test_one_line_for_each_change(self) -> None:
        watching = {"kind": "watching", **STANDING}
        answers = [{"event": watching}, {"event": self.CHANGE}, {"error": "it lies"}]
        status, out, said = self.abst(answers, "kv", "fam", "watch", "li", "--initial")
        self.assertEqual([self.CHANGE], [json.loads(line) for line in out.splitlines()])
        self.assertEqual(["abst: watching; Ctrl-C ends it", "abst: it lies"], said.splitlines())
        self.assertEqual(1, status)
        self.assertEqual(("li", True), (self.asked()["prefix"], self.asked()["initial"]))
        _, again, _ = self.abst(answers, "kv", "fam", "watch", "--json")
        self.assertEqual((out, False), (again, self.asked()["initial"]))

    def test_it_says_when_the_realm_is_away(self) -> None:
        watching = {"kind": "watching", **STANDING, "problem": "no way"}
        _, _, said = self.abst([{"event": watching}, {"result": {}}], "kv", "fam", "watch")
        self.assertEqual("abst: watching (no way); Ctrl-C ends it\n", said)


class StartAgainTests(AskingTestCase):
    def test_it_asks_first(self) -> None:
        out, _ = self.result(OF, "kv", "fam", "start-again", "--yes")
        self.assertEqual("the realm of fam is believed again\n", out)
        self.assertEqual({"command": "value_start_again", "group": "fam"}, self.asked())
        self.read_from(b"n\n")
        status, _, said = self.abst([], "kv", "fam", "start-again")
        self.assertEqual((1, []), (status, self.agent.requests))
        self.assertIn("nothing was changed", said)
        self.read_from(b"y\n")
        self.result(OF, "kv", "fam", "start-again")
        self.assertEqual(1, len(self.agent.requests))
