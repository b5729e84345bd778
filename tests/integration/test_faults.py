"""Crashes, stops and suspended processes lose nothing, repeat nothing and mix nothing up."""

import os
import random
import shutil
import sys

from twisted.trial.unittest import TestCase

from abst.errors import AbstError
from tests.integration.command_line import temporary_folder
from tests.integration.faults import FaultRun

FAULT_SECONDS = float(os.environ.get("ABST_SOAK_SECONDS") or 15)
SEED = int(os.environ.get("ABST_SOAK_SEED") or random.randrange(1_000_000))


class FaultTests(TestCase):
    """Two agents and a realm; ``make soak`` runs this for longer."""

    def test_everything_arrives_once_and_in_order(self) -> None:
        replay = f"make soak SECONDS={FAULT_SECONDS:g} SEED={SEED}"
        sys.stdout.write(f"\n    seed {SEED} ... ")
        sys.stdout.flush()
        folder = temporary_folder()
        self.addCleanup(shutil.rmtree, folder)
        run = FaultRun(folder, SEED)
        self.addCleanup(run.end)
        try:
            run.begin()
            run.run(FAULT_SECONDS)
            problems = run.problems()
        except (AbstError, AssertionError, OSError) as problem:
            problems = [f"it came to a halt: {problem!r}"]
        sys.stdout.write(f"{run.summary()} ... ")
        if problems:
            history = [str(fault) for fault in run.history]
            self.fail("\n".join([*problems, "after", *history, f"again: {replay}"]))
