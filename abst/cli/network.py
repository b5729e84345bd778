"""``abst network``: sets of devices that are all peers of each other."""

from __future__ import annotations

import click

from abst.cli.agent_process import ask_agent, call_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.group_lines import (
    group_line,
    show_given,
    show_left,
    show_members,
    show_removed,
    show_renamed,
)
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, show, show_document, utf8

KIND = "network"


@click.group(
    no_args_is_help=False,
    cls=GroupWithExample,
    example="abst network create home\nabst network add home laptop",
)
def command() -> None:
    """Form networks of devices that are all introduced to each other.

    Pair with one member and be a peer of all. NETWORK is a network's name, its ID, or the beginning
    of its ID. A network is a group as well: 'abst group' and 'abst kv' work with it.
    """


@command.command(
    "create",
    cls=WithExample,
    example="abst network create home\nabst network create home --no-realm",
)
@click.argument("name")
@click.option(
    "--realm",
    "realm",
    metavar="ADDRESS",
    help="Where messages and values go, of this device's realms; the first by default.",
)
@click.option("--no-realm", is_flag=True, help="No messages to all, and no values.")
@json_option
@click.pass_obj
def create(home: DeviceHome, name: str, realm: str | None, no_realm: bool, as_json: bool) -> None:
    """Make a network called NAME, with this device in it.

    Who joins learns the realms that this device uses.
    """
    if no_realm and realm is not None:
        raise click.UsageError("--realm and --no-realm exclude each other")
    answer = ask_agent(
        home,
        "group_create",
        kind=KIND,
        name=utf8(name, "NAME"),
        realm=realm,
        without_realm=no_realm,
    )
    if as_json:
        show_document(answer)
    else:
        show(f"made {group_line(answer)}")
        note("'abst network add NETWORK PEER' adds a peer")


@command.command("add", cls=WithExample, example="abst network add home laptop")
@click.argument("network")
@click.argument("peer")
@json_option
@click.pass_obj
def add(home: DeviceHome, network: str, peer: str, as_json: bool) -> None:
    """Add PEER to NETWORK.

    All who are in it and PEER become peers of each other, with no further pairing. While PEER is
    away the offer waits, and reaches it by itself; so does the news of it those members that are
    away.
    """
    with call_agent(home, "group_give", kind=KIND, group=network, peer=peer) as call:
        show_given(call.result, as_json=as_json)


@command.command("remove", cls=WithExample, example="abst network remove home old-phone")
@click.argument("network")
@click.argument("member")
@json_option
@click.pass_obj
def remove(home: DeviceHome, network: str, member: str, as_json: bool) -> None:
    """Remove MEMBER from NETWORK: all others forget it.

    They forget it also if they were paired with it, unless another network has both.
    """
    answer = ask_agent(home, "group_remove", kind=KIND, group=network, member=member)
    show_removed(answer, as_json=as_json)


@command.command("leave", cls=WithExample, example="abst network leave home")
@click.argument("network")
@json_option
@click.pass_obj
def leave(home: DeviceHome, network: str, as_json: bool) -> None:
    """Leave NETWORK, and forget whom this device knows by it alone."""
    answer = ask_agent(home, "group_leave", kind=KIND, group=network)
    show_left(answer, as_json=as_json)


@command.command("rename", cls=WithExample, example="abst network rename home office")
@click.argument("network")
@click.argument("name")
@json_option
@click.pass_obj
def rename(home: DeviceHome, network: str, name: str, as_json: bool) -> None:
    """Call NETWORK by another NAME, for all its members."""
    answer = ask_agent(home, "group_rename", kind=KIND, group=network, name=utf8(name, "NAME"))
    show_renamed(answer, as_json=as_json)


@command.command("members", cls=WithExample, example="abst network members home")
@click.argument("network")
@json_option
@click.pass_obj
def members(home: DeviceHome, network: str, as_json: bool) -> None:
    """List the members of NETWORK, and tell who is here."""
    answer = ask_agent(home, "group_members", kind=KIND, group=network)
    show_members(answer, as_json=as_json)


@command.command("list", cls=WithExample, example="abst network list")
@json_option
@click.pass_obj
def list_networks(home: DeviceHome, as_json: bool) -> None:
    """List the networks that this device is in, and how each stands."""
    answer = ask_agent(home, "group_list", kind=KIND)
    if as_json:
        show_document({"networks": answer["groups"]})
        return
    for network in answer["groups"]:
        show(group_line(network))
    if not answer["groups"]:
        note("no network yet: 'abst network create NAME' makes one")
