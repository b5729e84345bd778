"""``abst inbox``: what has arrived."""

from __future__ import annotations

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.items import item_line
from abst.cli.output import json_option, note, show, show_document


@click.command(cls=WithExample, example="abst inbox")
@json_option
@click.pass_obj
def command(home: DeviceHome, as_json: bool) -> None:
    """List the messages and files that have arrived, oldest first.

    Files stand in the folder inbox/ of the home.
    """
    answer = ask_agent(home, "inbox")
    if as_json:
        show_document(answer)
        return
    for item in answer["items"]:
        show(item_line(item))
    if not answer["items"]:
        note("nothing has arrived yet")
