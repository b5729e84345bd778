"""``abst up``: start the agent."""

from __future__ import annotations

import click

from abst.cli.agent_process import replace_by_agent, running_status, start_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import printable, show
from abst.errors import AbstError


@click.command(cls=WithExample, example="abst up")
@click.option("--foreground", is_flag=True, help="Run it in this terminal, with its log.")
@click.pass_obj
def command(home: DeviceHome, foreground: bool) -> None:
    """Start the agent in the background, and return when it answers.

    It keeps a log in the home, agent.log. 'abst down' stops it.
    """
    home.check()
    status = running_status(home)
    if foreground:
        if status is not None:
            raise AbstError(f"the agent for {home} is running already; 'abst down' stops it")
        replace_by_agent(home)
    if status is None:
        start_agent(home)
        show(f"the agent for {printable(home)} is running now")
    else:
        show(f"the agent for {printable(home)} is running already")
