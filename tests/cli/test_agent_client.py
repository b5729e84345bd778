"""The client's side of the control socket, against an agent that answers all kinds of things."""

import shutil
import socket
from pathlib import Path

from twisted.trial.unittest import TestCase

from abst.cli.agent_client import AgentCall
from abst.control_client import MAX_REQUEST_BYTES, LostError, NotRunningError, RefusedError
from abst.errors import AbstError
from tests.cli.fake_agent import Answers, FakeAgent, make_home


class AgentCallTests(TestCase):
    """One request and its answers."""

    def agent(self, answers: Answers) -> FakeAgent:
        """Return an agent that is stopped in the end."""
        agent = FakeAgent(answers)
        self.addCleanup(shutil.rmtree, agent.home)
        self.addCleanup(agent.stop)
        return agent

    def call(self, *answers: object, timeout_seconds: float = 10.0) -> AgentCall:
        """Return a call that is answered like this."""
        agent = self.agent(lambda request: list(answers))
        call = AgentCall(agent.home / "agent.sock", "ping", {"peer": "bob"}, timeout_seconds)
        self.addCleanup(call.close)
        return call

    def test_a_request_is_one_line(self) -> None:
        agent = self.agent(lambda request: [{"result": {}}])
        with AgentCall(agent.home / "agent.sock", "send", {"paths": ["/a\nb\udcff"]}) as call:
            self.assertEqual({}, call.result)
        self.assertEqual([{"command": "send", "paths": ["/a\nb\udcff"]}], agent.requests)

    def test_events_come_before_the_result(self) -> None:
        call = self.call({"event": {"n": 1}}, {"event": {"n": 2}}, {"result": {"sum": 3}})
        self.assertEqual([{"n": 1}, {"n": 2}], list(call))
        self.assertEqual({"sum": 3}, call.result)

    def test_who_wants_no_events_gets_the_result(self) -> None:
        self.assertEqual({"sum": 3}, self.call({"event": {}}, {"result": {"sum": 3}}).result)

    def test_an_error_says_what_the_agent_says(self) -> None:
        error = self.assertRaises(RefusedError, list, self.call({"error": "no such peer"}))
        self.assertEqual("no such peer", str(error))

    def test_what_is_no_answer_is_told_apart(self) -> None:
        for answer in (b"", b'{"result": {}}', b"\xff\n", b"[]\n", b'{"result": 1}\n', b"{}\n"):
            self.assertRaises(LostError, list, self.call(answer))

    def test_an_agent_that_is_silent(self) -> None:
        home = make_home()
        self.addCleanup(shutil.rmtree, home)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home / "agent.sock"))
            listener.listen()
            with AgentCall(home / "agent.sock", "status", {}, 0.05) as call:
                error = self.assertRaises(LostError, list, call)
        self.assertIn("does not answer", str(error))
        self.assertIn(str(home / "agent.log"), str(error))

    def test_nobody_listens(self) -> None:
        home = make_home()
        self.addCleanup(shutil.rmtree, home)
        socket_file = home / "agent.sock"
        self.assertRaises(NotRunningError, AgentCall, socket_file, "status", {})
        self.agent_gone(socket_file)
        self.assertRaises(NotRunningError, AgentCall, socket_file, "status", {})

    def agent_gone(self, socket_file: Path) -> None:
        """Leave a socket's file behind, as an agent does that is killed."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(socket_file))

    def test_a_request_that_is_too_long_is_not_sent(self) -> None:
        agent = self.agent(lambda request: [{"result": {}}])
        socket_file = agent.home / "agent.sock"
        arguments = {"text": "x" * MAX_REQUEST_BYTES}
        error = self.assertRaises(AbstError, AgentCall, socket_file, "message", arguments)
        self.assertIn("too long", str(error))
        self.assertEqual([], agent.requests)

    def test_a_path_that_is_too_long(self) -> None:
        path = Path("/tmp") / ("x" * 200) / "agent.sock"
        error = self.assertRaises(AbstError, AgentCall, path, "status", {})
        self.assertIn("shorter path", str(error))
