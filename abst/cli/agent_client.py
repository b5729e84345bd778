"""One request to the agent, over the Unix socket in its home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from abst.control_client import Call, Called


class AgentCall(Call):
    """A request that is under way. Iterate over its events; then ``result`` is there.

    Args:
        path: the agent's socket.
        command: the request's name.
        arguments: what else it carries.
        timeout_seconds: how long the agent may be silent, or None for ever.

    Raises:
        NotRunningError: nobody listens there.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        arguments: dict[str, Any],
        timeout_seconds: float | None = None,
    ) -> None:
        agent = Called(
            path,
            "the agent",
            not_running=f"the agent for {path.parent} is not running: 'abst up' starts it",
            log=str(path.with_name("agent.log")),
        )
        super().__init__(agent, command, arguments, timeout_seconds)
