"""``abst expose``: let peers reach a program on this device that knows nothing of ABST."""

from __future__ import annotations

from typing import Any

import click

from abst.cli.agent_process import ask_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, printable, show, show_document


class ExposeGroup(GroupWithExample):
    """A group in which ``abst expose NAME ENDPOINT`` is short for ``abst expose add ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put in the ``add`` that was left out."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["add", *args]
        return super().parse_args(ctx, args)


@click.group(
    no_args_is_help=False,
    cls=ExposeGroup,
    example="abst expose web tcp:127.0.0.1:80\nabst expose ssh tcp:127.0.0.1:22 --peer laptop",
)
def command() -> None:
    """Let peers reach a program on this device that takes connections.

    'abst expose NAME ENDPOINT' is short for 'abst expose add NAME ENDPOINT'. ENDPOINT says where
    the program takes connections, as Twisted writes it: tcp:HOST:PORT or unix:/PATH. Peers reach
    it by NAME, with 'abst forward' or as abst:PEER:NAME.
    """


@command.command(
    "add", cls=WithExample, example="abst expose add web tcp:127.0.0.1:80 --peer laptop"
)
@click.argument("name")
@click.argument("endpoint")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="PEER",
    help="Let this peer in, and others only where they are named too; without it, all peers.",
)
@json_option
@click.pass_obj
def add(home: DeviceHome, name: str, endpoint: str, peers: tuple[str, ...], as_json: bool) -> None:
    """Let peers reach what takes connections at ENDPOINT, by NAME.

    It counts from now on and after restarts. The program need not be running yet.
    """
    answer = ask_agent(home, "expose", service=name, endpoint=endpoint, peers=list(peers))
    if as_json:
        show_document(answer)
    else:
        show(f"exposed {exposed_line(answer)}")


@command.command("list", cls=WithExample, example="abst expose list")
@json_option
@click.pass_obj
def list_services(home: DeviceHome, as_json: bool) -> None:
    """List what peers can reach here, also what programs offer while they run."""
    answer = ask_agent(home, "expose_list")
    if as_json:
        show_document(answer)
        return
    for exposed in answer["exposed"]:
        show(exposed_line(exposed))
    for offered in answer["programs"]:
        show(program_line(offered))
    if not answer["exposed"] and not answer["programs"]:
        note("nothing yet: 'abst expose NAME ENDPOINT' exposes something")


@command.command("remove", cls=WithExample, example="abst expose remove web")
@click.argument("name")
@json_option
@click.pass_obj
def remove(home: DeviceHome, name: str, as_json: bool) -> None:
    """Expose NAME no more; connections that are open stay open."""
    answer = ask_agent(home, "expose_remove", service=name)
    if as_json:
        show_document(answer)
    else:
        show(f"removed {printable(answer['service'])}")


def exposed_line(exposed: dict[str, Any]) -> str:
    """Return an exposed service in one line."""
    line = f"{exposed['service']}  {exposed['endpoint']}  for {_peers(exposed)}"
    if exposed.get("problem"):
        line += f", not offered: {exposed['problem']}"
    return printable(line)


def program_line(offered: dict[str, Any]) -> str:
    """Return the service of a program that runs in one line."""
    return printable(f"{offered['service']}  by a program that runs  for {_peers(offered)}")


def _peers(service: dict[str, Any]) -> str:
    return ", ".join(service["peers"]) or "all peers"
