"""The gate as any program finds it: what it may say, and what becomes of everything else."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from abst.agent.streams.gate import MAX_CONNECTIONS, MAX_SILENT, REQUEST_SECONDS, uid_of
from abst.agent.streams.gate_lines import MAX_LINE_BYTES
from abst.agent.streams.gate_listener import FETCH_SECONDS, MAX_WAITING_STREAMS
from abst.agent.streams.local_stream import CLOSE, END
from abst.errors import StreamError
from tests.agent.streams.stage import Raw, StreamTestCase
from tests.agent.streams.test_local_stream import frame
from tests.device.streams.doubles import Built, Echo, HalfNotes, Notes


def line(**request: Any) -> bytes:
    """Return a request."""
    return json.dumps(request).encode() + b"\n"


CONNECT = line(connect={"peer": "bob", "service": "echo"})


class RequestTests(StreamTestCase):
    async def refused(self, said: bytes, *words: str) -> None:
        raw = await self.raw(said)
        await self.until(lambda: raw.is_gone)
        answer = json.loads(raw.said)
        self.assertEqual(["error"], list(answer))
        for word in words:
            self.assertIn(word, answer["error"])

    async def test_a_stream_to_a_peer(self) -> None:
        await self.bob.streams.listen("echo", Built(Echo))
        raw = await self.raw(CONNECT)
        await self.until(lambda: b"\n" in raw.said)
        ids = {"own_id": str(self.alice.device_id), "device_id": str(self.bob.device_id)}
        self.assertEqual({"ok": {**ids, "service": "echo"}}, json.loads(raw.said))
        raw.said = b""
        raw.transport.write(frame(b"hello"))
        await self.until(lambda: raw.said)
        self.assertEqual(frame(b"hello"), raw.said)
        raw.transport.write(CLOSE)
        await self.until(lambda: raw.is_gone)
        self.assertEqual(frame(b"hello"), raw.said)

    async def test_what_is_no_request_is_refused(self) -> None:
        for said in (
            b"\n",
            b"hello\n",
            b"{}\n",
            b"[]\n",
            b"null\n",
            b'"connect"\n',
            b"\xff\xfe\n",
            b"[" * 10_000 + b"\n",
            b'{"connect": {}}\n',
            line(connect={"peer": "bob"}),
            line(connect={"peer": 5, "service": "echo"}),
            line(connect={"peer": "b" * 101, "service": "echo"}),
            line(listen={"service": "echo", "peers": "bob"}),
            line(listen={"service": "echo", "peers": [5]}),
            line(listen={"service": "echo", "peers": ["bob"] * 65}),
            line(accept="1"),
            line(accept=None),
        ):
            await self.refused(said, "does not know this request")

    async def test_names_that_are_no_services(self) -> None:
        for service in ("", "a b", "a\n", 5, None, "x" * 65):
            await self.refused(line(connect={"peer": "bob", "service": service}), "letters")
        await self.refused(line(listen={"service": "abst.files"}), "ABST's own")

    async def test_who_is_no_peer(self) -> None:
        await self.refused(line(connect={"peer": "carol", "service": "echo"}), "abst peers")
        await self.refused(line(listen={"service": "echo", "peers": ["carol"]}), "abst peers")

    async def test_what_the_peer_does_not_offer(self) -> None:
        await self.refused(CONNECT, "no such service")

    async def test_a_stream_that_does_not_wait(self) -> None:
        for number in (0, 1, -1, 10**300):
            await self.refused(line(accept=number), "does not wait")

    async def test_a_name_that_is_taken(self) -> None:
        await self.alice.streams.listen("web", Built(Notes))
        await self.refused(line(listen={"service": "web"}), "already")

    async def test_a_line_that_is_too_long(self) -> None:
        await self.refused(b"x" * (MAX_LINE_BYTES + 1), "at most")

    async def test_what_comes_behind_the_request(self) -> None:
        await self.refused(CONNECT + b"GET / HTTP/1.0\r\n", "before its answer")

    async def test_what_comes_before_the_answer_is_dropped(self) -> None:
        offered = Built(Notes)
        await self.bob.streams.listen("echo", offered)
        connect = self.alice.streams.connect
        asked: list[Any] = []
        go_on: Deferred[Any] = Deferred()

        def later(*arguments: Any) -> Deferred[Any]:
            asked.append(arguments)
            return go_on.addCallback(lambda _: connect(*arguments))

        self.alice.streams.connect = later  # type: ignore[assignment, method-assign]
        raw = await self.raw(CONNECT)
        await self.until(lambda: asked)
        raw.transport.write(b"hasty")
        await deferLater(self.reactor, 0.05, lambda: None)
        go_on.callback(None)
        await self.until(lambda: raw.said)
        self.assertIn("ok", json.loads(raw.said))
        self.assertEqual(b"", bytes(offered.built[0].heard))

    async def test_frames_that_make_no_sense_break_the_stream_off(self) -> None:
        offered = Built(Notes)
        await self.bob.streams.listen("echo", offered)
        raw = await self.raw(CONNECT)
        await self.until(lambda: raw.said)
        raw.transport.write(struct.pack(">I", 2**31))
        await self.until(lambda: raw.is_gone and offered.built[0].ended)
        self.assertNotIn("cleanly", str(offered.built[0].ended))

    async def test_who_leaves_takes_its_request_along(self) -> None:
        raw = await self.raw(CONNECT)
        await deferLater(self.reactor, 0.001, lambda: None)
        raw.transport.abortConnection()
        await self.until(lambda: not self.gates["alice"].connection_count)
        self.assertEqual([], self.alice.streams.open_streams())


class ManyTests(StreamTestCase):
    async def test_a_thousand_that_say_nothing_keep_nobody_out(self) -> None:
        await self.bob.streams.listen("echo", Built(Echo))
        silent: list[Raw] = []
        for _ in range(20):
            silent += [await self.raw() for _ in range(50)]
        await self.until(lambda: sum(not one.is_gone for one in silent) <= MAX_SILENT)
        self.assertLessEqual(self.gates["alice"].connection_count, MAX_SILENT)
        # They went because others came, not because they were late.
        self.assertEqual({b""}, {one.said for one in silent})
        raw = await self.raw(CONNECT)
        await self.until(lambda: raw.said)
        self.assertIn("ok", json.loads(raw.said))

    async def test_there_is_an_end_to_how_many_may_come_in(self) -> None:
        await self.bob.streams.listen("echo", Built(Echo))
        clients = [
            await self.raw(line(listen={"service": f"s{number}"}))
            for number in range(MAX_CONNECTIONS)
        ]
        await self.until(lambda: all(client.said for client in clients))
        late = await self.raw(CONNECT)
        await self.until(lambda: late.is_gone)
        self.assertIn("too many", json.loads(late.said)["error"])
        clients[0].transport.abortConnection()
        await self.until(lambda: self.gates["alice"].connection_count < MAX_CONNECTIONS)
        again = await self.raw(CONNECT)
        await self.until(lambda: again.said)
        self.assertIn("ok", json.loads(again.said))

    async def test_who_says_nothing_is_not_waited_for(self) -> None:
        await self.stop_agent("alice")
        clock = LateClock(self.reactor)
        self.reactor, real = clock, self.reactor
        self.start_agent("alice")
        self.reactor = real
        raw = await self.raw(b'{"connect": ')
        await self.until(lambda: clock.getDelayedCalls())
        clock.advance(REQUEST_SECONDS)
        await self.until(lambda: raw.is_gone)
        self.assertIn("within 10 seconds", json.loads(raw.said)["error"])


class LateClock(Clock):
    """A reactor whose time only the test lets go on."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self.listenUNIX = reactor.listenUNIX


class UserTests(StreamTestCase):
    async def test_programs_of_other_users_stay_out(self) -> None:
        await self.stop_agent("alice")
        self.start_agent("alice", user=lambda: os.geteuid() + 1)
        raw = await self.raw(CONNECT)
        await self.until(lambda: raw.is_gone)
        self.assertIn("another user", json.loads(raw.said)["error"])

    async def test_the_user_at_the_other_end_is_known(self) -> None:
        raw = await self.raw()
        self.assertEqual(os.geteuid(), uid_of(raw.transport))


class ListenerTests(StreamTestCase):
    """A program that offers a service."""

    async def listening(self, **more: Any) -> Raw:
        raw = await self.raw(line(listen={"service": "web", **more}))
        await self.until(lambda: b"\n" in raw.said)
        own_id = str(self.alice.device_id)
        answer = {"ok": {"own_id": own_id, "device_id": own_id, "service": "web"}}
        self.assertEqual(answer, json.loads(raw.said))
        raw.said = b""
        return raw

    async def connect(self, factory: Built | None = None) -> Any:
        """Return the peer's end of a stream."""
        factory = factory or Built(HalfNotes)
        return await self.bob.streams.connect(self.alice.device_id, "web", factory)

    async def refused_stream(self) -> None:
        """Assert that the peer gets no stream."""
        factory = Built(Notes)
        connecting = self.bob.streams.connect(self.alice.device_id, "web", factory)
        await self.fails(connecting, StreamError, "not offer this service to this one")
        self.assertEqual([], factory.built)

    async def broken_stream(self) -> None:
        """Assert that the peer gets a stream that is broken off at once: the service is there."""
        notes = await self.connect()
        await self.until(lambda: notes.ended)
        self.assertNotIn("cleanly", str(notes.ended))

    async def arrivals(self, raw: Raw, count: int = 1) -> list[int]:
        """Return the numbers of the streams that the program was told of."""
        await self.until(lambda: raw.said.count(b"\n") >= count)
        told = [json.loads(one)["stream"] for one in raw.said.splitlines()]
        self.assertEqual({str(self.bob.device_id)}, {one["device_id"] for one in told})
        return [one["id"] for one in told]

    async def test_it_is_told_of_a_stream_and_fetches_it(self) -> None:
        raw = await self.listening()
        notes = await self.connect()
        notes.transport.write(b"early")
        (number,) = await self.arrivals(raw)
        fetched = await self.raw(line(accept=number))
        await self.until(lambda: fetched.said.endswith(frame(b"early")))
        answer = json.loads(fetched.said.splitlines()[0])["ok"]
        self.assertEqual((str(self.bob.device_id), "web"), (answer["device_id"], answer["service"]))
        fetched.transport.write(frame(b"answer") + END)
        await self.until(lambda: notes.halves == ["read"])
        self.assertEqual(b"answer", bytes(notes.heard))
        notes.transport.loseConnection()
        await self.until(lambda: fetched.said.endswith(CLOSE) or fetched.is_gone)

    async def test_a_stream_is_fetched_once(self) -> None:
        raw = await self.listening()
        await self.connect()
        (number,) = await self.arrivals(raw)
        first = await self.raw(line(accept=number))
        await self.until(lambda: first.said)
        second = await self.raw(line(accept=number))
        await self.until(lambda: second.is_gone)
        self.assertIn("does not wait", json.loads(second.said)["error"])

    async def test_a_stream_that_is_not_fetched_is_ended(self) -> None:
        await self.stop_agent("alice")
        clock = LateClock(self.reactor)
        self.reactor, real = clock, self.reactor
        self.start_agent("alice")
        self.reactor = real
        raw = await self.listening()
        notes = await self.connect()
        (number,) = await self.arrivals(raw)
        clock.advance(FETCH_SECONDS)
        await self.until(lambda: notes.ended)
        self.assertNotIn("cleanly", str(notes.ended))
        late = await self.raw(line(accept=number))
        await self.until(lambda: late.is_gone)
        self.assertIn("does not wait", json.loads(late.said)["error"])

    async def test_only_so_many_streams_wait(self) -> None:
        raw = await self.listening()
        ends = [await self.connect() for _ in range(MAX_WAITING_STREAMS)]
        await self.arrivals(raw, MAX_WAITING_STREAMS)
        await self.broken_stream()
        self.assertEqual(MAX_WAITING_STREAMS, raw.said.count(b"\n"))
        self.assertEqual([], [end for end in ends if end.ended])

    async def test_with_the_program_goes_its_service(self) -> None:
        raw = await self.listening()
        waiting = await self.connect()
        await self.arrivals(raw)
        raw.transport.abortConnection()
        await self.until(lambda: waiting.ended)
        self.assertEqual([], self.alice.streams.services())
        self.assertEqual([], list(self.gates["alice"].listeners()))
        await self.listening()

    async def test_only_who_is_named_is_admitted(self) -> None:
        raw = await self.listening(peers=["bob"])
        await self.connect()
        await self.arrivals(raw)
        raw.transport.abortConnection()
        await self.until(lambda: not self.alice.streams.services())
        stranger = self.make_device()
        self.alice.trust(stranger.device_id, "carol")
        await self.raw(line(listen={"service": "web", "peers": ["carol"]}))
        await self.until(lambda: self.alice.streams.services())
        await self.refused_stream()

    async def test_what_a_listener_says_is_ignored(self) -> None:
        raw = await self.listening()
        raw.transport.write(b"x" * 100_000)
        await self.connect()
        await self.arrivals(raw)

    async def test_who_does_not_read_gets_no_more_streams(self) -> None:
        raw = await self.listening()
        (listener,) = self.gates["alice"].listeners()
        listener.pauseProducing()
        await self.broken_stream()
        self.assertEqual(b"", raw.said)
        listener.resumeProducing()
        await self.connect()
        await self.arrivals(raw)
