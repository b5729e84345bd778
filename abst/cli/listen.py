"""``abst listen``: see what arrives as it arrives."""

from __future__ import annotations

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.items import item_line
from abst.cli.output import json_option, note, show, show_record


@click.command(cls=WithExample, example="abst listen")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N items.")
@json_option
@click.pass_obj
def command(home: DeviceHome, count: int | None, as_json: bool) -> None:
    """Show messages, files and offers as they arrive, until Ctrl-C.

    Messages to groups, and groups that are offered, are among them. 'abst group listen' shows more
    of what happens in groups.

    With --json, one line for each; the first says that nothing is missed from now on.
    """
    shown = 0
    with call_agent(home, "listen") as call:
        for event in call:
            is_item = event["kind"] != "listening"
            if as_json:
                show_record(event)
            elif is_item:
                show(item_line(event))
            else:
                note("abst: listening; Ctrl-C ends it")
            shown += is_item
            if shown == count:
                return
