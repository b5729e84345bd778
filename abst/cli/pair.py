"""``abst pair``: make this device and another one peers, by a code, a link, or comparing words."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.shell_completion import CompletionItem

from abst.cli.agent_client import AgentCall
from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, note, printable, show, show_record


def _complete(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the words of a code on TAB."""
    from abst.device.words import complete

    return [CompletionItem(code) for code in complete(incomplete)]


@click.command(
    cls=WithExample,
    example="abst pair                   # on one device: prints 7-otter-marble\n"
    "abst pair 7-otter-marble    # on the other one",
)
@click.argument("target", required=False, shell_complete=_complete)
@click.option("--link", is_flag=True, help="Show a link and its QR code instead of a code.")
@json_option
@click.pass_obj
def command(home: DeviceHome, target: str | None, link: bool, as_json: bool) -> None:
    """Pair this device with another one.

    Without TARGET it waits a minute and shows a code, which is good for one try. TARGET is the code
    or the link that the other device shows, or its device ID: then both ask whether they show the
    same words. With --json, one line for each event, and answers are read as lines "yes" or "no".
    """
    if link and target is not None:
        raise click.UsageError("--link shows a link: give it without TARGET")
    with call_agent(home, "pair", target=target) as call:
        for event in call:
            if as_json:
                show_record(event)
            _take(call, event, link=link, quiet=as_json)
        result = call.result
    if as_json:
        show_record(result)
    else:
        show(f"paired with {printable(result['peer'])} ({result['device_id']})")


def _take(call: AgentCall, event: dict[str, Any], *, link: bool, quiet: bool) -> None:
    match event["kind"]:
        case "offer" if not quiet:
            _show_offer(event, link=link)
        case "nearby" if not quiet:
            _show_nearby(event["devices"])
        case "compare":
            call.answer(_same(str(event["words"]), quiet=quiet))


def _show_offer(event: dict[str, Any], *, link: bool) -> None:
    seconds = round(event["seconds"])
    if link or event["code"] is None:
        if not link:
            note("no realm and no network give out codes just now, so here is a link instead:")
        import segno

        segno.make(event["link"]).terminal(out=sys.stdout, compact=True)
        show(event["link"])
    else:
        show(event["code"])
        note(f"on the other device, within {seconds} seconds: abst pair {event['code']}")


def _show_nearby(devices: list[dict[str, Any]]) -> None:
    for device in devices:
        name = printable(device["name"]) or "a device without a name"
        note(f"nearby, waiting to be paired too: {name}, 'abst pair {device['device_id']}'")


def _same(words: str, *, quiet: bool) -> bool:
    if quiet:
        return sys.stdin.readline().strip().lower() == "yes"
    show(f"    {printable(words)}")
    return click.confirm("Does the other device show exactly the same words?", default=False)
