"""Thousands of devices at one realm for a while: nobody is dropped, and its memory stays flat.

``make soak`` has 5,000 that are only there and 500 that talk (ABST_LOAD_IDLE, ABST_LOAD_TALKING)
for ten minutes (ABST_SOAK_SECONDS); ``make test`` has 50 and 20 for a second.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.integration.realm_process import LOOPBACK, RealmProcess
from tests.load.crowd_process import CrowdProcess, Figures
from tests.load.figures import MEGABYTE, lines_with, tell
from tests.load.people import addresses

SECONDS = float(os.environ.get("ABST_SOAK_SECONDS") or 1)
IDLE = int(os.environ.get("ABST_LOAD_IDLE") or 50)
TALKING = int(os.environ.get("ABST_LOAD_TALKING") or 20)

WORDS_PER_SECOND = 1.0 if SECONDS > 10 else 10.0
"""How often each device that talks sends 100 bytes. Its partner answers each of these packets."""

CONNECTS_PER_SECOND = 150.0
DEVICES_AT_ADDRESS = 10
REPORT_SECONDS = 30.0
WARM_UP_SECONDS = min(60.0, SECONDS / 4)
"""From when on memory must be flat: heartbeats have come from everybody."""

MOST_BYTES_FOR_DEVICE = 64 * 1024
MOST_GROWTH_BYTES = 4 * MEGABYTE
P99_MS = 50.0 if SECONDS > 10 else 1000.0
"""What the slowest hundredth may take; by itself it takes 2. Among all other tests it may wait."""


class LoadTests(TestCase):
    """One realm and one crowd."""

    def setUp(self) -> None:
        self.realm = RealmProcess(Path(self.mktemp()), "--listen", LOOPBACK)
        self.addCleanup(self.realm.kill)

    def test_many_devices_for_a_while(self) -> None:
        port = self.realm.port
        empty_bytes = self.realm.resident_bytes()
        crowd = CrowdProcess(
            port,
            f"--connects-per-second={CONNECTS_PER_SECOND}",
            idle=IDLE,
            talking=TALKING,
            addresses=addresses(max(1, (IDLE + TALKING) // DEVICES_AT_ADDRESS)),
        )
        self.addCleanup(crowd.end)
        came = crowd.until_here(60 + 2 * crowd.size / CONNECTS_PER_SECOND)
        self.assertEqual({}, {**came["failures"], **came["losses"], **came["errors"]})
        crowd.ask(talk=WORDS_PER_SECOND)
        flat_bytes = self.watch(crowd, WARM_UP_SECONDS)
        grown = self.watch(crowd, SECONDS - WARM_UP_SECONDS) - flat_bytes
        self.check_everything_came(crowd)
        self.assertLess(grown, MOST_GROWTH_BYTES)
        self.assertLess(
            flat_bytes - empty_bytes, 20 * MEGABYTE + MOST_BYTES_FOR_DEVICE * crowd.size
        )
        lines = self.realm.output.lines
        self.assertEqual([], lines_with(lines, "Traceback", "Unhandled", "is gone"))

    def watch(self, crowd: CrowdProcess, seconds: float) -> int:
        """Check and tell figures for that long; return the realm's memory in the end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            begun, computed = time.monotonic(), self.realm.cpu_seconds()
            time.sleep(min(left, REPORT_SECONDS))
            found = crowd.ask()
            passed = time.monotonic() - begun
            computed = self.realm.cpu_seconds() - computed
            self.check(crowd, found)
            if SECONDS > REPORT_SECONDS:
                tell(
                    f"{found['here']} here, {found['packets'] / passed:.0f} packets/s: "
                    f"p50 {found['p50_ms']} ms, p99 {found['p99_ms']}, "
                    f"slowest {found['slowest_ms']}; realm: {100 * computed / passed:.0f} % CPU, "
                    f"{self.realm.resident_bytes() / MEGABYTE:.1f} MiB"
                )
        return self.realm.resident_bytes()

    def check(self, crowd: CrowdProcess, found: Figures) -> None:
        """Check that nobody was lost, refused or slow."""
        self.assertEqual({}, {**found["failures"], **found["losses"], **found["errors"]})
        self.assertEqual((crowd.size, 0), (found["here"], found["disorder"]))
        self.assertGreater(found["packets"], 0)
        self.assertLess(found["p99_ms"], P99_MS)

    def check_everything_came(self, crowd: CrowdProcess) -> None:
        """Let the talk end, and check that as much was received as was sent."""
        found = crowd.ask(talk=0)
        deadline = time.monotonic() + 10
        while found["sent"] != found["received"] and time.monotonic() < deadline:
            time.sleep(0.02)
            found = crowd.ask()
        self.assertEqual(found["sent"], found["received"])
        self.assertGreaterEqual(found["sent"], 1.6 * TALKING * WORDS_PER_SECOND * SECONDS)
