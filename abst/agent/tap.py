"""``twistd abst-device``: the options, and the agent's service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.python import usage

from abst import __version__
from abst.agent.default_home import default_home
from abst.agent.home import Home
from abst.errors import AbstError


class Options(usage.Options):
    """The command line of ``twistd abst-device``."""

    synopsis = "[options]"
    longdesc = (
        "Runs the agent of a device in this terminal. 'abst init' makes the device, 'abst up' "
        "starts its agent in the background, and every other 'abst' command talks to it."
    )
    optParameters = [
        ["home", "h", None, "The device's folder (default: $ABST_HOME or ~/.local/share/abst)."],
    ]

    def opt_version(self) -> None:
        """Print ABST's version and exit."""
        print(f"abst-device {__version__}")
        raise SystemExit(0)


def makeService(options: Options) -> Any:
    """Return the agent's service."""
    from twisted.internet import reactor

    from abst.agent.service import AgentService

    try:
        home = Path(options["home"]).expanduser() if options["home"] else default_home()
    except AbstError as error:
        raise SystemExit(f"abst-device: {error}") from None
    return AgentService(reactor, Home(home))
