"""``abst ping``: measure the way to a peer."""

from __future__ import annotations

import math
from typing import Any

import click

from abst.cli.agent_process import call_agent
from abst.cli.example import WithExample
from abst.cli.home import DeviceHome
from abst.cli.output import json_option, milliseconds, printable, show, show_record


def _seconds(ctx: click.Context, option: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("nan is no number of seconds")
    return value


@click.command(cls=WithExample, example="abst ping laptop --count 10 --interval 0.2")
@click.argument("peer")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True, metavar="N")
@click.option(
    "--interval",
    type=click.FloatRange(min=0, max=3600),
    default=1.0,
    show_default=True,
    metavar="S",
    callback=_seconds,
    help="Seconds between two.",
)
@json_option
@click.pass_obj
def command(home: DeviceHome, peer: str, count: int, interval: float, as_json: bool) -> None:
    """Measure the time to PEER and back, and tell which path is used.

    With --json, one line for each answer and a last one with the sums.
    """
    with call_agent(home, "ping", peer=peer, count=count, interval_seconds=interval) as call:
        known: tuple[object, ...] = ()
        for event in call:
            # Why this path is used is told once, and again when another one is.
            way = event["path"], event.get("path_reason")
            if as_json:
                show_record(event)
            else:
                show(_answer_line(event, with_reason=way != known))
            known = way
        if as_json:
            show_record(call.result)
        else:
            show(_summary(call.result))


def _answer_line(event: dict[str, Any], *, with_reason: bool) -> str:
    path = "" if event["path"] is None else f" over {event['path']}"
    if with_reason and event.get("path_reason"):
        path += f" ({event['path_reason']})"
    time = milliseconds(event["rtt_seconds"])
    return printable(f"{event['sequence']}: {event['peer']} answered in {time}{path}")


def _summary(result: dict[str, Any]) -> str:
    times = "/".join(
        milliseconds(result[key]) for key in ("min_seconds", "mean_seconds", "max_seconds")
    )
    return f"{result['sent']} sent, {result['received']} received, min/mean/max {times}"
