"""``abst init``: make this machine, or this home, a device."""

from __future__ import annotations

import platform

import click

from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, printable, show, show_document
from abst.packets import MAX_NAME_CHARACTERS

NEXT_STEPS = """\
Next:
  abst pair                shows a code, which the other device takes
  abst realm add 'LINK'    to be reached from anywhere; whoever runs a realm gives you the link"""


@click.command(cls=WithExample, example="abst init --name laptop")
@click.option("--name", help="What the device calls itself to its peers; the host's name if none.")
@json_option
@click.pass_obj
def command(home: DeviceHome, name: str | None, as_json: bool) -> None:
    """Make a new device: its home, for you alone, and its identity.

    An identity that is there already is never replaced.
    """
    device_name = platform.node() if name is None else name
    if len(device_name) > MAX_NAME_CHARACTERS or not device_name.isprintable():
        raise click.BadParameter(
            f"a name has at most {MAX_NAME_CHARACTERS} printable characters", param_hint="--name"
        )
    from abst.agent.home import Home

    identity = Home(home.path).create(device_name)
    if as_json:
        device_id = str(identity.device_id)
        show_document({"device_id": device_id, "name": device_name, "home": str(home)})
        return
    note(f"This device is {printable(device_name)}. Its home is {printable(home)}.")
    note("Its device ID:")
    show(str(identity.device_id))
    note(NEXT_STEPS)
