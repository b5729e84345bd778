"""The log of a real realm that ``twistd`` runs."""

from __future__ import annotations

import json
from pathlib import Path

from twisted.trial.unittest import TestCase

from abst.errors import Code
from tests.integration.raw_client import identities, join
from tests.integration.realm_process import LOOPBACK, TWISTD, RealmProcess

ALICE, BOB = identities(2)


class RealmLogTests(TestCase):
    timeout = 60

    def start(self, *arguments: str) -> RealmProcess:
        realm = RealmProcess(Path(self.mktemp()), *arguments, command=TWISTD)
        self.addCleanup(realm.kill)
        return realm

    def test_json_lines_tell_a_connections_story_by_its_number(self) -> None:
        options = ("--log", "json", "--log-level", "debug", "--access", "open")
        realm = self.start("--listen", LOOPBACK, *options)
        short = bytes(ALICE.device_id)[:4].hex()
        with join(realm.port, ALICE) as first, join(realm.port, ALICE) as second:
            self.assertEqual(Code.REPLACED, first.receive_error().code)
            second.send_to(bytes(BOB.device_id), b"hello")
            second.receive_error()
        realm.log_line("connection 2", "is gone")
        realm.terminate()
        entries = [json.loads(line) for line in realm.output.lines if line.startswith("{")]
        stories = [[e for e in entries if e.get("connection") == number] for number in (1, 2)]
        for story in stories:
            self.assertEqual({short}, {entry["device"] for entry in story})
        codes = [[entry.get("code") for entry in story] for story in stories]
        self.assertEqual([[None, Code.REPLACED], [None, Code.TARGET_ABSENT, None]], codes)
        # What twistd itself says is written in the same way.
        self.assertIn("starting up", entries[0]["message"])
        self.assertEqual("Server Shut Down.", entries[-1]["message"])

    def test_a_journal_that_is_not_there_keeps_it_from_starting(self) -> None:
        if Path("/run/systemd/journal/socket").exists():
            self.skipTest("this machine has a journald")
        realm = self.start("--listen", LOOPBACK, "--log", "journal")
        self.assertEqual(2, realm.wait())
        self.assertIn("abst-realm: log: there is no journald", realm.output.text)
