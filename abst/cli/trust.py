"""``abst trust``: let another device in."""

from __future__ import annotations

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, printable, show, show_document


@click.command(
    cls=WithExample, example="abst trust 6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819 --name laptop"
)
@click.argument("device_id")
@click.option("--name", default="", help="What it is called here; by default what it calls itself.")
@json_option
@click.pass_obj
def command(home: DeviceHome, device_id: str, name: str, as_json: bool) -> None:
    """Trust the device with DEVICE_ID: it becomes a peer of this one.

    It has to trust this device too. 'abst id' shows a device's ID; get it in a way that nobody
    can tamper with.
    """
    from abst.device_id import DeviceID

    try:
        wanted = str(DeviceID.parse(device_id))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="DEVICE_ID") from None
    answer = ask_agent(home, "trust", device_id=wanted, name=name)
    if as_json:
        show_document(answer)
        return
    shown = f"{answer['name']} ({wanted})" if answer["name"] else wanted
    show(f"this device trusts {printable(shown)} now")
