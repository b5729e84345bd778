"""Every setting, and for everything else a line with the file, the key and the reason."""

import io
import os
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from abst.errors import ConfigurationError
from abst.logs import Level, LogFormat
from abst.realm.access import Mode
from abst.realm.config import MAX_CONFIG_BYTES, Config, from_settings, load
from abst.realm.limits import Limits
from abst.realm.state_folder import default_state
from abst.realm.tap import Options

ROOT = Path(__file__).parent.parent.parent


class SettingsTests(SynchronousTestCase):
    def refused(self, settings: dict[str, Any]) -> ConfigurationError:
        """Return the error with which settings are refused."""
        error: ConfigurationError = self.assertRaises(
            ConfigurationError, from_settings, settings, "realm.toml"
        )
        self.assertEqual("realm.toml", error.file)
        self.assertTrue(str(error).startswith("realm.toml: "), str(error))
        self.assertNotIn("\n", str(error))
        return error

    def test_nothing_needs_to_be_set(self) -> None:
        self.assertEqual(Config(), from_settings({}, "realm.toml"))

    def test_every_setting(self) -> None:
        config = from_settings(
            {
                "listen": ["tcp:1", "tcp:2:interface=127.0.0.1"],
                "state": "/state",
                "host": "realm.example.org",
                "certificate": "/chain.pem",
                "key": "/key.pem",
                "access": "listed",
                "blur_addresses": False,
                "trusted_proxies": ["192.0.2.1", "2001:DB8::1"],
                "log": "json",
                "log_level": "debug",
                "limits": {"connections": 5, "stall_seconds": 3, "hello_seconds": 1.5},
            },
            "realm.toml",
        )
        self.assertEqual(
            Config(
                listen=("tcp:1", "tcp:2:interface=127.0.0.1"),
                state=Path("/state"),
                host="realm.example.org",
                certificate=Path("/chain.pem"),
                key=Path("/key.pem"),
                access=Mode.LISTED,
                blur_addresses=False,
                trusted_proxies=("192.0.2.1", "2001:db8::1"),
                log=LogFormat.JSON,
                log_level=Level.DEBUG,
                limits=Limits(connections=5, stall_seconds=3, hello_seconds=1.5),
            ),
            config,
        )

    def test_a_path_may_begin_at_home(self) -> None:
        self.assertEqual(Path.home() / "realm", from_settings({"state": "~/realm"}, "x").state)

    def test_nobodys_home_is_refused(self) -> None:
        self.assertEqual("state", self.refused({"state": "~nobody-of-this-name/realm"}).key)

    def test_unknown_keys_are_named_with_the_known_ones(self) -> None:
        error = self.refused({"listne": ["tcp:1"]})
        self.assertEqual("listne", error.key)
        self.assertIn("listen", error.reason)
        error = self.refused({"limits": {"queue": 5}})
        self.assertEqual("limits.queue", error.key)
        self.assertIn("queue_bytes", error.reason)

    def test_values_of_the_wrong_kind_are_named(self) -> None:
        wrong: dict[str, list[Any]] = {
            "listen": [
                "tcp:1",
                [],
                [1],
                [""],
                {},
                None,
                True,
                ["tcp:1", "tcp"],
                ["tcp:x"],
                ["x:1"],
            ],
            "state": ["", 1, [], True],
            "host": ["", 1, ["h"], False, "https://realm.example.org/", "a b", "[::1]", "x" * 300],
            "certificate": ["", 1],
            "key": ["", 1],
            "access": ["", "closed", "Open", 1, None, ["open"], {}, True],
            "blur_addresses": ["yes", 1, None],
            "trusted_proxies": ["192.0.2.1", [1], [""], ["proxy.example.org"], ["192.0.2.0/24"]],
            "limits": [1, "x", [], True],
        }
        for key, values in wrong.items():
            for value in values:
                self.assertEqual(key, self.refused({key: value}).key, value)

    def test_limits_of_the_wrong_kind_are_named(self) -> None:
        wrong: dict[str, list[Any]] = {
            "connections": ["5", 5.0, True, [], 0, -1],
            "queue_bytes": ["1", 1.5e6, False, 1],
            "stall_seconds": ["5", True, [], 0, -0.5, float("nan"), float("inf")],
            "silence_seconds": [5],
        }
        for name, values in wrong.items():
            for value in values:
                error = self.refused({"limits": {name: value}})
                self.assertEqual(f"limits.{name}", error.key, value)

    def test_a_port_behind_proxies_says_which(self) -> None:
        listen = ["haproxy:tcp:42278"]
        problem = self.refused({"listen": listen})
        self.assertIn("trusted_proxies", str(problem))
        from_settings({"listen": listen, "trusted_proxies": ["192.0.2.10"]}, "realm.toml")

    def test_certificate_and_key_go_together(self) -> None:
        self.assertEqual("key", self.refused({"certificate": "/chain.pem"}).key)
        self.assertEqual("certificate", self.refused({"key": "/key.pem"}).key)


class FileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def refused(self, content: bytes | None) -> ConfigurationError:
        """Return the error with which a file of that content is refused."""
        if content is not None:
            self.path.write_bytes(content)
        error: ConfigurationError = self.assertRaises(ConfigurationError, load, self.path)
        self.assertEqual(str(self.path), error.file)
        self.assertNotIn("\n", str(error))
        return error

    def test_a_file_is_read(self) -> None:
        self.path.write_text('listen = ["tcp:7"]\n[limits]\nconnections = 3\n', "utf-8")
        config = load(self.path)
        self.assertEqual(("tcp:7",), config.listen)
        self.assertEqual(3, config.limits.connections)

    def test_the_example_is_the_default(self) -> None:
        self.assertEqual(Config(), load(ROOT / "etc" / "abst" / "realm.toml"))

    def test_a_file_that_cannot_be_read_is_named(self) -> None:
        self.assertIsNone(self.refused(None).key)
        self.path.mkdir()
        self.assertIsNone(self.refused(None).key)

    def test_what_is_no_toml_is_refused(self) -> None:
        for content in (b"listen = [", b"\xff\xfe", b"a = 1\na = 2\n", b"[[limits]", b"\0"):
            self.assertIn("not TOML", self.refused(content).reason)

    def test_an_endless_file_is_not_read_to_its_end(self) -> None:
        error = self.refused(b"# comment\n" * (MAX_CONFIG_BYTES // 10 + 1))
        self.assertIn("larger", error.reason)

    def test_a_deep_file_is_refused(self) -> None:
        self.assertIn("not TOML", self.refused(b"a = " + b"[" * 100_000).reason)


class DefaultStateTests(SynchronousTestCase):
    def test_systemd_says_where(self) -> None:
        self.assertEqual(Path("/var/lib/abst"), default_state({"STATE_DIRECTORY": "/var/lib/abst"}))
        self.assertEqual(Path("/a"), default_state({"STATE_DIRECTORY": "/a:/b"}))

    def test_else_the_xdg_folder(self) -> None:
        self.assertEqual(Path("/x/abst-realm"), default_state({"XDG_STATE_HOME": "/x"}))

    def test_else_in_the_home(self) -> None:
        self.assertEqual(Path.home() / ".local/state/abst-realm", default_state({}))


class OptionsTests(SynchronousTestCase):
    """The command line, which is stronger than the file."""

    def parse(self, *arguments: str) -> Config:
        """Return what a command line makes of the configuration."""
        options = Options()
        options.parseOptions(list(arguments))
        return options.config

    def test_nothing_needs_to_be_said(self) -> None:
        self.assertEqual(Config(), self.parse())

    def test_listen_is_repeatable(self) -> None:
        self.assertEqual(("tcp:1", "tcp:2"), self.parse("--listen", "tcp:1", "-l", "tcp:2").listen)

    def test_the_command_line_is_stronger_than_the_file(self) -> None:
        path = Path(self.mktemp())
        path.write_text(
            'listen = ["tcp:7"]\nstate = "/from-file"\nhost = "file"\n[limits]\nconnections = 3\n',
            "utf-8",
        )
        self.assertEqual(("tcp:7",), self.parse("--config", os.fspath(path)).listen)
        config = self.parse("-c", os.fspath(path), "-l", "tcp:1", "-s", "/given", "--host", "h")
        self.assertEqual(
            (("tcp:1",), Path("/given"), "h"), (config.listen, config.state, config.host)
        )
        self.assertEqual(3, config.limits.connections)

    def test_who_may_use_it_is_for_the_command_line_too(self) -> None:
        self.assertIs(Mode.INVITED, self.parse().access)
        self.assertIs(Mode.OPEN, self.parse("--access", "open").access)
        self.patch(sys, "stderr", io.StringIO())
        error = self.assertRaises(SystemExit, self.parse, "--access", "closed")
        self.assertEqual(2, error.code)
