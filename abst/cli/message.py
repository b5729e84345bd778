"""``abst message``: say something to a peer."""

from __future__ import annotations

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, one_line, printable, show, show_document, utf8


@click.command(cls=WithExample, example="abst message laptop 'The kettle is on.'")
@click.argument("peer")
@click.argument("text")
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, text: str, as_json: bool) -> None:
    """Send TEXT to PEER.

    PEER finds it with 'abst inbox', or sees it at once with 'abst listen'. While PEER is away the
    message waits in the outbox, and goes when both are there.
    """
    with call_agent(home, "message", peer=peer, text=utf8(text, "TEXT")) as call:
        result = call.result
    if as_json:
        show_document(result)
    elif result["delivered"]:
        show(f"delivered: {printable(result['peer'])} has it")
    else:
        show(f"waiting: {one_line(result['reason'])}; it goes by itself when both are there")
        note("'abst outbox' lists what waits")
