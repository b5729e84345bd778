"""Where a realm may show what it shows."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from twisted.internet.endpoints import (
    TCP4ServerEndpoint,
    TCP6ServerEndpoint,
    UNIXServerEndpoint,
)
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import ConfigurationError
from abst.realm.config import from_settings
from abst.realm.web.place import LoopbackPlace, UnixPlace, place_of


class PlaceTests(SynchronousTestCase):
    def test_sockets_and_loopback_are_places(self) -> None:
        for text, place in (
            ("unix:/run/abst/web", UnixPlace(Path("/run/abst/web"))),
            ("unix:address=/run/abst/web:mode=600", UnixPlace(Path("/run/abst/web"), 0o600)),
            ("tcp:9142:interface=127.0.0.1", LoopbackPlace("127.0.0.1", 9142)),
            ("tcp:port=9142:interface=127.8.0.1", LoopbackPlace("127.8.0.1", 9142)),
            ("tcp:9142:interface=localhost", LoopbackPlace("127.0.0.1", 9142)),
            ("tcp:9142:interface=[::1]", LoopbackPlace("::1", 9142)),
            ("tcp6:9142:interface=\\:\\:1", LoopbackPlace("::1", 9142)),
        ):
            self.assertEqual(place, place_of(text), text)

    def test_what_others_can_reach_is_refused_with_the_reason(self) -> None:
        for text in (
            "tcp:9142",
            "tcp6:9142",
            "tcp:9142:interface=0.0.0.0",
            "tcp:9142:interface=192.0.2.1",
            "tcp6:9142:interface=\\:\\:",
            "tcp:9142:interface=realm.example.org",
            "tcp:9142:interface=127.0.0.1.example.org",
        ):
            error = self.assertRaises(ValueError, place_of, text)
            self.assertIn("put a reverse proxy before it", str(error))

    def test_what_is_no_place_is_refused_with_an_example(self) -> None:
        for text in ("", "9142", "unix:web", "unix:/w:mode=999", "ssl:9142", "tcp:x", "tcp:1:x=1"):
            error = self.assertRaises(ValueError, place_of, text)
            self.assertIn("such as unix:/run/abst/web", str(error))
        error = self.assertRaises(ValueError, place_of, "tcp:65536:interface=127.0.0.1")
        self.assertIn("65535", str(error))

    def test_each_kind_has_its_endpoint(self) -> None:
        for text, kind in (
            ("unix:/run/abst/web", UNIXServerEndpoint),
            ("tcp:9142:interface=127.0.0.1", TCP4ServerEndpoint),
            ("tcp:9142:interface=[::1]", TCP6ServerEndpoint),
        ):
            self.assertIsInstance(place_of(text).endpoint(MemoryReactorClock()), kind)

    def test_the_configuration_names_the_key(self) -> None:
        config = from_settings({"web": "unix:/run/abst/web"}, "realm.toml")
        self.assertEqual("unix:/run/abst/web", config.web)
        self.assertIsNone(from_settings({}, "realm.toml").web)
        error = self.assertRaises(
            ConfigurationError, from_settings, {"web": "tcp:9142"}, "realm.toml"
        )
        self.assertIn("realm.toml", str(error))
        self.assertIn("web", str(error))


class MakeRoomTests(SynchronousTestCase):
    """What stands already where a Unix socket is wanted."""

    def setUp(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="abst-"))
        self.addCleanup(shutil.rmtree, folder)
        self.path = folder / "web"

    def make_room(self) -> bool:
        """Make room; return whether there is some."""
        UnixPlace(self.path).make_room()
        return not self.path.exists()

    def test_a_socket_that_nobody_listens_at_is_removed(self) -> None:
        self.assertTrue(self.make_room())
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(self.path))
        self.assertTrue(self.make_room())

    def test_one_at_which_somebody_listens_stays_also_with_many_visitors(self) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(self.path))
            other.listen(0)
            for _ in range(4):
                self.assertFalse(self.make_room())

    def test_what_is_no_socket_stays(self) -> None:
        self.path.touch()
        self.assertFalse(self.make_room())
