"""What commands print: lines for people, JSON for scripts, and nothing that plays with a terminal.

Results go to stdout; what a person should know beside them goes to stderr.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

# Control and format characters, lone surrogates, line and paragraph separators.
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = frozenset("\u200c\u200d")  # they shape letters and emoji, and do nothing else

_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB")


def json_option(command: Command) -> Command:
    """Add the option ``--json`` to a command."""
    add = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
    return add(command)


def utf8(text: str, parameter: str) -> str:
    """Return an argument, which has to be UTF-8.

    Raises:
        click.BadParameter: it is not.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise click.BadParameter("this is not UTF-8", param_hint=parameter) from None
    return text


def show(text: str) -> None:
    """Print lines that are a command's result."""
    click.echo(text)


def show_document(document: Mapping[str, Any]) -> None:
    """Print a result as one JSON document."""
    click.echo(json.dumps(document, indent=2))


def show_record(record: Mapping[str, Any]) -> None:
    """Print one object of a stream as one line of JSON."""
    click.echo(json.dumps(record))


def note(text: str) -> None:
    """Tell a person something that is no part of the result."""
    click.echo(text, err=True)


def complain(text: str, program: str = "abst") -> None:
    """Say in one line why a command failed."""
    try:
        click.echo(f"{program}: {text}", err=True)
    except OSError:
        pass  # Nobody listens; the exit status says it too.


def printable(text: object) -> str:
    """Return text that may come from another device, with what a terminal would obey escaped."""
    return "".join(
        letter.encode("unicode_escape").decode("ascii") if _is_unsafe(letter) else letter
        for letter in str(text)
    )


def _is_unsafe(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSAFE_CATEGORIES and letter not in _JOINERS


def one_line(text: str) -> str:
    """Return text as one line that is safe to show."""
    return printable(" ".join(text.split()))


def quantity(count: int, noun: str) -> str:
    """Return ``1 peer`` or ``2 peers``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def human_size(size_bytes: float) -> str:
    """Return a size as people read it, in powers of a thousand."""
    size, unit = float(size_bytes), 0
    while size >= 999.95 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.1f} {_UNITS[unit]}" if unit else quantity(int(size), "byte")


def milliseconds(seconds: float | None) -> str:
    """Return a short span of time as people read it."""
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def human_time(seconds: float) -> str:
    """Return a span of time as people read it, in its two largest units."""
    whole = int(seconds)
    units = (("d", whole // 86400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60))
    parts = [f"{count} {unit}" for unit, count in (*units, ("s", whole % 60)) if count]
    return " ".join(parts[:2]) or "0 s"
