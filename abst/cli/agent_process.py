"""The agent as a process: started when a command needs it, and waited for until it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Final

from abst.cli.agent_client import AgentCall
from abst.cli.home import DeviceHome
from abst.cli.output import note, one_line
from abst.cli.processes import python_command, python_environment
from abst.control_client import LostError, NotRunningError
from abst.errors import AbstError

START_SECONDS: Final = 15.0
STOP_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 20.0
"""How long a request that needs no other device may take."""

ANOTHER_RUNS: Final = "another agent is running"
"""What an agent says that has found its home taken."""

_POLL_SECONDS: Final = 0.03
_AGAIN_SECONDS: Final = 0.2
_LAST_WORDS_BYTES: Final = 4000


def call_agent(
    home: DeviceHome, command: str, *, timeout_seconds: float | None = None, **arguments: Any
) -> AgentCall:
    """Send a request to the device's agent, which is started when it is not running.

    Raises:
        AbstError: the home is not usable, or the agent cannot be started.
    """
    home.check()
    try:
        return AgentCall(home.socket, command, arguments, timeout_seconds)
    except NotRunningError:
        start_agent(home)
        note(f"abst: started the agent for {one_line(str(home))}")
    return AgentCall(home.socket, command, arguments, timeout_seconds)


def ask_agent(home: DeviceHome, command: str, **arguments: Any) -> dict[str, Any]:
    """Return the agent's answer to a request that it can answer by itself.

    Raises:
        AbstError: as ``call_agent``, or the agent refused.
    """
    with call_agent(home, command, timeout_seconds=QUICK_SECONDS, **arguments) as call:
        return call.result


def running_status(home: DeviceHome) -> dict[str, Any] | None:
    """Return the status of the agent that runs, or None when none does.

    Raises:
        AbstError: one runs, but does not answer.
    """
    try:
        with AgentCall(home.socket, "status", {}, QUICK_SECONDS) as call:
            return call.result
    except NotRunningError:
        return None


def foreground_command(home: DeviceHome) -> list[str]:
    """Return the command that runs the agent in this terminal."""
    return [*background_command(home), "--foreground"]


def background_command(home: DeviceHome) -> list[str]:
    """Return the command that runs the agent with its log in the home."""
    return python_command("abst.agent", "--home", str(home))


def start_agent(home: DeviceHome) -> None:
    """Start the agent, away from this terminal, and wait until it answers.

    Raises:
        AbstError: it did not start; the text says why.
    """
    deadline = time.monotonic() + START_SECONDS
    while not _start_once(home, deadline):
        # Another command has just started an agent, or stopped one that is not quite gone.
        time.sleep(_AGAIN_SECONDS)


def _start_once(home: DeviceHome, deadline: float) -> bool:
    """Start an agent and wait until one answers; return False when another one has the home."""
    with tempfile.TemporaryFile() as last_words:
        process = subprocess.Popen(
            background_command(home),
            env=python_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=last_words,
            start_new_session=True,
        )
        try:
            while not _answers(home):
                if process.poll() is not None:
                    why = _why(last_words)
                    if ANOTHER_RUNS in why and time.monotonic() < deadline:
                        return False
                    why = why or f"it ended with status {process.returncode}; its log is {home.log}"
                    raise AbstError(f"the agent did not start: {why}")
                if time.monotonic() > deadline:
                    raise AbstError(f"the agent does not answer; its log is {home.log}")
                time.sleep(_POLL_SECONDS)
        except BaseException:
            # Also when a person gives up: no half-started agent stays behind.
            if process.poll() is None:
                process.terminate()
            raise
        # It lives on without this command, which need not wait for it.
        process.returncode = 0
    return True


def _answers(home: DeviceHome) -> bool:
    try:
        with AgentCall(home.socket, "status", {}, START_SECONDS) as call:
            _ = call.result
    except (NotRunningError, LostError):
        return False
    return True


def _why(last_words: IO[bytes]) -> str:
    last_words.seek(0)
    lines = last_words.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("abst-device: ") if lines else ""


def stop_agent(home: DeviceHome) -> bool:
    """Stop the agent and wait until it is gone; return False when none was running.

    Raises:
        AbstError: it does not stop.
    """
    try:
        with AgentCall(home.socket, "down", {}, QUICK_SECONDS) as call:
            _ = call.result
    except NotRunningError:
        return False
    deadline = time.monotonic() + STOP_SECONDS
    while home.socket.exists():
        if time.monotonic() > deadline:
            raise AbstError(
                f"the agent did not stop within {STOP_SECONDS:.0f} s; its log is {home.log}"
            )
        time.sleep(_POLL_SECONDS)
    return True


def replace_by_agent(home: DeviceHome) -> None:
    """Become the agent: this process goes on as it, in this terminal."""
    command = foreground_command(home)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, python_environment())
