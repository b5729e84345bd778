"""``abst lan``: how this device uses the local network."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, printable, show, show_document


@click.command(
    cls=WithExample,
    example="abst lan                    # how it stands\n"
    "abst lan off                # talk through realms alone\n"
    "abst lan 4242               # listen on this port, for a firewall",
)
@click.argument("setting", required=False)
@json_option
@click.pass_obj
def command(home: DeviceHome, setting: str | None, as_json: bool) -> None:
    """Tell or change how this device uses the local network.

    SETTING is "on" (any free port, all interfaces), "off", a port, or one of this device's
    addresses, with a port or without, to use that network alone. It counts at once, and after
    restarts.
    """
    answer = ask_agent(home, "lan", setting=setting)
    if as_json:
        show_document(answer)
    else:
        show(f"lan {lan_line(answer)}")


def lan_line(lan: dict[str, Any]) -> str:
    """Return in a few words how the local network is used."""
    if not lan["on"]:
        return "off: 'abst lan on' finds peers on the same network"
    where = ", ".join(lan["addresses"]) or "no network just now"
    problem = f" ({lan['problem']})" if lan["problem"] else ""
    return printable(f"on, listening at {where}{problem}")
