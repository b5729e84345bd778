"""The socket for commands: one request each, and whoever goes away takes the command along."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from abst.control import (
    MAX_ANSWERS,
    MAX_LINE_BYTES,
    MAX_SOCKET_PATH_BYTES,
    MAX_UNREAD_BYTES,
    ControlFactory,
    ControlProtocol,
    Emit,
    make_room,
    user_of,
)
from abst.errors import AbstError


class AbortableTransport(StringTransport):
    """A transport that notes that it was cut off."""

    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()


class ControlTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.emits: list[Emit] = []
        self.waiting: Deferred[dict[str, Any]]
        self.cancelled = 0
        self.factory = ControlFactory(
            {
                "echo": self.echo,
                "wait": self.wait,
                "refuse": self.refuse,
                "break": self.breaks,
                "lack": self.lack,
                "ask": self.ask,
            }
        )
        self.connect()

    def connect(self) -> None:
        self.waiting = Deferred()
        self.transport = AbortableTransport()
        protocol: Any = self.factory.buildProtocol(None)
        self.protocol: ControlProtocol = protocol
        self.protocol.makeConnection(self.transport)

    async def echo(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        self.asked.append(arguments)
        emit({"kind": "begun"})
        return {"text": arguments["text"]}

    async def wait(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        self.emits.append(emit)
        try:
            return await self.waiting
        except CancelledError:
            self.cancelled += 1
            raise

    async def refuse(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise AbstError("not today")

    async def breaks(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        raise RuntimeError("a secret detail")

    async def lack(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        return {"peer": arguments["peer"]}

    async def ask(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        emit({"kind": "question"})
        return {"answer": await arguments["answers"].get()}

    def send(self, line: bytes | dict[str, Any]) -> None:
        if isinstance(line, dict):
            line = json.dumps(line).encode()
        self.protocol.dataReceived(line + b"\n")

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.transport.value().splitlines()]

    def assert_error(self, word: str) -> None:
        (answer,) = self.answers()
        self.assertEqual(["error"], list(answer))
        self.assertIn(word, answer["error"])
        self.assertNotIn("\n", answer["error"])
        self.assertTrue(self.transport.disconnecting)

    def lose(self) -> None:
        self.protocol.connectionLost(Failure(ConnectionDone()))


class RequestTests(ControlTestCase):
    def test_events_come_first_and_then_the_result(self) -> None:
        self.send({"command": "echo", "text": "ü\n"})
        self.assertEqual(
            [{"event": {"kind": "begun"}}, {"result": {"text": "ü\n"}}], self.answers()
        )
        self.assertTrue(self.transport.disconnecting)

    def test_a_request_may_come_in_pieces(self) -> None:
        for byte in b'{"command": "echo", "text": "x"}\n':
            self.protocol.dataReceived(bytes([byte]))
        self.assertEqual({"result": {"text": "x"}}, self.answers()[-1])

    def test_a_refusal_is_one_line(self) -> None:
        self.send({"command": "refuse"})
        self.assert_error("not today")

    def test_an_argument_that_is_missing_is_named(self) -> None:
        self.send({"command": "lack"})
        self.assert_error("'peer'")

    def test_a_failure_stands_in_the_log_and_not_in_the_answer(self) -> None:
        self.send({"command": "break"})
        self.assert_error("its log says what")
        self.assertNotIn("secret", self.transport.value().decode())
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_what_is_no_request_is_refused(self) -> None:
        for line in (
            b"",
            b"hello",
            b"{}",
            b"[]",
            b"5",
            b"null",
            b'"echo"',
            b'{"command": "unknown"}',
            b'{"command": null}',
            b'{"command": ["echo"]}',
            b'{"command": {"a": 1}}',
            b'{"command": "echo"',
            b"\xff\xfe\x00",
            b"[" * 100_000,
            b'{"a":' * 100_000,
        ):
            self.connect()
            self.send(line)
            self.assert_error("does not know this command")

    @given(st.binary(max_size=100))
    def test_any_line_gets_one_answer(self, line: bytes) -> None:
        self.connect()
        self.send(line.replace(b"\n", b""))
        self.assertEqual(1, len(self.answers()))
        self.assertTrue(self.transport.disconnecting)

    def test_a_line_that_is_too_long_is_refused_before_it_ends(self) -> None:
        for _ in range(MAX_LINE_BYTES // 2**16 + 2):
            self.protocol.dataReceived(b"x" * 2**16)
            if self.transport.disconnecting:
                break
        (answer,) = self.answers()
        self.assertIn(str(MAX_LINE_BYTES), answer["error"])

    def test_the_longest_line_is_taken(self) -> None:
        line = json.dumps({"command": "echo", "text": ""}).encode()
        self.send(line[:-2] + b"x" * (MAX_LINE_BYTES - len(line)) + b'"}')
        self.assertIn("result", self.answers()[-1])

    def test_a_second_request_is_not_taken(self) -> None:
        self.send({"command": "wait"})
        self.send({"command": "echo", "text": "x"})
        self.assertEqual([], self.asked)

    def test_what_follows_an_answer_is_not_taken(self) -> None:
        self.protocol.dataReceived(b"nonsense\n" + b'{"command": "echo", "text": "x"}\n' * 3)
        self.assertEqual(1, len(self.answers()))
        self.assertEqual([], self.asked)


class QuestionTests(ControlTestCase):
    """Commands that ask, and the answers of the person."""

    def test_an_answer_reaches_the_command(self) -> None:
        self.send({"command": "ask"})
        self.send({"answer": True})
        self.assertEqual({"result": {"answer": True}}, self.answers()[-1])

    def test_an_answer_may_come_before_it_is_asked_for(self) -> None:
        self.protocol.dataReceived(b'{"command": "ask"}\n{"answer": 5}\n')
        self.assertEqual({"result": {"answer": 5}}, self.answers()[-1])

    def test_what_is_no_answer_ends_it(self) -> None:
        for line in (b"", b"yes", b"{}", b"[]", b"null", b"[" * 100_000):
            self.connect()
            self.send({"command": "wait"})
            self.send(line)
            self.assertIn("error", self.answers()[-1])
            self.assertTrue(self.transport.disconnecting)
            self.lose()

    def test_answers_that_nobody_takes_are_bounded(self) -> None:
        self.send({"command": "wait"})
        for _ in range(MAX_ANSWERS + 1):
            self.send({"answer": 1})
        self.assertIn("error", self.answers()[-1])


class LeavingTests(ControlTestCase):
    """A client that is gone."""

    def test_it_cancels_the_command(self) -> None:
        self.send({"command": "wait"})
        self.lose()
        self.assertEqual(1, self.cancelled)
        self.assertEqual([], self.answers())

    def test_what_the_command_still_says_goes_nowhere(self) -> None:
        self.send({"command": "wait"})
        self.lose()
        self.emits[0]({"kind": "late"})
        self.assertEqual([], self.answers())

    def test_it_may_leave_before_it_has_asked(self) -> None:
        self.protocol.dataReceived(b'{"command": ')
        self.lose()
        self.assertEqual([], self.asked)

    def test_it_may_leave_after_the_answer(self) -> None:
        self.send({"command": "echo", "text": "x"})
        self.lose()

    def test_others_are_not_disturbed(self) -> None:
        self.send({"command": "wait"})
        first, _ = self.protocol, self.transport
        self.connect()
        self.send({"command": "echo", "text": "x"})
        self.assertIn("result", self.answers()[-1])
        first.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(1, self.cancelled)

    def test_one_that_does_not_read_is_cut_off(self) -> None:
        """Somebody who listens and has stopped reading must not fill the agent's memory."""
        self.send({"command": "wait"})
        emit = self.emits[0]
        producer: Any = self.transport.producer
        for _ in range(5):
            emit({"text": "x" * 10_000})
        self.assertFalse(self.transport.aborted)
        producer.pauseProducing()
        said = 0
        while not self.transport.aborted and said < 2 * MAX_UNREAD_BYTES:
            emit({"text": "x" * 10_000})
            said += 10_000
        self.assertTrue(self.transport.aborted)
        self.assertTrue(MAX_UNREAD_BYTES / 2 < said <= MAX_UNREAD_BYTES, said)

    def test_one_that_reads_slowly_is_not(self) -> None:
        self.send({"command": "wait"})
        emit = self.emits[0]
        producer: Any = self.transport.producer
        for _ in range(10):
            producer.pauseProducing()
            for _ in range(MAX_UNREAD_BYTES // 20_000):
                emit({"text": "x" * 10_000})
            producer.resumeProducing()
        self.assertFalse(self.transport.aborted)
        self.waiting.callback({})
        self.assertEqual({"result": {}}, self.answers()[-1])
        self.assertTrue(self.transport.disconnecting)


class UserTests(SynchronousTestCase):
    """Whose programs may ask, by the kernel's word on a real Unix socket."""

    def setUp(self) -> None:
        self.here, there = socket.socketpair(socket.AF_UNIX)
        self.addCleanup(self.here.close)
        self.addCleanup(there.close)

    def answers_for(self, users: set[int] | None) -> list[dict[str, Any]]:
        """Return what a request is answered with by a service for these users."""

        async def echo(arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
            return {}

        factory = ControlFactory({"echo": echo}, "realm", users)
        transport: Any = AbortableTransport()
        transport.socket = self.here
        protocol: Any = factory.buildProtocol(None)
        protocol.makeConnection(transport)
        protocol.dataReceived(b'{"command": "echo"}\n')
        return [json.loads(line) for line in transport.value().splitlines()]

    def test_the_kernel_says_who_asks(self) -> None:
        self.assertEqual(os.geteuid(), user_of(self.here))

    def test_who_is_named_is_answered(self) -> None:
        self.assertEqual([{"result": {}}], self.answers_for({os.geteuid()}))
        self.assertEqual([{"result": {}}], self.answers_for(None))

    def test_nobody_else_is(self) -> None:
        (answer,) = self.answers_for({os.geteuid() + 1})
        self.assertIn("root and its own user alone", answer["error"])

    def test_nobody_is_when_the_kernel_does_not_say_it(self) -> None:
        self.here.close()
        (answer,) = self.answers_for({os.geteuid()})
        self.assertIn("try sudo", answer["error"])


class SocketFileTests(SynchronousTestCase):
    """The file that a killed service leaves behind."""

    def test_it_is_removed(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "control"
        make_room(path)
        path.touch()
        make_room(path)
        self.assertFalse(path.exists())

    def test_what_is_in_the_way_is_named(self) -> None:
        path = Path(self.mktemp())
        path.mkdir()
        self.assertIn(str(path), str(self.assertRaises(AbstError, make_room, path)))

    def test_a_path_that_no_socket_can_have_is_refused(self) -> None:
        error = self.assertRaises(AbstError, make_room, Path("/" + "x" * MAX_SOCKET_PATH_BYTES))
        self.assertIn("shorter path", str(error))
