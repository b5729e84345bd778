"""``abst outbox``: messages that wait for their device."""

from __future__ import annotations

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, printable, show, show_document


@click.group(
    no_args_is_help=False,
    invoke_without_command=True,
    cls=GroupWithExample,
    example="abst outbox\nabst outbox cancel laptop 3",
)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the messages that are not delivered yet, or cancel one."""
    if ctx.invoked_subcommand is not None:
        return
    answer = ask_agent(ctx.obj, "outbox")
    if as_json:
        show_document(answer)
        return
    for item in answer["items"]:
        state = "on its way" if item["out"] else "waiting"
        show(printable(f"{item['number']}  {item['peer']}  {state}: {item['text']}"))
    if not answer["items"]:
        note("nothing waits")


@command.command("cancel", cls=WithExample, example="abst outbox cancel laptop 3")
@click.argument("peer")
@click.argument("number", type=click.IntRange(min=0))
@json_option
@click.pass_obj
def cancel(home: DeviceHome, peer: str, number: int, as_json: bool) -> None:
    """Take back message NUMBER to PEER, which must not have left yet."""
    answer = ask_agent(home, "outbox_cancel", peer=peer, number=number)
    if as_json:
        show_document(answer)
    else:
        show(f"message {number} to {printable(answer['peer'])} is cancelled")
