"""``abst-realm invitations``: which invitations are good, and withdrawing one."""

from __future__ import annotations

import click

from abst.cli.example import GroupWithExample, WithExample
from abst.cli.output import json_option, note, printable, show, show_document
from abst.operator.lines import moment, table
from abst.operator.place import Place


@click.group(
    invoke_without_command=True,
    no_args_is_help=False,
    cls=GroupWithExample,
    example="abst-realm invitations\nabst-realm invitations withdraw kqzvbn",
)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the invitations that are good."""
    if ctx.invoked_subcommand is not None:
        return
    place: Place = ctx.obj
    found = list(place.ask_pages("invitations", "invitations", "name"))
    found.sort(key=lambda invitation: str(invitation["made"]))
    if as_json:
        show_document({"invitations": found})
        return
    if not found:
        note("none is good now: 'abst-realm invite' makes one")
        return
    rows = [
        (
            invitation["name"],
            "any" if invitation["uses_left"] is None else invitation["uses_left"],
            moment(invitation["made"]),
            "never" if invitation["expires"] is None else moment(invitation["expires"]),
            invitation["note"],
        )
        for invitation in found
    ]
    show(table(("NAME", "USES", "MADE", "EXPIRES", "NOTE"), rows))


@command.command("withdraw", cls=WithExample, example="abst-realm invitations withdraw kqzvbn")
@click.argument("name")
@json_option
@click.pass_obj
def withdraw(place: Place, name: str, as_json: bool) -> None:
    """Let the invitation NAME be good no more.

    Devices that have come by it stay: 'abst-realm revoke' shuts one out.
    """
    answer = place.ask("withdraw", name=name)
    if as_json:
        show_document(answer)
    else:
        show(f"withdrawn: {printable(answer['name'])}")
