"""The program ``abst-realm``: its commands and its global options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click

import abst
from abst.cli.running import LazyGroup, run_program

# Each name is a module of this package, with "_" for "-", which has the command as ``command``.
SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Who may use the realm": ("invite", "invitations", "devices", "allow", "revoke"),
    "What it does": ("stats", "groups"),
    "How it is run": ("check-config", "reload", "backup", "restore"),
}
COMMANDS: Final = tuple(name for names in SECTIONS.values() for name in names)

EXAMPLE: Final = """\
abst-realm invite --note 'laptop of Ada'
abst-realm devices --here
abst-realm revoke 6fa1b3c2"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=LazyGroup,
    package="abst.operator",
    sections=SECTIONS,
    example=EXAMPLE,
)
@click.version_option(abst.__version__, prog_name="abst-realm", message="%(prog)s %(version)s")
@click.option(
    "--state",
    type=click.Path(readable=False, path_type=Path),
    metavar="DIR",
    help="The realm's state folder. By default the service's, /var/lib/abst-realm, when a realm "
    "runs there, else abst-realm/ in the XDG state folder.",
)
@click.option(
    "--config",
    type=click.Path(readable=False, path_type=Path),
    metavar="FILE",
    help="The realm's configuration, which may name the folder. By default /etc/abst/realm.toml.",
)
@click.pass_context
def program(ctx: click.Context, state: Path | None, config: Path | None) -> None:
    """Decide who may use the realm on this machine, and see what it does.

    The realm itself is started by 'systemctl start abst-realm', or by 'twistd -n abst-realm'. Its
    commands are for root and for the user that it runs as.
    """
    from abst.operator.place import find_place

    ctx.obj = find_place(state, config)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    return run_program(program, "abst-realm", arguments)
