"""The commands about streams: what they ask the agent, and what they say."""

from __future__ import annotations

import json
import shutil
from typing import Any

from twisted.trial.unittest import TestCase

from tests.cli.fake_agent import FakeAgent, run_abst

BAD = "\x1b[2Jbob"
SHOWN = r"\x1b[2Jbob"
NOBODY = {"name": "a", "device_id": "6fa1", "home": "/h", "version": "1", "peers": 1}
WEB: dict[str, Any] = {
    "service": "web",
    "endpoint": "tcp:127.0.0.1:80",
    "peers": [],
    "problem": None,
}
SSH = {"service": "ssh", "endpoint": "tcp:127.0.0.1:22", "peers": ["bob", BAD], "problem": None}
BROKEN = {**WEB, "service": "old", "problem": "something offers it already"}
OFFERED = {"service": "chat", "peers": []}


class StreamTestCase(TestCase):
    def abst(self, answers: list[Any], *arguments: str) -> tuple[int, str, str]:
        """Run a command whose agent says this."""
        self.agent = FakeAgent(lambda request: answers)
        self.addCleanup(shutil.rmtree, self.agent.home)
        try:
            return run_abst("--home", str(self.agent.home), *arguments)
        finally:
            self.agent.stop()

    def asked(self) -> dict[str, Any]:
        """Return what the agent was asked."""
        (request,) = self.agent.requests
        return request


class ExposeTests(StreamTestCase):
    def test_add_may_be_left_out(self) -> None:
        for words in ((), ("add",)):
            arguments = ("expose", *words, "ssh", "tcp:127.0.0.1:22", "--peer", "a", "--peer", "b")
            status, out, said = self.abst([{"result": SSH}], *arguments)
            self.assertEqual((0, ""), (status, said))
            self.assertEqual(f"exposed ssh  tcp:127.0.0.1:22  for bob, {SHOWN}\n", out)
            asked = {"service": "ssh", "endpoint": "tcp:127.0.0.1:22", "peers": ["a", "b"]}
            self.assertEqual({"command": "expose", **asked}, self.asked())

    def test_options_may_come_first(self) -> None:
        _, out, _ = self.abst([{"result": WEB}], "expose", "--json", "web", "tcp:127.0.0.1:80")
        self.assertEqual(WEB, json.loads(out))

    def test_a_service_may_be_called_like_a_command(self) -> None:
        self.abst([{"result": WEB}], "expose", "add", "list", "tcp:127.0.0.1:80")
        self.assertEqual("list", self.asked()["service"])

    def test_the_list(self) -> None:
        answer = {"exposed": [WEB, SSH, BROKEN], "programs": [OFFERED]}
        status, out, said = self.abst([{"result": answer}], "expose", "list")
        self.assertEqual((0, ""), (status, said))
        self.assertEqual(
            [
                "web  tcp:127.0.0.1:80  for all peers",
                f"ssh  tcp:127.0.0.1:22  for bob, {SHOWN}",
                "old  tcp:127.0.0.1:80  for all peers, not offered: something offers it already",
                "chat  by a program that runs  for all peers",
            ],
            out.splitlines(),
        )
        _, out, _ = self.abst([{"result": answer}], "expose", "list", "--json")
        self.assertEqual(answer, json.loads(out))

    def test_nothing_to_list(self) -> None:
        answer: dict[str, Any] = {"exposed": [], "programs": []}
        status, out, said = self.abst([{"result": answer}], "expose", "list")
        self.assertEqual((0, ""), (status, out))
        self.assertIn("abst expose NAME ENDPOINT", said)

    def test_removing(self) -> None:
        status, out, said = self.abst([{"result": WEB}], "expose", "remove", "web")
        self.assertEqual((0, "removed web\n", ""), (status, out, said))
        self.assertEqual({"command": "expose_remove", "service": "web"}, self.asked())

    def test_wrong_usage(self) -> None:
        for words in ((), ("web",), ("remove",), ("web", "tcp:1", "more"), ("--peer", "a")):
            status, out, _ = self.abst([], "expose", *words)
            self.assertEqual((2, "", []), (status, out, self.agent.requests), words)


class ForwardTests(StreamTestCase):
    LISTENING = {"kind": "listening", "peer": BAD, "address": "127.0.0.1:8080"}
    FAILED = {"kind": "failed", "reason": f"{BAD} is\naway"}
    WORKING = {"kind": "working"}

    def test_it_says_where_it_listens_and_what_happens(self) -> None:
        answers = [{"event": one} for one in (self.LISTENING, self.FAILED, self.WORKING)]
        status, out, said = self.abst(answers, "forward", "bob", "web", "tcp:8080")
        self.assertEqual(
            {"command": "forward", "peer": "bob", "service": "web", "endpoint": "tcp:8080"},
            self.asked(),
        )
        self.assertEqual(f"127.0.0.1:8080 leads to web of {SHOWN}\n", out)
        self.assertEqual(
            [
                "abst: Ctrl-C ends it",
                f"abst: a connection was closed: {SHOWN} is away",
                "abst: it works again",
                # Here the agent closes the connection, as it does when it stops.
                "abst: the agent has stopped, and this forward with it: give the command again",
            ],
            said.splitlines(),
        )
        self.assertEqual(1, status)

    def test_events_for_scripts(self) -> None:
        events = [self.LISTENING, self.FAILED, self.WORKING]
        answers = [{"event": one} for one in events]
        _, out, said = self.abst(answers, "forward", "bob", "web", "tcp:8080", "--json")
        self.assertEqual(events, [json.loads(line) for line in out.splitlines()])
        self.assertEqual(1, len(said.splitlines()))

    def test_a_refusal(self) -> None:
        status, out, said = self.abst([{"error": "no peer"}], "forward", "x", "web", "tcp:0")
        self.assertEqual((1, "", "abst: no peer\n"), (status, out, said))

    def test_the_help_says_who_can_connect(self) -> None:
        _, out, _ = run_abst("forward", "--help")
        self.assertIn("programs on this machine alone", " ".join(out.split()))


class StatusTests(StreamTestCase):
    def test_what_is_offered_and_what_is_open(self) -> None:
        stream = {"peer": BAD, "service": "web", "path": "direct b:2", "path_kind": "direct"}
        status = {
            **NOBODY,
            "uptime_seconds": 1.5,
            "lan": {"setting": "off", "on": False, "addresses": [], "problem": None},
            "realms": [],
            "sessions": [],
            "exposed": [SSH],
            "programs": [OFFERED],
            "forwards": [{"peer": BAD, "service": "web", "address": "127.0.0.1:80"}],
            "streams": [
                {**stream, "sent_bytes": 5, "received_bytes": 1_000_000},
                {**stream, "sent_bytes": 0, "received_bytes": 0, "service": "ssh"},
                {**stream, "sent_bytes": 5, "received_bytes": 500_000},
            ],
        }
        code, out, _ = self.abst([{"result": status}], "status")
        self.assertEqual(0, code)
        self.assertEqual(
            [
                f"exposed  ssh  tcp:127.0.0.1:22  for bob, {SHOWN}",
                "offered  chat  by a program that runs  for all peers",
                f"forward  127.0.0.1:80, to web of {SHOWN}",
                f"streams  2 for web, with {SHOWN} over direct b:2, 10 bytes out, 1.5 MB in",
                f"streams  1 for ssh, with {SHOWN} over direct b:2, 0 bytes out, 0 bytes in",
            ],
            out.splitlines()[-5:],
        )
