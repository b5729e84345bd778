"""The demonstration as a newcomer runs it, and that it leaves nothing behind, however it ends."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests import TOOLS_SKIP
from tests.integration.command_line import (
    ENVIRONMENT,
    SECONDS,
    end,
    processes_of,
    read_line,
    temporary_folder,
    wait_until,
)

DEMO_SECONDS = 120.0


class DemoTests(TestCase):
    """``abst demo``, in a temporary folder of the test's own."""

    skip = TOOLS_SKIP

    def setUp(self) -> None:
        self.folder = temporary_folder()
        self.addCleanup(shutil.rmtree, self.folder)
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the demonstration."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "abst.cli", "demo", *arguments],
            env={**ENVIRONMENT, "TMPDIR": str(self.scratch)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(end, process)
        return process

    def assert_nothing_is_left(self) -> None:
        """Assert that neither a file nor a process is left."""
        self.assertEqual([], list(self.scratch.iterdir()))
        wait_until(lambda: not processes_of(self.scratch), "every process is gone")

    def test_files_of_ones_own_go_both_ways(self) -> None:
        content = os.urandom(2_000_000)
        path = self.folder / "holiday pictures.bin"
        path.write_bytes(content)
        out, said = self.start("--file", str(path)).communicate(timeout=DEMO_SECONDS)
        self.assertEqual("", said)
        for words in (
            "alice$ abst init --name alice",
            "bob$ abst realm add 'abst://127.0.0.1:",
            "3 sent, 3 received",
            "bob has it",
            f"alice$ abst send bob '{path}'",
            "found 2 of 2, so the search works",
            "the message (2 pieces): not found",
            "the name holiday pictures.bin: not found",
            "the content of holiday pictures.bin (100 pieces): not found",
            "the content of where-the-key-lies.txt (95 pieces): not found",
            "All of it held.",
        ):
            self.assertIn(words, out)
        self.assert_nothing_is_left()

    def test_it_ends_with_status_1_when_a_part_fails(self) -> None:
        process = self.start()
        self.read_until(process, "3. alice takes")
        for key in self.scratch.glob("*/alice/identity.pem"):
            key.unlink()
        _, said = process.communicate(timeout=DEMO_SECONDS)
        self.assertEqual(1, process.returncode)
        self.assertRegex(said.splitlines()[-1], r"\Aabst: 'abst \w+ .*' failed for alice\Z")
        self.assertNotIn("Traceback", said)
        self.assert_nothing_is_left()

    def test_an_agent_that_dies_is_replaced_and_the_other_one_is_stopped_too(self) -> None:
        process = self.start()
        self.read_until(process, "5. They talk")
        alice, _ = sorted(processes_of(self.scratch, "abst.agent"), key=self.home_of)
        os.kill(alice, signal.SIGKILL)
        process.communicate(timeout=DEMO_SECONDS)
        self.assertIn(process.returncode, (0, 1))
        self.assert_nothing_is_left()

    def home_of(self, number: int) -> bytes:
        """Return the home that an agent's command line names."""
        return Path(f"/proc/{number}/cmdline").read_bytes().partition(b"--home")[2]

    def test_it_can_be_ended_at_any_time(self) -> None:
        for at, how in (
            ("1. A realm", signal.SIGINT),
            ("2. Two devices", signal.SIGTERM),
            ("abst send", signal.SIGINT),
        ):
            process = self.start()
            self.read_until(process, at)
            process.send_signal(how)
            _, said = process.communicate(timeout=SECONDS)
            self.assertEqual((130, ""), (process.returncode, said.strip()))
            self.assert_nothing_is_left()

    def test_a_realm_outlives_no_demonstration_that_is_killed(self) -> None:
        process = self.start()
        self.read_until(process, "abst://")
        process.kill()
        # So is the command that it was running: it ends by itself, and is not to be swept away.
        wait_until(lambda: not processes_of(self.scratch), "every process is gone")

    def read_until(self, process: subprocess.Popen[str], words: str) -> None:
        """Read what it says until it says this."""
        while words not in (line := read_line(process)):
            self.assertTrue(line, "it ended too early")
