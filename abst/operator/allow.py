"""``abst-realm allow``: let a device in by its ID."""

from __future__ import annotations

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, show, show_document, utf8
from abst.operator.place import Place


@click.command(
    cls=WithExample,
    example="abst-realm allow 6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819 --note 'laptop of Ada'",
)
@click.argument("device_id")
@click.option("--note", "remark", default="", metavar="TEXT", help="What 'devices' shows of it.")
@json_option
@click.pass_obj
def command(place: Place, device_id: str, remark: str, as_json: bool) -> None:
    """Let the device DEVICE_ID use the realm, without an invitation.

    'abst id' shows a device's ID. The beginning of one is enough for a device that is known here,
    such as one that was revoked.
    """
    utf8(remark, "--note")
    answer = place.ask("allow", device=device_id, note=remark)
    if as_json:
        show_document(answer)
        return
    show(f"allowed: {printable(answer['device_id'])}")
    if answer["access"] == "open":
        note("this realm is open: other devices may use it, too")
