"""What a realm answers to whom over HTTP, on a port and on a Unix socket."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import ensureDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.compat import iterbytes
from twisted.trial.unittest import SynchronousTestCase

from abst import __version__
from abst.realm.config import Config
from abst.realm.service import RealmService
from abst.realm.web.site import CONNECTIONS, REQUEST_SECONDS, RealmSite, Root, is_ours
from tests.carriers import in_reactor, in_thread, running_reactor, until
from tests.integration.raw_client import identities, join
from tests.realm.web.live import LiveCase

ALICE, BOB = identities(2)


class SiteTests(LiveCase):
    settings = {"host": "realm.example.org"}

    @in_thread
    def test_everything_that_there_is_comes_with_its_kind(self) -> None:
        for path, kind in (
            ("/", "text/html; charset=utf-8"),
            ("/status", "application/json"),
            ("/status.json", "application/json"),
            ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
            ("/page.css", "text/css; charset=utf-8"),
            ("/page.js", "text/javascript; charset=utf-8"),
            ("/icon.svg", "image/svg+xml"),
        ):
            answer = self.ask(path)
            self.assertEqual((200, kind), (answer.status, answer.headers["content-type"]), path)
            self.assertEqual(len(answer.body), int(answer.headers["content-length"]))
            head = self.ask(path, "HEAD")
            self.assertEqual((200, b""), (head.status, head.body), path)
            self.assertEqual(answer.headers["content-type"], head.headers["content-type"])

    @in_thread
    def test_every_answer_keeps_browsers_from_doing_more_with_it(self) -> None:
        for answer in (
            self.ask("/"),
            self.ask("/status"),
            self.ask("/gone"),
            self.ask("/", "POST"),
            self.ask("/", host="example.org"),
        ):
            policy = answer.headers["content-security-policy"]
            self.assertIn("default-src 'none'", policy)
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertNotIn("unsafe", policy)
            self.assertEqual("no-store", answer.headers["cache-control"])
            self.assertEqual("nosniff", answer.headers["x-content-type-options"])
            self.assertEqual("no-referrer", answer.headers["referrer-policy"])
            self.assertEqual("ABST", answer.headers["server"])
            self.assertNotIn("access-control-allow-origin", answer.headers)

    @in_thread
    def test_there_is_nothing_else(self) -> None:
        for path in ("/gone", "/status/more", "/metrics/", "//", "/%2e%2e/numbers.py", "/page.py"):
            self.assertEqual(404, self.ask(path).status, path)

    @in_thread
    def test_it_is_only_to_be_looked_at(self) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"):
            answer = self.ask("/status", method)
            self.assertEqual(405, answer.status, method)
            self.assertEqual("GET, HEAD", answer.headers["allow"])

    @in_thread
    def test_names_that_are_not_ours_are_refused(self) -> None:
        for host in ("localhost", "localhost:9142", "127.0.0.1:9142", "[::1]:9142", "192.0.2.1"):
            self.assertEqual(200, self.ask("/status", host=host).status, host)
        for host in ("realm.example.org", "Realm.Example.org.:443"):
            self.assertEqual(200, self.ask("/status", host=host).status, host)
        for name in ("example.org", "localhost.example.org", "127.0.0.1.example.org", "", "[x"):
            answer = self.ask("/status", host=name)
            self.assertEqual(421, answer.status, name)
            self.assertNotIn(b"uptime", answer.body)
        self.assertEqual(421, self.ask("/status", host=None).status)
        two = b"GET /status HTTP/1.1\r\nHost: localhost\r\nHost: a.example\r\n"
        self.assertIn(self.send(two + b"Connection: close\r\n\r\n").status, (400, 421))

    @in_thread
    def test_a_name_that_is_given_while_it_runs_is_ours_from_then_on(self) -> None:
        self.assertEqual(421, self.ask("/", host="new.example.org").status)
        self.service._config = replace(self.service._config, host="new.example.org")
        self.assertEqual(200, self.ask("/", host="new.example.org").status)
        self.assertEqual(421, self.ask("/", host="realm.example.org").status)

    @in_thread
    def test_what_comes_behind_a_request_is_thrown_away(self) -> None:
        head = b"GET /status HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n"
        size = 3_000_000
        answer = self.send(head + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
        self.assertEqual(200, answer.status)
        chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        self.assertEqual(200, self.send(head + chunked).status)

    @in_thread
    def test_one_request_of_many_that_come_at_once_is_answered(self) -> None:
        with self.connect() as connection:
            connection.sendall(b"GET /page.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000)
            data = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    data += piece
        self.assertEqual(1, data.count(b"HTTP/1.1 200 OK"))

    @in_thread
    def test_so_many_connections_and_no_more(self) -> None:
        self.assertEqual(200, self.ask("/status").status)
        held = [self.connect() for _ in range(CONNECTIONS)]
        with self.connect() as one_more:
            self.assertEqual(b"", one_more.recv(1))
        for connection in held:
            connection.close()
        site = self.service._web._site
        assert site is not None
        until(lambda: not site.protocols, "the connections to be gone")
        self.assertEqual(200, self.ask("/status").status)

    @in_thread
    def test_the_status_tells_how_it_is(self) -> None:
        with join(self.realm_port, ALICE) as alice, join(self.realm_port, BOB) as bob:
            alice.send_to(bob.device_id, b"x" * 100)
            bob.receive()
            found = self.ask("/status").json
        self.assertEqual(__version__, found["version"])
        self.assertEqual("open", found["access"]["mode"])
        self.assertEqual(2, found["here"])
        self.assertGreaterEqual(found["relayed"]["packets"], 1)
        first = found["devices"][0]
        self.assertEqual(bytes(ALICE.device_id).hex()[:8], first["id"])
        self.assertEqual((1, "127.0.0.x"), (first["packets"], first["address"]))
        self.assertEqual(0, found["devices_left_out"])
        self.assertGreater(found["files"]["open"], 5)

    @in_thread
    def test_no_whole_id_and_no_address_is_shown_anywhere(self) -> None:
        with join(self.realm_port, ALICE) as alice:
            texts = [self.ask(path).body.decode() for path in ("/", "/status", "/metrics")]
            self.assertIn(alice.device_id.hex()[:8], texts[0])
            for text in texts:
                for secret in (alice.device_id.hex(), str(ALICE.device_id), "127.0.0.1"):
                    self.assertNotIn(secret, text)

    @in_thread
    def test_the_page_has_the_numbers_without_any_script(self) -> None:
        with join(self.realm_port, ALICE):
            text = self.ask("/").body.decode()
        self.assertIn("<h1>realm.example.org</h1>", text)
        self.assertIn('data-path="here" data-format="count">1</span>', text)
        self.assertIn(bytes(ALICE.device_id).hex()[:8], text)
        self.assertNotIn("$", text)

    @in_thread
    def test_connections_that_ask_nothing_end_with_the_realm(self) -> None:
        with self.connect() as connection:
            site = self.service._web._site
            assert site is not None
            until(lambda: bool(site.protocols), "the connection to be taken")
            in_reactor(lambda: ensureDeferred(self.service._web.stop()))
            self.assertEqual(b"", connection.recv(1))


class AddressesTests(LiveCase):
    settings = {"blur_addresses": False}

    @in_thread
    def test_addresses_are_shown_when_so_wanted(self) -> None:
        with join(self.realm_port, ALICE):
            (device,) = self.ask("/status").json["devices"]
        self.assertEqual("127.0.0.1", device["address"])


class SocketTests(LiveCase):
    """A Unix socket, which a browser reaches through a proxy alone."""

    def setUp(self) -> Any:
        folder = Path(tempfile.mkdtemp(prefix="abst-"))
        self.addCleanup(shutil.rmtree, folder)
        self.socket = folder / "web"
        self.web = f"unix:{self.socket}"
        with socket.socket(socket.AF_UNIX) as left_by_one_that_was_killed:
            left_by_one_that_was_killed.bind(str(self.socket))
        return super().setUp()

    @in_thread
    def test_it_answers_under_any_name_and_for_its_group(self) -> None:
        self.assertEqual(200, self.ask("/status", host="whatever.example").status)
        self.assertEqual(200, self.ask("/metrics").status)
        self.assertEqual(0o660, stat.S_IMODE(self.socket.stat().st_mode))


class NotShownTests(LiveCase):
    web = None

    @in_thread
    def test_by_default_nothing_is_shown_and_nothing_measured(self) -> None:
        self.assertIsNone(self.service._web.port)
        assert self.service.factory is not None
        self.assertEqual(set(), self.service.factory.realm.access.own_devices)


class TakenTests(LiveCase):
    @in_thread
    def test_a_place_that_is_taken_keeps_the_realm_from_starting(self) -> None:
        assert self.shown.port is not None
        where: Any = self.shown.port.getHost()
        config = Config(
            listen=("tcp:0:interface=127.0.0.1",),
            state=Path(self.mktemp()).resolve(),
            web=f"tcp:{where.port}:interface=127.0.0.1",
        )
        second = RealmService(running_reactor(), config, lambda line: None)
        error = self.assertRaises(SystemExit, in_reactor, second.startService)
        self.assertIn("web: http://127.0.0.1:", str(error))
        in_reactor(second.stopService)


class SlowTests(SynchronousTestCase):
    def test_who_sends_byte_by_byte_has_no_more_time_than_others(self) -> None:
        clock, transport = Clock(), StringTransport()
        protocol: Any = RealmSite(Root(), None).buildProtocol(cast(Any, None))
        protocol.callLater = clock.callLater
        protocol.makeConnection(transport)
        for byte in iterbytes(b"GET /statu"):
            self.assertFalse(transport.disconnecting)
            protocol.dataReceived(byte)
            clock.advance(REQUEST_SECONDS / 10)
        self.assertTrue(transport.disconnecting)


class HostTests(SynchronousTestCase):
    @given(st.text(max_size=40))
    def test_any_text_is_ours_or_not(self, host: str) -> None:
        self.assertIsInstance(is_ours(host, {"localhost"}), bool)
