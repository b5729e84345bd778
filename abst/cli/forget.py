"""``abst forget``: trust a peer no longer."""

from __future__ import annotations

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, printable, show, show_document


@click.command(cls=WithExample, example="abst forget laptop")
@click.argument("peer")
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, as_json: bool) -> None:
    """Trust PEER no longer, and end the session with it.

    PEER is a name, a device ID, or the beginning of one.
    """
    answer = ask_agent(home, "forget", peer=peer)
    if as_json:
        show_document(answer)
    else:
        show(f"this device no longer trusts {printable(answer['peer'])}")
