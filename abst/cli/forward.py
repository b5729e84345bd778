"""``abst forward``: reach a service of a peer as if it were on this machine."""

from __future__ import annotations

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, one_line, show, show_record
from abst.control_client import LostError
from abst.errors import AbstError


@click.command(
    cls=WithExample,
    example="abst forward laptop web tcp:8080\nabst forward laptop ssh tcp:0",
)
@click.argument("peer")
@click.argument("name")
@click.argument("local_endpoint")
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, name: str, local_endpoint: str, as_json: bool) -> None:
    """Take connections here and lead them to NAME of PEER, until Ctrl-C.

    LOCAL_ENDPOINT says where, as Twisted writes it. tcp:8080 is for programs on this machine alone;
    tcp:8080:interface=0.0.0.0 takes connections from the network too. tcp:0 takes any free port,
    and unix:/PATH a socket. With --json, one line for each event; the first one has the address.
    """
    try:
        with call_agent(home, "forward", peer=peer, service=name, endpoint=local_endpoint) as call:
            for event in call:
                if as_json:
                    show_record(event)
                elif event["kind"] == "listening":
                    show(one_line(f"{event['address']} leads to {name} of {event['peer']}"))
                    note("abst: Ctrl-C ends it")
                elif event["kind"] == "failed":
                    note(f"abst: a connection was closed: {one_line(event['reason'])}")
                else:
                    note("abst: it works again")
    except LostError:
        raise AbstError(
            "the agent has stopped, and this forward with it: give the command again"
        ) from None
