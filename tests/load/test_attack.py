"""Strangers attack a realm; those who were invited hardly notice (``make soak``).

Each attack of ``attacks`` for a while, from one address and from hundreds of this machine, between
two quiet times. ``tests.lab.test_attack`` does the same from another network.
"""

from __future__ import annotations

import os
import shutil
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from tests.integration.command_line import temporary_folder
from tests.load.attacks import ATTACKS
from tests.load.figures import MEGABYTE, lines_with
from tests.load.people import addresses
from tests.load.siege import Blow, Camp, Phase, Siege

SECONDS = float(os.environ.get("ABST_ATTACK_SECONDS") or 0)
"""How long each attack goes on."""

MOST_BYTES = 256 * MEGABYTE
"""What the realm may have in memory at any time; 60 of it are Python's and its modules'."""

MOST_LINES_PER_SECOND = 20.0
"""How much the realm may write into its log, whatever strangers do."""

TIMES_QUIET = 2.0
TRIES = 2
"""Other work on the machine may delay packets too; a blow that is to blame delays them again."""

RETURN_SECONDS = 10.0

ALL_AT_ONCE = Blow(tuple(ATTACKS), each_second=200.0)
BLOWS = [*(Blow((attack,)) for attack in ATTACKS), ALL_AT_ONCE]


class SiegeTestCase(TestCase):
    """What is the same wherever strangers come from."""

    def withstand(
        self, siege: Siege, blows: list[Blow], seconds: float, *, compares: bool = True
    ) -> None:
        """Check that invited devices go on through all blows, each between two quiet times.

        Args:
            siege: who is there.
            blows: what strangers do, one after the other.
            seconds: how long each goes on.
            compares: whether packets may take no longer than ``TIMES_QUIET`` times as in quiet.
        """
        quiet = self.watch(siege.quiet(seconds))
        slow: list[str] = []
        for blow in blows:
            missed: list[str] = []
            while len(missed) < TRIES:
                struck = self.watch(siege.attack(blow, seconds))
                before, quiet = quiet, self.watch(siege.quiet(seconds))
                bound_ms = TIMES_QUIET * max(before.p99_ms, quiet.p99_ms)
                if not compares or struck.p99_ms <= bound_ms:
                    break
                missed.append(f"{struck.name}: p99 {struck.p99_ms} ms, more than {bound_ms:g}")
            else:
                slow += missed
        self.assertEqual([], slow)
        self.assertEqual([], lines_with(siege.realm.output.lines, "Traceback", "Unhandled"))

    def watch(self, phase: Phase) -> Phase:
        """Tell what was measured, and check what holds at any time."""
        phase.tell()
        self.assertEqual((0, 0), (phase.losses, phase.intrusions), phase.name)
        self.assertLess(phase.most_bytes, MOST_BYTES, phase.name)
        self.assertLess(phase.log_lines, MOST_LINES_PER_SECOND * phase.seconds, phase.name)
        self.assertGreater(phase.returns, 0, phase.name)
        self.assertLess(phase.slowest_return_seconds, RETURN_SECONDS, phase.name)
        return phase


class AttackTests(SiegeTestCase):
    """From addresses of this machine."""

    def setUp(self) -> None:
        if not SECONDS:
            raise SkipTest("'make soak' attacks a realm")

    def test_from_one_address(self) -> None:
        self.withstand_from(addresses(1, "127.66"))

    def test_from_many_addresses(self) -> None:
        self.withstand_from(addresses(500, "127.66"))

    def withstand_from(self, found: list[str]) -> None:
        """Let strangers attack from these addresses."""
        folder = temporary_folder()
        self.addCleanup(shutil.rmtree, folder)
        with Siege(folder, strangers=Camp(addresses=found)) as siege:
            self.withstand(siege, BLOWS, SECONDS)
