"""The device's home, and whether a command may use it.

``abst.agent.home`` owns what stands in it. This module repeats the little that every command needs,
because that one loads cryptography.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from abst.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class DeviceHome:
    """The home of the device that a command is about.

    Attributes:
        path: the folder, absolute.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", self.path.absolute())

    def __str__(self) -> str:
        return str(self.path)

    @property
    def socket(self) -> Path:
        """Where the agent listens for commands."""
        return self.path / "agent.sock"

    @property
    def log(self) -> Path:
        """What the agent has to say when nobody looks."""
        return self.path / "agent.log"

    def check(self) -> None:
        """Make sure that a device lives here and that nobody else can look inside.

        Raises:
            ConfigurationError: the text says what to do.
        """
        try:
            found = self.path.stat()
            (self.path / "identity.pem").lstat()
        except (FileNotFoundError, NotADirectoryError):
            why = "there is no device here yet: run 'abst init' first (--home names another home)"
            raise ConfigurationError(str(self), None, why) from None
        except OSError as error:
            why = f"{error.strerror}: is it the home of another user?"
            raise ConfigurationError(str(self), None, why) from None
        if found.st_uid != os.geteuid():
            why = "belongs to another user: run this command as that user"
            raise ConfigurationError(str(self), None, why)
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o077:
            why = f"others may look inside (mode {mode:04o}); run: chmod 700 {self}"
            raise ConfigurationError(str(self), None, why)
