"""The log of a program that ``twistd`` runs.

``twistd`` asks the application which observer shall get its events, after the service has been put
into it and before anything is logged. So the service brings the observer along, and what ``twistd``
itself logs is written in the same way.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TextIO, cast

from twisted.application.service import Service
from twisted.logger import ILogObserver
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from abst.errors import ConfigurationError
from abst.logs.entry import Level
from abst.logs.log import Log, LogFormat, open_log

TWISTD_LOG: Final = "twistd.log"


class LoggingService(Service):
    """A service that brings the log of its program along.

    Attributes:
        log_output: the log; None leaves it to whoever runs the service.
    """

    log_output: Log | None = None

    def setServiceParent(self, parent: Any) -> None:
        """Join the parent; an application takes the log too."""
        if self.log_output is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.log_output)
        super().setServiceParent(parent)


def open_twistd_log(
    log_format: LogFormat, level: Level, options: Mapping[str, Any] | None, identifier: str
) -> Log | None:
    """Return the log of a service that ``twistd`` runs; None when ``twistd`` has its own.

    Args:
        log_format: how it is written.
        level: from which level on.
        options: those of ``twistd``; None when something else runs the service.
        identifier: the program's name in the journal.

    Raises:
        ConfigurationError: the journal was asked for, and there is none; or the file cannot be
            written.
    """
    options = options or {"nodaemon": True}
    file = options.get("logfile")
    if options.get("syslog") or options.get("logger"):
        return None
    if file not in (None, "", "-") or not options.get("nodaemon"):
        if file == "-":
            return None  # A program in the background has no output: twistd says so, and ends.
        # Twisted's file is rotated. Who has named it wants the log there.
        path = Path(file or TWISTD_LOG).absolute()
        try:
            out = cast(TextIO, LogFile.fromFullPath(str(path)))
        except OSError as error:
            raise ConfigurationError("--logfile", None, f"{path}: {error.strerror}") from None
        chosen = LogFormat.LINES if log_format is LogFormat.AUTO else log_format
        return open_log(chosen, level, identifier=identifier, out=out)
    return open_log(log_format, level, identifier=identifier, out=sys.stdout)
