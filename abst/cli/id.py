"""``abst id``: the device's own ID, as text, as JSON, or as a QR code."""

from __future__ import annotations

import sys

import click

from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, show, show_document


@click.command(cls=WithExample, example='ssh laptop abst trust "$(abst id)"')
@click.option("--qr", is_flag=True, help="Draw it as a QR code too.")
@json_option
@click.pass_obj
def command(home: DeviceHome, qr: bool, as_json: bool) -> None:
    """Print this device's ID, alone on a line."""
    home.check()
    from abst.agent.home import Home

    identity, settings = Home(home.path).open()
    device_id = str(identity.device_id)
    if as_json:
        show_document({"device_id": device_id, "name": settings.name, "home": str(home)})
        return
    if qr:
        import segno

        # In capitals a QR code stores it in fewer dots; an ID is the same in either case.
        segno.make(device_id.upper(), micro=False).terminal(out=sys.stdout, compact=True)
    show(device_id)
