"""Sealing a group's old values anew once the group has moved (spec: values.md, "After a rotation").

Owns who does it, which is the device that has moved the group, and how fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from abst.device.groups.keys import GroupKeys
from abst.device.groups.mirror import Mirror
from abst.errors import AbstError, ValueConflictError

REWRITES_PER_SECOND: Final = 20.0
"""Nobody is in a hurry: who holds the old key has read the values already."""


class RewritingOwner(Protocol):
    """The group."""

    keys: GroupKeys
    reactor: Any

    def made_epoch(self, epoch: int) -> bool:
        """Tell whether it was this device that has moved the group to an epoch."""


class Rewriting:
    """What is left to seal anew in one group.

    Args:
        owner: the group.
        mirror: what is known of its values.
        set_value: sets a value, as ``Values.set``.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self, owner: RewritingOwner, mirror: Mirror, set_value: Callable[..., Deferred[int]]
    ) -> None:
        self._owner = owner
        self._mirror = mirror
        self._set = set_value
        self._is_working = False
        self._pause: Deferred[None] | None = None

    def joined(self) -> None:
        """Go on with it, if it is this device's business."""
        epoch = self._owner.keys.epoch
        if not self._is_working and epoch > 0 and self._owner.made_epoch(epoch):
            self._is_working = True
            ensureDeferred(self._work()).addErrback(self._failed)

    def parted(self) -> None:
        """Wait until the group is joined again."""
        if self._pause is not None:
            self._pause.cancel()

    async def _work(self) -> None:
        try:
            await self._mirror.when_following()
            for hidden_name in self._mirror.names():
                if await self._rewrite(hidden_name):
                    self._pause = deferLater(self._owner.reactor, 1 / REWRITES_PER_SECOND)
                    await self._pause
        finally:
            self._is_working = False
            self._pause = None

    async def _rewrite(self, hidden_name: bytes) -> bool:
        """Seal one value anew; False when that is not needed."""
        if self._mirror.epoch_of(hidden_name) in (None, self._owner.keys.epoch):
            return False
        word = self._mirror.word(hidden_name)
        if word is None:
            return False
        seconds = None
        if word.seconds is not None:
            ends_at = word.milliseconds / 1000 + word.seconds
            seconds = max(1, round(ends_at - self._owner.reactor.seconds()))
        revision = self._mirror.revision_of(hidden_name)
        try:
            await self._set(word.name, word.value, if_revision=revision, seconds=seconds)
        except ValueConflictError:
            pass  # Somebody has written it meanwhile, with the newest key.
        return True

    def _failed(self, failure: Any) -> None:
        # It goes on when the group is joined again.
        if failure.check(AbstError, CancelledError) is None:
            self.log.failure("values are not sealed anew", failure=failure)
