"""What a realm does when its operator decides which devices may use it.

Owns the commands about devices and invitations, and how lists are told page by page.
"""

from __future__ import annotations

import contextlib
import datetime
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred

from abst.address import RealmAddress
from abst.control import Command, Emit
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.realm.access import Mode
from abst.realm.conversation import State
from abst.realm.protocol import RealmFactory
from abst.realm.realm import Realm
from abst.realm.store.interface import DeviceRecord, InvitationRecord

PAGE: Final = 1000
"""How many devices, invitations or groups are told at once."""

MAX_USES: Final = 1_000_000
MAX_SECONDS: Final = 10 * 366 * 86400
"""For how long an invitation may be good, if not for ever."""

NOT_KEPT: Final = "the realm could not write it to its disk: nothing has changed"

_Item = TypeVar("_Item")


class DeviceOperations:
    """The commands about devices and invitations.

    Args:
        factory: the realm.
        addresses: returns where devices reach it.
        page: how many items are told at once.
    """

    def __init__(
        self, factory: RealmFactory, addresses: Callable[[], Sequence[RealmAddress]], page: int
    ) -> None:
        self._factory = factory
        self._realm = factory.realm
        self._access = factory.realm.access
        self._addresses = addresses
        self._page = page

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "invite": self.invite,
            "invitations": self.invitations,
            "withdraw": self.withdraw,
            "devices": self.devices,
            "allow": self.allow,
            "revoke": self.revoke,
        }

    async def invite(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Make an invitation."""
        mode = self._access.mode
        if mode is Mode.LISTED:
            raise AbstError(
                "this realm is for listed devices and takes no invitations: "
                "'abst-realm allow DEVICE_ID' lets one in"
            )
        addresses = self._addresses()
        if not addresses:
            raise AbstError(
                "no link would lead to this realm: none of its ports has an address; see 'listen' "
                "in its configuration"
            )
        uses = _number(arguments["uses"], "uses", MAX_USES)
        seconds = arguments["seconds"]
        expires = None
        if seconds is not None:
            expires = int(self._realm.wall()) + _number(seconds, "seconds", MAX_SECONDS)
        kept: Deferred[bool] = Deferred()
        try:
            invitation = self._access.invite(uses, expires, str(arguments["note"]), kept.callback)
        except ValueError as error:
            raise AbstError(str(error)) from None
        if not await kept:
            raise AbstError(NOT_KEPT)
        links = [replace(address, invitation=invitation.text).link for address in addresses]
        return {"links": links, "access": str(mode), **_invitation(invitation.record)}

    async def invitations(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the invitations that are good."""
        page, more = page_of(
            self._access.invitations(), lambda found: found.name, arguments, self._page
        )
        return {"invitations": [_invitation(record) for record in page], "more": more}

    async def withdraw(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Let an invitation be good no more."""
        name = str(arguments["name"])
        kept: Deferred[bool] = Deferred()
        if not self._access.withdraw(name, kept.callback):
            raise AbstError(f"there is no invitation {name!r}: 'abst-realm invitations' lists them")
        if not await kept:
            raise AbstError(NOT_KEPT)
        return {"name": name}

    async def devices(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the devices that are here, or were decided about."""
        here = sent_by_device(self._realm)
        known = {record.device: record for record in self._access.devices()}
        ids: Iterable[bytes] = here if arguments["here"] else {*known, *here}
        page, more = page_of(ids, bytes.hex, arguments, self._page)
        devices = [self._device(device, known.get(device), here) for device in page]
        return {"devices": devices, "more": more, "access": str(self._access.mode)}

    async def allow(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Put a device on the list."""
        device = self._find(str(arguments["device"]))
        kept: Deferred[bool] = Deferred()
        try:
            self._access.allow(device, str(arguments["note"]), kept.callback)
        except ValueError as error:
            raise AbstError(str(error)) from None
        if not await kept:
            raise AbstError(NOT_KEPT)
        return {"device_id": str(device), "access": str(self._access.mode)}

    async def revoke(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Shut a device out, and end what it has here."""
        device = self._find(str(arguments["device"]))
        was_here = self._realm.switchboard.route(device) is not None
        kept: Deferred[bool] = Deferred()
        self._access.revoke(device, kept.callback)
        self._factory.settle()
        if not await kept:
            raise AbstError(
                "the device is shut out now, but the realm could not write that to its disk: "
                "it comes back with the realm's next start, so try again"
            )
        return {"device_id": str(device), "was_here": was_here}

    def _device(
        self, device: bytes, record: DeviceRecord | None, here: dict[bytes, Counter[str]]
    ) -> dict[str, Any]:
        sent = here.get(device, Counter())
        return {
            "device_id": str(DeviceID(device)),
            "allowed": None if record is None else record.is_allowed,
            "here": device in here,
            "connections": sent["connections"],
            "sent_bytes": sent["bytes"],
            "month_bytes": self._realm.meter.used(device),
            "since": None if record is None else moment(record.since),
            "last_here": None if record is None else day(record.seen),
            "invitation": "" if record is None else record.invitation,
            "note": "" if record is None else record.note,
        }

    def _find(self, text: str) -> DeviceID:
        """Return the device that is meant: by its ID, or the beginning of one that is known.

        Raises:
            AbstError: there is none, or several.
        """
        begin = text.strip().lower()
        with contextlib.suppress(ValueError):
            return DeviceID.parse(begin)
        known = {*sent_by_device(self._realm), *(it.device for it in self._access.devices())}
        digits = begin.replace("-", "")
        found = [device for device in known if digits and device.hex().startswith(digits)]
        if len(found) == 1:
            return DeviceID(found[0])
        if found:
            raise AbstError(f"{len(found)} devices begin with {text!r}: give more of the ID")
        raise AbstError(
            f"no device is known that begins with {text[:60]!r}: give its whole ID, "
            "which 'abst id' shows on the device"
        )


def sent_by_device(realm: Realm) -> dict[bytes, Counter[str]]:
    """Return the connections of each device that is here, and their bytes; not the realm's own."""
    found: dict[bytes, Counter[str]] = {}
    for conversation in realm.conversations:
        device = conversation.device_id
        if conversation.state is not State.HERE or device is None:
            continue
        if device not in realm.access.own_devices:
            sent = found.setdefault(device, Counter())
            sent["connections"] += 1
            sent["bytes"] += conversation.sent_bytes
    return found


def page_of(
    items: Iterable[_Item], key: Callable[[_Item], str], arguments: dict[str, Any], most: int
) -> tuple[list[_Item], bool]:
    """Return the first items after the one that was told last, and whether there are more.

    An ID stands in that order by its hex digits alone: to write all of them out, for each page,
    would keep the realm from its devices.
    """
    after = str(arguments.get("after") or "").replace("-", "")
    found = heapq.nsmallest(most + 1, (item for item in items if key(item) > after), key)
    return found[:most], len(found) > most


def _invitation(record: InvitationRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "uses_left": record.uses_left or None,
        "made": moment(record.made),
        "expires": None if record.expires is None else moment(record.expires),
        "note": record.note,
    }


def _number(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise AbstError(f"{name}: a whole number, at most {most}")
    return value


def moment(seconds: int) -> str:
    """Return a time since 1970 in ISO 8601."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def day(days: int) -> str | None:
    """Return a day since 1970, or None for none."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days)).isoformat() if days else None
