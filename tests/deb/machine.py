"""A Debian 13 that boots beside this machine, with its own systemd, for one test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from unittest import SkipTest

BOOT: Final = Path(__file__).with_name("boot")
IMPOSSIBLE_STATUS: Final = 77
PATIENCE_SECONDS: Final = 60.0


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of ``condition``, which is asked again and again."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.1)
    return value


class Machine:
    """A machine that is booted from a root folder. A context manager that leaves nothing behind.

    Args:
        root: the root folder, which stays as it is.
        folder: what the machine sees as its /mnt.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._log_folder = tempfile.mkdtemp(prefix="abst-machine-")
        self._log = Path(self._log_folder) / "console"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [BOOT, root, folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._init = str(wait_until(self._find_init, "the machine's systemd"))
            wait_until(self._is_up, "the machine to boot")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def console(self) -> str:
        """What was written on the machine's console, at its end."""
        return self._log.read_text("utf-8", "replace")[-4000:]

    def _find_init(self) -> int | None:
        status = self._process.poll()
        if status == IMPOSSIBLE_STATUS:
            raise SkipTest(self.console.strip())
        if status is not None:
            raise AssertionError(f"the machine did not boot: {self.console}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text("ascii") == "systemd\n":
                    return int(child)
        return None

    def _is_up(self) -> bool:
        done = self.try_run("systemctl", "is-system-running")
        return done.stdout.strip() in ("running", "degraded")

    def try_run(self, *command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as a user of it."""
        inside = ["nsenter", "--all", "--target", self._init, "env", "-i", "LC_ALL=C.UTF-8"]
        inside += ["PATH=/usr/sbin:/usr/bin", "runuser", "--login", user, "-c", '"$0" "$@"', "--"]
        return subprocess.run(
            [*inside, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS * 2,
            check=False,
        )

    def run(self, *command: str, user: str = "root") -> str:
        """Run a command in the machine and return what it wrote; raise if it failed."""
        done = self.try_run(*command, user=user)
        if done.returncode:
            raise AssertionError(f"{command} exited with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def close(self) -> None:
        """Turn the machine off."""
        group = None
        with contextlib.suppress(OSError):
            tree = subprocess.run(
                ["findmnt", "--noheadings", "--first-only", "-t", "cgroup2", "-o", "TARGET"],
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            group = Path(tree.stdout.strip()) / f"abst-machine-{self._process.pid}"
        # With its first process everything in the machine ends.
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if group is not None and group.is_dir():
            wait_until(lambda: remove_group(group), "the machine to be gone")
        shutil.rmtree(self._log_folder, ignore_errors=True)


def remove_group(group: Path) -> bool:
    """Remove a control group and those in it; return False while a process is left."""
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True
