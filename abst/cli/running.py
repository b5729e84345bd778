"""How a program with many commands runs one of them, and how that ends.

Owns the exit status: 0 done, 1 refused or failed with one line that says why, 2 wrong usage. A
traceback is shown to nobody who has not asked for it with ``ABST_DEBUG=1``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from abst.cli import INTERRUPTED_STATUS
from abst.cli.example import GroupWithExample
from abst.cli.output import complain, one_line
from abst.errors import AbstError

FAILED_STATUS: Final = 1
USAGE_STATUS: Final = 2


class LazyGroup(GroupWithExample):
    """A group whose commands are imported when they are used.

    Args:
        package: where they are: each is a module there, with the command under the name
            ``command``. A name's ``-`` is ``_`` in the module's.
        sections: their names, by what they are for.
    """

    def __init__(
        self,
        *arguments: Any,
        package: str,
        sections: Mapping[str, Sequence[str]],
        **settings: Any,
    ) -> None:
        super().__init__(*arguments, **settings)
        self._package = package
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, without importing any."""
        return [name for names in self._sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, or return None when there is none of that name."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{self._package}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take no command at all as wrong usage, in every version of click."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(USAGE_STATUS)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by what they are for."""
        for section, names in self._sections.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                rows.append((name, "" if command is None else command.get_short_help_str(70)))
            with formatter.section(section):
                formatter.write_dl(rows)


def run_program(program: click.Command, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        program: the program with all its commands.
        name: what it is called, in its usage and before what it complains about.
        arguments: what stands after the name; ``sys.argv[1:]`` when None.
    """
    with contextlib.suppress(AttributeError):
        # What a terminal cannot show is written as an escape instead of ending the command.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = _run(program, name, None if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        status = FAILED_STATUS
    if status != 0:
        _forget_unwritten_output()
    return status


def _run(program: click.Command, name: str, arguments: list[str] | None) -> int:
    try:
        result: Any = program.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED_STATUS
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED_STATUS
    except click.UsageError as error:
        complain(_usage_line(error), name)
        return USAGE_STATUS
    except click.ClickException as error:
        complain(one_line(error.format_message()), name)
        return error.exit_code
    except AbstError as error:
        complain(one_line(str(error)), name)
        return FAILED_STATUS
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        complain(one_line(f"{place}{error.strerror or error}"), name)
        return FAILED_STATUS
    except Exception as error:
        if os.environ.get("ABST_DEBUG"):
            traceback.print_exc()
        what = one_line(f"{type(error).__name__}: {error}")
        complain(f"this is a mistake in ABST: {what} (ABST_DEBUG=1 shows where)", name)
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
