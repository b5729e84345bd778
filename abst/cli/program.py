"""The program ``abst``: its commands and its global options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

import abst
from abst.cli.home import DeviceHome
from abst.cli.running import LazyGroup, run_program

# Each name is a module of this package, which has the command under the name ``command``.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "This device": ("init", "id", "up", "down", "status"),
    "Realms and peers": ("realm", "lan", "pair", "trust", "peers", "forget"),
    "Talking": ("ping", "message", "outbox", "listen", "send", "inbox"),
    "Many devices": ("network", "group", "kv"),
    "Any other program": ("expose", "forward"),
    "To see it work": ("demo",),
}
COMMANDS: Final = tuple(name for names in SECTIONS.values() for name in names)


EXAMPLE: Final = """\
abst init
abst realm add 'abst://realm.example.org/?pin=...&invitation=...'
abst pair
abst message laptop hello"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=LazyGroup,
    package="abst.cli",
    sections=SECTIONS,
    example=EXAMPLE,
)
@click.version_option(abst.__version__, prog_name="abst", message="%(prog)s %(version)s")
@click.option(
    "--home",
    envvar="ABST_HOME",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The device's home; ABST_HOME names it too. By default abst/ in the XDG data folder.",
)
@click.pass_context
def program(ctx: click.Context, home: Path | None) -> None:
    """Let devices that belong together talk privately, wherever they are."""
    from abst.agent.default_home import default_home

    ctx.obj = DeviceHome(default_home() if home is None else home.expanduser())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_program(program, "abst", arguments)
