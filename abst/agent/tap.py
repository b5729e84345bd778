"""``twistd abst-device``: the options, and the agent's service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.python import usage

from abst import __version__
from abst.agent.default_home import default_home
from abst.agent.home import Home
from abst.errors import AbstError
from abst.logs import Level, LogFormat, open_twistd_log


class Options(usage.Options):
    """The command line of ``twistd abst-device``."""

    synopsis = "[options]"
    longdesc = (
        "Runs the agent of a device in this terminal. 'abst init' makes the device, 'abst up' "
        "starts its agent in the background, and every other 'abst' command talks to it."
    )
    optParameters = [
        ["home", "h", None, "The device's folder (default: $ABST_HOME or ~/.local/share/abst)."],
        ["log", None, "auto", "How to log: auto, lines, json or journal."],
        ["log-level", None, "info", "What to log: debug, info, warn or error."],
    ]

    def opt_version(self) -> None:
        """Print ABST's version and exit."""
        print(f"abst-device {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check what is to be logged."""
        for name, choices in (("log", LogFormat), ("log-level", Level)):
            if self[name] not in list(choices):
                known = ", ".join(choices)
                raise usage.UsageError(f"--{name}: {self[name]!r} is none of {known}")


def makeService(options: Options) -> Any:
    """Return the agent's service."""
    from twisted.internet import reactor

    from abst.agent.service import AgentService

    try:
        home = Path(options["home"]).expanduser() if options["home"] else default_home()
        log_format, level = LogFormat(options["log"]), Level(options["log-level"])
        log = open_twistd_log(log_format, level, options.parent, "abst-agent")
    except AbstError as error:
        raise SystemExit(f"abst-device: {error}") from None
    service = AgentService(reactor, Home(home))
    service.log_output = log
    return service
