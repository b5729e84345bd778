"""What a realm does when its operator asks: the commands on its control socket.

Owns what each command takes and answers. Answers are as large as what they list, so what may be
long is asked for page by page. Nothing that is a secret is answered but a new invitation's link.
"""

from __future__ import annotations

import contextlib
import datetime
import heapq
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from twisted.internet.defer import Deferred

from abst import __version__
from abst.address import RealmAddress
from abst.control import Command, Emit
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.realm.access import Mode
from abst.realm.backup import new_snapshot_file, snapshot
from abst.realm.capacity import Capacity
from abst.realm.circuits import State as CircuitState
from abst.realm.conversation import State
from abst.realm.protocol import RealmFactory
from abst.realm.state_folder import STORE_FILE
from abst.realm.store.census import count as count_values
from abst.realm.store.interface import DeviceRecord, InvitationRecord

PAGE: Final = 1000
"""How many devices, invitations or groups are told at once."""

MAX_USES: Final = 1_000_000
MAX_SECONDS: Final = 10 * 366 * 86400
"""For how long an invitation may be good, if not for ever."""

NOT_KEPT: Final = "the realm could not write it to its disk: nothing has changed"

_Item = TypeVar("_Item")


class Reloaded(NamedTuple):
    """What came of reading the configuration anew.

    Attributes:
        changed: the settings that count now.
        restart: those that a restart is needed for.
    """

    changed: Sequence[str]
    restart: Sequence[str]


class Running(Protocol):
    """The service whose realm the operator asks."""

    @property
    def addresses(self) -> Sequence[RealmAddress]:
        """Where devices reach it."""

    @property
    def state(self) -> Path:
        """Its state folder."""

    @property
    def started_at(self) -> float:
        """When it was started, on the reactor's clock."""

    @property
    def capacity(self) -> Capacity:
        """How many files it may have open, and would need."""

    def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Awaitable[Any]:
        """Call a function that may take long in another thread."""

    def reload(self) -> Awaitable[Reloaded]:
        """Read the configuration anew."""


class Operations:
    """The commands.

    Args:
        service: who runs the realm.
        factory: the realm.
        page: how many items are told at once.
    """

    def __init__(self, service: Running, factory: RealmFactory, page: int = PAGE) -> None:
        self._most = page
        self._service = service
        self._factory = factory
        self._realm = factory.realm
        self._access = factory.realm.access

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "invite": self.invite,
            "invitations": self.invitations,
            "withdraw": self.withdraw,
            "devices": self.devices,
            "allow": self.allow,
            "revoke": self.revoke,
            "groups": self.groups,
            "stats": self.stats,
            "reload": self.reload,
            "backup": self.backup,
        }

    # Who may be here.

    async def invite(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Make an invitation."""
        mode = self._access.mode
        if mode is Mode.LISTED:
            raise AbstError(
                "this realm is for listed devices and takes no invitations: "
                "'abst-realm allow DEVICE_ID' lets one in"
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
        links = [
            replace(address, invitation=invitation.text).link for address in self._service.addresses
        ]
        return {"links": links, "access": str(mode), **_invitation(invitation.record)}

    async def invitations(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the invitations that are good."""
        page, more = self._page(self._access.invitations(), lambda found: found.name, arguments)
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
        here = self._sent_by_device()
        known = {record.device: record for record in self._access.devices()}
        ids: Iterable[bytes] = here if arguments["here"] else {*known, *here}
        page, more = self._page(ids, lambda device: str(DeviceID(device)), arguments)
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
        was_here = device in self._sent_by_device()
        kept: Deferred[bool] = Deferred()
        self._access.revoke(device, kept.callback)
        self._factory.settle()
        if not await kept:
            raise AbstError(
                "the device is shut out now, but the realm could not write that to its disk: "
                "it comes back with the realm's next start, so try again"
            )
        return {"device_id": str(device), "was_here": was_here}

    # What there is.

    async def groups(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the peer groups."""
        records = self._realm.groups.records()
        page, more = self._page(records, lambda found: str(DeviceID(found[0].group)), arguments)
        ids = [record.group for record, _ in page]
        path = self._service.state / STORE_FILE
        shares = await self._service.in_thread(count_values, path, ids)
        groups = []
        for record, members in page:
            share = shares.get(record.group)
            groups.append(
                {
                    "group_id": str(DeviceID(record.group)),
                    "epoch": record.epoch,
                    "members_here": members,
                    "values": 0 if share is None else share.values,
                    "stored_bytes": 0 if share is None else share.stored_bytes,
                    "maker": str(DeviceID(record.maker)),
                    "last_used": _day(record.used),
                }
            )
        return {"groups": groups, "more": more}

    async def stats(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell how the realm stands, and what it has counted since it was started."""
        factory, realm = self._factory, self._realm
        circuits = realm.circuits.count_states()
        devices = self._access.devices()
        allowed = sum(record.is_allowed for record in devices)
        return {
            "version": __version__,
            "uptime_seconds": round(factory.now() - self._service.started_at, 1),
            "addresses": [str(address) for address in self._service.addresses],
            "access": str(self._access.mode),
            "devices_here": len(self._sent_by_device()),
            "devices_allowed": allowed,
            "devices_revoked": len(devices) - allowed,
            "invitations": len(self._access.invitations()),
            "open_connections": len(realm.conversations) + len(factory.legs),
            "circuits_waiting": circuits[CircuitState.MEETING],
            "circuits_joined": circuits[CircuitState.JOINED],
            "groups": len(realm.groups),
            "stored_bytes": 0 if realm.values is None else realm.values.stored_bytes,
            "queued_bytes": realm.queued_bytes,
            "month_bytes": realm.meter.used_in_all(),
            "open_files": self._service.capacity._asdict(),
            "counters": realm.counters.as_map(),
            "limits": asdict(realm.limits),
        }

    # What is done with it.

    async def reload(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Read the configuration anew."""
        reloaded = await self._service.reload()
        return {"changed": list(reloaded.changed), "restart": list(reloaded.restart)}

    async def backup(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Make a copy of the database, which stays until an answer has come, or nobody waits.

        The realm may write nowhere but in its own folder: whoever asks takes the copy from there.
        """
        folder = self._service.state
        path = new_snapshot_file(folder)
        try:
            await self._service.in_thread(snapshot, folder / STORE_FILE, path)
            emit({"snapshot": path.name})
            await arguments["answers"].get()
        finally:
            # Also while a copy is made that nobody wants any more: it goes with its name.
            with contextlib.suppress(OSError):
                os.unlink(path)
        return {}

    def _page(
        self, items: Iterable[_Item], key: Callable[[_Item], str], arguments: dict[str, Any]
    ) -> tuple[list[_Item], bool]:
        """Return the first items after the one that was told last, and whether there are more."""
        after = str(arguments.get("after") or "")
        most = self._most
        found = heapq.nsmallest(most + 1, (item for item in items if key(item) > after), key)
        return found[:most], len(found) > most

    # Devices.

    def _sent_by_device(self) -> dict[bytes, Counter[str]]:
        """Return what each device that is here has on its connections; not the realm's own."""
        found: dict[bytes, Counter[str]] = {}
        for conversation in self._realm.conversations:
            device = conversation.device_id
            if conversation.state is not State.HERE or device is None:
                continue
            if device not in self._access.own_devices:
                sent = found.setdefault(device, Counter())
                sent["connections"] += 1
                sent["bytes"] += conversation.sent_bytes
        return found

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
            "since": None if record is None else _moment(record.since),
            "last_here": None if record is None else _day(record.seen),
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
        known = {*self._sent_by_device(), *(it.device for it in self._access.devices())}
        found = [
            device for device in map(DeviceID, known) if begin and str(device).startswith(begin)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise AbstError(f"{len(found)} devices begin with {text!r}: give more of the ID")
        raise AbstError(
            f"no device is known that begins with {text[:60]!r}: give its whole ID, "
            "which 'abst id' shows on the device"
        )


def _invitation(record: InvitationRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "uses_left": record.uses_left or None,
        "made": _moment(record.made),
        "expires": None if record.expires is None else _moment(record.expires),
        "note": record.note,
    }


def _number(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise AbstError(f"{name}: a whole number, at most {most}")
    return value


def _moment(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def _day(days: int) -> str | None:
    """Return a day since 1970, or None for none."""
    return (datetime.date(1970, 1, 1) + datetime.timedelta(days)).isoformat() if days else None
