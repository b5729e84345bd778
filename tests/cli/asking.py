"""Commands whose agent says what a test wants."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from typing import Any

from twisted.trial.unittest import TestCase

from abst.cli import main
from tests.cli.fake_agent import Answers, FakeAgent, run_abst

GROUP_ID = "adbf9345-b90d-8048-aef6-f604bef86d35"
DEVICE_ID = "6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819"
BAD = "\x1b[2Jbob"
SHOWN = r"\x1b[2Jbob"

GROUP: dict[str, Any] = {
    "group": "fam",
    "group_id": GROUP_ID,
    "kind": "group",
    "realm": "abst://realm.test:42278/",
    "epoch": 3,
    "member_count": 2,
    "joined": True,
    "here_count": 1,
    "problem": None,
    "values_problem": None,
}
"""A group as the agent tells of it."""


class AskingTestCase(TestCase):
    """A test of what commands ask an agent, and of what they say."""

    def start_agent(self, answers: Answers) -> FakeAgent:
        """Return an agent that answers this, until the test is over."""
        self.agent = FakeAgent(answers)
        self.addCleanup(shutil.rmtree, self.agent.home)
        self.addCleanup(self.agent.stop)
        return self.agent

    def abst(self, answers: list[Any], *arguments: str) -> tuple[int, str, str]:
        """Run a command whose agent says this; return its status, its stdout and its stderr."""
        agent = self.start_agent(lambda request: answers)
        return run_abst("--home", str(agent.home), *arguments)

    def abst_bytes(
        self, answers: list[Any], *arguments: str, is_terminal: bool = False
    ) -> tuple[int, bytes, str]:
        """Do the same with a stdout that takes bytes, and may be a terminal."""
        agent = self.start_agent(lambda request: answers)
        written, said = io.BytesIO(), io.StringIO()
        out = io.TextIOWrapper(written, encoding="utf-8")
        out.isatty = lambda: is_terminal  # type: ignore[method-assign]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            status = main(("--home", str(agent.home), *arguments))
        out.flush()
        return status, written.getvalue(), said.getvalue()

    def result(self, result: dict[str, Any], *arguments: str) -> tuple[str, str]:
        """Run a command that has to succeed; return its stdout and its stderr."""
        status, out, said = self.abst([{"result": result}], *arguments)
        self.assertEqual(0, status, said)
        return out, said

    def asked(self) -> dict[str, Any]:
        """Return what the agent was asked."""
        (request,) = self.agent.requests
        return request

    def read_from(self, content: bytes) -> None:
        """Let commands find this on standard input."""
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
