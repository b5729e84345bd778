"""``python -m abst.agent --home DIR``: the agent as 'abst up' runs it.

In the background it logs to a file in its home that never grows large; with ``--foreground`` it
logs to the terminal, or to the journal when the terminal's place is taken by it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from abst.agent.default_home import default_home
from abst.agent.home import Home
from abst.errors import AbstError

LOG_BYTES = 1_000_000
LOG_FILES = 2


def start_log(home: Home, *, foreground: bool) -> None:
    """Send log lines to the terminal, or to a file that is rotated."""
    from twisted.logger import globalLogBeginner
    from twisted.python.logfile import LogFile

    from abst.logs import Level, LogFormat, open_log

    out: Any = sys.stderr
    log_format = LogFormat.AUTO if foreground else LogFormat.LINES
    if not foreground:
        out = LogFile(
            home.log.name,
            str(home.path),
            rotateLength=LOG_BYTES,
            maxRotatedFiles=LOG_FILES,
            defaultMode=0o600,
        )
    log = open_log(log_format, Level.INFO, identifier="abst-agent", out=out)
    globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)


def main() -> None:
    """Run the agent until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m abst.agent", description="Runs the agent.")
    parser.add_argument("--home", type=Path, default=None, help="the device's folder")
    parser.add_argument("--foreground", action="store_true", help="log to the terminal")
    arguments = parser.parse_args()
    try:
        home = Home(arguments.home or default_home())
    except AbstError as error:
        raise SystemExit(f"abst-device: {error}") from None

    from twisted.internet import reactor

    from abst.agent.service import AgentService

    service = AgentService(reactor, home)
    service.startService()
    os.chdir(home.path)  # What it was started in may be unmounted, or removed.
    start_log(home, foreground=arguments.foreground)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
