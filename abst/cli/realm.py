"""``abst realm``: the realms at which this device can be found."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, one_line, printable, show, show_document
from abst.errors import AbstError, AddressError, Code

REFUSED_STATUS = 1

_STAYS = "the realm stays added, and is asked again every minute or two"
_INVITE = "the realm stays added: 'abst realm add LINK' gives it a new invitation"
_NEXT_STEPS = {
    str(Code.NOT_INVITED): _INVITE,
    str(Code.WRONG_INVITATION): _INVITE,
    # It has refused nothing: it is not the one that the link means.
    None: "ask who runs the realm for its link; 'abst realm remove' takes this one back",
}


@click.group(
    no_args_is_help=False,
    cls=GroupWithExample,
    example="abst realm add 'abst://realm.example.org/?pin=...&invitation=...'",
)
def command() -> None:
    """Add, list and remove the realms at which this device can be found."""


@command.command(
    "add",
    cls=WithExample,
    example="abst realm add 'abst://realm.example.org:42278/?pin=...&invitation=...'",
)
@click.argument("link", metavar="LINK")
@json_option
@click.pass_obj
@click.pass_context
def add(ctx: click.Context, home: DeviceHome, link: str, as_json: bool) -> None:
    """Use the realm of LINK from now on.

    Whoever runs the realm gives you the link: 'abst-realm invite' makes one for a new device, and a
    realm that takes everybody prints its address when it starts. Put it in quotes: it has a ? in
    it. Adding a realm again with another link gives it the new invitation. With several realms,
    those that were added earlier come first.

    The exit status is 1 when the realm does not let this device in. It stays added all the same.
    """
    from abst.address import RealmAddress

    try:
        realm = RealmAddress.parse(link).link
    except AddressError as error:
        raise click.BadParameter(one_line(str(error)), param_hint="LINK") from None
    answer = ask_agent(home, "realm_add", realm=realm)
    if as_json:
        show_document(answer)
        ctx.exit(REFUSED_STATUS if answer.get("refused") else 0)
    show(_added_line(answer))
    if "up" not in answer:
        return  # An agent of an earlier version still runs, which does not wait to see.
    if answer["refused"]:
        raise AbstError(f"{answer['problem']}; {_NEXT_STEPS.get(answer['code'], _STAYS)}")
    if answer["up"]:
        show("connected")
    else:
        note(f"{printable(_how(answer))}; it goes on trying")


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
        note("no realm yet: 'abst realm add LINK' adds one")


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
    return f"{printable(realm['realm'])}  {printable(_how(realm))}"


def _how(realm: dict[str, Any]) -> str:
    if realm["up"]:
        return "connected"
    problem = str(realm["problem"])
    return problem if problem.startswith("not connected") else f"not connected: {problem}"


def _added_line(answer: dict[str, Any]) -> str:
    what = "added"
    if answer.get("known"):
        what = (
            "known already, and has the new invitation:" if answer["invited"] else "known already:"
        )
    return f"{what} {printable(answer['realm'])}"
