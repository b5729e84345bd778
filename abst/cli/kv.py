"""``abst kv``: the values of a group, which its members share and its realm cannot read."""

from __future__ import annotations

import base64
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from abst.cli.agent_process import ask_agent, call_agent
from abst.cli.example import GroupWithExample, WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import (
    human_size,
    human_time,
    json_option,
    note,
    one_line,
    printable,
    show,
    show_document,
    show_record,
    utf8,
)
from abst.errors import AbstError

MAX_INPUT_BYTES: Final = 512 * 1024
"""More than any realm takes; the realm's own limit is told in its refusal."""

MAX_SECONDS: Final = 100 * 365 * 86400

_TIME: Final = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")


@dataclass(frozen=True, slots=True)
class GroupValues:
    """The group that a command is about.

    Attributes:
        home: the device's home.
        group: what a person has called the group.
    """

    home: DeviceHome
    group: str


class KvGroup(GroupWithExample):
    """A group of commands that come after the name of a peer group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let ``abst kv set --help`` show the help, though no peer group is named."""
        if len(args) == 2 and args[0] in self.commands and args[1] in ctx.help_option_names:
            args = ["GROUP", *args]
        return super().parse_args(ctx, args)


@click.group(
    no_args_is_help=False,
    cls=KvGroup,
    example="abst kv family set light/kitchen on\nabst kv family get light/kitchen\n"
    "abst kv family watch light/",
)
@click.argument("group")
@click.pass_context
def command(ctx: click.Context, group: str) -> None:
    """Share values with the members of a group.

    GROUP is the name of a group or a network, its ID, or the beginning of its ID. Names of values
    are text of up to 1024 bytes. The realm keeps values and can read neither them nor their names.
    """
    ctx.obj = GroupValues(ctx.obj, group)


def _seconds(ctx: click.Context, option: click.Parameter, value: str | None) -> int | None:
    """Return how many seconds a text such as ``1h30m`` means."""
    if value is None:
        return None
    found = _TIME.fullmatch(value)
    days, hours, minutes, seconds = (
        (int(part or 0) for part in found.groups()) if found else [0] * 4
    )
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    if not 0 < total <= MAX_SECONDS:
        raise click.BadParameter("write it as 1d, 2h, 1h30m or 45s")
    return total


_if_revision = click.option(
    "--if-revision",
    type=click.IntRange(min=0),
    metavar="N",
    help="Only if the value is at revision N; 0 means that there is none.",
)


@command.command(
    "set",
    cls=WithExample,
    example="abst kv family set light/kitchen on\n"
    "abst kv family set photo --file photo.jpg\n"
    "abst kv family set guest-code 4711 --expires 2h",
)
@click.argument("name")
@click.argument("value", required=False)
@click.option("--file", "file", type=click.Path(path_type=Path), help="Take the value from a file.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Take the value from standard input.")
@_if_revision
@click.option(
    "--expires", metavar="TIME", callback=_seconds, help="Drop it after TIME, such as 1h30m or 7d."
)
@json_option
@click.pass_obj
def set_value(
    values: GroupValues,
    name: str,
    value: str | None,
    file: Path | None,
    from_stdin: bool,
    if_revision: int | None,
    expires: int | None,
    as_json: bool,
) -> None:
    """Keep VALUE under NAME, safe on the realm's disk.

    With --if-revision nothing is changed when somebody else was faster, and the exit status is 1.
    """
    if sum((value is not None, file is not None, from_stdin)) != 1:
        raise click.UsageError("give one of VALUE, --file and --stdin")
    content = _content(value, file)
    answer = ask_agent(
        values.home,
        "value_set",
        group=values.group,
        name=utf8(name, "NAME"),
        value_base64=base64.b64encode(content).decode("ascii"),
        if_revision=if_revision,
        seconds=expires,
    )
    if as_json:
        show_document(answer)
    else:
        show(f"set {_name(answer)}, revision {answer['revision']}")


def _content(value: str | None, file: Path | None) -> bytes:
    if value is not None:
        content = utf8(value, "VALUE").encode()
    elif file is not None:
        with file.open("rb") as opened:
            content = opened.read(MAX_INPUT_BYTES + 1)
    else:
        content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
    if len(content) > MAX_INPUT_BYTES:
        raise AbstError(f"a value has at most {human_size(MAX_INPUT_BYTES)}, and this one more")
    return content


@command.command(
    "get",
    cls=WithExample,
    example="abst kv family get light/kitchen\nabst kv family get photo --out photo.jpg",
)
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write it to a file.")
@json_option
@click.pass_obj
def get(values: GroupValues, name: str, out: Path | None, as_json: bool) -> None:
    """Print the value under NAME.

    While the realm cannot be reached it is the one that was checked last, and standard error says
    how old that is. To a terminal it is printed as text, elsewhere as the very bytes.
    """
    answer = ask_agent(values.home, "value_get", group=values.group, name=utf8(name, "NAME"))
    _warn(answer)
    content = _bytes(answer, "value")
    if out is not None:
        out.write_bytes(content)
    if as_json:
        show_document(answer)
    elif out is not None:
        note(f"wrote {human_size(len(content))} to {printable(out)}")
    elif sys.stdout.isatty():
        show(_for_terminal(answer, content))
    else:
        click.echo(content, nl=False)


def _for_terminal(answer: dict[str, Any], content: bytes) -> str:
    if "value" not in answer:
        raise AbstError(
            f"these are {human_size(len(content))} that are no text: --out FILE writes them"
        )
    return "\n".join(printable(line) for line in answer["value"].split("\n"))


@command.command("delete", cls=WithExample, example="abst kv family delete light/kitchen")
@click.argument("name")
@_if_revision
@json_option
@click.pass_obj
def delete(values: GroupValues, name: str, if_revision: int | None, as_json: bool) -> None:
    """Keep nothing under NAME any more."""
    answer = ask_agent(
        values.home,
        "value_delete",
        group=values.group,
        name=utf8(name, "NAME"),
        if_revision=if_revision,
    )
    if as_json:
        show_document(answer)
    elif answer["revision"]:
        show(f"deleted {_name(answer)}, revision {answer['revision']}")
    else:
        show(f"nothing was there under {_name(answer)}")


@command.command("list", cls=WithExample, example="abst kv family list\nabst kv family list light/")
@click.argument("prefix", default="")
@json_option
@click.pass_obj
def list_values(values: GroupValues, prefix: str, as_json: bool) -> None:
    """List values with their size, revision, writer and age.

    With PREFIX, those whose names begin with it.
    """
    pages = list(_pages(values, utf8(prefix, "PREFIX")))
    found = [value for page in pages for value in page["values"]]
    _warn(pages[-1])
    if as_json:
        show_document({**pages[-1], "values": found})
        return
    for value in found:
        size, age = human_size(value["size_bytes"]), human_time(value["written_seconds_ago"])
        revision, writer = value["revision"], printable(value["writer"])
        show(f"{_name(value)}  {size}, revision {revision}, by {writer}, {age} ago")
    if not found:
        note("no value yet: 'abst kv GROUP set NAME VALUE' keeps one" if not prefix else "none")


def _pages(values: GroupValues, prefix: str) -> Iterator[dict[str, Any]]:
    after: dict[str, str] | None = {}
    while after is not None:
        page = ask_agent(values.home, "value_list", group=values.group, prefix=prefix, **after)
        after = page.pop("more")
        yield page


@command.command(
    "watch", cls=WithExample, example="abst kv family watch\nabst kv family watch light/ --initial"
)
@click.argument("prefix", default="")
@click.option("--initial", is_flag=True, help="Begin with what is there already.")
@click.option("--json", is_flag=True, expose_value=False, help="Changes are always JSON.")
@click.pass_obj
def watch(values: GroupValues, prefix: str, initial: bool) -> None:
    """Print each change as it comes, until Ctrl-C.

    With PREFIX, changes of values whose names begin with it. One line of JSON for each: "name",
    "revision", "writer", "change" ("put", "deleted", "expired" or "forgotten"), and for "put" the
    "value", or "value_base64" if it is no text. What changes while the realm cannot be reached is
    told afterwards, the last change of each name.
    """
    with call_agent(
        values.home,
        "value_watch",
        group=values.group,
        prefix=utf8(prefix, "PREFIX"),
        initial=initial,
    ) as call:
        for event in call:
            if event.get("kind") == "watching":
                why = "" if event["problem"] is None else f" ({one_line(event['problem'])})"
                note(f"abst: watching{why}; Ctrl-C ends it")
            elif event.get("kind") == "more":
                call.answer(True)
            else:
                show_record(event)


@command.command("start-again", cls=WithExample, example="abst kv family start-again")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def start_again(values: GroupValues, yes: bool, as_json: bool) -> None:
    """Believe the realm anew, after it was seen to lie.

    What was checked of the group's values is forgotten, and what the realm has now is taken, as a
    device does that is new. Talk to who runs the realm, and to the other members, before.
    """
    question = f"Forget what was checked of {printable(values.group)}, and believe its realm?"
    if not yes and not click.confirm(question, default=False, err=True):
        raise AbstError("nothing was changed")
    answer = ask_agent(values.home, "value_start_again", group=values.group)
    if as_json:
        show_document(answer)
    else:
        show(f"the realm of {printable(answer['group'])} is believed again")


def _bytes(told: dict[str, Any], key: str) -> bytes:
    encoded = told.get(f"{key}_base64")
    return base64.b64decode(encoded) if encoded is not None else str(told[key]).encode()


def _name(told: dict[str, Any]) -> str:
    return printable(_bytes(told, "name").decode("utf-8", "backslashreplace"))


def _warn(answer: dict[str, Any]) -> None:
    """Say on standard error when an answer is not the realm's newest word."""
    if answer["problem"] is None:
        return
    age = answer["checked_seconds_ago"]
    when = "" if age is None else f", {human_time(age)} ago"
    note(f"abst: {one_line(answer['problem'])}: this is what was checked last{when}")
