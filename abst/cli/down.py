"""``abst down``: stop the agent."""

from __future__ import annotations

import click

from abst.cli.agent_client import AgentCall, AgentNotRunningError
from abst.cli.agent_process import QUICK_SECONDS, wait_until_stopped
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import printable, show


@click.command(cls=WithExample, example="abst down")
@click.pass_obj
def command(home: DeviceHome) -> None:
    """Stop the agent, and return when it is gone."""
    home.check()
    try:
        with AgentCall(home.socket, "down", {}, QUICK_SECONDS) as call:
            _ = call.result
    except AgentNotRunningError:
        show(f"the agent for {printable(home)} is not running")
        return
    wait_until_stopped(home)
    show(f"the agent for {printable(home)} is stopped")
