"""The program ``abst``: its commands, its global options, and how a command ends.

Owns the exit status: 0 done, 1 refused or failed with one line that says why, 2 wrong usage. A
traceback is shown to nobody who has not asked for it with ``ABST_DEBUG=1``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

import abst
from abst.cli import INTERRUPTED_STATUS
from abst.cli.example import GroupWithExample
from abst.cli.home import DeviceHome
from abst.cli.output import complain, one_line
from abst.errors import AbstError

FAILED_STATUS: Final = 1
USAGE_STATUS: Final = 2

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
abst realm add 'abst://realm.example.org/?pin=...'
abst pair
abst message laptop hello"""


class LazyGroup(GroupWithExample):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without importing any."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, or return None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"abst.cli.{cmd_name}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take no command at all as wrong usage, in every version of click."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE_STATUS)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        for section, names in SECTIONS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                rows.append((name, "" if command is None else command.get_short_help_str(70)))
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]}, cls=LazyGroup, example=EXAMPLE
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
    with contextlib.suppress(AttributeError):
        # What a terminal cannot show is written as an escape instead of ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _run(None if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        status = FAILED_STATUS
    if status != 0:
        _forget_unwritten_output()
    return status


def _run(arguments: list[str] | None) -> int:
    try:
        result: Any = program.main(arguments, prog_name="abst", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED_STATUS
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    except click.UsageError as error:
        complain(_usage_line(error))
        return USAGE_STATUS
    except click.ClickException as error:
        complain(one_line(error.format_message()))
        return error.exit_code
    except AbstError as error:
        complain(one_line(str(error)))
        return FAILED_STATUS
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(one_line(f"{place}{error.strerror or error}"))
        return FAILED_STATUS
    except Exception as error:
        if os.environ.get("ABST_DEBUG"):
            traceback.print_exc()
        what = one_line(f"{type(error).__name__}: {error}")
        complain(f"this is a mistake in ABST: {what} (ABST_DEBUG=1 shows where)")
        return FAILED_STATUS


def _usage_line(error: click.UsageError) -> str:
    ctx = error.ctx
    hint = "" if ctx is None else f" ('{ctx.command_path} --help' says how)"
    return one_line(error.format_message()) + hint


def _forget_unwritten_output() -> None:
    """Keep the interpreter from writing to a closed pipe when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
