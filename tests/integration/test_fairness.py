"""One light device beside fifty greedy ones, through a real realm.

``make test`` looks at two of the ways of being greedy; ``ABST_TOOL_TESTS=1``, as in ``make
test-tools``, at all of them, and longer. The bounds are several times what was measured, and a
small part of what it is without fairness: docs/topics/performance.md has the figures.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests import TOOLS_SKIP
from tests.integration.light import Echo, echo_times
from tests.integration.raw_client import RawDevice, identities, join
from tests.integration.realm_process import LOOPBACK, ROOT, RealmProcess

GREEDY = 50
SECONDS = 0.8 if TOOLS_SKIP else 5.0
MOST_SECONDS = 0.4
UPLINK_BYTES_PER_SECOND = 2_000_000
LIGHT, ECHO = identities(2)


@contextmanager
def greedy(realm: RealmProcess, way: str, number: int, target: RawDevice) -> Iterator[None]:
    """Have a process send as much as it can, until the end of the block."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.integration.greedy"),
            *(str(realm.port), way, str(number), target.device_id.hex()),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said == b"greedy\n", said
        yield
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


class FairnessTests(TestCase):
    def slow_echoes(self, way: str, config: str | None = None) -> float:
        """Return the 99th percentile of how long an echo takes while others are greedy."""
        folder = Path(self.mktemp())
        with RealmProcess(folder, "--listen", LOOPBACK, config=config) as realm:
            light, echo = join(realm.port, LIGHT), join(realm.port, ECHO)
            self.addCleanup(light.close)
            self.addCleanup(echo.close)
            Echo(echo, light.device_id)
            with greedy(realm, way, GREEDY, echo):
                took, failed = echo_times(light, echo.device_id, SECONDS)
        self.assertEqual(0, failed, "packets were dropped")
        return sorted(took)[math.ceil(0.99 * len(took)) - 1]

    def test_beside_many_that_send_to_the_same_device(self) -> None:
        self.assertLess(self.slow_echoes("one"), MOST_SECONDS)

    def test_beside_many_on_an_uplink_that_is_full(self) -> None:
        config = f"[limits]\nbytes_per_second = {UPLINK_BYTES_PER_SECOND}\n"
        self.assertLess(self.slow_echoes("many", config), MOST_SECONDS)

    def test_beside_many_that_send_to_as_many(self) -> None:
        self.assertLess(self.slow_echoes("many"), MOST_SECONDS)

    test_beside_many_that_send_to_as_many.skip = TOOLS_SKIP  # type: ignore[attr-defined]

    def test_beside_many_circuits(self) -> None:
        self.assertLess(self.slow_echoes("circuits"), MOST_SECONDS)

    test_beside_many_circuits.skip = TOOLS_SKIP  # type: ignore[attr-defined]
