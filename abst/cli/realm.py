"""``abst realm``: the realms at which this device can be found."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, one_line, printable, show, show_document
from abst.errors import AddressError


@click.group(
    no_args_is_help=False,
    cls=GroupWithExample,
    example="abst realm add 'abst://realm.example.org/?pin=...'",
)
def command() -> None:
    """Add, list and remove the realms at which this device can be found."""


@command.command(
    "add", cls=WithExample, example="abst realm add 'abst://realm.example.org:42278/?pin=...'"
)
@click.argument("address")
@json_option
@click.pass_obj
def add(home: DeviceHome, address: str, as_json: bool) -> None:
    """Use the realm at ADDRESS from now on.

    A realm prints its address when it starts. Put it in quotes: it has a ? in it. With several
    realms, those that were added earlier come first.
    """
    from abst.address import RealmAddress

    try:
        realm = str(RealmAddress.parse(address))
    except AddressError as error:
        raise click.BadParameter(one_line(str(error)), param_hint="ADDRESS") from None
    answer = ask_agent(home, "realm_add", realm=realm)
    if as_json:
        show_document(answer)
    else:
        show(f"added {printable(answer['realm'])}")


@command.command("list", cls=WithExample, example="abst realm list")
@json_option
@click.pass_obj
def list_realms(home: DeviceHome, as_json: bool) -> None:
    """List the realms and tell whether each is connected."""
    answer = ask_agent(home, "realm_list")
    if as_json:
        show_document(answer)
        return
    for realm in answer["realms"]:
        show(realm_line(realm))
    if not answer["realms"]:
        note("no realm yet: 'abst realm add ADDRESS' adds one")


@command.command("remove", cls=WithExample, example="abst realm remove realm.example.org")
@click.argument("address")
@json_option
@click.pass_obj
def remove(home: DeviceHome, address: str, as_json: bool) -> None:
    """Leave the realm at ADDRESS; its host, or HOST:PORT, is enough."""
    answer = ask_agent(home, "realm_remove", realm=address)
    if as_json:
        show_document(answer)
    else:
        show(f"removed {printable(answer['realm'])}")


def realm_line(realm: dict[str, Any]) -> str:
    """Return how a realm stands, in one line."""
    how = "connected"
    if not realm["up"]:
        problem = str(realm["problem"])
        how = problem if problem.startswith("not connected") else f"not connected: {problem}"
    return f"{printable(realm['realm'])}  {printable(how)}"
