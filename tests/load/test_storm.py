"""All devices come back at once, after a realm has stopped in order and after it was killed.

Each keeps to the waits of realm.md, "Coming back". ``make soak`` runs it (ABST_LOAD_STORM devices).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from tests.integration.realm_process import LOOPBACK, RealmProcess
from tests.load.crowd_process import CrowdProcess
from tests.load.figures import lines_with, tell
from tests.load.people import addresses

STORM = int(os.environ.get("ABST_LOAD_STORM") or 0)
CONNECTS_PER_SECOND = 150.0
DEVICES_AT_ADDRESS = 10
OVER_SECONDS = 60.0


class StormTests(TestCase):
    """One realm process after the other, on one port and one state folder."""

    def setUp(self) -> None:
        if not STORM:
            raise SkipTest("'make soak' runs storms")
        self.folder = Path(self.mktemp())
        self.realm = self.start(LOOPBACK)
        self.port = self.realm.port
        self.crowd = CrowdProcess(
            self.port,
            f"--connects-per-second={CONNECTS_PER_SECOND}",
            idle=STORM,
            addresses=addresses(max(1, STORM // DEVICES_AT_ADDRESS)),
        )
        self.addCleanup(self.crowd.end)
        self.crowd.until_here(60 + 2 * STORM / CONNECTS_PER_SECOND)

    def start(self, listen: str) -> RealmProcess:
        """Start a realm where the last one was."""
        realm = RealmProcess(self.folder, "--listen", listen)
        self.addCleanup(realm.kill)
        return realm

    def test_after_an_orderly_stop(self) -> None:
        self.assertIn(self.realm.terminate(), (0, -15))
        self.see_all_back("stopped in order")

    def test_after_a_kill(self) -> None:
        self.realm.kill()
        self.see_all_back("killed")

    def see_all_back(self, what: str) -> None:
        """Start the realm again, and see how its devices come back."""
        self.realm = self.start(f"tcp:{self.port}:interface=127.0.0.1")
        self.realm.address()
        begun = time.monotonic()
        found = self.crowd.until_here(OVER_SECONDS)
        took = time.monotonic() - begun
        self.assertEqual(STORM, found["returns"])
        tell(
            f"{what}: all {STORM} were back {took:.1f} s after the realm, the slowest "
            f"{found['slowest_return_seconds']} s after its loss; the realm computed for "
            f"{self.realm.cpu_seconds():.1f} s; tries that failed: {found['failures']}"
        )
        self.assertEqual([], lines_with(self.realm.output.lines, "Traceback", "Unhandled"))
