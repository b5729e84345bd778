"""Exposed services: streams that lead to programs which know nothing of ABST."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.streams.exposure import Exposure
from abst.agent.streams.exposures import MAX_EXPOSURES, Exposures, parse_endpoint
from abst.errors import AbstError, ConfigurationError, StreamError
from tests.agent.streams.stage import StreamTestCase
from tests.carriers import running_reactor
from tests.device.streams.doubles import BIG, Built, Echo, HalfNotes, Notes


class EndpointTests(SynchronousTestCase):
    def test_what_cannot_be_used_is_refused(self) -> None:
        for text, word in (
            ("", "no endpoint"),
            ("80", "no endpoint"),
            ("nonsense:1", "no endpoint"),
            ("tcp:127.0.0.1:http", "no endpoint"),
            ("tcp:127.0.0.1:80:colour=red", "no endpoint"),
            ("unix:run/x.sock", "begin with /"),
            ("unix:path=x.sock", "begin with /"),
            ("tcp:" + "x" * 1000, "at most"),
        ):
            error = self.assertRaises(AbstError, parse_endpoint, running_reactor(), text)
            self.assertIn(word, str(error))

    def test_what_can(self) -> None:
        for text in ("tcp:127.0.0.1:22", "tcp:host=::1:port=22", "unix:/run/x.sock"):
            try:
                parse_endpoint(running_reactor(), text)
            except AbstError as error:
                # Only a host with colons has to be written otherwise.
                self.assertIn("host=::1", str(error))


class ExposuresTests(StreamTestCase):
    """What Bob reaches at Alice's."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.saved: list[tuple[Exposure, ...]] = []
        self.exposures = Exposures(self.reactor, self.alice, (), self.save)
        self.behind = Built(Echo)
        port = self.reactor.listenTCP(0, self.behind, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.endpoint = f"tcp:127.0.0.1:{port.getHost().port}"

    def save(self) -> None:
        self.saved.append(self.exposures.all())

    async def connect(self, service: str = "echo", notes: Any = Notes) -> Any:
        return await self.bob.streams.connect(self.alice.device_id, service, Built(notes))

    async def refuses(self, exposure: Exposure, kind: type[Exception], *words: str) -> None:
        before = self.exposures.all()
        try:
            await self.exposures.add(exposure)
        except kind as problem:
            for word in words:
                self.assertIn(word, str(problem))
        else:
            self.fail(f"{exposure} is exposed")
        self.assertEqual(before, self.exposures.all())

    async def test_a_stream_leads_to_the_program_behind_it(self) -> None:
        await self.exposures.add(Exposure("echo", self.endpoint))
        near = await self.connect(notes=HalfNotes)
        near.transport.write(BIG)
        await self.until(lambda: len(near.heard) == len(BIG))
        self.assertEqual(BIG, bytes(near.heard))
        near.transport.loseWriteConnection()
        await self.until(lambda: near.ended and self.behind.built[0].ended)
        self.assertIsInstance(near.ended, ConnectionDone)

    async def test_it_is_offered_again_after_a_restart(self) -> None:
        exposure = Exposure("echo", self.endpoint)
        await self.exposures.add(exposure)
        self.assertEqual([(exposure,)], self.saved)
        later = Exposures(self.reactor, self.bob, self.saved[-1])
        await later.start()
        self.assertEqual(["echo"], self.bob.streams.services())

    async def test_what_cannot_be_offered_at_the_start_hinders_nothing_else(self) -> None:
        broken = Exposure("a", "nonsense:1")
        later = Exposures(self.reactor, self.bob, (broken, Exposure("b", self.endpoint)))
        await later.start()
        self.assertEqual(["b"], self.bob.streams.services())
        self.assertIn("nonsense", later.problem("a") or "")
        self.assertIsNone(later.problem("b"))
        await later.remove("a")
        self.assertIsNone(later.problem("a"))

    async def test_only_who_is_named_is_admitted(self) -> None:
        stranger = self.alice.trust(self.make_device().device_id, "carol")
        await self.exposures.add(Exposure("carols", self.endpoint, (stranger.device_id,)))
        await self.exposures.add(Exposure("bobs", self.endpoint, (self.bob.device_id,)))
        await self.connect("bobs")
        connecting = self.bob.streams.connect(self.alice.device_id, "carols", Built(Notes))
        await self.fails(connecting, StreamError, "ask its owner to admit")
        self.alice.forget(stranger.device_id)
        connecting = self.bob.streams.connect(self.alice.device_id, "carols", Built(Notes))
        await self.fails(connecting, StreamError, "ask its owner to admit")

    async def test_a_program_that_is_not_there_breaks_the_stream_off(self) -> None:
        logged: list[Any] = []
        observer: Any = logged.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        port = self.reactor.listenTCP(0, Built(Notes), interface="127.0.0.1")
        number = port.getHost().port
        await port.stopListening()
        await self.exposures.add(Exposure("gone", f"tcp:127.0.0.1:{number}"))
        near = await self.connect("gone")
        await self.until(lambda: near.ended)
        self.assertNotIsInstance(near.ended, ConnectionDone)
        (line,) = [event for event in logged if "the program behind it" in event["log_format"]]
        self.assertIn("refused", line["why"])

    async def test_a_program_that_breaks_off_breaks_the_stream_off(self) -> None:
        await self.exposures.add(Exposure("echo", self.endpoint))
        near = await self.connect()
        near.transport.write(b"hello")
        await self.until(lambda: near.heard)
        self.behind.built[0].transport.abortConnection()
        await self.until(lambda: near.ended)
        self.assertNotIsInstance(near.ended, ConnectionDone)

    async def test_what_is_exposed_no_more(self) -> None:
        await self.exposures.add(Exposure("echo", self.endpoint))
        near = await self.connect()
        await self.exposures.remove("echo")
        self.assertEqual((), self.saved[-1])
        connecting = self.bob.streams.connect(self.alice.device_id, "echo", Built(Notes))
        await self.fails(connecting, StreamError, "no such service")
        near.transport.write(b"what is open goes on")
        await self.until(lambda: len(near.heard) == 20)
        with self.assertRaises(AbstError) as refused:
            await self.exposures.remove("echo")
        self.assertIn("abst expose list", str(refused.exception))

    async def test_names_and_endpoints_that_cannot_be_used(self) -> None:
        await self.exposures.add(Exposure("echo", self.endpoint))
        await self.refuses(Exposure("echo", self.endpoint), AbstError, "abst expose remove echo")
        await self.refuses(Exposure("abst.files", self.endpoint), AbstError, "ABST's own")
        await self.refuses(Exposure("a b", self.endpoint), AbstError, "letters")
        await self.refuses(Exposure("web", "nonsense:1"), AbstError, "no endpoint")
        await self.alice.streams.listen("taken", Built(Notes))
        await self.refuses(Exposure("taken", self.endpoint), StreamError, "already")

    async def test_there_is_an_end_to_how_many(self) -> None:
        for number in range(MAX_EXPOSURES):
            await self.exposures.add(Exposure(f"s{number}", self.endpoint))
        await self.refuses(Exposure("echo", self.endpoint), AbstError, "remove one first")

    async def test_what_cannot_be_saved_is_not_exposed(self) -> None:
        def full() -> None:
            raise ConfigurationError("settings.json", None, "no space left")

        exposures = Exposures(self.reactor, self.bob, (), full)
        with self.assertRaises(ConfigurationError):
            await exposures.add(Exposure("echo", self.endpoint))
        self.assertEqual(((), []), (exposures.all(), self.bob.streams.services()))
