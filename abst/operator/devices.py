"""``abst-realm devices``: which devices may use the realm, and which are here."""

from __future__ import annotations

from typing import Any, Final

import click

from abst.cli.example import WithExample
from abst.cli.output import human_size, json_option, note, show, show_document
from abst.operator.lines import moment, table
from abst.operator.place import Place

HEADS: Final = (
    *("DEVICE", "STATE", "LAST HERE", "SINCE", "INVITATION"),
    *("CONNECTIONS", "SENT", "MONTH", "NOTE"),
)


@click.command(cls=WithExample, example="abst-realm devices\nabst-realm devices --here --json")
@click.option("--here", is_flag=True, help="Only those that are connected now.")
@json_option
@click.pass_obj
def command(place: Place, here: bool, as_json: bool) -> None:
    """List the devices that are here, allowed or revoked.

    SENT is what a device has sent to others on the connections that it has now, and MONTH in this
    month, which is counted only when a limit is set for it.
    """
    found = list(place.ask_pages("devices", "devices", "device_id", here=here))
    found.sort(key=lambda device: (not device["here"], str(device["since"] or "")))
    if as_json:
        show_document({"devices": found})
        return
    if not found:
        note("no device is here" if here else "no device is known: 'abst-realm invite' invites one")
        return
    show(table(HEADS, [_row(device) for device in found]))


def _row(device: dict[str, Any]) -> tuple[object, ...]:
    state = {True: "allowed", False: "revoked", None: "not listed"}[device["allowed"]]
    return (
        device["device_id"],
        state,
        "here" if device["here"] else device["last_here"] or "never",
        moment(device["since"]),
        device["invitation"] or "-",
        device["connections"],
        human_size(device["sent_bytes"]),
        "-" if device["month_bytes"] is None else human_size(device["month_bytes"]),
        device["note"],
    )
