"""What the agent does when the command line asks about the values of a group.

Owns the meaning of these commands and the words of their results. Names and values are bytes: they
travel as text where they are UTF-8, else as base64.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, Final

from twisted.internet.defer import Deferred

from abst.agent.groups.early_changes import EarlyChanges
from abst.agent.groups.factory import protocol_of
from abst.agent.groups.moment import LATE, Joining, in_time
from abst.agent.groups.news import GroupNews
from abst.agent.groups.told import bytes_asked, bytes_told
from abst.control import Command, Emit
from abst.device import Device
from abst.device.groups.changes import What
from abst.device.groups.group import Group
from abst.device.groups.values import Value, ValueChange
from abst.errors import GroupError, ValueConflictError

PAGE_VALUES: Final = 500
"""How many values one answer lists; names are long at times, and a client need not read fast."""

ANSWER_SECONDS: Final = 15.0
"""How long a realm may take for an answer: a command line waits for it."""

BATCH_BYTES: Final = 1024 * 1024
"""How much of what is there a watcher is told before it has to ask for more."""

CHANGES: Final = {
    What.PUT: "put",
    What.DELETED: "deleted",
    What.ENDED: "expired",
    What.FORGOTTEN: "forgotten",
}


class ValueCommands:
    """The commands about values.

    Args:
        device: the device.
        news: what members are called.
    """

    def __init__(self, device: Device, news: GroupNews) -> None:
        self._device = device
        self._news = news
        self._joining = Joining(device)

    def by_name(self) -> dict[str, Command]:
        """Return every command under the name by which it is asked for."""
        return {
            "value_set": self.set,
            "value_get": self.get,
            "value_delete": self.delete,
            "value_list": self.list,
            "value_watch": self.watch,
            "value_start_again": self.start_again,
        }

    async def set(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Keep a value; done when it is safe."""
        group, name = self._group(arguments), bytes_asked(arguments, "name")
        value = bytes_asked(arguments, "value")
        if_revision = _count(arguments, "if_revision")
        seconds = _count(arguments, "seconds")
        await self._joining.wait(group)
        setting = group.values.set(name, value, if_revision=if_revision, seconds=seconds)
        try:
            revision = await self._answer(setting)
        except ValueConflictError as conflict:
            raise _conflict(name, conflict) from None
        return {**_named(group, name), "revision": revision}

    async def get(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell a value, as the realm has it or as it was checked last."""
        group, name = self._group(arguments), bytes_asked(arguments, "name")
        await self._joining.wait(group)
        value = await self._answer(group.values.get(name))
        if value is None:
            problem = self._problem(group)
            unknown = "" if problem is None else f" is known here, and that may be old: {problem}"
            raise GroupError(f"no value {_shown(name)} in {group}{unknown}")
        return {
            **_of(group),
            **self._told(group, value),
            **bytes_told("value", value.value),
            **self._standing(group, value.age_seconds),
        }

    async def delete(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Keep nothing under a name; done when that is safe."""
        group, name = self._group(arguments), bytes_asked(arguments, "name")
        if_revision = _count(arguments, "if_revision")
        await self._joining.wait(group)
        try:
            revision = await self._answer(group.values.delete(name, if_revision=if_revision))
        except ValueConflictError as conflict:
            raise _conflict(name, conflict) from None
        return {**_named(group, name), "revision": revision}

    async def list(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """List values whose names begin with ``prefix``, and come after ``after`` if it is given.

        What is more than one answer holds comes with the next one, after the name in ``more``.
        """
        group, prefix = self._group(arguments), bytes_asked(arguments, "prefix")
        is_first = "after" not in arguments and "after_base64" not in arguments
        after = b"" if is_first else bytes_asked(arguments, "after")
        await self._joining.wait(group)
        found = await self._answer(group.values.items(prefix))
        age = max((value.age_seconds for value in found), default=None)
        left = [value for value in found if value.name > after]
        page = left[:PAGE_VALUES]
        return {
            **_of(group),
            "values": [self._told(group, value) for value in page],
            "more": bytes_told("after", page[-1].name) if len(left) > len(page) else None,
            **self._standing(group, age),
        }

    async def watch(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Tell of every change, until nobody wants that any more.

        With ``initial`` it begins with what is there. That may be much, so after each batch comes
        an event ``more``, which wants an answer.
        """
        group, prefix = self._group(arguments), bytes_asked(arguments, "prefix")
        if (problem := group.values.problem) is not None:
            raise problem
        early = EarlyChanges()
        watch = group.values.watch(prefix, early.add)
        try:
            await self._joining.wait(group)
            if arguments.get("initial"):
                for value in await self._answer(group.values.items(prefix)):
                    early.begin(value)
            size_bytes = 0
            while (change := early.take()) is not None:
                emit(self._change_told(group, change))
                size_bytes += len(change.name) + len(change.value or b"")
                if size_bytes > BATCH_BYTES:
                    emit({"kind": "more"})
                    await arguments["answers"].get()
                    size_bytes = 0
            # Nothing comes in between: nothing was waited for since nothing was left.
            watch.callback = lambda change: emit(self._change_told(group, change))
            emit({"kind": "watching", **self._standing(group, None)})
            await protocol_of(group).when_unusable()
        finally:
            watch.stop()
        return {}

    async def start_again(self, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Believe a realm anew that was seen to lie."""
        group = self._group(arguments)
        if group.values.problem is None:
            raise GroupError(f"the realm of {group} was not seen to lie: there is nothing to do")
        group.values.start_again()
        return _of(group)

    # What commands share.

    async def _answer(self, waiting: Deferred[Any]) -> Any:
        """Return what a realm answers.

        Who waits no more cancels nothing: what the realm says has to be checked all the same.

        Raises:
            GroupError: it takes too long.
        """
        result = await in_time(self._device.reactor, waiting, ANSWER_SECONDS)
        if result is LATE:
            raise GroupError(
                f"the realm has not answered within {ANSWER_SECONDS:g} seconds; look later what "
                "has come of it"
            )
        return result

    def _group(self, arguments: dict[str, Any]) -> Group:
        group = self._device.groups.find(str(arguments["group"]))
        if group.realm is None:
            raise GroupError(f"{group} is a network without a realm, and values are kept at one")
        return group

    def _problem(self, group: Group) -> str | None:
        """Return why the realm is not asked, or not believed."""
        problem = group.values.problem or group.problem
        return None if problem is None else str(problem)

    def _standing(self, group: Group, age_seconds: float | None) -> dict[str, Any]:
        """Return how far values can be relied on.

        ``checked_seconds_ago`` is None when there is nothing to say it of, or it is not known.
        """
        is_known = age_seconds is not None and math.isfinite(age_seconds)
        problem = self._problem(group)
        if problem is None and age_seconds:
            problem = "the realm has not told everything yet"
        return {
            "checked_seconds_ago": age_seconds if is_known else None,
            "dishonest": group.values.problem is not None,
            "problem": problem,
        }

    def _told(self, group: Group, value: Value) -> dict[str, Any]:
        """Return what is known of a value, but for the value."""
        now: float = self._device.reactor.seconds()
        return {
            **bytes_told("name", value.name),
            "size_bytes": len(value.value),
            "revision": value.revision,
            "writer": self._news.name_of(group, value.writer),
            "writer_id": str(value.writer),
            "written_at": _iso(value.written_at),
            "written_seconds_ago": round(max(0.0, now - value.written_at), 3),
            "ends_at": None if value.ends_at is None else _iso(value.ends_at),
        }

    def _change_told(self, group: Group, change: ValueChange) -> dict[str, Any]:
        told: dict[str, Any] = {
            "change": CHANGES[change.what],
            **bytes_told("name", change.name),
            "revision": change.revision,
        }
        if change.writer is not None:
            told["writer"] = self._news.name_of(group, change.writer)
            told["writer_id"] = str(change.writer)
        if change.value is not None:
            told |= bytes_told("value", change.value)
        return told


def _of(group: Group) -> dict[str, str]:
    return {"group": str(group), "group_id": str(group.group_id)}


def _named(group: Group, name: bytes) -> dict[str, str]:
    return {**_of(group), **bytes_told("name", name)}


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))


def _conflict(name: bytes, conflict: ValueConflictError) -> GroupError:
    now = f"at revision {conflict.revision}" if conflict.revision else "not there (revision 0)"
    return GroupError(f"nothing was changed: {_shown(name)} is {now}")


def _count(arguments: dict[str, Any], key: str) -> int | None:
    value = arguments.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**63:
        raise GroupError(f"{key} is a whole number from 0 on")
    return value


def _iso(seconds: float) -> str:
    """Return a member's clock as text; it may have been set to anything."""
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s since 1970"
    return moment.isoformat(timespec="seconds")
