"""``twistd abst-realm``: the options, and the service made from them."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

from twisted.python import usage

from abst import __version__
from abst.errors import ConfigurationError
from abst.logs import Log, open_twistd_log
from abst.realm.config import Config, from_settings, load


class Options(usage.Options):
    """The command line of ``twistd abst-realm``."""

    synopsis = "[options]"
    longdesc = (
        "Runs a realm. With no option at all it makes its identity in its state folder, listens "
        "on port 42278 and prints its address, which devices take with 'abst realm add'."
    )
    optParameters = [
        ["state", "s", None, "Folder of the realm's identity (made when missing)."],
        ["config", "c", None, "Configuration file, such as /etc/abst/realm.toml."],
        ["host", None, None, "Name or address that devices shall use, for the printed address."],
        ["access", None, None, "Who may use the realm: invited (default), listed or open."],
        ["log", None, None, "How to log: auto (default), lines, json or journal."],
        ["log-level", None, None, "What to log: debug, info (default), warn or error."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, description: str) -> None:
        """Twisted endpoint to listen on, such as tcp:42278 (repeatable)."""
        self["listen"].append(description)

    opt_l = opt_listen

    def opt_version(self) -> None:
        """Print ABST's version and exit."""
        print(f"abst-realm {__version__}")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Check the configuration; leave with status 2 when it is not usable."""
        try:
            self.config = self.configure()
        except ConfigurationError as error:
            print(f"abst-realm: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    def open_log(self) -> Log | None:
        """Return the log that is configured; leave with status 2 when there is none."""
        config = self.config
        try:
            return open_twistd_log(config.log, config.log_level, self.parent, "abst-realm")
        except ConfigurationError as error:
            print(f"abst-realm: {error}", file=sys.stderr)
            raise SystemExit(2) from None

    def configure(self) -> Config:
        """Read the configuration file, and return what counts with the rest of the command line.

        Raises:
            ConfigurationError: a setting is not usable.
        """
        config = load(Path(self["config"])) if self["config"] else Config()
        settings = ("listen", "state", "host", "access", "log", "log-level")
        given = {
            setting.replace("-", "_"): self[setting]
            for setting in settings
            if self[setting] not in (None, [])
        }
        overrides = from_settings(given, "command line")
        return dataclasses.replace(config, **{key: getattr(overrides, key) for key in given})


def makeService(options: Options) -> Any:
    """Return the realm's service."""
    from twisted.internet import reactor

    from abst.realm.service import RealmService
    from abst.steady_clock import use_steady_clock

    use_steady_clock(reactor)
    read_again = options.configure if options["config"] else None
    service = RealmService(reactor, options.config, read_again=read_again)
    service.log_output = options.open_log()
    return service
