"""What a realm says on the terminal when it has started: where it is, and who may use it."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from abst.address import RealmAddress
from abst.logs.journal import is_journal
from abst.realm.access import Mode

STANDARD_OUTPUT: Final = 1

MEANINGS: Final = {
    Mode.OPEN: "open: every device that knows this address may use this realm",
    Mode.INVITED: "for invited devices: 'abst-realm invite' makes a link for one",
    Mode.LISTED: "for listed devices: 'abst-realm allow DEVICE_ID' lets one in",
}
"""What is said under the address."""


def write_line(text: str) -> None:
    """Write a line to the terminal, past ``twistd``, which turns ``print`` into log lines."""
    stream = sys.__stdout__
    if stream is not None:
        with contextlib.suppress(OSError, ValueError):
            stream.write(text + "\n")
            stream.flush()


def introduction(
    addresses: Sequence[RealmAddress],
    links: Sequence[RealmAddress],
    file: Path,
    mode: Mode,
    environment: Mapping[str, str],
) -> list[str]:
    """Return the lines.

    Args:
        addresses: where the realm is.
        links: the same with an invitation for the first device, if it has made one.
        file: where these links stand.
        mode: who may use it.
        environment: where systemd says whether standard output is its journal.
    """
    if not links:
        return [*map(str, addresses), MEANINGS[mode]]
    # Nobody clears a journal of what should not have been written there.
    if is_journal(environment, STANDARD_OUTPUT):
        where = f"the link for the first device stands in {file}"
        return [*map(str, addresses), f"{where}; 'abst-realm invite' makes another"]
    good = "this link lets one device in; 'abst-realm invite' makes another"
    return [*(address.link for address in links), good]


def reachable_host(bound: str) -> str:
    """Return the host under which others reach a port that is bound to an address.

    A port bound to one address is reached there. One bound to all is reached at the address from
    which this machine would send to the world; asking for it sends nothing.
    """
    if bound not in ("0.0.0.0", "::", ""):
        return bound
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # RFC 5737: an address that is nobody's
        return str(probe.getsockname()[0])
    return "127.0.0.1"
