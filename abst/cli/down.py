"""``abst down``: stop the agent."""

from __future__ import annotations

import click

from abst.cli.agent_process import stop_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import printable, show


@click.command(cls=WithExample, example="abst down")
@click.pass_obj
def command(home: DeviceHome) -> None:
    """Stop the agent, and return when it is gone."""
    home.check()
    how = "stopped" if stop_agent(home) else "not running"
    show(f"the agent for {printable(home)} is {how}")
