"""``abst peers``: the devices that this one trusts."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, printable, show, show_document


@click.command(cls=WithExample, example="abst peers")
@json_option
@click.pass_obj
def command(home: DeviceHome, as_json: bool) -> None:
    """List the devices that this one trusts, and how each stands."""
    answer = ask_agent(home, "peers")
    if as_json:
        show_document(answer)
        return
    for peer in answer["peers"]:
        show(_peer_line(peer))
    if not answer["peers"]:
        note("no peer yet: 'abst pair' adds one")


def _peer_line(peer: dict[str, Any]) -> str:
    if peer["path"] is not None:
        how = f"in a session over {peer['path']}"
    elif peer["key_pinned"]:
        how = "no session now"
    else:
        how = "not met yet"
    return f"{peer['device_id']}  {printable(peer['name'] or '-')}  {printable(how)}"
