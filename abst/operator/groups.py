"""``abst-realm groups``: the peer groups that the realm keeps."""

from __future__ import annotations

import click

from abst.cli.example import WithExample
from abst.cli.output import human_size, json_option, note, show, show_document
from abst.operator.lines import table
from abst.operator.place import Place


@click.command(cls=WithExample, example="abst-realm groups")
@json_option
@click.pass_obj
def command(place: Place, as_json: bool) -> None:
    """List the peer groups, those that take most on the disk first.

    The realm knows neither their names nor what is in them. MAKER is the device that has made one.
    """
    found = list(place.ask_pages("groups", "groups", "group_id"))
    found.sort(key=lambda group: (-group["stored_bytes"], str(group["group_id"])))
    if as_json:
        show_document({"groups": found})
        return
    if not found:
        note("there is no group yet")
        return
    rows = [
        (
            group["group_id"],
            group["epoch"],
            group["members_here"],
            group["values"],
            human_size(group["stored_bytes"]),
            group["maker"],
            group["last_used"] or "-",
        )
        for group in found
    ]
    show(table(("GROUP", "EPOCH", "HERE", "VALUES", "STORED", "MAKER", "LAST USED"), rows))
