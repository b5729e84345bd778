"""The command ``send``: files one after the other, with news of how far they are.

Owns what is told: progress, each file that is across, and when nothing goes on for now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.internet.task import LoopingCall

from abst.agent.control import Emit
from abst.agent.patience import QUIET_SECONDS, Patience
from abst.agent.sessions import AgentProtocol

PROGRESS_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 0.5


class SendCommand:
    """One run of the command.

    Args:
        protocol: the session with the peer.
        emit: tells whoever runs the command.
        reactor: the reactor.
        why_away: returns why nothing carries the session, as the beginning of a sentence.
    """

    def __init__(
        self, protocol: AgentProtocol, emit: Emit, reactor: Any, why_away: Callable[[], str]
    ) -> None:
        self._protocol = protocol
        self._emit = emit
        self._now: Callable[[], float] = reactor.seconds
        self._why_away = why_away
        self._patience = Patience(self._now())
        self._looking = LoopingCall(self._look)
        self._looking.clock = reactor
        self._file = ""

    async def send(self, paths: Iterable[Path]) -> list[dict[str, Any]]:
        """Send files, and return what is told of each once it is across."""
        self._looking.start(LOOK_SECONDS)
        try:
            return [await self._send_one(path) for path in paths]
        finally:
            self._looking.stop()

    async def _send_one(self, path: Path) -> dict[str, Any]:
        self._file = path.name
        progress = _Progress(path.name, self._emit, self._now)
        sent = await self._protocol.files.send(path, progress)
        entry = {
            "file": path.name,
            "size_bytes": sent.size_bytes,
            "sha256": sent.sha256.hex(),
            "stored_as": sent.stored_as,
        }
        self._look()
        self._emit({**entry, "done": True})
        return entry

    def _look(self) -> None:
        """Tell when nothing goes on any more, and when it goes on again."""
        protocol = self._protocol
        has_path = protocol.path is not None
        if not self._patience.look(
            self._now(),
            has_path=has_path,
            unacknowledged=protocol.unacknowledged,
            moves=protocol.moves,
        ):
            return
        event = {"peer": str(protocol.peer), "file": self._file}
        if not self._patience.is_waiting:
            self._emit({**event, "waiting": False})
            return
        why = self._why_away()
        if has_path:
            why = f"{protocol.peer} has not answered for {QUIET_SECONDS:g} seconds"
        self._emit({**event, "waiting": True, "reason": why})


class _Progress:
    """Tells how far a file is, not more often than somebody can read."""

    def __init__(self, name: str, emit: Emit, now: Callable[[], float]) -> None:
        self._name = name
        self._emit = emit
        self._now = now
        self._last = 0.0

    def __call__(self, sent_bytes: int, size_bytes: int) -> None:
        now = self._now()
        if now - self._last >= PROGRESS_SECONDS or sent_bytes == size_bytes:
            self._last = now
            self._emit({"file": self._name, "sent_bytes": sent_bytes, "size_bytes": size_bytes})
