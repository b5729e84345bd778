"""Commands that need no realm: checking a configuration, and backups of one that is stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import TestCase

from abst.identity import Identity
from abst.realm.state_folder import IDENTITY_FILE, STORE_FILE, lock_state_folder
from abst.realm.store.tables import Tables
from tests.certificates import write_certificate
from tests.operator.fake_realm import run_operator, short_folder


class CheckConfigTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.file = self.folder / "realm.toml"

    def check(self, text: str, *words: str) -> tuple[int, str, str]:
        self.file.write_text(text, "utf-8")
        return run_operator("check-config", str(self.file), *words)

    def test_what_is_right_is_shown_as_far_as_it_is_no_default(self) -> None:
        status, out, said = self.check(
            'host = "realm.example.org"\naccess = "open"\n'
            "[limits]\ncircuits = 5\nqueue_bytes = 1048576\n"
        )
        self.assertEqual((0, ""), (status, said))
        self.assertEqual(
            [
                f"{self.file} is right",
                'host = "realm.example.org"',
                'access = "open"',
                "limits.circuits = 5",
            ],
            out.splitlines(),
        )

    def test_everything_by_default(self) -> None:
        status, out, _ = self.check("")
        self.assertEqual((0, True), (status, out.endswith("everything is as by default\n")))

    def test_what_is_wrong_is_one_line_with_file_and_key(self) -> None:
        for text, key in (
            ("limits = ", ""),
            ("listne = []", "listne"),
            ('access = "closed"', "access"),
            ("[limits]\nconnections = 0", "limits.connections"),
            ('listen = ["tcp:x"]', "listen"),
            ('certificate = "/chain.pem"', "key"),
        ):
            status, out, said = self.check(text)
            self.assertEqual((1, "", 1), (status, out, said.count("\n")), said)
            self.assertIn(f"abst-realm: {self.file}: {key}", said)

    def test_where_there_is_none_it_says_how_to_name_one(self) -> None:
        named = ("--state", str(self.folder), "--config", str(self.file))
        status, out, said = run_operator(*named, "check-config")
        self.assertEqual((1, "", 1), (status, out, said.count("\n")), said)
        self.assertIn("'abst-realm check-config FILE'", said)

    def test_a_certificate_and_its_key_belong_together(self) -> None:
        other = self.folder / "other"
        other.mkdir()
        chain, key = write_certificate(self.folder, ec.generate_private_key(ec.SECP256R1()))
        _, stranger = write_certificate(other, ec.generate_private_key(ec.SECP256R1()))
        self.assertEqual(0, self.check(f'certificate = "{chain}"\nkey = "{key}"')[0])
        status, _, said = self.check(f'certificate = "{chain}"\nkey = "{stranger}"')
        self.assertEqual(1, status)
        self.assertIn(f"{stranger}: not the key of {chain}", said)
        self.assertEqual(1, self.check(f'certificate = "{chain}"\nkey = "/missing.pem"')[0])

    def test_ports_that_systemd_opens_are_not_known_here(self) -> None:
        status, _, said = self.check('listen = ["systemd:domain=INET6:index=0"]')
        self.assertEqual((0, ""), (status, said))

    def test_what_is_doubtful_is_said(self) -> None:
        status, _, said = self.check('listen = ["tcp:4000", "tcp:4000"]')
        self.assertEqual(0, status)
        self.assertIn("can be opened once", said)
        status, _, said = self.check(f'state = "{self.file}"')
        self.assertEqual((0, True), (status, "is no folder" in said))

    def test_for_scripts(self) -> None:
        status, out, _ = self.check("[limits]\ncircuits = -1", "--json")
        found = json.loads(out)
        self.assertEqual((1, {}), (status, found["settings"]))
        self.assertIn("limits.circuits", found["problem"])
        status, out, _ = self.check("[limits]\ncircuits = 1", "--json")
        self.assertEqual((0, {"limits.circuits": 1}), (status, json.loads(out)["settings"]))
        self.assertIsNone(json.loads(out)["problem"])


class BackupTests(TestCase):
    def setUp(self) -> None:
        self.folder = short_folder(self)
        self.state = self.folder / "state"
        self.state.mkdir(mode=0o700)
        self.identity = Identity.load_or_create(self.state / IDENTITY_FILE)
        Tables(self.state / STORE_FILE).close()
        self.file = self.folder / "backup.tar"

    def operator(self, *arguments: str) -> tuple[int, str, str]:
        return run_operator("--state", str(self.state), *arguments)

    def test_a_stopped_realm_is_copied_and_put_back(self) -> None:
        os.close(lock_state_folder(self.state))
        status, out, said = self.operator("backup", str(self.file))
        self.assertEqual(0, status, said)
        self.assertIn("keep it where you keep keys", said)
        self.assertEqual([], [path for path in self.state.iterdir() if path.name[0] == "."])
        elsewhere = self.folder / "elsewhere"
        status, out, said = self.operator("restore", str(self.file), "--state", str(elsewhere))
        self.assertEqual(0, status, said)
        self.assertIn(f"restored to {elsewhere}", out)
        restored = Identity.load(elsewhere / IDENTITY_FILE)
        self.assertEqual(self.identity.device_id, restored.device_id)

    def test_a_realm_that_starts_or_stops_just_now_is_left_alone(self) -> None:
        lock = lock_state_folder(self.state)
        self.addCleanup(os.close, lock)
        status, _, said = self.operator("backup", str(self.file))
        self.assertEqual((1, False), (status, self.file.exists()))
        self.assertIn("a realm is running there", said)

    def test_what_is_there_stays_without_force(self) -> None:
        self.operator("backup", str(self.file))
        self.assertEqual(1, self.operator("backup", str(self.file))[0])
        self.assertEqual(0, self.operator("backup", str(self.file), "--force")[0])
        self.assertEqual(1, self.operator("restore", str(self.file))[0])
        status, out, said = self.operator("restore", str(self.file), "--force", "--json")
        self.assertEqual(0, status, said)
        self.assertTrue(Path(json.loads(out)["aside"], IDENTITY_FILE).exists())

    def test_no_realm_to_copy(self) -> None:
        (self.state / STORE_FILE).unlink()
        status, _, said = self.operator("backup", str(self.file))
        self.assertEqual((1, False), (status, self.file.exists()))
        self.assertIn(f"no realm is at {self.state}: name", said)
        self.assertEqual([IDENTITY_FILE], os.listdir(self.state))

    def test_no_backup_at_all(self) -> None:
        self.file.write_text("notes", "ascii")
        status, _, said = self.operator("restore", str(self.file), "--force")
        self.assertEqual((1, 1), (status, said.count("\n")))
        self.assertIn("not a realm's backup", said)
