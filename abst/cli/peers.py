"""``abst peers``: the devices that this one trusts, and where they listen."""

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
    invoke_without_command=True,
    cls=GroupWithExample,
    example="abst peers\nabst peers add-address laptop 192.0.2.7:4000",
)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the devices that this one trusts, or say where one listens."""
    if ctx.invoked_subcommand is not None:
        return
    answer = ask_agent(ctx.obj, "peers")
    if as_json:
        show_document(answer)
        return
    for peer in answer["peers"]:
        show("\n".join(_peer_lines(peer)))
    if not answer["peers"]:
        note("no peer yet: 'abst pair' adds one")


def _address(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    from abst.address import format_host_port, parse_host_port

    try:
        return format_host_port(*parse_host_port(value))
    except AddressError as error:
        raise click.BadParameter(one_line(str(error))) from None


@command.command(
    "add-address", cls=WithExample, example="abst peers add-address laptop 192.0.2.7:4000"
)
@click.argument("peer")
@click.argument("address", metavar="HOST:PORT", callback=_address)
@json_option
@click.pass_obj
def add_address(home: DeviceHome, peer: str, address: str, as_json: bool) -> None:
    """Say that PEER listens at HOST:PORT.

    This device tries to reach it there, beside the ways that it finds by itself. An IPv6 address
    stands in brackets, as in '[2001:db8::1]:4000'.
    """
    answer = ask_agent(home, "add_address", peer=peer, address=address)
    if as_json:
        show_document(answer)
    else:
        show(f"added: {printable(answer['peer'])} listens at {address}")


@command.command(
    "remove-address", cls=WithExample, example="abst peers remove-address laptop 192.0.2.7:4000"
)
@click.argument("peer")
@click.argument("address", metavar="HOST:PORT", callback=_address)
@json_option
@click.pass_obj
def remove_address(home: DeviceHome, peer: str, address: str, as_json: bool) -> None:
    """Take back that PEER listens at HOST:PORT."""
    answer = ask_agent(home, "remove_address", peer=peer, address=address)
    if as_json:
        show_document(answer)
    else:
        show(f"removed {address} of {printable(answer['peer'])}")


def _peer_lines(peer: dict[str, Any]) -> list[str]:
    if peer["path"] is not None:
        how = f"in a session over {peer['path']}"
    elif peer["key_pinned"]:
        how = "no session now"
    else:
        how = "not met yet"
    lines = [f"{peer['device_id']}  {printable(peer['name'] or '-')}  {printable(how)}"]
    networks = ", ".join(network["network"] for network in peer.get("networks", ()))
    if networks:
        why = ", known by that alone" if peer["introduced"] else ""
        lines.append(f"    in {printable(networks)}{why}")
    added, told = peer.get("addresses", []), peer.get("told_addresses", [])
    lines += [f"    at {printable(address)}, added here" for address in added]
    lines += [
        f"    at {printable(address)}, as it says" for address in told if address not in added
    ]
    return lines
