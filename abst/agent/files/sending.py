"""The command ``send``: files and folders on their way, with news of how far they are.

Owns what is told: progress, each item that is across or is not, and when nothing goes on for now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall

from abst.agent.files.outgoing import Item
from abst.agent.files.shipment import Observer, Shipment
from abst.agent.files.tree import TransferError
from abst.agent.patience import QUIET_SECONDS, Patience
from abst.control import Emit
from abst.device import Peer
from abst.errors import AbstError, StreamError

PROGRESS_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.5


class SendCommand(Observer):
    """One run of the command.

    Args:
        peer: whom it sends to.
        emit: tells whoever runs the command.
        reactor: the reactor.
        why_away: returns why the peer cannot be reached, as the beginning of a sentence.
    """

    def __init__(self, peer: Peer, emit: Emit, reactor: Any, why_away: Callable[[], str]) -> None:
        self._peer = peer
        self._emit = emit
        self._now: Callable[[], float] = reactor.seconds
        self._why_away = why_away
        self._patience = Patience(self._now())
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._begun_at = self._now()
        self._told_at = 0.0
        self._shipment: Shipment | None = None
        self._file = ""
        self._stored: list[dict[str, Any]] = []
        self._failed: list[TransferError] = []

    async def send(self, begin: Callable[[Observer], Shipment]) -> dict[str, Any]:
        """Send items, and return what is told of all of them once they are across.

        Args:
            begin: begins to send, and lets this object hear how it goes.

        Raises:
            AbstError: not all of them are across.
        """
        self._shipment = begin(self)
        self._file = self._shipment.first_name
        self._looking.start(LOOK_SECONDS)
        try:
            await self._shipment.finished
        finally:
            self._looking.stop()
        if self._failed:
            raise self._failure()
        return {"peer": str(self._peer), "files": self._stored, **self._pace()}

    def progressed(self, item: Item) -> None:
        """Tell how far it is, not more often than somebody can read."""
        now = self._now()
        self._file = item.name
        if now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            self._emit(
                {
                    "file": item.name,
                    "sent_bytes": item.got_bytes,
                    "size_bytes": item.size_bytes,
                    **self._pace(),
                }
            )

    def stored(self, item: Item, name: str, sha256: bytes) -> None:
        """Tell that an item is across."""
        self._file = item.name
        entry: dict[str, Any] = {"file": item.name, "size_bytes": item.size_bytes}
        survey = item.survey
        if survey is not None and survey.is_folder:
            entry |= {"kind": "folder", "files": survey.files}
            entry |= {"skipped": survey.skipped.paths, "skipped_count": survey.skipped.count}
        else:
            entry |= {"kind": "file", "sha256": sha256.hex()}
        entry["stored_as"] = name
        self._stored.append(entry)
        self._look()
        self._emit({**entry, "done": True, **self._pace()})

    def failed(self, item: Item, problem: TransferError) -> None:
        """Tell that an item is not across."""
        self._failed.append(problem)
        self._emit({"file": item.name, "failed": str(problem)})

    def _pace(self) -> dict[str, Any]:
        """Return how much is across, of how much, and how fast it goes."""
        assert self._shipment is not None
        sent_bytes = self._shipment.sent_bytes
        seconds = max(self._now() - self._begun_at, 1e-6)
        return {
            "total_sent_bytes": sent_bytes,
            "total_bytes": self._shipment.total_bytes,
            "seconds": round(seconds, 3),
            "bytes_per_second": round(sent_bytes / seconds),
        }

    def _failure(self) -> AbstError:
        first, others = self._failed[0], len(self._failed) - 1
        count = f" (and {others} more)" if others else ""
        return AbstError(f"{first}{count}")

    def _look(self) -> None:
        """Tell when nothing goes on any more, and when it goes on again."""
        shipment = self._shipment
        assert shipment is not None
        if not self._patience.look(
            self._now(),
            has_path=not shipment.is_away,
            unacknowledged=int(shipment.is_surveyed),
            moves=shipment.moves,
        ):
            return
        event = {"peer": str(self._peer), "file": self._file}
        if not self._patience.is_waiting:
            self._emit({**event, "waiting": False})
            return
        why = f"{self._peer} has not answered for {QUIET_SECONDS:g} seconds"
        if shipment.is_away:
            problem = shipment.problem
            told = isinstance(problem, StreamError) and problem.code is not None
            why = str(problem) if told else self._why_away()
        self._emit({**event, "waiting": True, "reason": why})
