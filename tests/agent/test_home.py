"""A device's home: who may look inside, one agent at a time, and files that are whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from unittest import SkipTest

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.agent.default_home import default_home
from abst.agent.groups.policy import OfferPolicy
from abst.agent.home import Home, Settings, replace_file
from abst.agent.streams.exposure import Exposure
from abst.device.peers import Peer
from abst.errors import AbstError, ConfigurationError, IdentityError
from abst.identity import Identity

# What runs is this checkout, wherever trial has put the current folder.
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}

ALICE: Final = Identity.generate()
BOB: Final = Identity.generate()
SETTINGS: Final = Settings(
    "my device",
    (RealmAddress("realm.example", 4711, bytes(32)), RealmAddress("::1")),
    (
        Peer(
            ALICE.device_id,
            "Alice ü",
            ALICE.public_key,
            addresses=("192.0.2.7:4000", "[2001:db8::1]:4000"),
            told_addresses=("alice.local:4000",),
            networks=(bytes(16), bytes(range(16))),
            is_introduced=True,
        ),
        Peer(BOB.device_id),
    ),
    exposures=(
        Exposure("web", "tcp:127.0.0.1:80"),
        Exposure("ssh", "tcp:127.0.0.1:22", (ALICE.device_id, BOB.device_id)),
    ),
    group_offers=OfferPolicy.ASK,
)


class HomeTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.home = Home(self.path)


class DefaultTests(SynchronousTestCase):
    """Where a home is when nobody says so."""

    def test_the_environment_decides(self) -> None:
        home = Path.home()
        for environment, path in (
            ({"ABST_HOME": "/a/b"}, Path("/a/b")),
            ({"ABST_HOME": "~/b", "XDG_DATA_HOME": "/x"}, home / "b"),
            ({"XDG_DATA_HOME": "/x"}, Path("/x/abst")),
            ({"ABST_HOME": "", "XDG_DATA_HOME": ""}, home / ".local/share/abst"),
            ({"XDG_DATA_HOME": "data"}, home / ".local/share/abst"),
            ({"XDG_DATA_HOME": "~/data"}, home / ".local/share/abst"),
            ({}, home / ".local/share/abst"),
        ):
            self.assertEqual(path, default_home(environment), environment)

    def test_the_agent_and_the_commands_agree(self) -> None:
        """A service without a --home serves the home that a command without one asks for."""
        script = "from abst.agent.tap import Options, makeService\n"
        script += "print(makeService(Options())._home.socket)"
        person = Path(self.mktemp()).absolute()
        usual = person / ".local/share/abst"
        for data_folder, path in (("data", usual), ("/x", Path("/x/abst"))):
            environment = {**ENVIRONMENT, "HOME": str(person), "XDG_DATA_HOME": data_folder}
            environment.pop("ABST_HOME", None)
            found = self.run_python(environment, "-c", script).stdout.strip()
            self.assertEqual(str(path / "agent.sock"), found)
            refusal = self.run_python(environment, "-m", "abst.cli", "status").stderr
            self.assertIn(f"abst: {path}: there is no device here", refusal)

    def run_python(
        self, environment: dict[str, str], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Python with these arguments, with this checkout's code."""
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


class CreationTests(HomeTestCase):
    def test_a_new_home_is_for_its_owner_alone(self) -> None:
        identity = self.home.create("my device")
        self.assertEqual(0o700, self.path.stat().st_mode & 0o777)
        for path in self.path.iterdir():
            self.assertEqual(0o600, path.stat().st_mode & 0o777, path.name)
        found, settings = self.home.open()
        self.assertEqual(identity.device_id, found.device_id)
        self.assertEqual(Settings("my device"), settings)

    def test_folders_above_are_made(self) -> None:
        Home(self.path / "a" / "b").create("")
        self.assertTrue((self.path / "a" / "b" / "identity.pem").exists())

    def test_an_identity_is_never_replaced(self) -> None:
        identity = self.home.create("first")
        error = self.assertRaises(AbstError, self.home.create, "second")
        self.assertIn("has an identity already", str(error))
        self.assertEqual(identity.device_id, self.home.open()[0].device_id)
        self.assertEqual("first", self.home.open()[1].name)

    def test_where_no_folder_can_be_it_says_so(self) -> None:
        self.path.write_text("a file")
        error = self.assertRaises(ConfigurationError, Home(self.path / "x").create, "")
        self.assertIn(str(self.path / "x"), str(error))

    def test_a_folder_that_others_can_read_is_refused(self) -> None:
        self.path.mkdir()
        self.path.chmod(0o755)
        error = self.assertRaises(ConfigurationError, self.home.create, "")
        self.assertIn("chmod 700", str(error))
        self.assertEqual([], list(self.path.iterdir()))


class OpeningTests(HomeTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.identity = self.home.create("my device")

    def assert_refused(self, kind: type[AbstError], *words: str) -> None:
        error = self.assertRaises(kind, self.home.open)
        for word in words:
            self.assertIn(word, str(error))
        self.assertNotIn("\n", str(error))

    def test_no_home_says_how_to_make_one(self) -> None:
        error = self.assertRaises(AbstError, Home(self.path / "other").open)
        self.assertIn("abst init", str(error))

    def test_a_home_that_others_can_look_into_is_refused(self) -> None:
        for mode in (0o750, 0o701, 0o777, 0o704):
            self.path.chmod(mode)
            self.assert_refused(ConfigurationError, f"mode {mode:04o}", f"chmod 700 {self.path}")
        self.path.chmod(0o700)
        self.home.open()

    def test_a_key_that_others_can_read_is_refused(self) -> None:
        self.home.identity_file.chmod(0o640)
        self.assert_refused(IdentityError, "chmod 600")

    def test_a_home_of_another_user_is_refused(self) -> None:
        if os.geteuid() != 0:
            raise SkipTest("only root can give a folder away")
        os.chown(self.path, 12345, 12345)
        self.assert_refused(ConfigurationError, "another user")

    def test_a_key_that_is_none_is_refused(self) -> None:
        for content in (b"", b"hello", b"-----BEGIN PRIVATE KEY-----\n"):
            self.home.identity_file.write_bytes(content)
            self.assert_refused(IdentityError, "identity.pem")


class SettingsTests(HomeTestCase):
    """Name, realms and peers, on disk."""

    def setUp(self) -> None:
        super().setUp()
        self.home.create("my device")

    def settings(self) -> Settings:
        return self.home.open()[1]

    def assert_refused(self, content: bytes, *words: str) -> None:
        self.home.settings_file.write_bytes(content)
        error = self.assertRaises(ConfigurationError, self.home.open)
        self.assertIn("settings.json", str(error))
        self.assertNotIn("\n", str(error))
        # What cannot be read is not overwritten by trying.
        self.assertEqual(content, self.home.settings_file.read_bytes())

    def test_they_come_back_as_they_were(self) -> None:
        self.home.save_settings(SETTINGS)
        self.assertEqual(SETTINGS, self.settings())
        self.assertEqual(0o600, self.home.settings_file.stat().st_mode & 0o777)

    @given(st.text(st.characters(), max_size=64))
    def test_any_name_comes_back(self, name: str) -> None:
        settings = Settings(name, (), (Peer(ALICE.device_id, name),))
        self.home.save_settings(settings)
        self.assertEqual(settings, self.settings())

    def test_an_invitation_is_kept_where_nobody_else_reads_it(self) -> None:
        invitation = "oKGio6SlpqeoqaqrrK2urw"
        realm = RealmAddress("realm.example", 4711, bytes(32), invitation)
        self.home.save_settings(Settings(realms=(realm,)))
        (found,) = self.home.open()[1].realms
        self.assertEqual(invitation, found.invitation)
        self.assertEqual(0o600, self.home.settings_file.stat().st_mode & 0o777)
        self.assertNotIn(invitation, repr(self.home.open()[1]))
        # A file that was damaged by hand is not shown either.
        text = self.home.settings_file.read_text("utf-8").replace("/?pin", "/x?pin")
        self.home.settings_file.write_text(text, "utf-8")
        error = self.assertRaises(ConfigurationError, self.home.open)
        self.assertNotIn(invitation, str(error))

    def test_no_settings_are_the_first_settings(self) -> None:
        self.home.settings_file.unlink()
        self.assertEqual(Settings(), self.settings())

    def test_what_is_no_json_is_refused(self) -> None:
        for content in (b"", b"{", b"\xff\xfe", b'{"name": "x"', b"[" * 100_000):
            self.assert_refused(content)

    def test_what_is_half_written_is_refused(self) -> None:
        """Not by this program, which replaces the file whole; by an editor, or a bad disk."""
        self.home.save_settings(SETTINGS)
        whole = self.home.settings_file.read_bytes()
        for size in range(0, len(whole) - 2, 7):
            self.assert_refused(whole[:size])

    def test_what_is_json_and_no_settings_is_refused(self) -> None:
        good: dict[str, Any] = {"name": "x", "realms": [], "peers": []}
        peer: dict[str, Any] = {
            "device_id": str(ALICE.device_id),
            "name": "Alice",
            "public_key": ALICE.public_key.hex(),
        }
        documents: list[Any] = [
            *([], None, 5, "text", {}, {"name": "x"}),
            {**good, "realms": ["http://realm.example"]},
            {**good, "realms": 5},
            {**good, "realms": [5]},
            {**good, "peers": [5]},
            {**good, "peers": [{}]},
            {**good, "peers": [{**peer, "device_id": "x"}]},
            {**good, "peers": [{**peer, "device_id": None}]},
            {**good, "peers": [{**peer, "public_key": "xyz"}]},
            {**good, "peers": [{**peer, "public_key": 5}]},
        ]
        for document in documents:
            self.assert_refused(json.dumps(document).encode())

    def test_keys_of_a_newer_version_are_passed_over(self) -> None:
        document = {"name": "x", "realms": [], "peers": [], "newer": {"a": 1}}
        self.home.settings_file.write_text(json.dumps(document))
        self.assertEqual(Settings("x"), self.settings())

    def test_settings_from_before_there_were_addresses(self) -> None:
        self.home.save_settings(SETTINGS)
        document = json.loads(self.home.settings_file.read_bytes())
        for entry in document["peers"]:
            del entry["addresses"], entry["told_addresses"]
            del entry["networks"], entry["is_introduced"]
        self.home.settings_file.write_text(json.dumps(document))
        peers = self.settings().peers
        self.assertEqual([p.device_id for p in SETTINGS.peers], [p.device_id for p in peers])
        self.assertEqual([((), ())] * 2, [(p.addresses, p.told_addresses) for p in peers])
        self.assertEqual([((), False)] * 2, [(p.networks, p.is_introduced) for p in peers])

    def test_an_address_that_is_none_is_refused(self) -> None:
        self.home.save_settings(SETTINGS)
        document = json.loads(self.home.settings_file.read_bytes())
        for wrong in (["laptop"], "192.0.2.7:4000", 4000, [None]):
            document["peers"][0]["addresses"] = wrong
            self.home.settings_file.write_text(json.dumps(document))
            error = self.assertRaises(ConfigurationError, self.home.open)
            self.assertIn("settings.json", str(error))

    def test_settings_from_before_anything_was_exposed(self) -> None:
        self.home.save_settings(SETTINGS)
        document = json.loads(self.home.settings_file.read_bytes())
        del document["exposures"]
        self.home.settings_file.write_text(json.dumps(document))
        self.assertEqual((), self.settings().exposures)

    def test_what_is_exposed_and_makes_no_sense_is_refused(self) -> None:
        good = {"service": "web", "endpoint": "tcp:127.0.0.1:80", "peers": []}
        for wrong in (5, {}, {**good, "peers": ["laptop"]}, {**good, "peers": 5}):
            document = {"name": "x", "realms": [], "peers": [], "exposures": [good, wrong]}
            self.assert_refused(json.dumps(document).encode())

    def test_what_happens_to_offers_of_groups(self) -> None:
        document = {"name": "x", "realms": [], "peers": []}
        self.home.settings_file.write_text(json.dumps(document))
        self.assertIs(OfferPolicy.ACCEPT, self.settings().group_offers)
        for wrong in ("perhaps", None, 5):
            self.assert_refused(json.dumps({**document, "group_offers": wrong}).encode())

    def test_saving_into_a_folder_that_is_gone_is_told(self) -> None:
        error = self.assertRaises(
            ConfigurationError, Home(self.path / "gone").save_settings, SETTINGS
        )
        self.assertIn("settings.json", str(error))


class ReplacementTests(HomeTestCase):
    """A file is replaced whole or not at all."""

    def setUp(self) -> None:
        super().setUp()
        self.path.mkdir()
        self.file = self.path / "file"

    def test_a_failure_leaves_the_old_file(self) -> None:
        replace_file(self.file, b"old")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        self.assertRaises(OSError, replace_file, self.file, b"new")
        self.assertEqual(b"old", self.file.read_bytes())
        self.assertEqual(["file"], os.listdir(self.path))

    def test_a_process_that_is_killed_leaves_the_old_file_or_the_new_one(self) -> None:
        """Kill it again and again while it does nothing but save."""
        script = (
            "import sys\n"
            "from pathlib import Path\n"
            "from abst.agent.home import Home, Settings\n"
            "home = Home(Path(sys.argv[1]))\n"
            "number = 0\n"
            "while True:\n"
            "    number += 1\n"
            "    home.save_settings(Settings('x' * (number % 5000)))\n"
            "    if number == 1: print('begun', flush=True)\n"
        )
        home = Home(self.path / "home")
        home.create("")
        for _ in range(5):
            with subprocess.Popen(
                [sys.executable, "-c", script, str(home.path)],
                env=ENVIRONMENT,
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout is not None
                self.assertEqual(b"begun\n", process.stdout.readline())
                for _ in range(50):
                    home.open()
                process.send_signal(signal.SIGKILL)
            self.assertEqual(set(home.open()[1].name), {"x"})
        # What was being written when it was killed is removed by the next agent.
        os.close(home.lock())
        self.assertEqual(
            {"identity.pem", "settings.json", "agent.lock"}, set(os.listdir(home.path))
        )


class LockTests(HomeTestCase):
    """Only one agent uses a home at a time."""

    def setUp(self) -> None:
        super().setUp()
        self.home.create("")

    def test_a_second_one_is_refused_until_the_first_is_gone(self) -> None:
        first = self.home.lock()
        error = self.assertRaises(AbstError, self.home.lock)
        self.assertIn("another agent is running", str(error))
        os.close(first)
        os.close(self.home.lock())

    def test_a_killed_process_holds_no_lock(self) -> None:
        script = (
            "import sys, time; from pathlib import Path; from abst.agent.home import Home\n"
            "lock = Home(Path(sys.argv[1])).lock(); print('locked', flush=True); time.sleep(60)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(self.path)],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            self.assertEqual(b"locked\n", process.stdout.readline())
            self.assertRaises(AbstError, self.home.lock)
            process.kill()
        os.close(self.home.lock())

    def test_where_no_lock_can_be_it_says_so(self) -> None:
        (self.path / "agent.lock").mkdir()
        error = self.assertRaises(AbstError, self.home.lock)
        self.assertIn("agent.lock", str(error))
