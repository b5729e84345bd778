"""What a realm does when its operator asks: the commands on its control socket.

Owns what each command takes and answers. Answers are as large as what they list, so what may be
long is asked for page by page. Nothing that is a secret is answered but a new invitation's link.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from abst import __version__
from abst.address import RealmAddress
from abst.control import Command, Emit
from abst.device_id import DeviceID
from abst.realm.backup import new_snapshot_file, snapshot
from abst.realm.capacity import Capacity
from abst.realm.circuits import State as CircuitState
from abst.realm.device_operations import PAGE, DeviceOperations, day, page_of
from abst.realm.protocol import RealmFactory
from abst.realm.state_folder import STORE_FILE
from abst.realm.store.census import count as count_values


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
        self._page = page
        self._devices = DeviceOperations(factory, lambda: service.addresses, page)
        self._service = service
        self._factory = factory
        self._realm = factory.realm
        self._access = factory.realm.access

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            **self._devices.by_name(),
            "groups": self.groups,
            "stats": self.stats,
            "reload": self.reload,
            "backup": self.backup,
        }

    # What there is.

    async def groups(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List the peer groups."""
        records = self._realm.groups.records()
        page, more = page_of(records, lambda found: found[0].group.hex(), arguments, self._page)
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
                    "last_used": day(record.used),
                }
            )
        return {"groups": groups, "more": more}

    async def stats(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell how the realm stands, and what it has counted since it was started."""
        factory, realm = self._factory, self._realm
        circuits = realm.circuits.count_states()
        allowed, revoked = self._access.count_devices()
        return {
            "version": __version__,
            "uptime_seconds": round(factory.now() - self._service.started_at, 1),
            "addresses": [str(address) for address in self._service.addresses],
            "access": str(self._access.mode),
            "devices_here": realm.here,
            "devices_allowed": allowed,
            "devices_revoked": revoked,
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
