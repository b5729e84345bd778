"""``abst-realm invite``: a link by which devices get into the realm."""

from __future__ import annotations

import sys
from typing import Any

import click

from abst.cli.example import WithExample
from abst.cli.output import json_option, note, printable, quantity, show, show_document, utf8
from abst.operator.lines import moment
from abst.operator.place import Place
from abst.operator.span import seconds_of


@click.command(
    cls=WithExample,
    example="abst-realm invite --note 'laptop of Ada'\nabst-realm invite --uses 20 --expires 12h",
)
@click.option(
    "--uses",
    type=click.IntRange(0, 1_000_000),
    default=1,
    show_default=True,
    metavar="N",
    help="How many devices it lets in; 0 for any number.",
)
@click.option(
    "--expires",
    callback=seconds_of,
    default="7d",
    show_default=True,
    metavar="TIME",
    help="How long it is good: 30min, 12h, 7d, 4w, or never.",
)
@click.option(
    "--note", "remark", default="", metavar="TEXT", help="What 'invitations' and 'devices' show."
)
@json_option
@click.pass_obj
def command(place: Place, uses: int, expires: int | None, remark: str, as_json: bool) -> None:
    """Print a link that lets a device into the realm.

    The device takes it with 'abst realm add LINK'. The link is a secret until it is used: the realm
    keeps no more of it than what it needs to know it again.
    """
    utf8(remark, "--note")
    answer = place.ask("invite", uses=uses, seconds=expires, note=remark)
    if as_json:
        show_document(answer)
        return
    links = answer["links"]
    if sys.stdout.isatty():
        import segno

        segno.make(links[0]).terminal(out=sys.stdout, compact=True)
    for link in links:
        show(link)
    note(f"{goodness(answer)}; on the device: abst realm add 'LINK'")
    if answer["access"] == "open":
        note("this realm is open: devices get in without a link, too")


def goodness(invitation: dict[str, Any]) -> str:
    """Return for how many devices an invitation is good, and for how long."""
    uses = invitation["uses_left"]
    devices = "any number of devices" if uses is None else quantity(uses, "device")
    until = "until it is withdrawn"
    if invitation["expires"] is not None:
        until = f"until {moment(invitation['expires'])}"
    return f"{printable(invitation['name'])}: good for {devices}, {until}"
