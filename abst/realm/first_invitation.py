"""The invitation that a new realm makes by itself, for its first device.

As long as a realm is for invited devices and has none, each start makes one, and withdraws the one
before. It stands in a file for the realm's own user until a device has come, by it or otherwise: it
may have been left in some log, where it shall be worth nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from abst.address import RealmAddress
from abst.errors import AbstError
from abst.realm.access import Access, Mode
from abst.realm.state_folder import INVITATION_FILE, write_secret
from abst.realm.store.interface import DeviceRecord

NOTE: Final = "first device (by the link that the realm made itself)"


class FirstInvitation:
    """The invitation for the first device, and its file.

    Args:
        access: who may be here.
        folder: the state folder.
    """

    log = Logger(namespace="abst.realm")

    def __init__(self, access: Access, folder: Path) -> None:
        self._access = access
        self.path = folder / INVITATION_FILE
        access.came = self._came

    async def renew(self, addresses: Sequence[RealmAddress]) -> list[RealmAddress]:
        """Make another one, if one is needed, and write it to its file.

        Returns:
            The addresses with it; none when none is needed, or it cannot be kept.
        """
        access = self._access
        self._withdraw()
        is_needed = access.mode is Mode.INVITED and not any(
            record.is_allowed for record in access.devices()
        )
        if not is_needed:
            self._forget()
            return []
        kept: Deferred[bool] = Deferred()
        try:
            invitation = access.invite(1, None, NOTE, kept.callback)
        except AbstError as error:
            self._forget()
            self.log.error("there is no link for a first device: {problem}", problem=str(error))
            return []
        if not await kept:
            self._forget()
            self.log.error("there is no link for a first device: the disk takes nothing")
            return []
        if invitation.record not in access.invitations():
            return []  # A reload has withdrawn it meanwhile.
        links = [replace(address, invitation=invitation.text) for address in addresses]
        try:
            write_secret(self.path, "".join(f"{address.link}\n" for address in links))
        except OSError as error:
            # Nobody would know it, or somebody who should not.
            access.withdraw(invitation.record.name, _ignore)
            self.log.error(
                "there is no link for a first device: {path}: {problem}",
                path=str(self.path),
                problem=error.strerror,
            )
            return []
        return links

    def _came(self, record: DeviceRecord) -> None:
        """Let no other device come by it."""
        self._withdraw()
        self._forget()

    def _withdraw(self) -> None:
        for record in self._access.invitations():
            if record.note == NOTE:
                self._access.withdraw(record.name, _ignore)

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def _ignore(_: object) -> None:
    """Take an answer that nobody waits for."""
