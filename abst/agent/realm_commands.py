"""The agent's commands about realms: add one and see what comes of it, list them, leave one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from abst.address import RealmAddress, shown
from abst.agent.groups.commands import GroupCommands
from abst.control import Command, Emit
from abst.device import Device
from abst.device.link import NOT_YET
from abst.errors import AbstError, AddressError, RealmRefusedError

FIRST_WORD_SECONDS: Final = 5.0
"""How long it is waited for what comes of a realm that was added."""


class RealmCommands:
    """The commands about realms.

    Args:
        device: the device.
        groups: what knows which realms are needed.
        save: writes the settings to disk.
    """

    def __init__(self, device: Device, groups: GroupCommands, save: Callable[[], None]) -> None:
        self._device = device
        self._groups = groups
        self._save = save
        self._waiting: dict[RealmAddress, set[Deferred[None]]] = {}

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "realm_add": self.realm_add,
            "realm_list": self.realm_list,
            "realm_remove": self.realm_remove,
        }

    def status(self) -> dict[str, Any]:
        """Tell how the realms stand."""
        return {"realms": [self._describe(address) for address in self._device.links]}

    def changed(self, realm: RealmAddress) -> None:
        """Hear that a realm has accepted this device, or that it cannot be used for now."""
        for waiting in self._waiting.pop(realm, ()):
            waiting.callback(None)

    async def realm_add(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Use a realm, and tell what came of it within some seconds."""
        address = RealmAddress.parse(str(arguments["realm"]))
        is_known = address in self._device.links
        self._device.addRealm(address)
        self._save()
        await self._first_word(address)
        if address not in self._device.links:
            raise AbstError("that realm was removed meanwhile")
        return {
            **self._describe(address),
            "known": is_known,
            "invited": address.invitation is not None,
        }

    async def realm_list(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the realms and how they stand."""
        return self.status()

    async def realm_remove(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Leave a realm, named by its address, with or without an invitation, or by its host."""
        text = str(arguments["realm"]).strip()
        named = None
        with contextlib.suppress(AddressError):
            named = RealmAddress.parse(text)
        found = [
            address
            for address in self._device.links
            if address == named or text in (address.host, f"{address.host}:{address.port}")
        ]
        if len(found) != 1:
            raise AbstError(
                f"{shown(text)} means {len(found) or 'no'} realms: 'abst realm list' shows the "
                "addresses"
            )
        self._groups.check_unused(found[0])
        await self._device.removeRealm(found[0])
        self._save()
        return {"realm": str(found[0])}

    async def _first_word(self, address: RealmAddress) -> None:
        if self._device.links[address].problem != NOT_YET:
            return
        waiting: Deferred[None] = Deferred()
        self._waiting.setdefault(address, set()).add(waiting)
        waiting.addTimeout(
            FIRST_WORD_SECONDS, self._device.reactor, onTimeoutCancel=lambda *late: None
        )
        try:
            await waiting
        finally:
            self._waiting.get(address, set()).discard(waiting)

    def _describe(self, address: RealmAddress) -> dict[str, Any]:
        link = self._device.links[address]
        refusal = link.refusal
        return {
            "realm": str(address),
            "up": link.is_up,
            "problem": link.problem,
            "refused": refusal is not None,
            "code": refusal.code if isinstance(refusal, RealmRefusedError) else None,
        }
