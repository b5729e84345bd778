"""The agent as a process: started when a command needs it, and waited for until it answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Final

from abst.cli.agent_client import (
    AgentCall,
    AgentLostError,
    AgentNotRunningError,
)
from abst.cli.home import DeviceHome
from abst.cli.output import note, one_line
from abst.cli.processes import python_command, python_environment
from abst.errors import AbstError

START_SECONDS: Final = 15.0
OTHER_START_SECONDS: Final = 1.0
"""How long a start that failed may still turn out to be another command's that succeeded."""
STOP_SECONDS: Final = 10.0
QUICK_SECONDS: Final = 20.0
"""How long a request that needs no other device may take."""

_POLL_SECONDS: Final = 0.03
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
    except AgentNotRunningError:
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
    except AgentNotRunningError:
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
            _wait_until_it_answers(home, process, last_words)
        except BaseException:
            # Also when a person gives up: no half-started agent stays behind.
            if process.poll() is None:
                process.terminate()
            raise
        # It lives on without this command, which need not wait for it.
        process.returncode = 0


def wait_until_stopped(home: DeviceHome) -> None:
    """Wait until nobody answers at the socket any more.

    Raises:
        AbstError: the agent takes too long.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        try:
            AgentCall(home.socket, "status", {}, _POLL_SECONDS).close()
        except (AgentNotRunningError, AgentLostError):
            if not home.socket.exists():
                return
        time.sleep(_POLL_SECONDS)
    raise AbstError(f"the agent did not stop within {STOP_SECONDS:.0f} s; its log is {home.log}")


def _wait_until_it_answers(
    home: DeviceHome, process: subprocess.Popen[bytes], last_words: IO[bytes]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    ended = False
    while time.monotonic() < deadline:
        try:
            with AgentCall(home.socket, "status", {}, START_SECONDS) as call:
                _ = call.result
            return
        except (AgentNotRunningError, AgentLostError):
            pass
        if not ended and process.poll() is not None:
            ended = True
            deadline = min(deadline, time.monotonic() + OTHER_START_SECONDS)
        time.sleep(_POLL_SECONDS)
    if ended:
        raise AbstError(f"the agent did not start: {_why(last_words, process.returncode, home)}")
    raise AbstError(f"the agent did not answer within {START_SECONDS:.0f} s; its log is {home.log}")


def _why(last_words: IO[bytes], status: int | None, home: DeviceHome) -> str:
    last_words.seek(0)
    lines = last_words.read(_LAST_WORDS_BYTES).decode("utf-8", "replace").strip().splitlines()
    if not lines:
        return f"it ended with status {status}; its log is {home.log}"
    return lines[-1].removeprefix("abst-device: ").removeprefix("abst: ")


def replace_by_agent(home: DeviceHome) -> None:
    """Become the agent: this process goes on as it, in this terminal."""
    command = foreground_command(home)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command[0], command, python_environment())
