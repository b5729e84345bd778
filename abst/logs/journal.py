"""journald: whether it listens to this process, and the socket on which it takes entries.

The protocol is systemd's "native journal protocol": one datagram for each entry. One that is too
large for a datagram would have to go as a file; here every entry is small enough, because its parts
are bounded.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Mapping
from typing import Final

from abst.logs.entry import Entry
from abst.logs.formats import as_datagram

JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
STANDARD_ERROR: Final = 2


def is_journal(environment: Mapping[str, str], descriptor: int = STANDARD_ERROR) -> bool:
    """Tell whether what is written to a descriptor goes to the journal.

    ``JOURNAL_STREAM`` alone does not say so: a program that a service has started has it too,
    wherever its output goes.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def has_journal(path: str) -> bool:
    """Tell whether journald's socket is there."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


class Journal:
    """Writes entries to journald, and never waits for it.

    Args:
        path: journald's socket.
        identifier: the program's name, as ``journalctl -t`` takes it.
    """

    def __init__(self, path: str, identifier: str) -> None:
        self._path = path
        self._identifier = identifier
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def __call__(self, entry: Entry) -> bool:
        """Write an entry; return False when journald is not there, or takes no more for now."""
        try:
            # By its path each time: journald may have been started again.
            self._socket.sendto(as_datagram(entry, self._identifier), self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Write nothing any more."""
        self._socket.close()
