"""``abst-realm revoke``: shut a device out, at once."""

from __future__ import annotations

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, show, show_document
from abst.operator.place import Place


@click.command(cls=WithExample, example="abst-realm revoke 6fa1b3c2")
@click.argument("device_id")
@json_option
@click.pass_obj
def command(place: Place, device_id: str, as_json: bool) -> None:
    """Shut the device DEVICE_ID out, and end its connections now.

    The beginning of an ID is enough for a device that is known here. No invitation lets it in
    again: 'abst-realm allow' does.
    """
    answer = place.ask("revoke", device=device_id)
    if as_json:
        show_document(answer)
        return
    show(f"revoked: {printable(answer['device_id'])}")
    if not answer["was_here"]:
        note("it was not here")
